package state

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Turn is the one row that says whose turn it is on a server.
type Turn struct {
	Attempt int64 `json:"attempt"` // number of the newest cutover try that this server has seen
	Armed   bool  `json:"armed"`   // the guard may open this server when the decision arrives
	Open    bool  `json:"open"`    // client writes are taken here
}

const turnReadSQL = `select attempt, armed, open from pgcutover.turn`

// ReadTurn reads the turn without a lock.
func ReadTurn(ctx context.Context, q Querier) (Turn, error) {
	var t Turn
	if err := q.QueryRow(ctx, turnReadSQL).Scan(&t.Attempt, &t.Armed, &t.Open); err != nil {
		return t, fmt.Errorf("reading pgcutover.turn: %w", err)
	}
	return t, nil
}

// TurnLockSQL locks the turn's row: every undo, decide and open does so first.
const TurnLockSQL = `select attempt, armed, open from pgcutover.turn for update`

// LockTurn reads the turn and holds its row until q's transaction ends.
func LockTurn(ctx context.Context, q Querier) (Turn, error) {
	var t Turn
	if err := q.QueryRow(ctx, TurnLockSQL).Scan(&t.Attempt, &t.Armed, &t.Open); err != nil {
		return t, fmt.Errorf("locking pgcutover.turn: %w", err)
	}
	return t, nil
}

// TurnShareSQL holds the turn's row together with others who do the same: nobody
// can take the turn, arm or open meanwhile.
const TurnShareSQL = `select attempt, armed, open from pgcutover.turn for share`

// ShareTurn reads the turn and keeps it as it is until q's transaction ends, as
// several sessions of one attempt may do at the same time.
func ShareTurn(ctx context.Context, q Querier) (Turn, error) {
	var t Turn
	if err := q.QueryRow(ctx, TurnShareSQL).Scan(&t.Attempt, &t.Armed, &t.Open); err != nil {
		return t, fmt.Errorf("holding pgcutover.turn: %w", err)
	}
	return t, nil
}

// TakeAttemptSQL counts one further on the source, past both servers.
const TakeAttemptSQL = `
update pgcutover.turn
   set attempt = greatest(attempt, $1) + 1
 where open
returning attempt`

// ErrClosed means that the source does not take writes: there is nothing to turn
// away from it.
var ErrClosed = errors.New("the server does not take writes")

// TakeAttempt takes the number of the next attempt, one counter for both
// directions: higher than any that either server has seen, and durable on the
// source. The caller holds the one-tool lock there.
func TakeAttempt(ctx context.Context, source, target *pg.Server) (int64, error) {
	there, err := ReadTurn(ctx, target.Pool())
	if err != nil {
		return 0, fmt.Errorf("on the %s server: %w", target.Side(), err)
	}
	var n int64
	err = source.Pool().QueryRow(ctx, TakeAttemptSQL, there.Attempt).Scan(&n)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("taking the number of this attempt on the %s server: %w", source.Side(), ErrClosed)
	}
	if err != nil {
		return 0, fmt.Errorf("taking the number of this attempt on the %s server: %w", source.Side(), err)
	}
	return n, nil
}

const isDecidedForwardSQL = `select count(*) from pgcutover.decision_forward where attempt = $1`

const isDecidedBackSQL = `select count(*) from pgcutover.decision_back where attempt = $1`

// Decided reports whether the decision of an attempt is visible to q. A yes is
// final. A no says only that it is not visible: it is definitive only for one
// who holds the one-tool lock on the source and asks there.
func Decided(ctx context.Context, q Querier, d Direction, attempt int64) (bool, error) {
	sql := isDecidedForwardSQL
	if d == Back {
		sql = isDecidedBackSQL
	}
	return count(ctx, q, sql, attempt, "decision")
}

const isMarkedForwardSQL = `select count(*) from pgcutover.marker_forward where attempt = $1`

const isMarkedBackSQL = `select count(*) from pgcutover.marker_back where attempt = $1`

// Marked reports whether the marker of an attempt is visible to q.
func Marked(ctx context.Context, q Querier, d Direction, attempt int64) (bool, error) {
	sql := isMarkedForwardSQL
	if d == Back {
		sql = isMarkedBackSQL
	}
	return count(ctx, q, sql, attempt, "marker")
}

func count(ctx context.Context, q Querier, sql string, attempt int64, what string) (bool, error) {
	var n int
	if err := q.QueryRow(ctx, sql, attempt).Scan(&n); err != nil {
		return false, fmt.Errorf("looking for %s %d: %w", what, attempt, err)
	}
	return n > 0, nil
}

// txBegin begins every transaction of Tx. The server ends it when the tool says
// nothing for five seconds: stopped, or cut off, in the middle, it would
// otherwise hold up the writers of a table, or the guard, that long.
const txBegin = "set local synchronous_commit = on; set local idle_in_transaction_session_timeout = '5s'; set local lock_timeout = "

// Tx runs f in a READ COMMITTED transaction whose commit is synchronous, with
// the given lock_timeout (for example "5s"). Between two of its statements no
// more than five seconds may pass.
func Tx(ctx context.Context, s *pg.Server, lockTimeout string, f func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, s.Pool(), pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, txBegin+quoteLiteral(lockTimeout)); err != nil {
			return fmt.Errorf("beginning a transaction on the %s server: %w", s.Side(), err)
		}
		return f(tx)
	})
}

// decidedAtSQL tells when attempt $1 was decided, in either direction; null
// where the server does not know it.
const decidedAtSQL = `
select min(at)
  from (select attempt, at from pgcutover.decision_forward
        union all
        select attempt, at from pgcutover.decision_back) d
 where attempt = $1`

// DecidedAt returns when the newest decision of a position was made, by the
// clock of the server that made it; the zero time when there is none.
func DecidedAt(ctx context.Context, old, new *pg.Server, p Position) (time.Time, error) {
	newest := max(p.Forward, p.Back)
	if newest == 0 {
		return time.Time{}, nil
	}
	for _, s := range []*pg.Server{old, new} {
		var at *time.Time
		if err := s.Pool().QueryRow(ctx, decidedAtSQL, newest).Scan(&at); err != nil {
			return time.Time{}, fmt.Errorf("reading when attempt %d was decided on the %s server: %w", newest, s.Side(), err)
		}
		if at != nil {
			return *at, nil
		}
	}
	return time.Time{}, fmt.Errorf("reading when attempt %d was decided: neither server knows it", newest)
}
