package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/test/bench/figures"
	"github.com/pgcutover/pgcutover/test/bench/rounds"
)

// outcome is what one run found.
type outcome struct {
	Variant string
	Round   int

	Some    time.Duration // until every table with rows of its own has any statistics
	Carried time.Duration // until carrying was over
	Full    time.Duration // until the end
	Left    missing       // what has none then
	Factors []float64     // of each query: how far off the estimate is from that after ANALYZE
	Worst   string        // the query that is furthest off
}

// missing counts what has no statistics.
type missing struct {
	Tables  int `json:"tables"`
	Parents int `json:"partitioned_tables"`
	Objects int `json:"statistics_objects"`
}

// forgetSQL makes the database as it is after a copy: never analyzed, never
// counted. A superuser may. The rest clears away what that leaves behind.
var forgetSQL = []string{
	`delete from pg_statistic s using pg_class c where c.oid = s.starelid and c.relnamespace = 'bench'::regnamespace`,
	`delete from pg_statistic_ext_data`,
	`update pg_class set relpages = 0, reltuples = -1 where relnamespace = 'bench'::regnamespace and relkind in ('r', 'p')`,
	`select pg_stat_reset()`,
	`vacuum pg_statistic`, `vacuum pg_statistic_ext_data`, `vacuum pg_class`, `checkpoint`,
}

// missingSQL counts what has no statistics yet.
const missingSQL = `
select count(*) filter (where c.relkind = 'r'), count(*) filter (where c.relkind = 'p'),
       (select count(*) from pg_statistic_ext e
         where not exists (select from pg_statistic_ext_data d where d.stxoid = e.oid))
  from pg_class c
 where c.relnamespace = 'bench'::regnamespace and c.relkind in ('r', 'p')
   and not exists (select from pg_statistic s where s.starelid = c.oid)`

func lacking(ctx context.Context, conn *pgx.Conn) (missing, error) {
	var m missing
	err := conn.QueryRow(ctx, missingSQL).Scan(&m.Tables, &m.Parents, &m.Objects)
	return m, err
}

// rounds runs every variant once in each round, each round beginning with
// another one.
func (w *world) rounds(ctx context.Context) ([]outcome, error) {
	var all []outcome
	variants := w.variants()
	for round := range w.Rounds {
		for _, name := range rounds.Order(variants, round) {
			o := outcome{Variant: name, Round: round + 1}
			if err := w.run(ctx, &o); err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", o.Variant, o.Round, err)
			}
			w.say("round %d  %-28s  some %7.0f ms  full %7.0f ms  without: %d tables, %d parents, %d objects  off by %.2f at worst",
				o.Round, o.Variant, figures.Milliseconds(o.Some), figures.Milliseconds(o.Full), o.Left.Tables, o.Left.Parents, o.Left.Objects, o.worst())
			all = append(all, o)
		}
	}
	return all, nil
}

// pollEvery is how often it is looked whether all tables have statistics.
const pollEvery = 20 * time.Millisecond

func (w *world) run(ctx context.Context, o *outcome) error {
	if err := pgserver.Execute(ctx, w.New.URL(database), forgetSQL...); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, w.New.URL(database))
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	if before, err := lacking(ctx, conn); err != nil || before.Tables != len(w.tables()) || before.Parents == 0 || before.Objects == 0 {
		return errors.Join(err, fmt.Errorf("the statistics are not gone: %+v are without", before))
	}
	began := time.Now()
	poll, stop := context.WithCancel(ctx)
	defer stop()
	some := make(chan polled, 1)
	go func() { some <- watch(poll, conn, began) }()
	if err := w.gather(ctx, o.Variant, func() { o.Carried = time.Since(began) }); err != nil {
		stop()
		return errors.Join(err, (<-some).err)
	}
	o.Full = time.Since(began)
	stop()
	seen := <-some
	if seen.err != nil {
		return seen.err
	}
	if o.Some = seen.after; o.Some == 0 || o.Some > o.Full {
		o.Some = o.Full
	}
	if err := w.judge(ctx, o); err != nil {
		return err
	}
	return nil
}

// polled is when every table had statistics; 0: not while it was looked.
type polled struct {
	after time.Duration
	err   error
}

// watch looks until every table has statistics or ctx ends. Only tables with
// rows of their own count: vacuumdb before 19 never analyzes partitioned ones.
func watch(ctx context.Context, conn *pgx.Conn, began time.Time) polled {
	for {
		if pg.Pause(ctx, pollEvery) != nil {
			return polled{}
		}
		// Not ctx: a cancelled query would end the session.
		m, err := lacking(context.WithoutCancel(ctx), conn)
		if err != nil {
			return polled{err: err}
		}
		if m.Tables == 0 {
			return polled{after: time.Since(began)}
		}
	}
}

// judge looks at what is missing and what the planner makes of what is there.
func (w *world) judge(ctx context.Context, o *outcome) error {
	conn, err := pgx.Connect(ctx, w.New.URL(database))
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	if o.Left, err = lacking(ctx, conn); err != nil {
		return err
	}
	estimates, err := w.estimates(ctx)
	if err != nil {
		return err
	}
	worst := 0.0
	for i, rows := range estimates {
		factor := max(rows/w.reference[i], w.reference[i]/rows)
		o.Factors = append(o.Factors, factor)
		if factor > worst {
			worst, o.Worst = factor, fmt.Sprintf("%s: %.0f rows, %.0f after ANALYZE", w.queries()[i], rows, w.reference[i])
		}
	}
	return nil
}

// worst is how far the worst estimate is off, as a factor.
func (o outcome) worst() float64 { return figures.Of(o.Factors).Max }

// estimates are the numbers of rows that the planner expects.
func (w *world) estimates(ctx context.Context) ([]float64, error) {
	conn, err := pgx.Connect(ctx, w.New.URL(database))
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, conn)
	var all []float64
	for _, sql := range w.queries() {
		var text []byte
		if err := conn.QueryRow(ctx, "explain (format json) "+sql, pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
			return nil, fmt.Errorf("explaining %q: %w", sql, err)
		}
		var plans []struct {
			Plan struct {
				Rows float64 `json:"Plan Rows"`
			}
		}
		if err := json.Unmarshal(text, &plans); err != nil || len(plans) != 1 {
			return nil, fmt.Errorf("reading the plan of %q: %w", sql, err)
		}
		all = append(all, max(plans[0].Plan.Rows, 1))
	}
	return all, nil
}
