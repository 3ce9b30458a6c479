package upgrade

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/schema"
)

// Drift is how the schemas of the two servers have come to differ since start.
type Drift struct {
	// Differences are empty when the schemas agree.
	Differences []Drifted `json:"differences"`
	At          time.Time `json:"at"` // when the schemas were compared; a status may repeat it, see driftEvery
	Took        float64   `json:"took_seconds"`
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
	at          time.Time
	took        time.Duration
}

// A status that is repeated compares the schemas at most every driftEvery, and
// spends at most a twentieth of its time on it: with ten thousand tables one
// comparison takes seconds.
const (
	driftEvery = 10 * time.Second
	driftShare = 20
)

// recent compares the schemas, or returns an earlier comparison of this Move that
// is recent enough for a status.
func (m *Move) recent(ctx context.Context) (differences []schema.Difference, at time.Time, took time.Duration, err error) {
	c := &m.compared
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() || time.Since(c.at) > max(driftEvery, c.took*driftShare) {
		began := time.Now()
		differences, err := m.SchemaDiff(ctx)
		if err != nil {
			return nil, time.Time{}, 0, err
		}
		c.differences, c.at, c.took = differences, time.Now().UTC(), time.Since(began)
	}
	return c.differences, c.at, c.took, nil
}

// mostFixes is for how many differences a status derives statements: there is more
// to a difference than one query.
const mostFixes = 100

// Drift compares the schemas, or returns an earlier comparison of this Move that
// is recent enough for a status, with what brings the new server in line. whole
// says that start has restored everything. It changes nothing.
func (m *Move) Drift(ctx context.Context, whole bool) (*Drift, error) {
	differences, at, took, err := m.recent(ctx)
	if err != nil {
		return nil, err
	}
	if !whole {
		differences = schema.BeforePostData(differences)
	}
	fixes, err := m.fixes(ctx, differences[:min(len(differences), mostFixes)])
	if err != nil {
		return nil, err
	}
	d := &Drift{Differences: make([]Drifted, 0, len(differences)), At: at, Took: took.Seconds()}
	for _, f := range fixes {
		d.Differences = append(d.Differences, drifted(f))
	}
	for _, more := range differences[min(len(differences), mostFixes):] {
		d.Differences = append(d.Differences, drifted(schema.Fix{Difference: more}))
	}
	return d, nil
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
	m.compared.at = time.Time{}
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
	old, new, err := m.fingerprints(ctx)
	if err != nil {
		return nil, err
	}
	b, err := m.baseline(ctx)
	if err != nil {
		return nil, err
	}
	return b.Compare(old, new), nil
}

// fingerprints reads both servers at the same time.
func (m *Move) fingerprints(ctx context.Context) (old, new []schema.Object, err error) {
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() (err error) { old, err = schema.Fingerprint(ctx, m.Old); return err })
	both.Go(func() (err error) { new, err = schema.Fingerprint(ctx, m.New); return err })
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
	return schemaVerdict(differences, d)
}

// schemaVerdict is what a gate says of differences.
func schemaVerdict(differences []schema.Difference, d state.Direction) error {
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
	advice := "see what brings the new server in line: pgcutover status; to apply it: pgcutover start --sync-schema"
	if d == state.Back {
		advice = "bring the old server's schema in line with the new one's, or, to go back and leave behind what is only on new, run: pgcutover rollback --leave-behind"
	}
	return cutover.Blocked(advice, "the schemas differ: "+strings.Join(text, "; "))
}

// maxShown is how many of a list of objects go into one message.
const maxShown = 10
