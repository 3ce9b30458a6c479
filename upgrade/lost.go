package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
)

// Unreachable is the error of a server that could not be connected to.
type Unreachable struct {
	Side pg.Side
	Err  error
}

func (u *Unreachable) Error() string { return u.Err.Error() }
func (u *Unreachable) Unwrap() error { return u.Err }

// OpenOld connects to the old server only, for a move whose new server is gone.
func OpenOld(ctx context.Context, o Options, observer step.Observer) (*Move, error) {
	m := newMove(o, observer)
	var err error
	m.Old, err = m.open(ctx, pg.Old)
	return m, err
}

// OpenNew connects to the new server only, for a move whose old server is gone
// for good.
func OpenNew(ctx context.Context, o Options, observer step.Observer) (*Move, error) {
	m := newMove(o, observer)
	var err error
	m.New, err = m.open(ctx, pg.New)
	return m, err
}

// OpenReachable connects to both servers, or to the one that can be reached:
// then missing says why the other one cannot, and that side of the Move is nil.
// Only Status may be asked of such a Move.
func OpenReachable(ctx context.Context, o Options, observer step.Observer) (m *Move, missing *Unreachable, err error) {
	m = newMove(o, observer)
	var errOld, errNew error
	m.Old, errOld = m.open(ctx, pg.Old)
	m.New, errNew = m.open(ctx, pg.New)
	switch {
	case errOld != nil && errNew != nil:
		return nil, nil, errors.Join(errOld, errNew)
	case errOld != nil:
		return m, &Unreachable{pg.Old, errOld}, nil
	case errNew != nil:
		return m, &Unreachable{pg.New, errNew}, nil
	}
	return m, nil, nil
}

// open connects to one side.
func (m *Move) open(ctx context.Context, side pg.Side) (*pg.Server, error) {
	e := m.Options.Old
	if side == pg.New {
		e = m.Options.New
	}
	s, err := pg.Open(ctx, pg.Options{Side: side, URL: e.URL, PeerURL: e.PeerURL, Move: m.Options.Name})
	if err != nil {
		return nil, &Unreachable{side, err}
	}
	return s, nil
}

// IfGoneForGood adds to an error the command for a server that will never come
// back, when exactly one could not be reached.
func IfGoneForGood(err error) error {
	var found []pg.Side
	var walk func(error)
	walk = func(err error) {
		var u *Unreachable
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range joined.Unwrap() {
				walk(e)
			}
		} else if errors.As(err, &u) {
			found = append(found, u.Side)
		}
	}
	walk(err)
	var refused *pgconn.PgError
	if len(found) != 1 || errors.As(err, &refused) { // one that refuses is there
		return err
	}
	return hint.With(err, fmt.Sprintf("if the %[1]s server will never come back: pgcutover resume --%[1]s-is-lost, which says first what is lost", found[0]))
}

// ErrAnswers means that a server that is said to be gone is there.
var ErrAnswers = errors.New("the server is not gone")

const (
	// answerBound is how long it may take to answer.
	answerBound = 5 * time.Second
	// heardBound is how long a stream may look alive after the other server's end:
	// wal_receiver_timeout and wal_sender_timeout are 60 s by default.
	heardBound = 75 * time.Second
	// goneBound is how long workers that are just ending are waited for.
	goneBound = 5 * time.Second
)

// instead is what to run when a server that is said to be gone is there.
func instead(side pg.Side) string {
	if side == pg.Old {
		return "to finish or undo what was interrupted: pgcutover resume"
	}
	return "to go back and lose nothing: pgcutover rollback"
}

// mustBeGone refuses while a server answers here, or is still in touch with the
// other one: then it may be taking writes.
func (m *Move) mustBeGone(ctx context.Context, side pg.Side, recorded state.Move) error {
	limit, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	there, err := m.open(limit, side)
	if err == nil {
		defer there.Close()
		return m.answered(ctx, there, recorded)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return hint.With(fmt.Errorf("%w: at the %s one's address a server answers: %w", ErrAnswers, side, err),
			fmt.Sprintf("if it is that one, get it to answer, then, %s. If it is gone and that is another one, shut that off, or correct %s.url", instead(side), side))
	}
	return m.mustBeSilent(ctx, side)
}

// answered judges a server that answers at the lost one's address.
func (m *Move) answered(ctx context.Context, there *pg.Server, recorded state.Move) error {
	is, err := state.Identify(ctx, there)
	if err != nil {
		return hint.With(fmt.Errorf("%w: %w", ErrAnswers, err), "run: pgcutover status")
	}
	was := recorded.Old
	if there.Side() == pg.New {
		was = recorded.New
	}
	switch {
	case is.System != was.System:
		return m.mustBeSilent(ctx, there.Side()) // another cluster has its address
	case is.Timeline != was.Timeline:
		return hint.With(fmt.Errorf("%w: the %s one (%s) answers, on timeline %d (was %d): it failed over or was restored", ErrAnswers, there.Side(), there.Address(), is.Timeline, was.Timeline),
			"it has what the other one has not: compare both before anything else. If it is to be given up all the same, shut it off and run this again")
	}
	return hint.With(fmt.Errorf("%w: the %s one (%s) answers", ErrAnswers, there.Side(), there.Address()), instead(there.Side())+". To see where things stand: pgcutover status")
}

// inTouchSQL looks at both ends of the streams of a move: apply workers that have
// heard of the other server, and walsenders that it reads from.
const inTouchSQL = `
select 'an apply worker is connected to it (last message ' || w.last_msg_receipt_time || ')'
  from pg_stat_subscription w
 where w.subname ~ $1 and w.pid is not null and w.last_msg_receipt_time > clock_timestamp() - $2::interval
union all
select 'it reads from slot ' || s.slot_name
  from pg_replication_slots s
 where s.slot_name ~ $1 and s.database = current_database() and s.active
 limit 1`

// mustBeSilent looks whether the server that is left still hears of the other
// one: this machine may be the one that is cut off.
func (m *Move) mustBeSilent(ctx context.Context, side pg.Side) error {
	here := m.Old
	if side == pg.Old {
		here = m.New
	}
	var seen string
	err := pg.Wait(ctx, fmt.Sprintf("the %s server to lose the %s one", here.Side(), side), 200*time.Millisecond, goneBound, nil, func(ctx context.Context) (bool, string, error) {
		err := here.Pool().QueryRow(ctx, inTouchSQL, state.StreamPattern(m.Options.Name), heardBound).Scan(&seen)
		if errors.Is(err, pgx.ErrNoRows) {
			return true, "", nil
		}
		return false, seen, err
	})
	if errors.Is(err, pg.ErrTimeout) {
		return hint.With(fmt.Errorf("%w: the %s one does not answer here, but, says the %s one, %s", ErrAnswers, side, here.Side(), seen),
			fmt.Sprintf("see whether only this machine is cut off from it. If it has just died, run this again when %s have passed since; a walsender that hangs for longer: select pg_terminate_backend(active_pid) from pg_replication_slots where active", heardBound))
	}
	if err != nil {
		return fmt.Errorf("looking whether the %s server still hears of the %s one: %w", here.Side(), side, err)
	}
	return nil
}

// ErrGivenUp means that one of the two servers was given up by an operator's
// promise: such a move can only be ended.
var ErrGivenUp = errors.New("the move can only be ended")

// ErrBothServe means that both servers take client writes.
var ErrBothServe = errors.New("both servers take writes")

// promised is where a move stands with regard to promises.
type promised struct {
	promise  *state.Promise // by which the one that serves was opened
	old, new state.Turn
	serving  pg.Side // by the newest decision
}

func (m *Move) promised(ctx context.Context) (p promised, err error) {
	for range 2 { // a cutover between the two looks would seem to be both
		if p.old, err = state.ReadTurn(ctx, m.Old.Pool()); err != nil {
			return p, err
		}
		if p.new, err = state.ReadTurn(ctx, m.New.Pool()); err != nil {
			return p, err
		}
		if !p.both() {
			break
		}
	}
	pos, err := state.Locate(ctx, m.Old, m.New)
	if err != nil {
		return p, err
	}
	p.serving = pos.Serving()
	for _, s := range []*pg.Server{m.Old, m.New} {
		made, err := state.ReadPromise(ctx, s)
		if err != nil {
			return p, err
		}
		if made != nil && (p.promise == nil || made.Attempt > p.promise.Attempt) && made.Attempt == pos.Attempt {
			p.promise = made
		}
	}
	return p, nil
}

func (p promised) both() bool { return p.old.Open && p.new.Open }

// err says that nothing goes on here, and how the move is ended; nil when no
// server was given up and not both take writes.
func (p promised) err() error {
	both := p.both()
	if p.promise == nil && !both {
		return nil
	}
	lost := p.serving.Other()
	what := fmt.Errorf("the newest decision gave them to the %s server, and the %s one takes them too: %w", p.serving, lost, ErrBothServe)
	if p.promise != nil {
		lost = p.promise.Lost()
		was := "is back, closed"
		cause := ErrGivenUp
		if both {
			was, cause = "is back and takes writes too", fmt.Errorf("%w, %w", ErrBothServe, ErrGivenUp)
		}
		what = fmt.Errorf("the %s server was given up at %s (resume --%[1]s-is-lost) and %[3]s: %[4]w", lost, utc(p.promise.At), was, cause)
	}
	return hint.With(what, p.ending(lost, both))
}

// ending says how a move is ended whose server lost was given up.
func (p promised) ending(lost pg.Side, both bool) string {
	keep := fmt.Sprintf("keep every client away from the %s server: pgcutover does not close it. Compare it with the %s one, carry what is missing there by hand", lost, lost.Other())
	if !both {
		keep = fmt.Sprintf("leave the %s server closed, and compare it with the %s one", lost, lost.Other())
	}
	switch {
	case lost == pg.Old && both:
		return keep + ". Then: pgcutover complete --new-only, and pgcutover abort --old-only, which lets old go on taking writes"
	case lost == pg.Old:
		return keep + ". Then: pgcutover complete, which lets old take writes again, or pgcutover complete --keep-fence"
	case both:
		return keep + ". Then: pgcutover abort --old-only, and pgcutover complete --new-only, which lets new go on taking writes"
	}
	return keep + ". Then: pgcutover abort --old-only, and drop the new database"
}

// goesOn refuses what would go on with a move that can only be ended.
func (m *Move) goesOn(ctx context.Context) error {
	p, err := m.promised(ctx)
	if err != nil {
		return err
	}
	return p.err()
}
