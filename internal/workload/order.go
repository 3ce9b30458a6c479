package workload

import (
	"fmt"
	"sort"
	"time"
)

// span is one accepted write, as the client saw it: it took effect at some
// instant between the two.
type span struct {
	server       string
	began, ended time.Time
}

// overlap says that span late was accepted although span early, which had ended
// before late began, was accepted by a server that serves after late's.
type overlap struct{ late, early int }

// reigns assigns each span to the reign in which it was accepted: servers serve
// one after the other, in the given order, and a write that began after another
// had ended cannot belong to an earlier reign. Taking for each span the
// earliest reign that is left to it finds an assignment whenever there is one.
// Spans without any get reign -1 and stand in the overlaps: two servers took
// writes at the same time.
func reigns(order []string, spans []span) ([]int, []overlap) {
	byStart, byEnd := indices(len(spans)), indices(len(spans))
	sort.SliceStable(byStart, func(i, j int) bool { return spans[byStart[i]].began.Before(spans[byStart[j]].began) })
	sort.SliceStable(byEnd, func(i, j int) bool { return spans[byEnd[i]].ended.Before(spans[byEnd[j]].ended) })

	reign := make([]int, len(spans))
	var overlaps []overlap
	floor, witness, next := 0, -1, 0
	for _, i := range byStart {
		for next < len(byEnd) && spans[byEnd[next]].ended.Before(spans[i].began) {
			if r := reign[byEnd[next]]; r > floor {
				floor, witness = r, byEnd[next]
			}
			next++
		}
		reign[i] = -1
		for r := floor; r < len(order); r++ {
			if order[r] == spans[i].server {
				reign[i] = r
				break
			}
		}
		if reign[i] < 0 {
			overlaps = append(overlaps, overlap{late: i, early: witness})
		}
	}
	return reign, overlaps
}

func indices(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// SplitBrain is a write that one server acknowledged although its transaction
// began after another one, which serves later, had acknowledged a write.
type SplitBrain struct {
	Write Commit // the late one
	After Commit // the earlier one, on the server that serves later; zero when Write's server was never to serve
}

// String says who took what when.
func (s SplitBrain) String() string {
	if s.After.Server == "" {
		return fmt.Sprintf("server %s acknowledged a write at %s, and was not to serve at all",
			s.Write.Server, s.Write.Ended.Format(clock))
	}
	return fmt.Sprintf("server %s acknowledged a write that began at %s, %s after server %s had acknowledged one",
		s.Write.Server, s.Write.Began.Format(clock), s.Write.Began.Sub(s.After.Ended), s.After.Server)
}

const clock = "15:04:05.000000"

// Handover is the passage of service from one server to the next, as the
// clients saw it.
type Handover struct {
	From, To string    // servers
	Last     time.Time // answer to the last write on From
	First    time.Time // answer to the first write on To
}

// Pause is the time between the last answer of one server and the first answer
// of the next. It is negative when the answers crossed on their way.
func (h Handover) Pause() time.Duration { return h.First.Sub(h.Last) }

// Sides say how the writes of a run were shared by two servers.
type Sides struct {
	Old, New          string    // servers; New is empty while only one has served
	OnOld, OnNew      int       // acknowledged writes
	LastOnOld         time.Time // answer to the last write on Old before New served; zero if none
	FirstOnNew        time.Time // answer to the first write on New; zero if none
	LastOnNew         time.Time // answer to the last write on New; zero if none
	TransactionsOnOld int
	TransactionsOnNew int
}

// acknowledged returns the acknowledged transactions as spans, and the order
// in which servers are to serve. The caller holds l.mu.
func (l *Ledger) acknowledged() (commits []*Commit, spans []span, order []string) {
	seen := map[string]bool{}
	for _, c := range l.commits {
		if c.Unknown {
			continue
		}
		commits = append(commits, c)
		spans = append(spans, span{c.Server, c.Began, c.Ended})
		if !seen[c.Server] {
			seen[c.Server] = true
			order = append(order, c.Server)
		}
	}
	if len(l.order) > 0 {
		order = l.order
	}
	return commits, spans, order
}

// SplitBrain returns the writes that a server acknowledged out of its turn, see
// Expect. None is what the protocol promises.
func (l *Ledger) SplitBrain() []SplitBrain {
	l.mu.Lock()
	defer l.mu.Unlock()
	commits, spans, order := l.acknowledged()
	_, overlaps := reigns(order, spans)
	out := make([]SplitBrain, 0, len(overlaps))
	for _, o := range overlaps {
		s := SplitBrain{Write: *commits[o.late]}
		if o.early >= 0 {
			s.After = *commits[o.early]
		}
		out = append(out, s)
	}
	return out
}

// Handovers returns the passages of service so far, one less than the servers
// that have served, see Expect.
func (l *Ledger) Handovers() []Handover {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, spans, order := l.acknowledged()
	reign, _ := reigns(order, spans)
	first, last := make([]time.Time, len(order)), make([]time.Time, len(order))
	for i, r := range reign {
		if r < 0 {
			continue
		}
		if first[r].IsZero() || spans[i].ended.Before(first[r]) {
			first[r] = spans[i].ended
		}
		if spans[i].ended.After(last[r]) {
			last[r] = spans[i].ended
		}
	}
	var out []Handover
	before := -1
	for r := range order {
		if first[r].IsZero() {
			continue
		}
		if before >= 0 {
			out = append(out, Handover{From: order[before], To: order[r], Last: last[before], First: first[r]})
		}
		before = r
	}
	return out
}

// Sides returns how the writes so far were shared by the first two servers of
// the order, see Expect.
func (l *Ledger) Sides() Sides {
	handovers := l.Handovers()
	l.mu.Lock()
	defer l.mu.Unlock()
	commits, _, order := l.acknowledged()
	var s Sides
	if len(order) > 0 {
		s.Old = order[0]
	}
	if len(order) > 1 {
		s.New = order[1]
	}
	for _, c := range commits {
		switch c.Server {
		case s.Old:
			s.OnOld += len(c.Writes)
			s.TransactionsOnOld++
			if len(handovers) == 0 && c.Ended.After(s.LastOnOld) {
				s.LastOnOld = c.Ended
			}
		case s.New:
			s.OnNew += len(c.Writes)
			s.TransactionsOnNew++
			if c.Ended.After(s.LastOnNew) {
				s.LastOnNew = c.Ended
			}
		}
	}
	if len(handovers) > 0 && handovers[0].From == s.Old && handovers[0].To == s.New {
		s.LastOnOld, s.FirstOnNew = handovers[0].Last, handovers[0].First
	}
	return s
}
