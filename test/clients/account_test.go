package clients

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// account is what one client was told about the rows it wrote. Its numbers are
// never used twice.
type account struct {
	name string

	mu      sync.Mutex
	n       int64
	acked   map[int64]ack
	refused map[int64]bool // must not be there
	unknown map[int64]bool // may be there
	errors  map[string]int
}

// ack is a row that the server said is committed. A client that cannot tell
// when and where leaves that out.
type ack struct {
	port         int
	began, ended time.Time
}

func newAccount(name string) *account {
	return &account{name: name, acked: map[int64]ack{}, refused: map[int64]bool{}, unknown: map[int64]bool{}, errors: map[string]int{}}
}

// next is the number of the next row.
func (a *account) next() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
	return a.n
}

func (a *account) ack(n int64, of ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acked[n] = of
}

// refuse notes a row that the server did not take.
func (a *account) refuse(n int64, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused[n] = true
	a.errors[why]++
}

// doubt notes a row that nobody was told about.
func (a *account) doubt(n int64, why string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unknown[n] = true
	a.errors[why]++
}

// gaps is, for each turn, the time from the last answer of one server to the
// first of the other.
func (a *account) gaps(turns []turn) (out []time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, of := range turns {
		var last, first time.Time
		for _, x := range a.acked {
			if x.port == of.from && x.began.Before(of.ended) && x.ended.After(last) {
				last = x.ended
			}
			if x.port == of.to && x.ended.After(of.began) && (first.IsZero() || x.ended.Before(first)) {
				first = x.ended
			}
		}
		out = append(out, first.Sub(last).Round(time.Millisecond))
	}
	return out
}

// String tells what the client saw.
func (a *account) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	byPort := map[int]int{}
	for _, x := range a.acked {
		byPort[x.port]++
	}
	return fmt.Sprintf("%s: acknowledged %v by port, %d refused, %d in doubt, errors %v", a.name, byPort, len(a.refused), len(a.unknown), a.errors)
}

// row is a row of the ledger.
type row struct {
	Client string
	N      int64
	Port   int
}

// turn is one cutover or rollback: from one port to another.
type turn struct {
	from, to     int
	began, ended time.Time
}

// prove compares accounts with the ledger of the server that serves, and with
// each other: at every turn, no server may take a row that was begun after the
// other one had taken one.
func prove(t *testing.T, url string, accounts []*account, turns ...turn) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `select client, n, port from ledger`)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[row])
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]map[int64][]int{}
	for _, r := range all {
		if there[r.Client] == nil {
			there[r.Client] = map[int64][]int{}
		}
		there[r.Client][r.N] = append(there[r.Client][r.N], r.Port)
	}
	for _, a := range accounts {
		a.compare(t, there[a.name])
	}
	inTurn(t, accounts, turns)
}

// compare compares one account with its rows.
func (a *account) compare(t *testing.T, there map[int64][]int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	var wrong []string
	for n, of := range a.acked {
		ports := there[n]
		switch {
		case len(ports) == 0:
			wrong = append(wrong, fmt.Sprintf("row %d is lost", n))
		case len(ports) > 1:
			wrong = append(wrong, fmt.Sprintf("row %d is there %d times", n, len(ports)))
		case of.port != 0 && of.port != ports[0]:
			wrong = append(wrong, fmt.Sprintf("row %d was taken by port %d, and says %d", n, of.port, ports[0]))
		}
	}
	for n := range there {
		if _, ok := a.acked[n]; !ok && !a.unknown[n] {
			wrong = append(wrong, fmt.Sprintf("row %d was refused, or never written, and is there", n))
		}
	}
	if len(wrong) > 0 {
		t.Errorf("%s: %d rows acknowledged, %d wrong: %s", a.name, len(a.acked), len(wrong), strings.Join(wrong[:min(10, len(wrong))], "; "))
	}
	if len(a.acked) == 0 {
		t.Errorf("%s wrote nothing", a.name)
	}
}

// inTurn checks that the servers took rows one after the other.
func inTurn(t *testing.T, accounts []*account, turns []turn) {
	t.Helper()
	var all []ack
	for _, a := range accounts {
		for _, x := range a.acked {
			if x.port != 0 {
				all = append(all, x)
			}
		}
	}
	for i, turned := range turns {
		near := func(port int) (out []ack) {
			for _, x := range all {
				if x.port == port && (i == 0 || x.began.After(turns[i-1].ended)) && (i == len(turns)-1 || x.ended.Before(turns[i+1].began)) {
					out = append(out, x)
				}
			}
			return out
		}
		from, to := near(turned.from), near(turned.to)
		if len(from) == 0 || len(to) == 0 {
			t.Fatalf("turn %d: %d rows before, %d after it", i+1, len(from), len(to))
		}
		first := slices.MinFunc(to, func(a, b ack) int { return a.ended.Compare(b.ended) })
		last := slices.MaxFunc(from, func(a, b ack) int { return a.began.Compare(b.began) })
		if last.began.After(first.ended) {
			t.Errorf("turn %d: port %d took a row that began %s after port %d had taken one", i+1, turned.from, last.began.Sub(first.ended), turned.to)
		}
	}
}
