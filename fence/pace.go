package fence

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// What a change of triggers costs is paid by others: each sends invalidations to
// every session of the database, and a session goes through all plans that it
// keeps (of prepared statements, and of functions such as the fence itself) for
// each of them. 16 sessions with 1,200 plans each could not keep up with triggers
// made as fast as the server makes them: single inserts took up to 19 s, all of
// it on the processor (measured on 15, 30,000 tables, two cores). So there are
// rests.
const (
	// lockedFor is how long the tables of a batch may be locked, about.
	lockedFor  = 20 * time.Millisecond
	leastBatch = 10 // a COMMIT takes what it takes
	mostBatch  = 50
	// eased is how much longer a rest gets for each moment by which a batch took
	// longer than it would on an idle server: others need the processors then.
	eased = 4
	// mostRest is the longest rest.
	mostRest = 500 * time.Millisecond
)

// pace says how many tables to change at a time, and how long to rest.
type pace struct {
	until time.Time // when all should be done
	size  int
	each  time.Duration // what a table took in the newest batch
	usual time.Duration // the least that one took
	pause time.Duration
}

// newPace spreads the work over no more than tableWait for each table, and no more
// than half of the time that ctx has.
func newPace(ctx context.Context, tables int) *pace {
	now, within := time.Now(), time.Duration(tables)*tableWait
	if deadline, ok := ctx.Deadline(); ok {
		within = min(within, deadline.Sub(now)/2)
	}
	return &pace{until: now.Add(within), size: leastBatch, usual: math.MaxInt64}
}

// saw learns from a batch of n tables that took so long, when so many are left.
func (p *pace) saw(n int, took time.Duration, left int) {
	p.each = took / time.Duration(n)
	p.usual = min(p.usual, p.each)
	p.pause = min(took+eased*(took-p.usual*time.Duration(n)), mostRest)
	p.size = max(min(int(lockedFor/max(p.each, 1)), 2*p.size, mostBatch), leastBatch)
	spare := time.Until(p.until) - time.Duration(left)*p.each
	if spare < 0 { // late: what is left to save is COMMITs
		p.size = mostBatch
	}
	p.pause = max(min(p.pause, spare), 0)
}

// writesSQL says how much was written to tables since their counters began.
// Postgres manual: 28.2, The Cumulative Statistics System.
const writesSQL = `
select n.nspname::text, c.relname::text,
       pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')`

// order sorts the tables by how much they are written, those that are written the
// most at the end with busiestLast, or at the beginning. A session keeps plans for
// each fenced table that it has written to, and goes through them whenever the
// next table changes: so the fence comes to the busiest tables last, and leaves
// them first. Rows that go through a partitioned table do not count for it: those
// belong to the busiest.
func (w *work) order(ctx context.Context, tables []Table) ([]Table, error) {
	if len(tables) <= mostBatch {
		return tables, nil
	}
	rows, err := w.server.Pool().Query(ctx, writesSQL)
	if err != nil {
		return nil, fmt.Errorf("reading how much tables are written: %w", err)
	}
	writes := map[[2]string]int64{}
	var schema, name string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&schema, &name, &n}, func() error {
		writes[[2]string{schema, name}] = n
		return nil
	}); err != nil {
		return nil, fmt.Errorf("reading how much tables are written: %w", err)
	}
	written := func(t Table) int64 {
		if t.Partitioned || t.Parent {
			return math.MaxInt64
		}
		return writes[[2]string{t.Schema, t.Name}]
	}
	slices.SortStableFunc(tables, func(a, b Table) int {
		if w.busiestLast {
			return cmp.Compare(written(a), written(b))
		}
		return cmp.Compare(written(b), written(a))
	})
	return tables, nil
}
