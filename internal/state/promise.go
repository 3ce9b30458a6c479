package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Promise is a decision that no server made: an operator promised that the
// other server is gone for good, and the writes were given to this one. Its row
// stands among the decisions, under an attempt of its own, with a stream's
// number that no stream has. So everybody who asks for the newest decision
// hears of it, and tools of an earlier attempt find that it is not their turn.
type Promise struct {
	Attempt int64     `json:"attempt"`
	Serving pg.Side   `json:"serving"` // the side that was opened
	At      time.Time `json:"at"`      // by that server's clock
}

// Lost is the side that was given up.
func (p Promise) Lost() pg.Side { return p.Serving.Other() }

// nextAttemptSQL counts one further, on a server that the caller has locked.
const nextAttemptSQL = `update pgcutover.turn set attempt = attempt + 1 returning attempt`

const promiseForwardSQL = `insert into pgcutover.decision_forward (attempt, stream) values ($1, -1)`

const promiseBackSQL = `insert into pgcutover.decision_back (attempt, stream) values ($1, -1)`

// DecideByPromise gives the writes to the target of a direction, on that very
// server, and returns the attempt's number. It belongs into the transaction that
// holds the turn and opens the server.
func DecideByPromise(ctx context.Context, q Querier, d Direction) (int64, error) {
	var attempt int64
	if err := q.QueryRow(ctx, nextAttemptSQL).Scan(&attempt); err != nil {
		return 0, fmt.Errorf("taking the number of a promise: %w", err)
	}
	sql := promiseForwardSQL
	if d == Back {
		sql = promiseBackSQL
	}
	if _, err := q.Exec(ctx, sql, attempt); err != nil {
		return 0, fmt.Errorf("recording that the %s server was given up: %w", d.Source(), err)
	}
	return attempt, nil
}

const promisedForwardSQL = `
select d.attempt, d.at
  from pgcutover.decision_forward d
 where d.stream = -1
   and d.attempt >= (select max(x.attempt) from (select attempt from pgcutover.decision_forward
                                                  union all
                                                 select attempt from pgcutover.decision_back) x)`

const promisedBackSQL = `
select d.attempt, d.at
  from pgcutover.decision_back d
 where d.stream = -1
   and d.attempt >= (select max(x.attempt) from (select attempt from pgcutover.decision_forward
                                                  union all
                                                 select attempt from pgcutover.decision_back) x)`

// ReadPromise returns the promise by which s was opened, nil when there is none
// or a later decision stands above it.
func ReadPromise(ctx context.Context, s *pg.Server) (*Promise, error) {
	sql := promisedForwardSQL
	if s.Side() == pg.Old {
		sql = promisedBackSQL
	}
	p := Promise{Serving: s.Side()}
	err := s.Pool().QueryRow(ctx, sql).Scan(&p.Attempt, &p.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking on the %s server whether the other one was given up: %w", s.Side(), err)
	}
	return &p, nil
}

// rememberSQL keeps what was found: what it tells of may be gone by the time it
// is asked for again.
const rememberSQL = `
insert into pgcutover.journal (list, run, seq, step, event, facts)
values ('lost', 0, $1, $2, 'found', $3)
on conflict (list, run, seq) do update set facts = excluded.facts, at = clock_timestamp()`

const rememberedSQL = `
select facts
  from pgcutover.journal
 where list = 'lost' and run = 0 and seq = $1`

// RememberRemains writes on s what s has of the other server's writes after an
// attempt, for a run that comes after an interrupted one.
func RememberRemains(ctx context.Context, s *pg.Server, attempt int64, facts any) error {
	if _, err := s.Pool().Exec(ctx, rememberSQL, attempt, string(s.Side().Other()), facts); err != nil {
		return fmt.Errorf("recording what the %s server has: %w", s.Side(), err)
	}
	return nil
}

// RememberedRemains reads into facts what RememberRemains wrote; false when it
// has not.
func RememberedRemains(ctx context.Context, s *pg.Server, attempt int64, facts any) (bool, error) {
	var text json.RawMessage
	err := s.Pool().QueryRow(ctx, rememberedSQL, attempt).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading what the %s server had: %w", s.Side(), err)
	}
	if err := json.Unmarshal(text, facts); err != nil {
		return false, fmt.Errorf("reading what the %s server had: %w", s.Side(), err)
	}
	return true, nil
}
