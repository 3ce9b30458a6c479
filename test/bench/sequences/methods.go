package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/sequences"
)

// The parts of the work.
const (
	ahead   = "ahead"
	inPause = "in the pause"
)

// method is one way to do a part. prepare comes before the clock runs.
type method struct {
	name    string
	part    string
	ours    bool // new is past old by the margin afterwards; otherwise where old is
	prepare func(context.Context, *run) error
	do      func(context.Context, *run) error
}

// run is what the methods of one round work on.
type run struct {
	*world
	margin           int64
	given            []sequences.Change // what new was set to ahead
	readers          *sequences.Readers
	again            int // sequences that were set again
	reading, setting time.Duration
}

func methods() []method {
	return []method{
		{name: "ours", part: ahead, ours: true, do: func(ctx context.Context, r *run) error { return r.setAhead(ctx, false) }},
		{name: "setval by ours", part: ahead, ours: true, do: func(ctx context.Context, r *run) error { return r.setAhead(ctx, true) }},
		{name: "RESTART one by one", part: ahead, do: oneByOne(restartOne)},
		{name: "setval one by one", part: ahead, do: oneByOne(setvalOne)},

		{name: "ours", part: inPause, ours: true, prepare: openReaders(0), do: follow},
		{name: "one connection", part: inPause, ours: true, prepare: openReaders(1 << 30), do: follow},
		{name: "setval of all, one statement", part: inPause, do: setvalOfAll},
		{name: "setval one by one", part: inPause, do: oneByOne(setvalOne)},
	}
}

// setAhead is what step ahead of a cutover does, with its record.
func (r *run) setAhead(ctx context.Context, fast bool) error {
	onOld, err := r.old.read(ctx)
	if err != nil {
		return err
	}
	onNew, err := r.new.read(ctx)
	if err != nil {
		return err
	}
	changes, problems := sequences.Plan(onOld, onNew, r.margin)
	if len(problems) > 0 {
		return fmt.Errorf("%v", problems)
	}
	if _, err := sequences.Apply(ctx, r.new.pool, changes, sequences.Options{Fast: fast}); err != nil {
		return err
	}
	r.given = changes
	return r.record(ctx, cutover.Given(changes))
}

const recordSQL = `insert into pgcutover.journal (facts) values ($1)`

// record is what the journal keeps.
func (r *run) record(ctx context.Context, facts any) error {
	text, err := json.Marshal(facts)
	if err != nil {
		return err
	}
	_, err = r.new.pool.Exec(ctx, recordSQL, string(text))
	return err
}

// openReaders opens the sessions that read in the pause.
func openReaders(perSession int) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) (err error) {
		var refs []sequences.Ref
		for _, c := range r.given {
			refs = append(refs, c.Ref)
		}
		r.readers, err = sequences.NewReaders(ctx, sequences.Source{
			Connect: r.old.connect, Rest: r.old.pool, Version: r.old.version, PerSession: perSession,
		}, refs)
		if err != nil {
			return err
		}
		// A cutover goes on reading and writing on both servers until the pause.
		if _, err := r.readers.ReadCalled(ctx); err != nil {
			return err
		}
		return r.record(ctx, "pause")
	}
}

// follow is all that a cutover does for sequences while clients wait: reading,
// comparing, setting again, and making the record, which it writes only after the
// decision, when they no longer do.
func follow(ctx context.Context, r *run) error {
	began := time.Now()
	now, err := r.readers.ReadCalled(ctx)
	if err != nil {
		return err
	}
	r.reading = time.Since(began)
	again := sequences.Outran(now, r.given, r.margin, r.margin/2)
	began = time.Now()
	if _, err := sequences.Apply(ctx, r.new.pool, again, sequences.Options{Fast: true}); err != nil {
		return err
	}
	r.setting = time.Since(began)
	r.again = len(again)
	_, err = json.Marshal(cutover.Again(again))
	return err
}

// position is where a sequence stands, with its name quoted.
type position struct {
	name   string
	last   int64
	called bool
}

// positionsSQL is how scripts read positions; one that was never used has none.
const positionsSQL = `
select format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value), last_value is not null
  from pg_sequences
 where schemaname = 'app'`

func positions(ctx context.Context, s *server) ([]position, error) {
	rows, err := s.pool.Query(ctx, positionsSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p position, err error) {
		return p, row.Scan(&p.name, &p.last, &p.called)
	})
}

// oneByOne carries every position over with a statement and a round trip of its own,
// in one transaction: what most scripts do.
func oneByOne(set func(context.Context, pgx.Tx, position) error) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		all, err := positions(ctx, r.old)
		if err != nil {
			return err
		}
		for len(all) > 0 { // as many in a transaction as the lock table has room for
			n := min(len(all), 2000)
			err := pgx.BeginFunc(ctx, r.new.pool, func(tx pgx.Tx) error {
				for _, p := range all[:n] {
					if err := set(ctx, tx, p); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			all = all[n:]
		}
		return nil
	}
}

func setvalOne(ctx context.Context, tx pgx.Tx, p position) error {
	_, err := tx.Exec(ctx, "select setval($1::text::regclass, $2, $3)", pgx.QueryExecModeCacheStatement, p.name, p.last, p.called)
	return err
}

// restartOne cannot say that the number was handed out, so it names the next one, by
// one step where that is right.
func restartOne(ctx context.Context, tx pgx.Tx, p position) error {
	_, err := tx.Exec(ctx, fmt.Sprintf("alter sequence %s restart with %d", p.name, p.last), pgx.QueryExecModeSimpleProtocol)
	return err
}

// setvalOfAllSQL sets all of them.
const setvalOfAllSQL = `
select count(setval(name::regclass, last, called))
  from unnest($1::text[], $2::bigint[], $3::boolean[]) as u (name, last, called)`

func setvalOfAll(ctx context.Context, r *run) error {
	all, err := positions(ctx, r.old)
	if err != nil {
		return err
	}
	for len(all) > 0 {
		n := min(len(all), 2000)
		names, lasts, called := make([]string, n), make([]int64, n), make([]bool, n)
		for i, p := range all[:n] {
			names[i], lasts[i], called[i] = p.name, p.last, p.called
		}
		if _, err := r.new.pool.Exec(ctx, setvalOfAllSQL, names, lasts, called); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}
