package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/schema"
	"github.com/pgcutover/pgcutover/sequences"
	"github.com/pgcutover/pgcutover/subscriber"
	"github.com/pgcutover/pgcutover/warmup"
)

// Status answers where the move stands and whether a cutover could begin now.
type Status struct {
	Move       string                  `json:"move"`
	Phase      string                  `json:"phase"`   // not started, or ended; the phase under way, ready, cut over
	Serving    string                  `json:"serving"` // old or new: who takes client writes; "none" or "both" would be a fault
	OldVersion int                     `json:"old_version"`
	NewVersion int                     `json:"new_version"`
	OldTurn    *state.Turn             `json:"old_turn,omitempty"`
	NewTurn    *state.Turn             `json:"new_turn,omitempty"`
	Lag        *publisher.Lag          `json:"lag,omitempty"`
	LagSeconds *float64                `json:"lag_seconds,omitempty"` // since the apply worker's last message
	Worker     *subscriber.Worker      `json:"worker,omitempty"`
	Tables     []subscriber.TableState `json:"tables,omitempty"`
	Copying    []subscriber.Copying    `json:"copying,omitempty"`
	Ready      int                     `json:"tables_ready"`
	NoStats    []warmup.Table          `json:"tables_without_statistics"`
	Sequences  SequenceStatus          `json:"sequences"`
	// Condition is what the first queries will find on the server that serves or
	// is to serve: statistics, cache and sequences, table by table. Absent while
	// start is at work.
	Condition *Condition `json:"condition,omitempty"`
	// Views are the materialized views on new since start; nil when there are none.
	Views    *ViewStatus `json:"materialized_views,omitempty"`
	Tool     string      `json:"tool,omitempty"` // the session that holds the one-tool lock
	Verdict  Verdict     `json:"verdict"`
	Warnings []string    `json:"warnings,omitempty"`
	// NotGoingBack lists, after a cutover, what a rollback would leave on new.
	NotGoingBack []string `json:"not_going_back,omitempty"`
	// Drift is how the schemas differ since start restored old's; absent before
	// that, and after the cutover.
	Drift *Drift `json:"drift,omitempty"`
	// Stopped says that rows are not applied, and why; absent while they are.
	Stopped *Stopped `json:"stopped,omitempty"`
	// NotAsOnOld is what start could not bring, or left as it was on new.
	NotAsOnOld []schema.Notice `json:"not_as_on_old,omitempty"`
	// GivenUp tells that one server was given up by an operator's promise.
	GivenUp bool `json:"given_up,omitempty"`
	// EachTable has WriteText write a line for each table of Condition.
	EachTable bool      `json:"-"`
	At        time.Time `json:"at"`
}

// ViewStatus says how old the materialized views on new are.
type ViewStatus struct {
	Filled int       `json:"filled"` // those that are filled on old
	At     time.Time `json:"at"`     // when start had filled them
	// Again says that a cutover refreshes them before it begins.
	Again bool `json:"again"`
}

// views reads what start has noted.
func (m *Move) views(log *journal.Log) (*ViewStatus, error) {
	var v ViewStatus
	found, err := log.Facts("refresh", &v)
	if err != nil || !found || v.Filled == 0 {
		return nil, err
	}
	v.Again = m.Options.Cutover.RefreshWithin > 0
	return &v, nil
}

// SequenceStatus counts how new's sequences stand to old's.
type SequenceStatus struct {
	Checked int `json:"checked"`
	Behind  int `json:"behind"` // the cutover sets them
	Missing int `json:"missing"`
	// Unreadable counts those of which the role may not know where they stand.
	Unreadable int `json:"unreadable,omitempty"`
}

// Verdict answers the operator's two questions.
type Verdict struct {
	CanCutOver bool     `json:"can_cut_over"`
	Reasons    []string `json:"reasons,omitempty"` // why not
	Next       string   `json:"next"`              // the command to run
	CanGoBack  string   `json:"can_go_back"`
}

// Status looks at both servers, or at the one that a Move of OpenReachable has.
// It changes nothing.
func (m *Move) Status(ctx context.Context) (Status, error) {
	if m.Old == nil || m.New == nil {
		return m.statusAlone(ctx)
	}
	s := Status{Move: m.Options.Name, OldVersion: m.Old.Major(), NewVersion: m.New.Major(), NoStats: []warmup.Table{}, At: time.Now().UTC()}
	recorded, err := state.Verify(ctx, m.Options.Name, m.Old, m.New)
	if errors.Is(err, state.ErrNoMove) {
		// complete leaves nothing that would tell the one from the other.
		s.Phase, s.Serving = "not started, or ended", "unknown"
		s.Verdict = Verdict{Reasons: []string{"the move has not been started, or it was completed or aborted"}, Next: "pgcutover check, then pgcutover start, unless it has ended", CanGoBack: "there is no move"}
		return s, nil
	}
	if err != nil {
		return s, err
	}
	if err := m.turns(ctx, &s); err != nil {
		return s, err
	}
	if s.NotAsOnOld, err = m.notAsOnOld(ctx); err != nil {
		return s, err
	}
	for _, server := range []*pg.Server{m.Old, m.New} { // a rollback holds both
		holder, err := pg.LockHolder(ctx, server)
		if err != nil {
			return s, err
		}
		if s.Tool == "" {
			s.Tool = holder
		}
	}
	given, err := m.promised(ctx)
	if err != nil {
		return s, err
	}
	if err := given.err(); err != nil {
		s.Phase, s.GivenUp = "given up", given.promise != nil
		if given.promise == nil {
			s.Phase = "broken"
		}
		s.Verdict = Verdict{Reasons: []string{err.Error()}, Next: hint.Of(err), CanGoBack: "no"}
		return s, nil
	}
	c := m.cutover(*recorded)
	c.Hasty = true
	interrupted := c.Interrupted(ctx)
	switch {
	case errors.Is(interrupted, cutover.ErrAlreadyDone):
		return s, m.afterCutover(ctx, &s)
	case errors.Is(interrupted, cutover.ErrInterrupted) && s.Tool != "":
		s.Phase = "cutover under way"
		s.Verdict = Verdict{Reasons: []string{"a tool is at work: " + s.Tool}, Next: "wait for it, or, if it hangs, end it; then pgcutover resume", CanGoBack: "that tool undoes until its point of no return"}
		return s, nil
	case errors.Is(interrupted, cutover.ErrInterrupted):
		s.Phase = "cutover interrupted"
		s.Verdict = Verdict{Reasons: []string{interrupted.Error()}, Next: "pgcutover resume", CanGoBack: "resume finds out which way is safe and goes it"}
		return s, nil
	case interrupted != nil:
		return s, interrupted
	}
	return s, m.running(ctx, &s, c)
}

func (m *Move) turns(ctx context.Context, s *Status) error {
	o, err := state.ReadTurn(ctx, m.Old.Pool())
	if err != nil {
		return err
	}
	n, err := state.ReadTurn(ctx, m.New.Pool())
	if err != nil {
		return err
	}
	s.OldTurn, s.NewTurn = &o, &n
	switch {
	case o.Open && n.Open:
		s.Serving = "both"
	case o.Open:
		s.Serving = "old"
	case n.Open:
		s.Serving = "new"
	default:
		s.Serving = "none"
	}
	return nil
}

// running fills in what is known of a move that has not been cut over.
func (m *Move) running(ctx context.Context, s *Status, c *cutover.Cutover) error {
	phases := m.Phases()
	log, err := journal.Open(ctx, state.Journal{Server: m.New}, journal.Spec{List: List, Steps: step.Journal(phases), Rerunnable: true})
	if err != nil {
		return err
	}
	next, more := log.Next()
	s.Phase = "ready"
	if more {
		s.Phase = next
	}
	if s.Views, err = m.views(log); err != nil {
		return err
	}
	pos, err := state.Locate(ctx, m.Old, m.New)
	if err != nil {
		return err
	}
	if err := m.stream(ctx, s, pos.Stream(state.Forward)); err != nil {
		return err
	}
	if err := m.drifts(ctx, s, next, more); err != nil {
		return err
	}
	if more {
		s.Verdict = Verdict{Reasons: m.notDone(s, next), Next: "pgcutover start", CanGoBack: "yes: pgcutover abort; old takes the writes"}
		return nil
	}
	if err := m.readiness(ctx, s); err != nil {
		return err
	}
	s.Verdict = Verdict{CanCutOver: true, Next: "pgcutover cutover", CanGoBack: "yes: pgcutover abort; old takes the writes"}
	c.Gates = m.statusGates
	if err := c.Ready(ctx); err != nil {
		s.Verdict.CanCutOver, s.Verdict.Reasons = false, Reasons(err)
		s.Verdict.Next = "mend the reasons above, then pgcutover cutover"
	}
	return nil
}

// stream fills in what is known of the stream that flows now.
func (m *Move) stream(ctx context.Context, s *Status, st state.Stream) error {
	source, target := m.Old, m.New
	if st.Direction == state.Back {
		source, target = m.New, m.Old
	}
	lag, err := publisher.ReadLag(ctx, source, st)
	switch {
	case err == nil:
		s.Lag = &lag
		if w := m.Options.WALWarn; w > 0 && lag.Retained > w {
			s.Warnings = append(s.Warnings, fmt.Sprintf("the slot keeps %d bytes of WAL on the %s server, more than wal.warn (%d): it fills the disk until %s catches up or the move is ended", lag.Retained, source.Side(), w, target.Side()))
		}
		if lag.WALStatus == "unreserved" || lag.WALStatus == "lost" {
			s.Warnings = append(s.Warnings, "the slot's WAL is "+lag.WALStatus+": the stream cannot go on")
		}
	case errors.Is(err, publisher.ErrNoSlot):
		if s.Phase == "ready" || st.Direction == state.Back {
			s.Warnings = append(s.Warnings, err.Error())
		}
	default:
		return err
	}
	if s.Tables, err = subscriber.States(ctx, target, st); err != nil {
		return err
	}
	s.Ready = subscriber.Ready(s.Tables)
	worker, err := subscriber.ReadWorker(ctx, target, st)
	if err != nil {
		return err
	}
	s.Worker = &worker
	if worker.LastMessage != nil {
		seconds := time.Since(*worker.LastMessage).Seconds()
		s.LagSeconds = &seconds
	}
	if worker.ApplyErrors+worker.SyncErrors > 0 {
		s.Warnings = append(s.Warnings, fmt.Sprintf("the apply workers have failed %d times: the %s server's log says why", worker.ApplyErrors+worker.SyncErrors, target.Side()))
	}
	if s.Copying, err = subscriber.CopyProgress(ctx, target); err != nil {
		return err
	}
	s.Stopped, err = m.stopped(ctx, s, st, source, target)
	return err
}

func (m *Move) readiness(ctx context.Context, s *Status) error {
	condition, err := m.Condition(ctx, pg.New)
	if err != nil {
		return err
	}
	s.Condition = &condition
	s.lockedSequences()
	for _, t := range condition.Tables {
		if t.Lacks != "" {
			s.NoStats = append(s.NoStats, t.Table)
		}
	}
	differences := sequences.Compare(condition.from, condition.to)
	s.Sequences.Checked = len(differences)
	for _, d := range differences {
		switch d.Status {
		case sequences.Behind:
			s.Sequences.Behind++
		case sequences.Missing:
			s.Sequences.Missing++
		case sequences.Unreadable:
			s.Sequences.Unreadable++
		}
	}
	return nil
}

// Reasons takes a joined error apart into lines, one for each reason, with its
// hint behind it.
func Reasons(err error) []string {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []string
		for _, e := range joined.Unwrap() {
			out = append(out, Reasons(e)...)
		}
		return out
	}
	text := err.Error()
	if h := hint.Of(err); h != "" {
		text += " (" + h + ")"
	}
	return []string{text}
}
