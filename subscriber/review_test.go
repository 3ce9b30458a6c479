package subscriber_test

import (
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/subscriber"
)

// Event triggers that came with the schema fire for nothing that the tool does
// with the subscription: one that writes would be refused by the closed fence,
// and the stream could be neither stopped nor dropped.
func TestEventTriggersDoNotStopTheStream(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *stream) {
		owner, err := subscriber.EnsureRole(t.Context(), s.Server)
		if err != nil {
			t.Fatal(err)
		}
		if err := subscriber.Ensure(t.Context(), s.Server, forward(s.Server), s.conninfo, owner); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, s.to,
			`create function public.refuse() returns event_trigger language plpgsql as 'begin raise exception ''no DDL here''; end'`,
			`create event trigger refuse on ddl_command_start execute procedure public.refuse()`)
		for _, enabled := range []bool{true, false} {
			if err := subscriber.SetEnabled(t.Context(), s.Server, forward(s.Server), enabled); err != nil {
				t.Error(err)
			}
		}
		if _, err := subscriber.Drop(t.Context(), s.Server, forward(s.Server)); err != nil {
			t.Error(err)
		}
		pgtest.Exec(t, s.to, `drop event trigger refuse`)
		if err := subscriber.DropRole(t.Context(), s.Server); err != nil {
			t.Error(err)
		}
	})
}
