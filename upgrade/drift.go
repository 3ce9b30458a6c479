package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/schema"
)

// Drift is how the schemas of the two servers have come to differ since start.
type Drift struct {
	// Differences are empty when the schemas agree.
	Differences []Drifted `json:"differences"`
	At          time.Time `json:"at"` // when the schemas were compared; a status may repeat it, see driftEvery
	Took        float64   `json:"took_seconds"`
	// Rewritten are tables that old has written anew since they were copied.
	Rewritten []publisher.Table `json:"rewritten,omitempty"`
	// Apply says what brings new in line.
	Apply string `json:"apply"`
}

// Drifted is one difference and what brings the new server in line.
type Drifted struct {
	What   schema.What   `json:"what"`
	Object string        `json:"object"`           // kind and name
	Aspect schema.Aspect `json:"aspect,omitempty"` // what of it; empty for the definition
	Text   string        `json:"text"`             // the difference in one line
	// Statements bring the new server in line; start --sync-schema runs them.
	Statements []string `json:"statements,omitempty"`
	// Whole says that start --sync-schema makes the object as pg_dump describes it.
	Whole bool `json:"whole,omitempty"`
	// Advice is what to do where the statements cannot be derived safely.
	Advice string `json:"advice,omitempty"`
}

// driftMemo keeps the last comparison for a status that is repeated.
type driftMemo struct {
	mu          sync.Mutex
	differences []schema.Difference
	rewritten   []publisher.Table
	at          time.Time
	took        time.Duration
	// locked is why the last attempt came to nothing, at since.
	locked *schema.LockedError
	since  time.Time
}

// A status that is repeated compares the schemas at most every driftEvery, and
// spends at most a twentieth of its time on it: with ten thousand tables one
// comparison takes seconds.
const (
	driftEvery = 10 * time.Second
	driftShare = 20
)

// statusPatience is how long a status waits for a relation that somebody alters. It
// is repeated, and says where it could not look.
const statusPatience = 2 * time.Second

func (m *Move) lockPatience() time.Duration { return cmp.Or(m.hurry, statusPatience) }

// recent compares the schemas, or returns an earlier comparison of this Move that
// is recent enough for a status: a copy of it. Where a lock is in the way it gives up
// early, with a *schema.LockedError, and does not try again for driftEvery.
func (m *Move) recent(ctx context.Context) (*driftMemo, error) {
	c := &m.compared
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) > max(driftEvery, c.took*driftShare) {
		if c.locked != nil && time.Since(c.since) <= driftEvery {
			return nil, c.locked
		}
		began := time.Now()
		differences, rewritten, err := m.compareSchemas(ctx, m.lockPatience())
		c.locked = nil
		if errors.As(err, &c.locked) {
			c.since = time.Now()
		}
		if err != nil {
			return nil, err
		}
		c.differences, c.rewritten, c.at, c.took = differences, rewritten, time.Now().UTC(), time.Since(began)
	}
	return &driftMemo{differences: c.differences, rewritten: c.rewritten, at: c.at, took: c.took}, nil
}

// mostFixes is for how many differences a status derives statements: there is more
// to a difference than one query.
const mostFixes = 100

// Drift compares the schemas, or returns an earlier comparison of this Move that
// is recent enough for a status, with what brings the new server in line. whole
// says that start has restored everything. It changes nothing.
func (m *Move) Drift(ctx context.Context, whole bool) (*Drift, error) {
	seen, err := m.recent(ctx)
	if err != nil {
		return nil, err
	}
	apply, err := m.inLine(ctx)
	if err != nil {
		return nil, err
	}
	differences := seen.differences
	if !whole {
		differences = schema.BeforePostData(differences)
	}
	fixes, err := m.fixes(ctx, differences[:min(len(differences), mostFixes)])
	if err != nil {
		return nil, err
	}
	d := &Drift{
		Differences: make([]Drifted, 0, len(differences)), At: seen.at, Took: seen.took.Seconds(),
		Rewritten: seen.rewritten, Apply: apply,
	}
	for _, f := range fixes {
		d.Differences = append(d.Differences, drifted(f))
	}
	if byHandOnly(d.Differences, len(differences)) && apply == syncApply {
		d.Apply = "by hand, as it says with each of them"
	}
	for _, more := range differences[min(len(differences), mostFixes):] {
		d.Differences = append(d.Differences, drifted(schema.Fix{Difference: more}))
	}
	return d, nil
}

// byHandOnly reports whether statements could be derived for none of n differences.
func byHandOnly(derived []Drifted, n int) bool {
	return len(derived) == n && n > 0 && !slices.ContainsFunc(derived, func(d Drifted) bool { return d.Advice == "" })
}

func drifted(f schema.Fix) Drifted {
	return Drifted{
		What: f.Difference.What, Object: f.Difference.Object(), Aspect: f.Difference.Aspect, Text: f.Difference.String(),
		Statements: f.All(), Whole: f.Whole, Advice: f.Advice,
	}
}

// forget makes the next Drift compare anew.
func (m *Move) forget() {
	m.compared.mu.Lock()
	defer m.compared.mu.Unlock()
	m.compared.at, m.compared.locked = time.Time{}, nil
}

func (m *Move) fixes(ctx context.Context, differences []schema.Difference) ([]schema.Fix, error) {
	if len(differences) == 0 {
		return nil, nil
	}
	baseline, err := m.baseline(ctx)
	if err != nil {
		return nil, err
	}
	return schema.Fixes(ctx, m.Old, m.New, baseline, differences)
}

// baseline reads what comparing the schemas needs to know; nil when nothing was
// recorded.
func (m *Move) baseline(ctx context.Context) (*schema.Baseline, error) {
	b := schema.NewBaseline()
	found, err := state.Baseline(ctx, m.New, b)
	if err != nil || !found {
		return nil, err
	}
	return b, nil
}

// dumped records, before anything is restored, what the old server says of what
// is in the archive.
func (m *Move) dumped(ctx context.Context, archive *schema.Archive) error {
	b, err := m.baseline(ctx)
	if err != nil {
		return err
	}
	if b == nil {
		b = schema.NewBaseline()
	}
	b.Dump(archive.Fingerprint())
	b.Bring(archive.Objects())
	defer m.forget()
	return state.SetBaseline(ctx, m.New, b)
}

// restored records what has become of it on new. A move whose schema phase was
// done by a tool that recorded nothing goes on without.
func (m *Move) restored(ctx context.Context, whole bool) error {
	b, err := m.baseline(ctx)
	if err != nil || b == nil || b.Dumped == nil {
		return err
	}
	onNew, err := schema.Fingerprint(ctx, m.New)
	if err != nil {
		return err
	}
	b.Restored(onNew, whole)
	defer m.forget()
	return state.SetBaseline(ctx, m.New, b)
}

// SchemaDiff lists what differs between the schemas of both servers.
func (m *Move) SchemaDiff(ctx context.Context) ([]schema.Difference, error) {
	differences, _, err := m.compareSchemas(ctx, 0)
	return differences, err
}

// compareSchemas lists what differs, and the tables in scope that old has written
// anew since they were copied.
func (m *Move) compareSchemas(ctx context.Context, patience time.Duration) ([]schema.Difference, []publisher.Table, error) {
	old, new, err := m.fingerprints(ctx, patience)
	if err != nil {
		return nil, nil, err
	}
	b, err := m.baseline(ctx)
	if err != nil {
		return nil, nil, err
	}
	var rewritten []publisher.Table
	for _, t := range b.Rewritten(old) {
		if m.scope.Match(t[0], t[1]) {
			rewritten = append(rewritten, publisher.Table{Schema: t[0], Name: t[1]})
		}
	}
	return m.inScope(b.Compare(old, new)), rewritten, nil
}

// inScope leaves out what was replaced of tables whose rows are not moved.
func (m *Move) inScope(differences []schema.Difference) []schema.Difference {
	return slices.DeleteFunc(differences, func(d schema.Difference) bool {
		return d.What == schema.Replaced && !m.scope.Match(d.Table())
	})
}

// Rewritten warns, before a cutover, of tables that old has written anew since
// they were copied: nobody can tell from outside whether with other values. It is
// empty when there are none.
func (m *Move) Rewritten(ctx context.Context) (string, error) {
	seen, err := m.recent(ctx)
	if err != nil {
		return "", err
	}
	return rewrittenText(seen.rewritten), nil
}

func rewrittenText(tables []publisher.Table) string {
	if len(tables) == 0 {
		return ""
	}
	names := make([]string, 0, maxShown+1)
	for i, t := range tables {
		if i == maxShown {
			names = append(names, fmt.Sprintf("and %d more", len(tables)-i))
			break
		}
		names = append(names, t.String())
	}
	return "rewritten on old since start, by VACUUM FULL, CLUSTER, TRUNCATE or ALTER TABLE: " + strings.Join(names, ", ") +
		"; if it was ALTER TABLE with new values (ALTER COLUMN ... TYPE ... USING), the rows differ on new"
}

// fingerprints reads both servers at the same time; see [schema.FingerprintWithin].
func (m *Move) fingerprints(ctx context.Context, patience time.Duration) (old, new []schema.Object, err error) {
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() (err error) { old, err = schema.FingerprintWithin(ctx, m.Old, patience); return err })
	both.Go(func() (err error) { new, err = schema.FingerprintWithin(ctx, m.New, patience); return err })
	err = both.Wait()
	return old, new, err
}

// schemaGate compares the schema of both servers: a change made on the source
// since would be missing on the target.
func (m *Move) schemaGate(ctx context.Context, d state.Direction) error {
	differences, err := m.SchemaDiff(ctx)
	if err != nil {
		return err
	}
	if d == state.Back {
		return schemaVerdict(goingBack(differences), backInLine)
	}
	apply, err := m.inLine(ctx)
	if err != nil {
		return err
	}
	return schemaVerdict(differences, apply)
}

// goingBack leaves out what was replaced on old: it is new's rows that go back.
func goingBack(differences []schema.Difference) []schema.Difference {
	return slices.DeleteFunc(slices.Clone(differences), func(d schema.Difference) bool { return d.What == schema.Replaced })
}

// backInLine is what to do about differences before a rollback.
const backInLine = "bring the old server's schema in line with the new one's, or, to go back and leave behind what is only on new, run: pgcutover rollback --leave-behind"

// syncApply brings new in line before the first cutover.
const syncApply = "pgcutover start --sync-schema"

// inLine says what brings the new server in line: start --sync-schema until the
// first cutover, which knows the stream that start has made only.
func (m *Move) inLine(ctx context.Context) (string, error) {
	pos, err := state.Locate(ctx, m.Old, m.New)
	if err != nil {
		return "", err
	}
	if pos.Forward == 0 {
		return syncApply, nil
	}
	return "run on the new server by hand, after set default_transaction_read_only = off, the statements that pgcutover status shows (start --sync-schema is for the time before the first cutover); " +
		"for tables that were made or replaced: pgcutover abort, then start", nil
}

// schemaVerdict is what a gate says of differences, and of what brings them in line.
func schemaVerdict(differences []schema.Difference, apply string) error {
	if len(differences) == 0 {
		return nil
	}
	text := make([]string, 0, maxShown+1)
	for i, d := range differences {
		if i == maxShown {
			text = append(text, fmt.Sprintf("and %d more", len(differences)-i))
			break
		}
		text = append(text, d.String())
	}
	advice := apply
	if apply != backInLine {
		advice = "see what brings the new server in line: pgcutover status; to apply it: " + apply
	}
	return cutover.Blocked(advice, "the schemas differ: "+strings.Join(text, "; "))
}

// maxShown is how many of a list of objects go into one message.
const maxShown = 10
