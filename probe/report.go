package probe

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxKept bounds the lists of a report, so that a probe may run for months.
const maxKept = 1000

// Report is what the rounds of a Run found.
type Report struct {
	URL    string    `json:"url"` // without its password
	Prober string    `json:"prober"`
	Table  string    `json:"table,omitempty"` // of the last round
	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended"`
	Rounds int       `json:"rounds"`
	Failed int       `json:"failed"`
	Slow   int       `json:"slow"`
	// Failing is set when the last round failed.
	Failing bool `json:"failing"`
	// Outages tells the first thousand of them, UnavailableMS the sum of all: of
	// each from the beginning of its first failed round to the end of the round
	// that recovered.
	Outages       []Outage `json:"outages,omitempty"`
	UnavailableMS float64  `json:"unavailable_ms"`
	// Latency is that of the rounds that succeeded.
	Latency Latency `json:"latency"`
	// Servers are those that took writes, in order; one comes again when the
	// client came back to it. At most the first thousand.
	Servers []Visit `json:"servers,omitempty"`
	// Webhook counts what was posted; nil without one.
	Webhook  *Delivered `json:"webhook,omitempty"`
	Warnings []string   `json:"warnings,omitempty"`
	// Last is the last failure; nil when there was none.
	Last *Failure `json:"last_failure,omitempty"`
}

// Outage is a time in which rounds failed.
type Outage struct {
	From time.Time `json:"from"`
	// LastedMS is up to now while it goes on.
	LastedMS float64 `json:"lasted_ms"`
	Rounds   int     `json:"rounds"`
	// Failure is that of its first round.
	Failure Failure `json:"failure"`
	Over    bool    `json:"over"`
}

// Latency of rounds, in milliseconds.
type Latency struct {
	Min  float64 `json:"min_ms"`
	Mean float64 `json:"mean_ms"`
	Max  float64 `json:"max_ms"`
}

// Visit is a stay on one server.
type Visit struct {
	Server Server    `json:"server"`
	From   time.Time `json:"from"`
	Rounds int       `json:"rounds"`
}

// add counts a round that was judged.
func (r *Report) add(round Round) {
	r.Rounds++
	if round.Slow {
		r.Slow++
	}
	if !round.OK {
		r.Failed++
		r.Last = round.Failure
	}
	if round.Change == Failing && len(r.Outages) < maxKept {
		r.Outages = append(r.Outages, Outage{From: *round.Since, Failure: *round.Failure})
	}
	if round.Since != nil {
		r.lengthen(round)
	}
	if !round.OK {
		return
	}
	succeeded := r.Rounds - r.Failed
	r.Latency.Mean += (round.TookMS - r.Latency.Mean) / float64(succeeded)
	r.Latency.Max = max(r.Latency.Max, round.TookMS)
	if succeeded == 1 || round.TookMS < r.Latency.Min {
		r.Latency.Min = round.TookMS
	}
	if (len(r.Servers) == 0 || round.Moved) && len(r.Servers) < maxKept {
		r.Servers = append(r.Servers, Visit{Server: *round.Server, From: round.At})
	}
	r.Servers[len(r.Servers)-1].Rounds++
}

// lengthen makes the current outage as long as it is by now.
func (r *Report) lengthen(round Round) {
	last := &r.Outages[len(r.Outages)-1]
	if !last.From.Equal(*round.Since) { // one too many to keep
		if round.OK {
			r.UnavailableMS = microseconds(r.UnavailableMS + round.FailingMS)
		}
		return
	}
	r.UnavailableMS = microseconds(r.UnavailableMS + round.FailingMS - last.LastedMS)
	last.LastedMS, last.Rounds, last.Over = round.FailingMS, round.FailedRounds, round.OK
}

// microseconds rounds a sum of milliseconds to whole microseconds, as its terms
// are: otherwise the report says 84.22400000000002 where a round says 84.224.
func microseconds(ms float64) float64 { return math.Round(ms*1000) / 1000 }

// WriteText writes the report for people.
func (r Report) WriteText(w io.Writer) error {
	state := "works"
	switch {
	case r.Rounds == 0:
		state = "was not asked"
	case r.Failing:
		state = "FAILS"
	}
	_, err := fmt.Fprintf(w, "%s %s: %d rounds in %s, %d failed, %d slow; a round took %.1f ms on average, %.1f at most; table %s\n",
		r.URL, state, r.Rounds, r.Ended.Sub(r.Began).Round(time.Millisecond), r.Failed, r.Slow, r.Latency.Mean, r.Latency.Max, r.Table)
	if err != nil {
		return err
	}
	for _, o := range r.Outages {
		over := "over"
		if !o.Over {
			over = "not over"
		}
		_, err := fmt.Fprintf(w, "  outage from %s, %.1f s, %d rounds, %s: %s\n", o.From.UTC().Format(clock), o.LastedMS/1000, o.Rounds, over, o.Failure)
		if err != nil {
			return err
		}
	}
	for _, v := range r.Servers {
		name := v.Server.String()
		if v.Server.Side != "" {
			name = string(v.Server.Side) + " (" + name + ")"
		}
		if _, err := fmt.Fprintf(w, "  from %s on %s: %d rounds\n", v.From.UTC().Format(clock), name, v.Rounds); err != nil {
			return err
		}
	}
	return nil
}

// quoteRole quotes a role's name for SQL.
func quoteRole(name string) string { return pgx.Identifier{name}.Sanitize() }
