package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// watch looks what the sessions of both servers wait for, many times a second,
// so that a transaction that took long can be explained afterwards.
type watch struct {
	stop  context.CancelFunc
	group *errgroup.Group
	seen  [2][]sample
}

// sample is one look at a server.
type sample struct {
	at       time.Time
	took     time.Duration
	sessions []seen
}

// seen is a session that was doing something.
type seen struct {
	PID    uint32
	Client bool   // one of the case's
	Doing  string // for others: who it is and what it runs
	Wait   string // empty on a processor
	Behind string // for a lock: what the first of its holders runs
}

// activitySQL lists who is doing something, and behind whom it waits.
const activitySQL = `
select a.pid, coalesce(a.usename = $1, false),
       left(coalesce(nullif(a.application_name, '') || ' ', '') || a.backend_type || ': ' || regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 120),
       coalesce(a.wait_event_type || '/' || a.wait_event, ''),
       coalesce((select left(b.application_name || ' ' || b.state || ', ' || extract(milliseconds from clock_timestamp() - b.xact_start)::integer / 100 || '00 ms in: '
                             || regexp_replace(b.query, '\s+', ' ', 'g'), 200)
                   from pg_stat_activity b
                  where a.wait_event_type = 'Lock' and b.pid = (pg_blocking_pids(a.pid))[1]), '')
  from pg_stat_activity a
 where a.pid <> pg_backend_pid()
   and (a.state = 'active' or a.state is null and a.wait_event_type <> 'Activity')`

// lookEvery is how often each server is looked at.
const lookEvery = 20 * time.Millisecond

// under does something while clients write, and measures in o what became of
// them: first for a while in which nothing is done. It returns their ledger.
func (w *world) under(ctx context.Context, l load, o *outcome, say func(string, ...any), do func() error) (ledger, error) {
	writing, err := w.write(ctx, l)
	if err != nil {
		return nil, err
	}
	watching, err := w.observe(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	wait(ctx, 2*settle)
	until := time.Now()
	err = do()
	told, stopped := writing.end()
	stopped = errors.Join(stopped, watching.end(o.Turns, told, say))
	o.measure(told, began, until)
	return told, errors.Join(err, stopped)
}

// observe begins to look at both servers, if that is wanted: it takes a few
// hundredths of a processor.
func (w *world) observe(ctx context.Context) (*watch, error) {
	running, stop := context.WithCancel(ctx)
	o := &watch{stop: stop, group: &errgroup.Group{}}
	if !w.explain {
		return o, nil
	}
	for i, address := range []string{w.old.URL(database), w.new.URL(database)} {
		conn, err := connect(ctx, address+"&application_name=pgcutover/scale/watch")
		if err != nil {
			stop()
			return nil, errors.Join(err, o.group.Wait())
		}
		o.group.Go(func() error {
			defer pg.Close(ctx, conn)
			for running.Err() == nil {
				s, err := look(ctx, conn)
				if err != nil {
					return err
				}
				o.seen[i] = append(o.seen[i], s)
				wait(running, lookEvery)
			}
			return nil
		})
	}
	return o, nil
}

func look(ctx context.Context, conn *pgx.Conn) (sample, error) {
	s := sample{at: time.Now()}
	rows, err := conn.Query(ctx, activitySQL, appRole)
	if err != nil {
		return s, fmt.Errorf("looking who waits: %w", err)
	}
	s.sessions, err = pgx.CollectRows(rows, pgx.RowToStructByPos[seen])
	if err != nil {
		return s, fmt.Errorf("looking who waits: %w", err)
	}
	s.took = time.Since(s.at)
	return s, nil
}

// end stops looking and explains the turns, if anything was seen.
func (o *watch) end(turns []turned, l ledger, say func(string, ...any)) error {
	o.stop()
	err := o.group.Wait()
	for i := range turns {
		if o.seen[0] != nil {
			o.tell(&turns[i], l, say)
		}
	}
	return err
}

// explain says what the client's session waited for between from and to, and what
// others did meanwhile; each with how often it was seen.
func (o *watch) explain(pid uint32, from, to time.Time) string {
	var text strings.Builder
	for i, name := range []string{"old", "new"} {
		own, others := map[string]int{}, map[string]int{}
		looks, slowest := 0, time.Duration(0)
		for _, s := range o.seen[i] {
			if s.at.Add(s.took).Before(from) || s.at.After(to) {
				continue
			}
			looks++
			slowest = max(slowest, s.took)
			for _, one := range s.sessions {
				switch {
				case one.PID == pid && one.Client:
					own[cmp.Or(one.Wait, "running")+" "+one.Behind]++
				case one.Client:
					others["clients "+cmp.Or(one.Wait, "running")]++
				default:
					others[one.Doing+" ("+cmp.Or(one.Wait, "running")+")"]++
				}
			}
		}
		fmt.Fprintf(&text, "      %s, %d looks (slowest %d ms): own: %s\n          others: %s\n", name, looks, slowest.Milliseconds(), counted(own, 4), counted(others, 7))
	}
	return text.String()
}

// counted lists the most frequent.
func counted(all map[string]int, most int) string {
	keys := make([]string, 0, len(all))
	for k := range all {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(cmp.Compare(all[b], all[a]), cmp.Compare(a, b)) })
	var parts []string
	for _, k := range keys[:min(len(keys), most)] {
		parts = append(parts, fmt.Sprintf("%d x %s", all[k], k))
	}
	return strings.Join(parts, " | ")
}

// slow is what is explained, and mostTold how many transactions of a turn.
const (
	slow     = 300 * time.Millisecond
	mostTold = 5
)

// tell explains the longest transactions of a turn, and when its steps ran.
func (o *watch) tell(r *turned, l ledger, say func(string, ...any)) {
	for _, s := range r.Steps {
		say("   %s: step %s began after %.2f s and took %.0f ms", r.What, s.Name, s.began.Sub(r.began).Seconds(), s.MS)
	}
	var found []entry
	during := map[string]int{}
	for _, e := range l {
		if e.ended.After(r.began) && e.ended.Before(r.ended.Add(settle)) && e.ended.Sub(e.began) > slow {
			found = append(found, e)
			during[r.during(e.began, e.ended)]++
		}
	}
	say("   %s: %d transactions above %s; by the steps they ran in: %s", r.What, len(found), slow, counted(during, mostTold))
	slices.SortFunc(found, func(a, b entry) int { return cmp.Compare(b.ended.Sub(b.began), a.ended.Sub(a.began)) })
	var told []entry
	for _, e := range found {
		near := slices.ContainsFunc(told, func(t entry) bool { return e.began.Sub(t.began).Abs() < slow })
		if near || len(told) == mostTold {
			continue
		}
		told = append(told, e)
		say("   %s: %d ms from %.2f s on, %v %s, during %s\n%s", r.What, e.ended.Sub(e.began).Milliseconds(), e.began.Sub(r.began).Seconds(), e.tables, e.code,
			r.during(e.began, e.ended), o.explain(e.pid, e.began, e.ended))
	}
}
