package fence_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// tablesMadeSQL makes tables whose names begin with the first, from 1 to the
// second.
const tablesMadeSQL = `
do $$
begin
  for n in 1 .. %[2]d loop
    execute format('create table public.%%I (id integer, n integer)', '%[1]s' || n);
  end loop;
end $$`

// writtenSQL writes to all of the busy ones, so that the session keeps the fence's
// plans for each.
const writtenSQL = `
do $$
begin
  for n in 1 .. %d loop
    execute format('insert into public.%%I values (1, 1)', 'busy' || n);
  end loop;
end $$`

// Sessions that keep many plans go through all of them for every trigger that is
// made or dropped: made as fast as possible, the triggers would leave no processor
// for anything else. A client's write must not wait for the work's end.
func TestTriggersBesideBusySessions(t *testing.T) {
	const busy, idle, sessions, mostWait = 400, 3000, 8, time.Second
	s := newServer(t, pg.Old, pgtest.Majors(t)[0])
	pgtest.Exec(t, s.url, fmt.Sprintf(tablesMadeSQL, "busy", busy), fmt.Sprintf(tablesMadeSQL, "idle", idle))
	s.fenced(t)
	conns := make([]*pgx.Conn, sessions)
	for i := range conns {
		conns[i] = connect(t, s.url)
		do(t, conns[i], fmt.Sprintf(writtenSQL, busy))
	}
	var longest time.Duration
	for range 3 { // a busy machine holds writers up, too, but not each time
		if longest = longestBeside(t, s, conns, busy, busy+idle); longest <= mostWait {
			break
		}
	}
	if longest > mostWait {
		t.Errorf("a write took %s", longest)
	}
}

// longestBeside drops and makes the triggers of all tables, and returns how long
// the slowest of the writes took that the sessions made meanwhile.
func longestBeside(t *testing.T, s *server, conns []*pgx.Conn, busy, tables int) time.Duration {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var writers errgroup.Group
	waits := make([]time.Duration, len(conns))
	for i, conn := range conns {
		writers.Go(func() error {
			for n := i; ctx.Err() == nil; n++ {
				began := time.Now()
				if _, err := conn.Exec(context.WithoutCancel(ctx), fmt.Sprintf(`insert into public.busy%d values (1, 1)`, n%busy+1)); err != nil {
					return err
				}
				waits[i] = max(waits[i], time.Since(began))
				<-time.After(20 * time.Millisecond)
			}
			return nil
		})
	}
	for _, change := range []func(context.Context, *pg.Server, fence.Options) (fence.Changed, error){fence.DetachWith, fence.AttachWith} {
		changed, err := change(t.Context(), s.Server, fence.Options{Bound: time.Minute})
		if err != nil || changed.Tables != tables {
			t.Errorf("%+v, %v", changed, err)
		}
	}
	stop()
	if err := writers.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("the longest write took %s", slices.Max(waits))
	return slices.Max(waits)
}
