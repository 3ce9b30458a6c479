package workload

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"sort"
	"sync"
	"time"
)

// Nonce identifies one write. Its first eight bytes are those of the run, so
// that all of a run's rows are one range of uuids.
type Nonce [16]byte

// String returns the nonce as Postgres writes a uuid.
func (n Nonce) String() string {
	h := hex.EncodeToString(n[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

func parseNonce(s string) (Nonce, error) {
	var n Nonce
	if len(s) != 36 {
		return n, fmt.Errorf("reading nonce %q: not a uuid", s)
	}
	_, err := hex.Decode(n[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]))
	if err != nil {
		return n, fmt.Errorf("reading nonce %q: %w", s, err)
	}
	return n, nil
}

// Kind is what a write does.
type Kind string

// The kinds of writes.
const (
	Insert Kind = "insert"
	Update Kind = "update"
	Delete Kind = "delete"
)

// Write is one row written by a transaction.
type Write struct {
	Nonce Nonce  // of this write: the row's own for an insert, touched for an update
	Row   Nonce  // of the insert that made the row
	Kind  Kind   //
	Table string // as written in SQL
	ID    int64  // leading column of the key; 0 when the server's answer did not arrive
}

// Commit is one transaction that was acknowledged, or whose outcome the client
// does not know. Its times are the client's and carry a monotonic clock.
type Commit struct {
	Began   time.Time // before the first statement was sent
	Ended   time.Time // after the answer to the COMMIT arrived, or the error
	Server  string    // who acknowledged it; for an unknown one who took its statements, if they were answered
	Unknown bool
	Writer  int // from 0
	Writes  []Write

	changes []*change
}

// Draw is one value that nextval returned to a client, alone or in an insert.
type Draw struct {
	Sequence string // as written in SQL
	Value    int64
	Server   string
	At       time.Time
	// Committed says that the transaction which drew the value was
	// acknowledged. Only then does Postgres promise, across a crash, not to
	// hand it out again.
	Committed bool

	commit *Commit // the transaction, if it may have been committed
}

// state is what a row should look like after a write.
type state struct {
	present bool
	version int
	note    string
	touched string // empty until the first update
}

// record is one row that a writer has made, or tried to.
type record struct {
	table  *table
	nonce  Nonce
	id     int64
	number int64
	state  state // as acknowledged; not present before the insert is
	// unknown is the write whose outcome is not known. After one, the writer
	// leaves the row alone, so there is no second.
	unknown  *change
	children []*record // removed with this row by a cascading foreign key
}

// change is one write of a transaction on a record.
type change struct {
	record *record
	nonce  Nonce
	kind   Kind
	after  state
}

// Stats count what a run's writers have seen so far.
type Stats struct {
	Transactions int            `json:"transactions"` // acknowledged, with at least one write
	Writes       int            `json:"writes"`       // rows inserted, updated and deleted by these
	Draws        int            `json:"draws"`        // values of sequences received
	Unknown      int            `json:"unknown"`      // transactions whose outcome was not answered
	Failed       int            `json:"failed"`       // transactions and connection attempts refused or broken before their COMMIT
	Connects     int            `json:"connects"`     // sessions opened
	Errors       map[string]int `json:"errors"`       // failed and unknown by SQLSTATE, or "connection" without one
	Slowest      time.Duration  `json:"slowest_ns"`   // longest acknowledged transaction, waiting included
}

// Ledger is the clients' memory of a run: all that the servers promised. It is
// safe for concurrent use.
type Ledger struct {
	run [8]byte

	mu       sync.Mutex
	running  bool
	base     map[string]int64 // rows without nonce at the start, by table
	given    map[string]int64 // last value handed out before the run, by sequence
	order    []string         // servers in the order in which they are to serve; empty: as they appear
	records  []*record
	commits  []*Commit
	draws    []Draw
	stale    []string
	collided []string
	stats    Stats
}

func newLedger() (*Ledger, error) {
	l := &Ledger{running: true, base: map[string]int64{}, given: map[string]int64{}, stats: Stats{Errors: map[string]int{}}}
	if _, err := rand.Read(l.run[:]); err != nil {
		return nil, fmt.Errorf("choosing a run's number: %w", err)
	}
	return l, nil
}

// nonce returns the n-th nonce of a writer.
func (l *Ledger) nonce(writer int, n uint64) Nonce {
	var out Nonce
	copy(out[:8], l.run[:])
	binary.BigEndian.PutUint64(out[8:], uint64(writer)<<48|n&(1<<48-1)) //nolint:gosec // writers are few
	return out
}

// bounds are the lowest and highest nonce of the run.
func (l *Ledger) bounds() (low, high string) {
	first, last := l.nonce(0, 0), l.nonce(0, 0)
	for i := 8; i < len(last); i++ {
		last[i] = 0xff
	}
	return first.String(), last.String()
}

// Expect says which servers are to serve, in order, as named by Identify: old
// and new for a cutover; old, new, old when a rollback follows. Without it the
// servers are taken in the order of their first acknowledged writes.
func (l *Ledger) Expect(servers ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order = append([]string(nil), servers...)
}

// Stats returns the counts so far.
func (l *Ledger) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Errors = maps.Clone(s.Errors)
	return s
}

// Commits returns the transactions so far, acknowledged and unknown, in the
// order of their answers.
func (l *Ledger) Commits() []Commit {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Commit, len(l.commits))
	for i, c := range l.commits {
		out[i] = *c
	}
	return out
}

// Draws returns the values of sequences received so far.
func (l *Ledger) Draws() []Draw {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Draw(nil), l.draws...)
}

// LongestGap is the longest time between from and to in which no write was
// acknowledged to any writer: between two answers, from the beginning to the
// first, or from the last to the end. Values drawn from sequences do not count.
func (l *Ledger) LongestGap(from, to time.Time) time.Duration {
	l.mu.Lock()
	var answers []time.Time
	for _, c := range l.commits {
		if !c.Unknown && !c.Ended.Before(from) && !c.Ended.After(to) {
			answers = append(answers, c.Ended)
		}
	}
	l.mu.Unlock()
	return longestGap(answers, from, to)
}

func longestGap(answers []time.Time, from, to time.Time) time.Duration {
	sort.Slice(answers, func(i, j int) bool { return answers[i].Before(answers[j]) })
	var longest time.Duration
	last := from
	for _, t := range append(answers, to) {
		longest = max(longest, t.Sub(last))
		last = t
	}
	return longest
}

// acknowledge records a transaction whose COMMIT was answered.
func (l *Ledger) acknowledge(t *transaction, ended time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keepDraws(t, true, nil)
	if len(t.changes) == 0 {
		return
	}
	for _, c := range t.changes {
		if c.kind == Insert {
			l.records = append(l.records, c.record)
		}
		c.record.state = c.after
	}
	l.commits = append(l.commits, t.commit(ended, false))
	l.stats.Transactions++
	l.stats.Writes += len(t.changes)
	l.stats.Slowest = max(l.stats.Slowest, ended.Sub(t.began))
}

// doubt records a transaction whose COMMIT may have happened.
func (l *Ledger) doubt(t *transaction, ended time.Time, code string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Unknown++
	l.stats.Errors[code]++
	c := t.commit(ended, true)
	l.keepDraws(t, false, c)
	if len(t.changes) == 0 {
		return
	}
	for _, ch := range t.changes {
		if ch.kind == Insert {
			l.records = append(l.records, ch.record)
		}
		ch.record.unknown = ch
	}
	l.commits = append(l.commits, c)
}

// refuse records a failure that certainly left nothing behind. t is nil when
// it was a connection that failed.
func (l *Ledger) refuse(t *transaction, code string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Failed++
	l.stats.Errors[code]++
	if t != nil {
		l.keepDraws(t, false, nil)
	}
}

func (l *Ledger) keepDraws(t *transaction, committed bool, c *Commit) {
	for _, d := range t.draws {
		d.Committed, d.commit = committed, c
		l.draws = append(l.draws, d)
	}
	l.stats.Draws += len(t.draws)
}

// noteStale records that a server which takes writes does not know a row that
// was acknowledged before.
func (l *Ledger) noteStale(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stale = append(l.stale, text)
}

// noteCollision records an insert refused because of a key that a sequence had
// handed out before.
func (l *Ledger) noteCollision(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.collided = append(l.collided, text)
}

func (l *Ledger) connected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Connects++
}

func (l *Ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = false
}
