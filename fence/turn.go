package fence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// ErrNotMine means that the turn has moved on to another attempt: a stale tool
// must do nothing.
var ErrNotMine = errors.New("another attempt has the turn")

// ErrDecided means that an attempt was decided and cannot be undone.
var ErrDecided = errors.New("the attempt is decided")

// ErrNotYet means that the condition for opening is not met: neither is the
// decision here, nor is it known from old with its marker here.
var ErrNotYet = errors.New("the decision has not arrived")

// ArmSQL lets the guard open the new server for an attempt.
const ArmSQL = `update pgcutover.turn set attempt = $1, armed = true where attempt <= $1 and not open`

// Arm lets the guard on new open it when the decision of this attempt arrives.
// It refuses when new is open or has seen a higher attempt.
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

// DryRun runs the body of the guard on new and rolls it back, so that a
// missing right or a broken function shows before it matters. It must not be
// armed or open then.
func DryRun(ctx context.Context, s *pg.Server) error {
	errRollback := errors.New("rolled back on purpose")
	err := state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		if _, err := state.LockTurn(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, OpenNowSQL); err != nil {
			return fmt.Errorf("trying the guard's body on the new server: %w", err)
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

// Open opens the new server for attempt in one synchronous transaction, if the
// decision is visible here, or if it is known from old (knownFromOld) and the
// marker is visible here. It returns false when it was open already, and
// ErrNotYet when the condition is not met: then wait and ask again.
func Open(ctx context.Context, s *pg.Server, attempt int64, knownFromOld bool) (opened bool, err error) {
	err = state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		t, err := state.LockTurn(ctx, tx)
		if err != nil {
			return err
		}
		if t.Attempt != attempt {
			return fmt.Errorf("opening the new server for attempt %d while attempt %d has the turn: %w", attempt, t.Attempt, ErrNotMine)
		}
		if t.Open {
			return nil
		}
		may, err := mayOpen(ctx, tx, attempt, knownFromOld)
		if err != nil {
			return err
		}
		if !may {
			return ErrNotYet
		}
		if _, err := tx.Exec(ctx, OpenNowSQL); err != nil {
			return fmt.Errorf("opening the new server: %w", err)
		}
		opened = true
		return nil
	})
	return opened && err == nil, err
}

func mayOpen(ctx context.Context, tx pgx.Tx, attempt int64, knownFromOld bool) (bool, error) {
	decided, err := state.Decided(ctx, tx, attempt)
	if err != nil || decided || !knownFromOld {
		return decided, err
	}
	return state.Marked(ctx, tx, attempt)
}

// UndoOnOld runs undo on the old server in one transaction that holds the
// turn's row, if the attempt is mine and no decision was made: read after the
// lock, so that a COMMIT under way has landed or died. It returns ErrDecided
// or ErrNotMine otherwise and changes nothing.
func UndoOnOld(ctx context.Context, s *pg.Server, attempt int64, undo func(pgx.Tx) error) error {
	return state.Tx(ctx, s, "5s", func(tx pgx.Tx) error {
		t, err := state.LockTurn(ctx, tx)
		if err != nil {
			return err
		}
		if t.Attempt != attempt {
			return fmt.Errorf("undoing attempt %d while attempt %d has the turn: %w", attempt, t.Attempt, ErrNotMine)
		}
		decided, err := state.Decided(ctx, tx, attempt)
		if err != nil {
			return err
		}
		if decided {
			return fmt.Errorf("undoing attempt %d: %w", attempt, ErrDecided)
		}
		return undo(tx)
	})
}

// DetachForUndo drops the triggers of an undecided attempt from old, table by
// table in checked transactions: the check is repeated with every batch, so
// that a stale tool stops at once.
func DetachForUndo(ctx context.Context, s *pg.Server, attempt int64, bound time.Duration, progress func(string)) error {
	limit, cancel := context.WithTimeoutCause(ctx, bound, fmt.Errorf("dropping fence triggers: %w after %s", pg.ErrTimeout, bound))
	defer cancel()
	tables, err := Tables(limit, s.Pool(), s.Move())
	if err != nil {
		return err
	}
	var standing []Table
	for _, t := range tables {
		if t.Fenced || t.Foreign {
			standing = append(standing, t)
		}
	}
	// Two rounds: whatever is free goes first, then the rest is waited for.
	var busy []Table
	for batch := range slices.Chunk(standing, batchSize) {
		held, err := detachFree(limit, s, attempt, batch)
		if err != nil {
			return err
		}
		busy = append(busy, held...)
	}
	for i, t := range busy {
		if progress != nil {
			progress(fmt.Sprintf("dropping fence triggers: %d of %d tables are in use", len(busy)-i, len(standing)))
		}
		if err := detachBusy(limit, s, attempt, t); err != nil {
			return err
		}
	}
	return nil
}

// detachFree drops the triggers of a batch, table by table when the batch is
// refused, and returns the tables that somebody holds.
func detachFree(ctx context.Context, s *pg.Server, attempt int64, batch []Table) ([]Table, error) {
	err := detachChecked(ctx, s, attempt, batch, batchTimeout)
	if err == nil || !retryable(err) {
		return nil, err
	}
	var busy []Table
	for _, t := range batch {
		err := detachChecked(ctx, s, attempt, []Table{t}, oneTimeout)
		switch {
		case err == nil:
		case retryable(err):
			busy = append(busy, t)
		default:
			return nil, err
		}
	}
	return busy, nil
}

// detachBusy drops one table's trigger as soon as nobody holds the table.
func detachBusy(ctx context.Context, s *pg.Server, attempt int64, t Table) error {
	err := pg.Wait(ctx, "table "+t.Identifier()+" to be free", 50*time.Millisecond, 0, nil, func(context.Context) (bool, string, error) {
		err := detachChecked(ctx, s, attempt, []Table{t}, oneTimeout)
		if err != nil && retryable(err) {
			return false, err.Error(), nil
		}
		return err == nil, "", err
	})
	if err != nil {
		return blocked(ctx, s, t, err)
	}
	return nil
}

func detachChecked(ctx context.Context, s *pg.Server, attempt int64, tables []Table, timeout string) error {
	return UndoOnOld(ctx, s, attempt, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local lock_timeout = "+literal(timeout)); err != nil {
			return err
		}
		for _, t := range tables {
			if _, err := tx.Exec(ctx, DetachSQL(s.Move(), t)); err != nil {
				return wrapChange(err, s, "dropping the fence trigger", []job{{table: t}})
			}
		}
		return nil
	})
}
