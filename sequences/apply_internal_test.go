package sequences

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// TestSetvalLooksAgain lets a sequence move on between Apply's look at it and
// the statement that sets it.
func TestSetvalLooksAgain(t *testing.T) {
	for _, major := range []int{10, 18} {
		url := pgtest.Database(t, pgtest.Server(t, major))
		pgtest.Exec(t, url, `create sequence a; create sequence d increment -1; create sequence still`)
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		all, err := Read(t.Context(), conn, major*10000)
		if err != nil || len(all) != 3 {
			t.Fatalf("read %+v, error %v", all, err)
		}
		var changes []Change
		for i, value := range []int64{50, -50, 50} {
			changes = append(changes, Change{Ref: all[i].Ref, Old: all[i], New: all[i], Value: value})
		}
		tasks, err := prepare(t.Context(), conn, changes, Options{Fast: true})
		if err != nil {
			t.Fatal(err)
		}
		var made []Change
		err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			due, err := lookAgain(t.Context(), tx, tasks)
			if err != nil || len(due) != 3 {
				t.Fatalf("due %+v, error %v", due, err)
			}
			pgtest.Exec(t, url, `select nextval('a'), nextval('d') from generate_series(1, 60)`)
			made, err = setAll(t.Context(), tx, due)
			return err
		})
		if err != nil || len(made) != 1 || made[0].Name != "still" {
			t.Errorf("%d: made %+v, error %v", major, made, err)
		}
		if a := pgtest.Value[int64](t, url, `select last_value from a`); a != 60 {
			t.Errorf("%d: moved back to %d", major, a)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
