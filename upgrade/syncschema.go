package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/schema"
	"github.com/pgcutover/pgcutover/subscriber"
	"github.com/pgcutover/pgcutover/warmup"
)

// SyncPlan is what SyncSchema is about to do.
type SyncPlan struct {
	Differences []Drifted `json:"differences"`
	// Roles are the statements that make what was made on old since.
	Roles []string `json:"roles,omitempty"`
	// Scripts are what is restored on new as pg_dump describes it, as SQL.
	Scripts []string `json:"scripts,omitempty"`
	// Publish are the tables that are added to the publication on old and copied.
	Publish []publisher.Table `json:"publish,omitempty"`
}

// SyncReport is what SyncSchema did.
type SyncReport struct {
	Applied []Drifted `json:"applied"`
	// Roles are those that were made on new, since old has them.
	Roles     []string          `json:"roles,omitempty"`
	Published []publisher.Table `json:"published,omitempty"`
	// Left are differences that nothing could be derived for.
	Left []Drifted `json:"left,omitempty"`
}

// ErrDrift means that differences between the schemas are left.
var ErrDrift = errors.New("the schemas still differ")

// syncRounds bounds how often what is left is looked at anew: what was hidden
// behind a rename, or waited for rows, shows in the next round.
const syncRounds = 8

// SyncSchema brings the new server in line with changes that were made to old's
// schema since start, and takes new tables into the stream. ask is shown what is
// about to be done, before each round; its error ends it. Interrupted, it is run
// again: every round begins with what both catalogs say. On old nothing changes
// but the publication.
func (m *Move) SyncSchema(ctx context.Context, ask func(SyncPlan) error) (SyncReport, error) {
	var report SyncReport
	err := m.locked(ctx, "start", func(ctx context.Context) error {
		y, err := m.newSync(ctx)
		if err != nil {
			return err
		}
		y.ask, y.report = ask, &report
		return y.run(ctx)
	})
	m.forget()
	return report, err
}

// schemaSync is one run of SyncSchema.
type schemaSync struct {
	*Move
	whole  bool          // start has restored everything
	still  time.Duration // in place of standstill, when not 0
	ask    func(SyncPlan) error
	report *SyncReport
}

// newSync refuses before there is a stream, and after the cutover.
func (m *Move) newSync(ctx context.Context) (*schemaSync, error) {
	recorded, err := state.Verify(ctx, m.Options.Name, m.Old, m.New)
	if errors.Is(err, state.ErrNoMove) {
		return nil, hint.With(fmt.Errorf("%w, and so there is nothing to bring in line yet", err), "run: pgcutover start, which takes the schema as it is then")
	}
	if err != nil {
		return nil, err
	}
	if err := m.goesOn(ctx); err != nil {
		return nil, err
	}
	pos, err := state.Locate(ctx, m.Old, m.New)
	if err != nil {
		return nil, err
	}
	switch {
	case pos.Serving() == pg.New:
		return nil, hint.With(errors.New("this move has been cut over: the new server serves, and its schema is the one that counts"),
			"what a rollback would leave on new: pgcutover status")
	case pos.Forward != 0:
		apply, err := m.inLine(ctx)
		if err != nil {
			return nil, err
		}
		return nil, hint.With(errors.New("this move has been cut over and rolled back: the old server serves, through a stream that --sync-schema does not know"), apply)
	}
	if err := m.cutover(*recorded).Interrupted(ctx); err != nil && !errors.Is(err, cutover.ErrAlreadyDone) {
		return nil, err
	}
	phases := m.Phases()
	log, err := journal.Open(ctx, state.Journal{Server: m.New}, journal.Spec{List: List, Steps: step.Journal(phases), Rerunnable: true})
	if err != nil {
		return nil, err
	}
	next, more := log.Next()
	if more && slices.Contains([]string{"prepare", "schema", "publish", "subscribe"}, next) {
		return nil, hint.With(fmt.Errorf("phase %s is not done: nothing is published and subscribed yet that could be brought in line", next),
			"run: pgcutover start; if the schema has changed since it restored it: pgcutover abort first")
	}
	return &schemaSync{Move: m, whole: !more || next != "copy" && next != "index"}, nil
}

// syncRound is what one look at both catalogs found.
type syncRound struct {
	old      []schema.Object
	baseline *schema.Baseline
	fixes    []schema.Fix // that something was derived for
	left     []schema.Fix
	publish  []publisher.Table
	roles    []string // statements that make those that are missing
	stale    bool     // the subscription's tables are not the publication's
}

func (y *schemaSync) run(ctx context.Context) error {
	if err := y.enabled(ctx); err != nil {
		return err
	}
	for range syncRounds {
		r, err := y.look(ctx)
		if err != nil {
			return err
		}
		if len(r.fixes) == 0 && len(r.publish) == 0 && len(r.roles) == 0 && !r.stale {
			return y.finish(ctx, r)
		}
		if err := y.round(ctx, r); err != nil {
			return err
		}
	}
	return hint.With(fmt.Errorf("%w after %d rounds: the old server's schema goes on changing, or much of it was renamed", ErrDrift, syncRounds), "run it again: pgcutover start --sync-schema")
}

// enabled starts the subscription again that an interrupted run left disabled.
func (y *schemaSync) enabled(ctx context.Context) error {
	sub, err := subscriber.Read(ctx, y.New, y.first())
	if err != nil || sub.Enabled {
		return err
	}
	return subscriber.SetEnabled(ctx, y.New, y.first(), true)
}

func (y *schemaSync) look(ctx context.Context) (*syncRound, error) {
	old, new, err := y.fingerprints(ctx, 0)
	if err != nil {
		return nil, err
	}
	r := &syncRound{old: old}
	if r.roles, err = schema.MissingRoleStatements(ctx, y.Old, y.New); err != nil {
		return nil, err
	}
	if r.baseline, err = y.baseline(ctx); err != nil {
		return nil, err
	}
	differences := y.inScope(r.baseline.Compare(old, new))
	if !y.whole {
		differences = schema.BeforePostData(differences)
	}
	fixes, err := schema.Fixes(ctx, y.Old, y.New, r.baseline, differences)
	if err != nil {
		return nil, err
	}
	for _, f := range fixes {
		switch {
		case f.Advice != "":
			r.left = append(r.left, f)
		case y.whole || f.Early():
			r.fixes = append(r.fixes, f)
		}
	}
	want, err := publisher.Tables(ctx, y.Old, y.scope.Match)
	if err != nil {
		return nil, err
	}
	published, err := publisher.Published(ctx, y.Old, y.first())
	if err != nil {
		return nil, err
	}
	r.publish, _ = publisher.Compare(want, published)
	r.publish = slices.DeleteFunc(r.publish, func(t publisher.Table) bool { return replacedTable(differences, t) })
	if len(r.fixes) == 0 { // nothing more will be made: what is not on new cannot be copied
		if r.publish, err = y.onNew(ctx, r.publish); err != nil {
			return nil, err
		}
	}
	r.stale, err = y.stale(ctx, published)
	return r, err
}

// replacedTable reports whether new has another table's rows by that name: taking
// the table into the stream would give it changes to rows that it does not have.
func replacedTable(differences []schema.Difference, t publisher.Table) bool {
	return slices.ContainsFunc(differences, func(d schema.Difference) bool {
		in, name := d.Table()
		return d.What == schema.Replaced && in == t.Schema && name == t.Name
	})
}

// stale reports whether the subscription's tables are not the publication's and
// can be made so: not while a table that is published is missing on new, or has
// still another name there.
func (y *schemaSync) stale(ctx context.Context, published []publisher.Table) (bool, error) {
	states, err := subscriber.States(ctx, y.New, y.first())
	if err != nil {
		return false, err
	}
	var subscribed []publisher.Table
	for _, t := range states {
		if t.Schema != "pgcutover" {
			subscribed = append(subscribed, publisher.Table{Schema: t.Schema, Name: t.Name})
		}
	}
	missing, extra := publisher.Compare(published, subscribed)
	if len(missing)+len(extra) == 0 {
		return false, nil
	}
	there, err := y.onNew(ctx, published)
	return len(there) == len(published), err
}

// round applies what one look found: first what new rows need; then, when new has
// applied what old had written, what old has taken away; and last, when new tables
// are copied, what looks at rows. (Old's own order is not to be had: only the
// stream knows it.)
func (y *schemaSync) round(ctx context.Context, r *syncRound) error {
	choice, err := y.choose(ctx, r)
	if err != nil {
		return err
	}
	if choice.archive != nil {
		defer choice.archive.Close() //nolint:errcheck // a temporary folder
	}
	plan := SyncPlan{Publish: r.publish, Roles: r.roles, Scripts: choice.scripts}
	for _, f := range r.fixes {
		plan.Differences = append(plan.Differences, drifted(f))
	}
	if err := y.ask(plan); err != nil {
		return err
	}
	if err := y.makeRoles(ctx, r); err != nil {
		return err
	}
	if err := y.paused(ctx, func() error { return y.early(ctx, r, choice) }); err != nil {
		return err
	}
	if err := y.publish(ctx, r); err != nil {
		return err
	}
	applied, err := y.seen(ctx)
	if err != nil {
		return err
	}
	contract := func(f schema.Fix) bool { return f.Contract }
	switch takesAway := slices.ContainsFunc(r.fixes, contract); {
	case takesAway && !applied:
		// What comes late may be what new waits for; the next round tries again.
		if renamed, err := y.renameWaitedFor(ctx, r); err != nil || renamed {
			return err
		}
		early := len(r.fixes)
		if r.fixes = slices.DeleteFunc(r.fixes, contract); len(r.fixes) == 0 {
			return y.behind(early)
		}
	case takesAway:
		if err := y.paused(ctx, func() error { return y.contract(ctx, r) }); err != nil {
			return err
		}
		if err := y.subscribe(ctx); err != nil {
			return err
		}
	}
	if y.whole { // otherwise start waits for the tables, and restores the rest
		if err := subscriber.WaitReady(ctx, y.New, y.first(), y.copyWatch(), func(text string) { y.progress("copy", text) }); err != nil {
			return err
		}
		if err := y.paused(ctx, func() error { return y.late(ctx, r, choice) }); err != nil {
			return err
		}
	}
	return y.settle(ctx, r)
}

// behind is the error when what is to be taken away has to wait.
func (y *schemaSync) behind(n int) error {
	return hint.With(fmt.Errorf("%w: %d things that old has dropped or renamed are kept on the new server: rows that old wrote before that still have them, the new server has not applied these, and has come no further for %s", ErrDrift, n, y.patience()),
		"see what the stream waits for: pgcutover status; when it goes on, run again: pgcutover start --sync-schema")
}

// publish closes new tables for clients and takes them into the stream.
func (y *schemaSync) publish(ctx context.Context, r *syncRound) error {
	if _, err := fence.Attach(ctx, y.New, 10*time.Minute, func(text string) { y.progress("fence", text) }); err != nil {
		return err
	}
	ready, err := y.onNew(ctx, r.publish)
	if err != nil {
		return err
	}
	if err := publisher.AddTables(ctx, y.Old, y.first(), ready); err != nil {
		return err
	}
	y.report.Published = append(y.report.Published, ready...)
	return y.subscribe(ctx)
}

// subscribe makes the subscription look at the publication.
func (y *schemaSync) subscribe(ctx context.Context) error {
	published, err := publisher.Published(ctx, y.Old, y.first())
	if err != nil {
		return err
	}
	stale, err := y.stale(ctx, published)
	if err != nil || !stale {
		return err
	}
	return subscriber.Refresh(ctx, y.New, y.first())
}

const tableThereSQL = `
select n.nspname::text, c.relname::text
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r'`

// onNew leaves out tables that are not on new, whose rows would have no place.
func (y *schemaSync) onNew(ctx context.Context, tables []publisher.Table) ([]publisher.Table, error) {
	if len(tables) == 0 {
		return nil, nil
	}
	rows, err := y.New.Pool().Query(ctx, tableThereSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the tables of the new server: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowToStructByPos[publisher.Table])
	if err != nil {
		return nil, fmt.Errorf("listing the tables of the new server: %w", err)
	}
	missing, _ := publisher.Compare(tables, there)
	ready, _ := publisher.Compare(tables, missing)
	return ready, nil
}

// standstill is how long new may make no progress before it is not waited for any
// more: a missing primary key, for one, is what it waits for itself.
const standstill = 20 * time.Second

// seen waits until new has applied what old has written so far, and reports whether
// it has. What the apply worker has received counts: it applies one message before
// it reads the next, and confirms less often.
func (y *schemaSync) seen(ctx context.Context) (all bool, err error) {
	now, err := publisher.ReadLag(ctx, y.Old, y.first())
	if err != nil {
		return false, err
	}
	last, moved := now.Replayed, time.Now()
	err = pg.Wait(ctx, "the new server to catch up", 100*time.Millisecond, 0, func(text string) { y.progress("catch-up", text) },
		func(ctx context.Context) (bool, string, error) {
			lag, err := publisher.ReadLag(ctx, y.Old, y.first())
			if err != nil {
				return false, "", err
			}
			worker, err := subscriber.ReadWorker(ctx, y.New, y.first())
			if err != nil {
				return false, "", err
			}
			received := lag.Replayed
			if worker.Received != "" { // which it is while no worker is there, or has only begun
				if received, err = pglogrepl.ParseLSN(worker.Received); err != nil {
					return false, "", fmt.Errorf("reading the apply worker's position: %w", err)
				}
			}
			if further := max(lag.Replayed, received); further > last {
				last, moved = further, time.Now()
			}
			all = lag.Replayed >= now.Current || lag.Connected && received >= now.Current
			return all || time.Since(moved) > y.patience(), fmt.Sprintf("%d bytes behind", lag.Bytes), nil
		})
	return all, err
}

func (y *schemaSync) patience() time.Duration { return cmp.Or(y.still, standstill) }

// settle records what means the same from now on.
func (y *schemaSync) settle(ctx context.Context, r *syncRound) error {
	for _, f := range r.fixes {
		y.report.Applied = append(y.report.Applied, drifted(f))
	}
	if r.baseline == nil {
		return nil
	}
	brought, err := schema.Inventory(ctx, y.Old)
	if err != nil {
		return err
	}
	r.baseline.Bring(brought)
	if !y.whole {
		r.baseline.Remade(r.old, r.fixes)
		return state.SetBaseline(ctx, y.New, r.baseline)
	}
	new, err := schema.Fingerprint(ctx, y.New)
	if err != nil {
		return err
	}
	r.baseline.Applied(r.old, new, r.fixes)
	return state.SetBaseline(ctx, y.New, r.baseline)
}

// finish does for new tables what the last phases of start do for all, and says
// what is left.
func (y *schemaSync) finish(ctx context.Context, r *syncRound) error {
	if y.whole {
		if err := schema.Refresh(ctx, y.Old, y.New, func(text string) { y.progress("refresh", text) }); err != nil {
			return err
		}
		without, err := warmup.WithoutStatistics(ctx, y.New)
		if err != nil {
			return err
		}
		if len(without) > 0 {
			if _, err := warmup.AnalyzeTables(ctx, y.New, without, y.Options.Analyze); err != nil {
				return err
			}
		}
	}
	if len(r.left) == 0 {
		return nil
	}
	text := make([]string, 0, len(r.left))
	for _, f := range r.left {
		y.report.Left = append(y.report.Left, drifted(f))
		text = append(text, f.Difference.String()+" ("+f.Advice+")")
	}
	return hint.With(fmt.Errorf("%w: %s", ErrDrift, strings.Join(text[:min(len(text), maxShown)], "; ")), "bring these in line by hand, then see: pgcutover status")
}
