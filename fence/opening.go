package fence

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Opening is an opening of the target that is made and not committed: nobody
// sees it, and while it lasts nobody else can take the turn there. It is worth
// having because the clients of the source are turned away at the decision, and
// crowd both servers from then on: a COMMIT is all that is left to do.
//
// It is used by one goroutine at a time.
type Opening struct {
	server *pg.Server
	tx     pgx.Tx
}

// openingIdle is how long an opening may wait for its COMMIT. The guard waits for
// it: were the tool stopped just then, clients would have no server that long.
const openingIdle = 500 * time.Millisecond

// PrepareOpenSQL is what PrepareOpen does, for people to read.
const PrepareOpenSQL = "begin;" + openingBegin + ";\n" + TryOpenSQL

// openingBegin comes first in the transaction of an opening.
const openingBegin = `
set local synchronous_commit = on;
set local idle_in_transaction_session_timeout = '500ms';
set local lock_timeout = '500ms'`

// PrepareOpen opens the target for attempt as Open does once the decision is
// known, but for the COMMIT: the turn is this attempt's, and the marker is
// here. Whoever does not call Commit calls Drop.
func PrepareOpen(ctx context.Context, s *pg.Server, attempt int64) (*Opening, error) {
	tx, err := s.Pool().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return nil, fmt.Errorf("preparing to open the %s server: %w", s.Side(), err)
	}
	o := &Opening{server: s, tx: tx}
	var answer string
	if _, err = tx.Exec(ctx, openingBegin); err == nil {
		err = tx.QueryRow(ctx, TryOpenSQL, attempt, true).Scan(&answer)
	}
	switch {
	case err != nil:
	case answer == "opened":
		return o, nil
	case answer == "not yet":
		err = ErrNotYet
	default:
		err = fmt.Errorf("for attempt %d while another has the turn (%s): %w", attempt, answer, ErrNotMine)
	}
	o.Drop(ctx)
	return nil, fmt.Errorf("preparing to open the %s server: %w", s.Side(), err)
}

// Commit opens the server. It must be called only when the decision is known to
// be made. An error may also mean that the answer was lost, or that the
// transaction had ended before: then ask Open.
func (o *Opening) Commit(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := o.tx.Commit(limit); err != nil {
		return fmt.Errorf("opening the %s server: %w", o.server.Side(), err)
	}
	return nil
}

// Drop takes back what was not committed. It may be called on nil, and again.
func (o *Opening) Drop(ctx context.Context) {
	if o == nil {
		return
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), openingIdle)
	defer cancel()
	_ = o.tx.Rollback(limit) // what cannot be told to the server ends by openingIdle
}
