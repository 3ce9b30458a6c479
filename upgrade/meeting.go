package upgrade

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/step"
)

// AnotherDatabaseError is why a database's cutover was undone though nothing
// was wrong with it.
type AnotherDatabaseError struct {
	Database string // whose cutover failed
	Cause    error
}

// Error names the database and why it failed.
func (e *AnotherDatabaseError) Error() string {
	return fmt.Sprintf("database %s cannot go on: %v", e.Database, e.Cause)
}

// Unwrap returns the other database's error.
func (e *AnotherDatabaseError) Unwrap() error { return e.Cause }

// meeting is where the cutovers of several databases wait for each other. When
// one of them ends before all have come to the last place, nobody else passes:
// so either all of them come to decide, or none does.
type meeting struct {
	mu      sync.Mutex
	members []string
	places  map[string]*place
	failed  *AnotherDatabaseError
	broken  chan struct{} // closed with failed
}

type place struct {
	arrived []string
	all     chan struct{} // closed when all have arrived
}

func newMeeting(members []string) *meeting {
	m := &meeting{members: members, places: map[string]*place{}, broken: make(chan struct{})}
	for _, name := range cutover.Meetings() {
		m.places[name] = &place{all: make(chan struct{})}
	}
	return m
}

// last is the place after which there is no waiting any more.
func (m *meeting) last() *place {
	names := cutover.Meetings()
	return m.places[names[len(names)-1]]
}

// wait returns nil when all members have arrived at the place, and an
// *AnotherDatabaseError when one of them never will.
func (m *meeting) wait(ctx context.Context, member, at string) error {
	m.mu.Lock()
	if err := m.failed; err != nil {
		m.mu.Unlock()
		return err
	}
	p := m.places[at]
	p.arrived = append(p.arrived, member)
	if len(p.arrived) == len(m.members) {
		close(p.all)
	}
	missing := m.missing(p)
	m.mu.Unlock()
	if len(missing) > 0 {
		step.Progress(ctx, "waiting for %d of %d databases: %s", len(missing), len(m.members), few(missing))
	}
	select {
	case <-p.all:
		return nil
	case <-m.broken:
		return m.failed
	case <-ctx.Done():
		return m.tired(ctx, member, p)
	}
}

// tired ends the meeting for all when a member cannot wait any longer, unless
// the last one has come at that very moment: either all pass, or none.
func (m *meeting) tired(ctx context.Context, member string, p *place) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(p.arrived) == len(m.members) {
		return nil
	}
	if m.failed == nil {
		m.failed = &AnotherDatabaseError{Database: member, Cause: context.Cause(ctx)}
		close(m.broken)
	}
	return context.Cause(ctx)
}

func (m *meeting) missing(p *place) []string {
	return slices.DeleteFunc(slices.Clone(m.members), func(name string) bool { return slices.Contains(p.arrived, name) })
}

// leave tells that a member's cutover has ended with an error. It reports
// whether the others have to be stopped, which is false once all of them may
// decide: then each one goes on.
func (m *meeting) leave(member string, err error) (stop bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.last().arrived) == len(m.members) {
		return false
	}
	if m.failed == nil {
		m.failed = &AnotherDatabaseError{Database: member, Cause: err}
		close(m.broken)
	}
	return true
}

// few joins the first names.
func few(names []string) string {
	if len(names) <= maxShown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxShown], ", "), len(names)-maxShown)
}

// gathering is a place where all wait for each other, or for the end of those
// who will not come.
type gathering struct {
	mu      sync.Mutex
	missing map[int]bool
	all     chan struct{}
}

func newGathering(n int) *gathering {
	g := &gathering{missing: map[int]bool{}, all: make(chan struct{})}
	for i := range n {
		g.missing[i] = true
	}
	return g
}

// arrive tells that a member is there, or will not come; more than once does no
// harm.
func (g *gathering) arrive(member int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.missing[member] {
		return
	}
	delete(g.missing, member)
	if len(g.missing) == 0 {
		close(g.all)
	}
}

// wait arrives, and waits for the others.
func (g *gathering) wait(ctx context.Context, member int) error {
	g.arrive(member)
	select {
	case <-g.all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
