package fence

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/blocker"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// How the triggers come and go under load: in batches with a short lock_timeout
// and with rests between them (see pace), a refused batch split into single
// tables, those that somebody holds last. SHARE UPDATE EXCLUSIVE comes first: it
// holds no writer up, and sends an autovacuum away. Larger batches or a longer
// timeout stall clients.
const (
	batchWait   = 100 * time.Millisecond
	oneWait     = 50 * time.Millisecond
	politeWait  = 200 * time.Millisecond
	patientWait = 2 * time.Second      // more than the usual deadlock_timeout
	batchTotal  = time.Second          // tables that are each waited for must not add up
	tableWait   = 5 * time.Millisecond // ten times what one takes when nobody is there
	reportEvery = time.Second
	lookFor     = 2 * time.Second
)

// Options bound what is done to the triggers of a live server.
type Options struct {
	// Bound is how long all of it may take, and five milliseconds more for each
	// table.
	Bound time.Duration
	// TerminateAfter is how long a client's session may hold a table before it is
	// ended; 0 means that none is ended.
	TerminateAfter time.Duration
	Progress       func(string) // may be nil
}

// Changed says what was done.
type Changed struct {
	Tables int             `json:"tables"`          // whose trigger was made or dropped
	Ended  []blocker.Ended `json:"ended,omitempty"` // sessions that were in the way
}

// Attach is AttachWith without ending anybody's session.
func Attach(ctx context.Context, s *pg.Server, bound time.Duration, progress func(string)) (int, error) {
	changed, err := AttachWith(ctx, s, Options{Bound: bound, Progress: progress})
	return changed.Tables, err
}

// AttachWith makes the missing triggers on a live server. It gives up, naming
// the table and who holds it, when the bound has passed. Safe to call again.
func AttachWith(ctx context.Context, s *pg.Server, o Options) (Changed, error) {
	w := newWork(s, "making fence triggers", blocker.ShareRowExclusive, o)
	w.busiestLast = true
	w.sql = func(t Table) string { return AttachSQL(s.Move(), t) }
	return w.run(ctx, o.Bound, func(t Table) (bool, error) {
		if t.Foreign {
			return false, foreignError(s.Move(), t)
		}
		return !t.Fenced, nil
	})
}

// Detach is DetachWith without ending anybody's session.
func Detach(ctx context.Context, s *pg.Server, bound time.Duration, progress func(string)) (int, error) {
	changed, err := DetachWith(ctx, s, Options{Bound: bound, Progress: progress})
	return changed.Tables, err
}

// DetachWith drops the triggers on a live server, as politely as AttachWith
// makes them.
func DetachWith(ctx context.Context, s *pg.Server, o Options) (Changed, error) {
	w := newWork(s, "dropping fence triggers", blocker.AccessExclusive, o)
	w.sql = func(t Table) string { return DetachSQL(s.Move(), t) }
	return w.run(ctx, o.Bound, standing)
}

func standing(t Table) (bool, error) { return t.Fenced || t.Foreign, nil }

// DetachForUndo drops the triggers of an undecided attempt from the source, in
// checked transactions: the check is repeated with every batch, so that a stale
// tool stops at once. bound is for tables that somebody holds, together; those
// that nobody holds take what they take.
func DetachForUndo(ctx context.Context, s *pg.Server, d state.Direction, attempt int64, bound time.Duration, progress func(string)) error {
	w := newWork(s, "dropping fence triggers", blocker.AccessExclusive, Options{Progress: progress})
	w.sql = func(t Table) string { return DetachSQL(s.Move(), t) }
	w.patience = politeWait // the turn is held meanwhile
	w.tx = func(ctx context.Context, f func(pgx.Tx) error) error { return UndoOnSource(ctx, s, d, attempt, f) }
	limit, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	left := bound
	w.refused = func(took time.Duration) {
		if left -= took; left <= 0 {
			cancel(w.over(bound))
		}
	}
	tables, err := w.list(ctx, standing)
	if err != nil {
		return err
	}
	_, err = w.do(limit, tables)
	return err
}

// work is one change of the triggers of many tables.
type work struct {
	server   *pg.Server
	doing    string
	sql      func(Table) string
	tx       func(context.Context, func(pgx.Tx) error) error
	patience time.Duration // for SHARE UPDATE EXCLUSIVE on a table that is held
	watch    *blocker.Watch
	progress func(string)
	refused  func(took time.Duration) // told how long a try took that was in vain; may be nil
	// busiestLast begins with the tables that are written the least; otherwise the
	// work begins with those that are written the most. See order.
	busiestLast bool

	total, done int
	told        time.Time
}

func newWork(s *pg.Server, doing string, mode blocker.Mode, o Options) *work {
	w := &work{
		server: s, doing: doing, patience: patientWait, progress: o.Progress,
		watch: &blocker.Watch{Server: s, Mode: mode, TerminateAfter: o.TerminateAfter, Progress: o.Progress, Doing: doing},
	}
	w.tx = func(ctx context.Context, f func(pgx.Tx) error) error { return state.Tx(ctx, s, "5s", f) }
	return w
}

func (w *work) run(ctx context.Context, bound time.Duration, wanted func(Table) (bool, error)) (Changed, error) {
	tables, err := w.list(ctx, wanted)
	if err != nil {
		return Changed{}, err
	}
	bound += time.Duration(len(tables)) * tableWait
	limit, cancel := context.WithTimeoutCause(ctx, bound, w.over(bound))
	defer cancel()
	return w.do(limit, tables)
}

func (w *work) over(bound time.Duration) error {
	return fmt.Errorf("%s on the %s server: %w after %s", w.doing, w.server.Side(), pg.ErrTimeout, bound)
}

// list returns the tables that are wanted.
func (w *work) list(ctx context.Context, wanted func(Table) (bool, error)) ([]Table, error) {
	all, err := Tables(ctx, w.server.Pool(), w.server.Move())
	if err != nil {
		return nil, err
	}
	var tables []Table
	for _, t := range all {
		want, err := wanted(t)
		if err != nil {
			return nil, err
		}
		if want {
			tables = append(tables, t)
		}
	}
	return w.order(ctx, tables)
}

func (w *work) do(limit context.Context, tables []Table) (Changed, error) {
	w.total, w.told = len(tables), time.Now()
	var busy []Table
	p := newPace(limit, len(tables))
	for left := tables; len(left) > 0; {
		batch := left[:min(p.size, len(left))]
		left = left[len(batch):]
		began := time.Now()
		held, err := w.free(limit, batch)
		if err != nil {
			return w.changed(), err
		}
		busy = append(busy, held...)
		w.tell(nil, len(busy))
		p.saw(len(batch), time.Since(began), len(left))
		if len(left) > 0 && pg.Pause(limit, p.pause) != nil {
			return w.changed(), w.blocked(limit, left[0])
		}
	}
	err := w.busy(limit, busy)
	if err == nil && w.total > 0 && w.progress != nil {
		w.progress(fmt.Sprintf("%s: all %d tables", w.doing, w.total))
	}
	return w.changed(), err
}

func (w *work) changed() Changed { return Changed{Tables: w.done, Ended: w.watch.Ended()} }

// tell reports now and then, not for every batch.
func (w *work) tell(found []blocker.Session, waiting int) {
	if w.progress == nil || time.Since(w.told) < reportEvery {
		return
	}
	w.told = time.Now()
	text := fmt.Sprintf("%s: %d of %d tables", w.doing, w.done, w.total)
	if waiting > 0 {
		text += fmt.Sprintf(", %d are in use", waiting)
	}
	if len(found) > 0 {
		text += ", the next by " + blocker.Describe(found)
	}
	w.progress(text)
}

// free changes a batch, table by table when the batch is refused, and returns
// the tables that somebody holds: those are not waited for yet.
func (w *work) free(ctx context.Context, batch []Table) ([]Table, error) {
	err := w.try(ctx, politeWait, batchWait, batch...)
	if err == nil || !again(err) {
		return nil, w.wrap(ctx, err, batch...)
	}
	var held []Table
	for _, t := range batch {
		err := w.try(ctx, politeWait, oneWait, t)
		switch {
		case retryable(err) && ctx.Err() != nil:
			return nil, w.blocked(ctx, t)
		case retryable(err):
			held = append(held, t)
		case err != nil && !vanished(err):
			return nil, w.wrap(ctx, err, t)
		}
	}
	return held, nil
}

// busy goes round the tables that somebody holds until none is left.
func (w *work) busy(ctx context.Context, tables []Table) error {
	for len(tables) > 0 {
		var held []Table
		for i, t := range tables {
			err := w.try(ctx, w.patience, oneWait, t)
			if err == nil || vanished(err) {
				continue
			}
			if !retryable(err) {
				return w.wrap(ctx, err, t)
			}
			held = append(held, t)
			found, err := w.watch.Look(ctx, t.Identifier())
			if err != nil {
				return w.wrap(ctx, err, t)
			}
			w.tell(found, len(held)+len(tables)-i-1)
		}
		tables = held
		if len(tables) == 0 {
			return nil
		}
		// Room for the clients that stood in line behind us.
		if pg.Pause(ctx, 20*time.Millisecond+rand.N(80*time.Millisecond)) != nil {
			return w.blocked(ctx, tables[0])
		}
	}
	return nil
}

// try changes tables in one transaction, in two messages.
func (w *work) try(ctx context.Context, polite, wait time.Duration, tables ...Table) error {
	names, statements := make([]string, len(tables)), make([]string, len(tables))
	for i, t := range tables {
		names[i], statements[i] = "only "+t.Identifier(), w.sql(t)
	}
	began := time.Now()
	err := w.tx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("set local lock_timeout = %d;\nlock table %s in share update exclusive mode",
			polite.Milliseconds(), strings.Join(names, ", "))); err != nil {
			return err
		}
		// One statement, because the server bounds each of a message by itself.
		_, err := tx.Exec(ctx, fmt.Sprintf("set local lock_timeout = %d;\nset local statement_timeout = %d;\n%s",
			wait.Milliseconds(), batchTotal.Milliseconds(), w.server.Quiet("do "+escaped("begin\n"+strings.Join(statements, ";\n")+";\nend"))))
		return err
	})
	if err == nil {
		w.done += len(tables)
	} else if w.refused != nil && retryable(err) {
		w.refused(time.Since(began))
	}
	return err
}

// escaped is a literal whose meaning no setting changes.
func escaped(s string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

// retryable tells a refused lock, or one that took too long, from a failure.
func retryable(err error) bool {
	return pg.IsCode(err, pg.LockNotAvailable, pg.DeadlockDetected, pg.QueryCanceled)
}

// vanished tells that a table was dropped since it was listed: nothing is left
// to do there, but a batch that named it has to be taken apart.
func vanished(err error) bool { return pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName) }

func again(err error) bool { return retryable(err) || vanished(err) }

// wrap names the tables. When the bound has passed, the error says who is in
// the way instead of which statement was cut off.
func (w *work) wrap(ctx context.Context, err error, tables ...Table) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && pg.Code(err) == "" {
		return w.blocked(ctx, tables...)
	}
	on := fmt.Sprintf("%d tables", len(tables))
	if len(tables) == 1 {
		on = "table " + tables[0].Identifier()
	}
	err = fmt.Errorf("%s on %s of the %s server: %w", w.doing, on, w.server.Side(), err)
	if pg.IsCode(err, pg.InsufficientPrivilege) && hint.Of(err) == "" {
		return hint.With(err, fmt.Sprintf("only a table's owner may do that: GRANT the owning role to %s, or connect as the owner", pgx.Identifier{w.server.User()}.Sanitize()))
	}
	return err
}

// blocked is the error of a bound that has passed.
func (w *work) blocked(ctx context.Context, tables ...Table) error {
	cause := context.Cause(ctx)
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookFor)
	defer cancel()
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.Identifier()
	}
	found, err := blocker.Find(look, w.server.Pool(), w.server.Move(), w.watch.Mode, names...)
	if err != nil || len(found) == 0 {
		return fmt.Errorf("%s, which could not be locked: %w (%d of %d tables are done)", strings.Join(names[:min(3, len(names))], ", "), cause, w.done, w.total)
	}
	return hint.With(fmt.Errorf("%s is held by %s: %w (%d of %d tables are done)", strings.Join(names[:min(3, len(names))], ", "), blocker.Describe(found), cause, w.done, w.total),
		blocker.Advice(found))
}
