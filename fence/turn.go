package fence

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// ErrNotMine means that the turn has moved on to another attempt: a stale tool
// must do nothing.
var ErrNotMine = errors.New("another attempt has the turn")

// ErrDecided means that an attempt was decided and cannot be undone.
var ErrDecided = errors.New("the attempt is decided")

// ErrNotYet means that the condition for opening is not met: neither is the
// decision here, nor is it known from the source with its marker here.
var ErrNotYet = errors.New("the decision has not arrived")

// ArmSQL lets the guard open the target for an attempt.
const ArmSQL = `update pgcutover.turn set attempt = $1, armed = true where attempt <= $1 and not open`

// Arm lets the guard on the target open it when the decision of this attempt
// arrives. It refuses when the target is open or has seen a higher attempt.
func Arm(ctx context.Context, s *pg.Server, attempt int64) error {
	return state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		if _, err := state.LockTurn(ctx, tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, ArmSQL, attempt)
		if err != nil {
			return fmt.Errorf("arming the guard: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return fmt.Errorf("arming the guard for attempt %d: %w", attempt, ErrNotMine)
		}
		return nil
	})
}

// DisarmSQL takes that back.
const DisarmSQL = `update pgcutover.turn set armed = false where attempt = $1 and not open`

// Disarm takes the guard's permission back. To be called last of all undos,
// and only after it is certain that the attempt was not decided.
func Disarm(ctx context.Context, s *pg.Server, attempt int64) error {
	return state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		t, err := state.LockTurn(ctx, tx)
		if err != nil {
			return err
		}
		if t.Attempt == attempt && t.Open {
			return fmt.Errorf("disarming the guard of attempt %d: %w", attempt, ErrDecided)
		}
		_, err = tx.Exec(ctx, DisarmSQL, attempt)
		return err
	})
}

// DryRun runs the body of the guard on the target and rolls it back, so that a
// missing right or a broken function shows before it matters. It must not be
// armed or open then.
func DryRun(ctx context.Context, s *pg.Server) error {
	errRollback := errors.New("rolled back on purpose")
	err := state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		if _, err := state.LockTurn(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, OpenNowSQL); err != nil {
			return fmt.Errorf("trying the guard's body on the %s server: %w", s.Side(), err)
		}
		return errRollback
	})
	if errors.Is(err, errRollback) {
		return nil
	}
	return err
}

// OpenNowSQL opens the server, in a transaction that holds the turn's row.
const OpenNowSQL = `select pgcutover.open_now()`

// TryOpenSQL opens the server if it may be opened; see tryOpenForwardSQL.
const TryOpenSQL = `select pgcutover.try_open($1, $2)`

// Open opens the target for attempt in one synchronous transaction, if the
// decision is visible here, or if it is known from the source (known) and the
// marker is visible here. It returns false when it was open already, and
// ErrNotYet when the condition is not met: then wait and ask again.
func Open(ctx context.Context, s *pg.Server, attempt int64, known bool) (opened bool, err error) {
	var answer string
	if err := s.Pool().QueryRow(ctx, TryOpenSQL, attempt, known).Scan(&answer); err != nil {
		return false, fmt.Errorf("opening the %s server: %w", s.Side(), err)
	}
	switch answer {
	case "opened":
		return true, nil
	case "open":
		return false, nil
	case "not yet":
		return false, ErrNotYet
	}
	return false, fmt.Errorf("opening the %s server for attempt %d while another has the turn (%s): %w", s.Side(), attempt, answer, ErrNotMine)
}

// UndoOnSource runs undo on the source in one transaction that holds the turn's
// row, if the attempt is mine and no decision was made: read after the
// lock, so that a COMMIT under way has landed or died. It returns ErrDecided
// or ErrNotMine otherwise and changes nothing.
func UndoOnSource(ctx context.Context, s *pg.Server, d state.Direction, attempt int64, undo func(pgx.Tx) error) error {
	return state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		t, err := state.LockTurn(ctx, tx)
		if err != nil {
			return err
		}
		if t.Attempt != attempt {
			return fmt.Errorf("undoing attempt %d while attempt %d has the turn: %w", attempt, t.Attempt, ErrNotMine)
		}
		decided, err := state.Decided(ctx, tx, d, attempt)
		if err != nil {
			return err
		}
		if decided {
			return fmt.Errorf("undoing attempt %d: %w", attempt, ErrDecided)
		}
		return undo(tx)
	})
}

// Guard is asked inside a transaction before that changes anything; an error
// ends it. It is what keeps a tool that slept from undoing what others did.
type Guard func(ctx context.Context, tx pgx.Tx) error

// Mine is the guard of a tool whose attempt opened the server: it holds the turn
// and returns ErrNotMine when another attempt has it, or the server is closed.
func Mine(s *pg.Server, attempt int64) Guard {
	return func(ctx context.Context, tx pgx.Tx) error {
		t, err := state.LockTurn(ctx, tx)
		if err != nil {
			return err
		}
		if t.Attempt != attempt || !t.Open {
			return fmt.Errorf("attempt %d has the turn on the %s server (open: %t), not attempt %d: %w", t.Attempt, s.Side(), t.Open, attempt, ErrNotMine)
		}
		return nil
	}
}

// DetachGuarded is DetachWith whose every transaction asks guard first.
func DetachGuarded(ctx context.Context, s *pg.Server, o Options, guard Guard) (Changed, error) {
	w := newWork(s, "dropping fence triggers", blocker.AccessExclusive, o)
	w.sql = func(t Table) string { return DetachSQL(s.Move(), t) }
	w.patience = politeWait // the turn is held meanwhile
	w.tx = func(ctx context.Context, f func(pgx.Tx) error) error {
		return state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
			if err := guard(ctx, tx); err != nil {
				return err
			}
			return f(tx)
		})
	}
	return w.run(ctx, o.Bound, standing)
}
