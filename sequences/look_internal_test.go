package sequences

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// Looks that fail, each for another reason, cost none of the others their answer.
func TestLooksThatFail(t *testing.T) {
	for _, major := range []int{10, 18} {
		conn, err := pgx.Connect(t.Context(), pgtest.Database(t, pgtest.Server(t, major)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
		up, down := &Reached{Sequence: Sequence{Increment: 1}}, &Reached{Sequence: Sequence{Increment: -1}}
		series := "generate_series(3, 9) as id"
		var looks []*look
		for _, from := range []string{series, "gone", series, "(select 1 as id from pg_sleep(60)) s", series, "(select 1 / 0 as id) s", series} {
			looks = append(looks, &look{of: up, column: column{table: from, name: "id"}}, &look{of: down, column: column{table: series, name: "id"}})
		}
		if err := askAll(t.Context(), conn, looks, looksWithin); err != nil {
			t.Fatal(err)
		}
		want := []string{"", `relation "gone" does not exist`, "", "the end of the index could not be read in time", "", "division by zero", ""}
		for i, l := range looks {
			failed, value := "", int64(3)
			if i%2 == 0 {
				failed, value = want[i/2], 9
			}
			if l.failed != failed || (failed == "" && (l.value == nil || *l.value != value)) {
				t.Errorf("%d: look %d at %s: %q, %v", major, i, l.column.table, l.failed, l.value)
			}
		}
		late := []*look{{of: up, column: column{table: series, name: "id"}}}
		if err := askAll(t.Context(), conn, late, -time.Second); err != nil || late[0].failed != "not looked at, for all took longer than -1s" {
			t.Errorf("%d: after its time: %v, %+v", major, err, late[0])
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := askAll(gone, conn, []*look{{of: up, column: column{table: series, name: "id"}}}, looksWithin); err == nil {
			t.Errorf("%d: an interruption is no error", major)
		}
	}
}
