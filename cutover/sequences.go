package cutover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/sequences"
)

func (c *Cutover) sequencesStep() step.Step {
	return step.Step{
		Name:       "sequences",
		About:      fmt.Sprintf("read all sequences on %s again; on %s set those that used up what they were given", c.Direction.Source(), c.Direction.Target()),
		Bound:      c.Settings.MaxPause,
		Do:         c.setSequencesAgain,
		Behind:     true,
		Statements: c.planning(c.sequencesStatements),
	}
}

// planSequences reads both servers and says what each sequence on the target is
// to be set to.
func (c *Cutover) planSequences(ctx context.Context) ([]sequences.Change, error) {
	from, err := sequences.Read(ctx, c.source().Pool(), c.source().Version())
	if err != nil {
		return nil, fmt.Errorf("reading the sequences of the %s server: %w", c.Direction.Source(), err)
	}
	to, err := sequences.Read(ctx, c.target().Pool(), c.target().Version())
	if err != nil {
		return nil, fmt.Errorf("reading the sequences of the %s server: %w", c.Direction.Target(), err)
	}
	changes, problems := sequences.PlanTo(c.Direction.Target(), from, to, c.Settings.Margin)
	var errs []error
	for _, p := range problems {
		// What is only on new may be left behind; what is on both servers must be right.
		left := c.Direction == state.Back && c.Settings.LeaveBehind && !slices.ContainsFunc(to, func(s sequences.Sequence) bool { return s.Ref == p.Ref })
		if p.Blocking && !left {
			errs = append(errs, hint.With(fmt.Errorf("%w: sequence %s: %s", ErrBlocked, p.Ident(), p.Text), p.Hint))
		}
	}
	return changes, errors.Join(errs...)
}

// setSequencesAhead sets all sequences on the target past the source's values
// plus margin, before the pause.
func (c *Cutover) setSequencesAhead(ctx context.Context) error {
	changes, err := c.planSequences(ctx)
	if err != nil {
		return err
	}
	if _, err := sequences.Apply(ctx, c.target().Pool(), changes, sequences.Options{Settings: c.target().QuietSettings()}); err != nil {
		return fmt.Errorf("on the %s server: %w", c.Direction.Target(), err)
	}
	c.given = changes
	return nil
}

// sequenceFacts are what was set in the pause, or after the switch.
type sequenceFacts struct {
	Read  int     `json:"read"`
	Again Again   `json:"again,omitempty"`
	TookM float64 `json:"took_ms"`
}

func (c *Cutover) setSequencesAgain(ctx context.Context) (any, error) {
	began := time.Now()
	now, err := c.readAhead(ctx)
	if err != nil {
		return nil, err
	}
	// Sessions on the source live on for a moment and may call nextval by itself: half
	// of the margin must be left for them.
	again, err := c.followSequences(ctx, now, c.Settings.Margin/2)
	if err != nil {
		return nil, err
	}
	return sequenceFacts{Read: len(c.given), Again: again, TookM: ms(time.Since(began))}, nil
}

// meetSequences opens the sessions in which the source's sequences are read while
// clients wait, unless they are there: reading them is quick only from the second
// time on.
func (c *Cutover) meetSequences(ctx context.Context) error {
	var err error
	if c.reader != nil {
		err = c.reader.Renew(ctx)
	} else {
		c.reader, err = sequences.NewReaders(ctx, sequences.Source{
			Connect: func(ctx context.Context) (*pgx.Conn, error) { return c.source().Connect(ctx, "sequences", nil) },
			Rest:    c.source().Pool(), Version: c.source().Version(),
		}, c.refs())
	}
	if err != nil {
		return c.unread(err)
	}
	return nil
}

// leaveSequences ends the sessions, and whatever is being read in them.
func (c *Cutover) leaveSequences(ctx context.Context) {
	if c.reading != nil {
		c.reading.cancel()
		<-c.reading.done
		c.reading = nil
	}
	if c.reader != nil {
		c.reader.Close(ctx)
		c.reader = nil
	}
}

// reading is the sequences' values under way.
type reading struct {
	done   chan struct{}
	cancel context.CancelFunc
	values []sequences.Value
	err    error
}

// readSequences begins to read the sequences on the source, beside the drain:
// whoever calls nextval after this might as well call it after the decision.
func (c *Cutover) readSequences(ctx context.Context) {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.remaining())
	r, before := &reading{done: make(chan struct{}), cancel: cancel}, c.reading
	c.reading = r
	read := func() ([]sequences.Value, error) { // by a run that was resumed
		return sequences.ReadCalled(limit, c.source().Pool(), c.source().Version(), c.refs())
	}
	if c.reader != nil {
		read = func() ([]sequences.Value, error) { return c.reader.ReadCalled(limit) }
	}
	go func() {
		defer cancel()
		defer close(r.done)
		if before != nil { // the sessions do one thing at a time
			<-before.done
		}
		r.values, r.err = read()
	}()
}

// readAhead returns what readSequences has read, or reads now.
func (c *Cutover) readAhead(ctx context.Context) ([]sequences.Value, error) {
	if c.reading == nil {
		c.readSequences(ctx)
	}
	r := c.reading
	select {
	case <-r.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c.reading = nil
	if r.err != nil {
		return nil, c.unread(r.err)
	}
	return r.values, nil
}

// unread says what may keep the source's sequences from being read.
func (c *Cutover) unread(err error) error {
	err = fmt.Errorf("on the %s server: %w", c.Direction.Source(), err)
	if pg.IsCode(err, pg.LockNotAvailable) || errors.Is(err, context.DeadlineExceeded) {
		return hint.With(err, fmt.Sprintf("an open transaction may be dropping or altering a sequence on the %s server: pg_locks and pg_stat_activity there name it; wait for it or end it, then run the command again", c.Direction.Source()))
	}
	return err
}

func (c *Cutover) refs() []sequences.Ref {
	refs := make([]sequences.Ref, len(c.given))
	for i, g := range c.given {
		refs[i] = g.Ref
	}
	return refs
}

// followSequences sets those sequences on the target again that have fewer than
// reserve numbers left of what they were given.
func (c *Cutover) followSequences(ctx context.Context, now []sequences.Value, reserve int64) ([]sequences.Change, error) {
	again := sequences.OutranTo(c.Direction.Target(), now, c.given, c.Settings.Margin, reserve)
	if len(again) == 0 {
		return nil, nil
	}
	if _, err := sequences.Apply(ctx, c.target().Pool(), again, sequences.Options{Fast: true, Settings: c.target().QuietSettings()}); err != nil {
		return nil, fmt.Errorf("on the %s server: %w", c.Direction.Target(), err)
	}
	Given(c.given).follow(again)
	return again, nil
}

// raiseSequences looks at the source once more when its sessions are gone:
// values that they took meanwhile by nextval alone must not be handed out again.
// A sequence that was dropped or renamed there since must not stop what is decided.
func (c *Cutover) raiseSequences(ctx context.Context) (int, []string, error) {
	all, err := sequences.Read(ctx, c.source().Pool(), c.source().Version())
	var hidden *sequences.UnreadableError
	if err != nil && (!errors.As(err, &hidden) || c.gave(hidden.Sequences)) {
		return 0, nil, fmt.Errorf("reading the sequences of the %s server: %w", c.Direction.Source(), err)
	}
	now, gone := c.ofGiven(all)
	again, err := c.followSequences(ctx, now, 0)
	if err != nil {
		return 0, nil, err
	}
	var warnings []string
	if len(gone) > 0 {
		warnings = append(warnings, fmt.Sprintf("%d sequences cannot be read on the %s server any more, for example %s: should one have handed out more numbers than its margin, these come again; run: pgcutover sequences diff, which compares them with rows",
			len(gone), c.Direction.Source(), gone[0].Ident()))
	}
	for _, change := range again {
		if change.Overlap != nil {
			warnings = append(warnings, fmt.Sprintf("sequence %s: %s", change.Ident(), strings.Join(change.Warnings, "; ")))
		}
	}
	return len(again), warnings, nil
}

// gave reports whether one of the sequences was given something. Others, which were
// made since, are nobody's matter here.
func (c *Cutover) gave(some []sequences.Ref) bool {
	return slices.ContainsFunc(c.given, func(g sequences.Change) bool { return slices.Contains(some, g.Ref) })
}

// ofGiven returns where those sequences stand that were given something, in the order
// of given, and those that are not among all, or were not read.
func (c *Cutover) ofGiven(all []sequences.Sequence) (now []sequences.Value, gone []sequences.Ref) {
	byRef := make(map[sequences.Ref]sequences.Value, len(all))
	for _, s := range all {
		if s.Readable {
			byRef[s.Ref] = s.Value
		}
	}
	for _, g := range c.given {
		if v, found := byRef[g.Ref]; found {
			now = append(now, v)
		} else {
			gone = append(gone, g.Ref)
		}
	}
	return now, gone
}

// remember gives a resumed run what the interrupted one set.
func (c *Cutover) remember(log *journal.Log) error {
	var ahead aheadFacts
	if _, err := log.Facts("ahead", &ahead); err != nil {
		return err
	}
	var before pauseFacts
	if _, err := log.Facts("pause", &before); err != nil {
		return err
	}
	var again sequenceFacts
	if _, err := log.Facts("sequences", &again); err != nil {
		return err
	}
	c.given = ahead.Given.complete(before.Again).complete(again.Again)
	return nil
}
