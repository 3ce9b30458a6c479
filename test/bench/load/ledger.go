package load

import (
	"maps"
	"slices"
	"time"
)

// Kind is one of the two transactions of the load.
type Kind int

// The kinds; tokens take turns.
const (
	Order Kind = iota // one insert, committed by itself
	TPCB              // begin, three updates, an insert, commit
)

func kindOf(token int64) Kind { return Kind(token % 2) }

// Entry is one transaction as its client saw it.
type Entry struct {
	Token  int64
	Kind   Kind
	ID     int64 // that the server gave it; of the last attempt
	Client int
	Due    time.Time // when it arrived, by the schedule
	At     time.Time // when its client knew how it ended

	Acknowledged bool
	// Unknown: nobody answered the commit. Such a transaction is not repeated.
	Unknown bool
	// Errors are the failures before the end, as SQLSTATE, "connect" or "broken".
	Errors []string
}

// Ledger is what all clients were told. It is not changed any more.
type Ledger struct {
	Began, Stopped time.Time
	Entries        []Entry // by token
}

func merge(clients []*client, began, stopped time.Time) Ledger {
	l := Ledger{Began: began, Stopped: stopped}
	for _, c := range clients {
		l.Entries = append(l.Entries, c.entries...)
	}
	slices.SortFunc(l.Entries, func(a, b Entry) int { return int(a.Token - b.Token) })
	return l
}

// Gap is the longest time between two acknowledgements that follow each other,
// of those between from and to, with from and to themselves as ends. It returns
// when that began and ended.
func (l Ledger) Gap(from, to time.Time) (began, ended time.Time) {
	times := []time.Time{from, to}
	for _, e := range l.Entries {
		if e.Acknowledged && e.At.After(from) && e.At.Before(to) {
			times = append(times, e.At)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	began, ended = from, from
	for i := 1; i < len(times); i++ {
		if times[i].Sub(times[i-1]) > ended.Sub(began) {
			began, ended = times[i-1], times[i]
		}
	}
	return began, ended
}

// Latency is the longest, and the 99th percentile, of the time from arrival to
// acknowledgement, of transactions that arrived between from and to.
func (l Ledger) Latency(from, to time.Time) (longest, p99 time.Duration) {
	var times []time.Duration
	for _, e := range l.Entries {
		if e.Acknowledged && e.Due.After(from) && e.Due.Before(to) {
			times = append(times, e.At.Sub(e.Due))
		}
	}
	if len(times) == 0 {
		return 0, 0
	}
	slices.Sort(times)
	return times[len(times)-1], times[(len(times)-1)*99/100]
}

// Counts sums a ledger up.
type Counts struct {
	Transactions int `json:"transactions"`
	Acknowledged int `json:"acknowledged"`
	// Failed are the transactions of which the client saw at least one failure,
	// Attempts all those failures, failed connections among them.
	Failed   int `json:"failed"`
	Attempts int `json:"failed_attempts"`
	// GaveUp are the transactions that never succeeded, as far as the client
	// knows: the unknown ones among them.
	GaveUp  int            `json:"gave_up"`
	Unknown int            `json:"unknown"`
	Codes   map[string]int `json:"codes,omitempty"`
}

// Counts counts the transactions and their failures.
func (l Ledger) Counts() Counts {
	c := Counts{Transactions: len(l.Entries), Codes: map[string]int{}}
	for _, e := range l.Entries {
		if e.Acknowledged {
			c.Acknowledged++
		} else {
			c.GaveUp++
		}
		if e.Unknown {
			c.Unknown++
		}
		if len(e.Errors) > 0 {
			c.Failed++
		}
		c.Attempts += len(e.Errors)
		for _, code := range e.Errors {
			c.Codes[code]++
		}
	}
	return c
}

// Add adds up what several ledgers counted.
func (c Counts) Add(other Counts) Counts {
	sum := Counts{
		Transactions: c.Transactions + other.Transactions, Acknowledged: c.Acknowledged + other.Acknowledged,
		Failed: c.Failed + other.Failed, Attempts: c.Attempts + other.Attempts,
		GaveUp: c.GaveUp + other.GaveUp, Unknown: c.Unknown + other.Unknown, Codes: maps.Clone(c.Codes),
	}
	if sum.Codes == nil {
		sum.Codes = map[string]int{}
	}
	for code, n := range other.Codes {
		sum.Codes[code] += n
	}
	return sum
}
