package upgrade

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/rowchange"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

// Stopped says that rows are not applied, and why.
type Stopped struct {
	// Reasons name the table and what is in the way; empty when it is not known.
	Reasons []subscriber.Reason `json:"reasons"`
	// Since is when the first transaction that is not applied was committed.
	Since *time.Time `json:"since,omitempty"`
	// Text says it in one line, Next what mends it.
	Text string `json:"text"`
	Next string `json:"next,omitempty"`
}

// stoppedMemo keeps the last answer for a status that is repeated: looking into a
// slot keeps the apply worker out for a moment.
type stoppedMemo struct {
	mu   sync.Mutex
	last Stopped
	at   time.Time
}

const (
	stoppedEvery = 5 * time.Second
	// syncTables is how many tables whose copy fails are looked at.
	syncTables = 5
	// A worker that fails lives for moments: it is looked at that often, with rests.
	workerLooks = 3
	workerRest  = 150 * time.Millisecond
)

// stopped finds out whether the stream stands still because of what is in it, nil
// when it does not. It changes nothing.
func (m *Move) stopped(ctx context.Context, s *Status, st state.Stream, source, target *pg.Server) (*Stopped, error) {
	sub, err := subscriber.Read(ctx, target, st)
	if errors.Is(err, subscriber.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !sub.Enabled {
		if s.Tool != "" || sub.Slot == "" {
			return nil, nil // it is at work
		}
		return &Stopped{
			Reasons: []subscriber.Reason{},
			Text:    fmt.Sprintf("apply is stopped: subscription %q is disabled on the %s server", st.Name(), target.Side()),
			Next:    fmt.Sprintf("%s; (on the %s server)", subscriber.EnableSQL(st), target.Side()),
		}, nil
	}
	return m.halt(ctx, s, st, source, target)
}

func (m *Move) halt(ctx context.Context, s *Status, st state.Stream, source, target *pg.Server) (*Stopped, error) {
	out := &Stopped{Reasons: []subscriber.Reason{}}
	if err := m.stoppedCopies(ctx, s, out, source, target); err != nil {
		return nil, err
	}
	works, err := m.works(ctx, st, source, target)
	if err != nil {
		return nil, err
	}
	if !works {
		if err := m.lookAgain(ctx, out, st, source, target); err != nil {
			return nil, err
		}
	}
	if len(out.Reasons) == 0 && out.Since == nil {
		return nil, nil
	}
	out.describe(target)
	return out, nil
}

// works reports whether the apply worker streams and stays.
func (m *Move) works(ctx context.Context, st state.Stream, source, target *pg.Server) (bool, error) {
	var pid int32
	for look := range workerLooks {
		if look > 0 {
			if err := pg.Pause(ctx, workerRest); err != nil {
				return false, err
			}
		}
		worker, err := subscriber.ReadWorker(ctx, target, st)
		if err != nil {
			return false, err
		}
		slot, err := publisher.ReadSlot(ctx, source, st)
		if errors.Is(err, publisher.ErrNoSlot) {
			return true, nil // said elsewhere
		}
		if err != nil {
			return false, err
		}
		if worker.PID == 0 || !slot.Active || pid != 0 && worker.PID != pid {
			return false, nil
		}
		if worker.ApplyErrors == 0 && target.Major() >= 15 {
			return true, nil // it has never failed
		}
		pid = worker.PID
	}
	return true, nil
}

// lookAgain looks into the slot, not more often than stoppedEvery.
func (m *Move) lookAgain(ctx context.Context, out *Stopped, st state.Stream, source, target *pg.Server) error {
	m.halted.mu.Lock()
	defer m.halted.mu.Unlock()
	if time.Since(m.halted.at) >= stoppedEvery {
		var apply Stopped
		if err := m.stoppedApply(ctx, &apply, st, source, target); err != nil {
			return err
		}
		m.halted.last, m.halted.at = apply, time.Now()
	}
	out.Since = m.halted.last.Since
	out.Reasons = append(out.Reasons, m.halted.last.Reasons...)
	return nil
}

// stoppedApply looks into the slot for what the apply worker fails at.
func (m *Move) stoppedApply(ctx context.Context, out *Stopped, st state.Stream, source, target *pg.Server) error {
	applied, err := subscriber.Applied(ctx, target, st)
	if err != nil {
		return err
	}
	tx, err := publisher.FirstUnapplied(ctx, source, st, applied)
	switch {
	case errors.Is(err, publisher.ErrInUse), pg.IsCode(err, pg.QueryCanceled, pg.ObjectNotInPrerequisite, pg.InsufficientPrivilege):
		return nil // it streams, its WAL is lost, which is said elsewhere, or the role may not look
	case err != nil:
		return err
	case tx == nil:
		return nil // nothing waits
	}
	reason, err := subscriber.Explain(ctx, target, *tx)
	if err != nil || reason == nil && !m.stays(ctx, st, source, target, applied) {
		return err
	}
	out.Since = &tx.Committed
	if reason != nil {
		out.Reasons = append(out.Reasons, *reason)
	}
	return nil
}

// stays reports whether the worker has not come further and does not stream: then
// it fails although nothing was found.
func (m *Move) stays(ctx context.Context, st state.Stream, source, target *pg.Server, since pglogrepl.LSN) bool {
	if works, err := m.works(ctx, st, source, target); err != nil || works {
		return false
	}
	applied, err := subscriber.Applied(ctx, target, st)
	if err != nil || applied != since || target.Major() < 15 {
		return false
	}
	worker, err := subscriber.ReadWorker(ctx, target, st)
	return err == nil && worker.ApplyErrors > 0
}

// stoppedCopies looks at tables that are not copied although their copy was begun.
func (m *Move) stoppedCopies(ctx context.Context, s *Status, out *Stopped, source, target *pg.Server) error {
	if s.Worker == nil || target.Major() >= 15 && s.Worker.SyncErrors == 0 {
		return nil
	}
	copying := map[string]bool{}
	for _, c := range s.Copying {
		copying[c.Schema+"."+c.Name] = true
	}
	looked := 0
	for _, t := range s.Tables {
		if t.State != "d" && t.State != "i" || copying[t.Schema+"."+t.Name] || looked == syncTables {
			continue
		}
		looked++
		columns, err := publisher.Columns(ctx, source, publisher.Table{Schema: t.Schema, Name: t.Name})
		if err != nil {
			return err
		}
		reason, err := subscriber.ExplainCopy(ctx, target, rowchange.Change{Operation: "COPY", Schema: t.Schema, Table: t.Name, Columns: columns})
		if err != nil {
			return err
		}
		if reason != nil {
			out.Reasons = append(out.Reasons, *reason)
		}
	}
	return nil
}

// describe says what was found.
func (s *Stopped) describe(target *pg.Server) {
	var b strings.Builder
	b.WriteString("apply is stopped")
	if s.Since != nil {
		fmt.Fprintf(&b, " since a transaction of %s", utc(*s.Since))
	}
	s.Next = fmt.Sprintf("see the apply worker's error in the %s server's log", target.Side())
	for i, r := range s.Reasons {
		sep := "; "
		if i == 0 {
			sep = ": "
			s.Next = r.Mend
			if r.Drift {
				s.Next = "pgcutover start --sync-schema"
			}
		}
		fmt.Fprintf(&b, "%stable %s.%s, %s: %s", sep, r.Schema, r.Table, r.Operation, r.Text)
	}
	if len(s.Reasons) == 0 {
		b.WriteString(": the worker fails, but doing the same as SQL does not")
	}
	s.Text = b.String()
}
