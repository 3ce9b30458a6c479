package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Spec says which run of which list a Log is for.
type Spec struct {
	// List and Run choose the records.
	List string
	Run  int64
	// Steps are the steps of the list in their order.
	Steps []Step
	// Rerunnable lets steps that were undone start again within the same run,
	// as the phases of a move do (run 0).
	Rerunnable bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Log is the journal of one run of one list. It refuses illegal orders and
// answers what state the run is in. Its methods may be called concurrently.
type Log struct {
	store Store
	spec  Spec

	mu      sync.Mutex
	machine *machine
	records []Record // all, the ones not known to be stored last
	stored  int      // how many of records are known to be stored
	doubt   bool     // the last write failed: the store may hold more than stored
	foreign error    // set once another process was seen writing to this run
}

// Open replays the stored records of a run. The error wraps ErrIllegal when
// they are in an order that no run can have produced.
func Open(ctx context.Context, store Store, spec Spec) (*Log, error) {
	m, err := newMachine(spec.Steps, spec.Rerunnable)
	if err != nil {
		return nil, fmt.Errorf("opening the journal of %s run %d: %w", spec.List, spec.Run, err)
	}
	if spec.Now == nil {
		spec.Now = time.Now
	}
	records, err := store.Load(ctx, spec.List, spec.Run)
	if err != nil {
		return nil, fmt.Errorf("reading the journal of %s run %d: %w", spec.List, spec.Run, err)
	}
	l := &Log{store: store, spec: spec, machine: m}
	for i, r := range records {
		if err := l.replay(int64(i+1), r); err != nil {
			return nil, fmt.Errorf("replaying the journal: %w", err)
		}
	}
	l.records = slices.Clone(records)
	l.stored = len(records)
	return l, nil
}

// replay checks one stored record and moves the state.
func (l *Log) replay(seq int64, r Record) error {
	refused := func(from Event, reason string) error {
		return &IllegalError{
			List: l.spec.List, Run: l.spec.Run, Seq: seq,
			Step: r.Step, From: from, To: r.Event, Reason: reason,
		}
	}
	if r.List != l.spec.List || r.Run != l.spec.Run {
		return refused(l.machine.stateOf(r.Step), fmt.Sprintf("the record belongs to %s run %d", r.List, r.Run))
	}
	if r.Seq != seq {
		return refused(l.machine.stateOf(r.Step), fmt.Sprintf("the record has number %d: one is missing or doubled", r.Seq))
	}
	if len(r.Facts) > 0 && !json.Valid(r.Facts) {
		return refused(l.machine.stateOf(r.Step), "its facts are not JSON")
	}
	if from, refusal := l.machine.advance(r.Step, r.Event); refusal != "" {
		return refused(from, refusal)
	}
	return nil
}

// Append writes records that follow the ones there are, all in one write or
// none. List, Run, Seq and At are filled in; List and Run may be given and must
// then be the Log's own.
//
// When the order is illegal, the error wraps ErrIllegal and the Log is
// unchanged. When the store fails, the records may or may not have landed: the
// Log counts them as written in all its answers, and sends them again before
// anything else with the next Append or Flush. When the error wraps
// ErrConflict, another process has written to this run and every further
// Append fails the same way.
func (l *Log) Append(ctx context.Context, records ...Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.spec.Now().UTC().Truncate(time.Microsecond)
	trial := l.machine.clone()
	added := make([]Record, len(records))
	for i, r := range records {
		seq := int64(len(l.records) + i + 1)
		refused := func(from Event, reason string) error {
			return fmt.Errorf("writing the journal: %w", &IllegalError{
				List: l.spec.List, Run: l.spec.Run, Seq: seq,
				Step: r.Step, From: from, To: r.Event, Reason: reason,
			})
		}
		if (r.List != "" && r.List != l.spec.List) || (r.Run != 0 && r.Run != l.spec.Run) {
			return refused(trial.stateOf(r.Step), fmt.Sprintf("the record belongs to %s run %d", r.List, r.Run))
		}
		if len(r.Facts) > 0 && !json.Valid(r.Facts) {
			return refused(trial.stateOf(r.Step), "its facts are not JSON")
		}
		if from, refusal := trial.advance(r.Step, r.Event); refusal != "" {
			return refused(from, refusal)
		}
		r.List, r.Run, r.Seq, r.At = l.spec.List, l.spec.Run, seq, at
		r.Error = storable(r.Error)
		added[i] = r
	}
	l.machine = trial
	l.records = append(l.records, added...)
	return l.flush(ctx)
}

// Settle records as succeeded every step up to and including the final one that
// is not: for a caller who knows from elsewhere that the final step happened,
// although the process that did it died before it could write so. facts go
// with each of these records.
func (l *Log) Settle(ctx context.Context, facts json.RawMessage) error {
	var records []Record
	for i, s := range l.spec.Steps {
		if i > l.machine.final {
			break
		}
		switch l.State(s.Name) {
		case Succeeded:
		case Started:
			records = append(records, Record{Step: s.Name, Event: Succeeded, Facts: facts})
		default:
			records = append(records, Record{Step: s.Name, Event: Started}, Record{Step: s.Name, Event: Succeeded, Facts: facts})
		}
	}
	if len(records) == 0 {
		return nil
	}
	return l.Append(ctx, records...)
}

// Flush writes what an earlier Append could not write. It does nothing when
// everything is known to be stored.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush(ctx)
}

func (l *Log) flush(ctx context.Context) error {
	// A second round follows when the place in the store was taken by an
	// earlier write of our own that landed late; more would be a broken store.
	for range 3 {
		if l.foreign != nil {
			return l.foreign
		}
		if l.doubt {
			if err := l.reconcile(ctx); err != nil {
				return err
			}
		}
		if l.stored == len(l.records) {
			return nil
		}
		err := l.store.Append(ctx, slices.Clone(l.records[l.stored:])...)
		if err == nil {
			l.stored = len(l.records)
			return nil
		}
		l.doubt = true
		if !errors.Is(err, ErrConflict) {
			return fmt.Errorf("writing the journal of %s run %d: %w", l.spec.List, l.spec.Run, err)
		}
	}
	return fmt.Errorf("writing the journal of %s run %d: the store refuses record %d as written and does not show it",
		l.spec.List, l.spec.Run, l.stored+1)
}

// reconcile looks which records the store holds after a write that failed.
func (l *Log) reconcile(ctx context.Context) error {
	found, err := l.store.Load(ctx, l.spec.List, l.spec.Run)
	if err != nil {
		return fmt.Errorf("reading the journal of %s run %d after a failed write: %w", l.spec.List, l.spec.Run, err)
	}
	if len(found) < l.stored {
		l.foreign = fmt.Errorf("%w: %s run %d has %d records, %d had been written",
			ErrConflict, l.spec.List, l.spec.Run, len(found), l.stored)
		return l.foreign
	}
	for i, r := range found {
		if i >= len(l.records) || !same(r, l.records[i]) {
			l.foreign = fmt.Errorf("%w: %s run %d, record %d: step %q %s at %s is not ours",
				ErrConflict, l.spec.List, l.spec.Run, i+1, r.Step, r.Event, r.At.Format(time.RFC3339Nano))
			return l.foreign
		}
	}
	l.stored = len(found)
	l.doubt = false
	return nil
}

// storable drops from an error's text what a database or JSON cannot hold: a
// record must come back as it was written, or it would not be recognised.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "")
}

// same tells whether two records are one and the same. Facts are left out: a
// store may give them back in another notation.
func same(a, b Record) bool {
	return a.Seq == b.Seq && a.Step == b.Step && a.Event == b.Event && a.Error == b.Error && a.At.Equal(b.At)
}
