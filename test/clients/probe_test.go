package clients

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/workload"
	"github.com/pgcutover/pgcutover/probe"
)

// prober is package probe at work among the clients.
type prober struct {
	mu       sync.Mutex
	rounds   []probe.Round
	warnings []error
	report   probe.Report
}

// Round keeps a round.
func (p *prober) Round(r probe.Round) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rounds = append(p.rounds, r)
}

// Warning keeps a warning.
func (p *prober) Warning(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings = append(p.warnings, err)
}

func (p *prober) run(ctx context.Context, t *testing.T, m *move) {
	both, err := workload.Multihost(m.old.URL(m.name), m.new.URL(m.name))
	if err != nil {
		t.Error(err)
		return
	}
	p.report, err = probe.Run(ctx, probe.Options{URL: both, Schedule: []probe.Pace{{Every: breath}}, Timeout: 10 * time.Second}, p)
	if err != nil {
		t.Error(err)
	}
}

func (p *prober) state() (port int, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.rounds) == 0 {
		return 0, "no round"
	}
	last := p.rounds[len(p.rounds)-1]
	if !last.OK {
		return 0, fmt.Sprint(last.Failure)
	}
	port, err := strconv.Atoi(last.Server.Port)
	if err != nil {
		return 0, err.Error()
	}
	return port, fmt.Sprintf("the probe is on port %d", port)
}

// check checks what the probe said of the turns: that it moved at each, that it
// failed for no longer than that took, and for no reason that there was not.
func (p *prober) check(t *testing.T, turns []turn) {
	t.Helper()
	if got, want := len(p.report.Servers), len(turns)+1; got != want {
		t.Errorf("the probe found a new server %d times, want %d: %+v", got-1, want-1, p.report.Servers)
	}
	for i, visit := range p.report.Servers[1:] {
		if visit.Server.Port != strconv.Itoa(turns[i].to) {
			t.Errorf("turn %d took the probe to %s", i+1, visit.Server)
		}
	}
	for _, r := range p.rounds {
		if r.OK {
			continue
		}
		switch r.Failure.Kind {
		case probe.Closed, probe.ReadOnly, probe.Connection:
		default:
			t.Errorf("round %d of the probe: %s", r.N, r.Failure)
		}
	}
	for _, o := range p.report.Outages {
		t.Logf("probe: outage of %.0f ms: %s", o.LastedMS, o.Failure)
	}
	if p.report.Failing || len(p.warnings) > 0 || p.report.UnavailableMS > 30000 {
		t.Errorf("warnings %v, report %+v", p.warnings, p.report)
	}
}
