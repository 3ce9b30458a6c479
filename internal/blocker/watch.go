package blocker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Ended is a session that a Watch has ended, or an autovacuum that it has sent
// away.
type Ended struct {
	Session string `json:"session"` // as Session.String
	How     string `json:"how"`     // terminated or cancelled
}

// Watch keeps an eye on who stands in the way of one piece of work. Set its
// exported fields and call Look after every refusal. It is not safe for
// concurrent use.
type Watch struct {
	Server *pg.Server
	Mode   Mode
	// TerminateAfter is how long a client's session may stand in the way before
	// it is ended; 0 means for ever.
	TerminateAfter time.Duration
	Progress       func(string) // may be nil
	Doing          string       // what the work is, for progress and errors

	seen  map[key]time.Time
	tried map[key]bool // autovacuums that were asked to go
	ended []Ended
}

// key is one transaction of one session.
type key struct {
	pid  int32
	gid  string
	from int64
}

func (s Session) key() key {
	k := key{pid: s.PID, gid: s.GID}
	if s.transaction != nil {
		k.from = s.transaction.UnixMicro()
	}
	return k
}

// Ended returns what the Watch has ended so far.
func (w *Watch) Ended() []Ended { return w.ended }

// ErrMayNotEnd means that a session was to be ended and the tool's role may not.
var ErrMayNotEnd = errors.New("no right to end the session in the way")

// Look names who is in the way on any of the tables now. Autovacuums are sent
// away at once; clients that have been in the way for TerminateAfter are ended,
// and ErrMayNotEnd says that this was refused. Whoever was ended is still among
// those returned: it takes a moment to go.
func (w *Watch) Look(ctx context.Context, tables ...string) ([]Session, error) {
	found, err := Find(ctx, w.Server.Pool(), w.Server.Move(), w.Mode, tables...)
	if err != nil {
		return nil, fmt.Errorf("%s on the %s server: %w", w.Doing, w.Server.Side(), err)
	}
	if w.seen == nil {
		w.seen, w.tried = map[key]time.Time{}, map[key]bool{}
	}
	now := time.Now()
	for _, s := range found {
		k := s.key()
		if _, known := w.seen[k]; !known {
			w.seen[k] = now
		}
		switch {
		case s.Kind == Autovacuum && !w.tried[k]:
			w.tried[k] = true
			w.cancel(ctx, s)
		case s.Kind == Client && !s.Waits && w.TerminateAfter > 0 && now.Sub(w.seen[k]) >= w.TerminateAfter:
			if err := w.terminate(ctx, s); err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

// Hopeful tells that waiting on may help because one of the sessions is going to
// be ended when its time has come.
func (w *Watch) Hopeful(found []Session) bool {
	for _, s := range found {
		if s.Kind == Client && !s.Waits && w.TerminateAfter > 0 {
			return true
		}
	}
	return false
}

// cancelSQL sends an autovacuum away, unless it has gone on to something else
// meanwhile.
const cancelSQL = `
select pg_cancel_backend(pid)
  from pg_stat_activity
 where pid = $1 and backend_start = $2 and xact_start = $3
   and backend_type = 'autovacuum worker' and query not like '%(to prevent wraparound)'`

// cancel is without consequence where it is refused: an autovacuum gives way
// after deadlock_timeout, if the lock is waited for as long as that.
func (w *Watch) cancel(ctx context.Context, s Session) {
	var done bool
	err := w.Server.Pool().QueryRow(ctx, cancelSQL, s.PID, s.backend, s.transaction).Scan(&done)
	if err == nil && done {
		w.report(s, "cancelled")
	}
}

// terminateSQL ends a client's session, if it is still in that transaction.
const terminateSQL = `
select pg_terminate_backend(pid)
  from pg_stat_activity
 where pid = $1 and backend_start = $2 and xact_start is not distinct from $3
   and backend_type = 'client backend'`

func (w *Watch) terminate(ctx context.Context, s Session) error {
	var done bool
	err := w.Server.Pool().QueryRow(ctx, terminateSQL, s.PID, s.backend, s.transaction).Scan(&done)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil // it has gone
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return hint.With(fmt.Errorf("%s on the %s server: %w: %s: %w", w.Doing, w.Server.Side(), ErrMayNotEnd, s, err),
			fmt.Sprintf("GRANT pg_signal_backend TO %s; (sessions of superusers can be ended by superusers only), or end it yourself: select pg_terminate_backend(%d);",
				pgx.Identifier{w.Server.User()}.Sanitize(), s.PID))
	case err != nil:
		return fmt.Errorf("ending the session in the way on the %s server: %w", w.Server.Side(), err)
	}
	if done {
		delete(w.seen, s.key())
		w.report(s, "terminated")
	}
	return nil
}

func (w *Watch) report(s Session, how string) {
	w.ended = append(w.ended, Ended{Session: s.String(), How: how})
	if w.Progress != nil {
		w.Progress(fmt.Sprintf("%s: %s %s", w.Doing, how, s))
	}
}
