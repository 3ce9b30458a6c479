package workload

import (
	"bytes"
	"net"
	"net/url"
	"sync"
	"testing"
)

// thief sits between clients and a server and steals COMMITs: of every ten that
// pass, one does not reach the server, and of another the answer does not reach
// the client. In both cases it breaks the connection.
type thief struct {
	listener net.Listener
	server   string
	group    sync.WaitGroup

	mu       sync.Mutex
	commits  int
	sessions map[net.Conn]bool
}

// steal starts a thief before the server of a URL and returns the URL through
// it.
func steal(t *testing.T, serverURL string) string {
	t.Helper()
	u, err := url.Parse(serverURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	th := &thief{listener: listener, server: u.Host, sessions: map[net.Conn]bool{}}
	th.group.Go(th.accept)
	t.Cleanup(func() {
		listener.Close()
		th.mu.Lock()
		for c := range th.sessions {
			c.Close()
		}
		th.mu.Unlock()
		th.group.Wait()
	})
	u.Host = listener.Addr().String()
	u.RawQuery = "sslmode=disable"
	return u.String()
}

func (th *thief) accept() {
	for {
		client, err := th.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", th.server)
		if err != nil {
			client.Close()
			continue
		}
		th.mu.Lock()
		th.sessions[client], th.sessions[server] = true, true
		th.mu.Unlock()
		answers := &answers{}
		th.group.Go(func() { th.relay(server, client, nil, answers) })
		th.group.Go(func() { th.relay(client, server, th.next, answers) })
	}
}

// answers says whether what the server says goes on to the client.
type answers struct {
	mu     sync.Mutex
	stolen bool
}

// next counts a COMMIT and says what happens to it.
func (th *thief) next() int {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.commits++
	return th.commits % 10
}

// relay copies one direction; count is nil on the way from the server.
func (th *thief) relay(from, to net.Conn, count func() int, a *answers) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		a.mu.Lock()
		if count == nil && a.stolen {
			a.mu.Unlock()
			return // the server has answered: its COMMIT has happened
		}
		if count != nil && bytes.Contains(buffer[:n], []byte("commit\x00")) {
			switch count() {
			case 3:
				a.mu.Unlock()
				return
			case 7:
				a.stolen = true
			}
		}
		a.mu.Unlock()
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// TestLostAnswers has transactions committed whose answer is lost, and others
// whose COMMIT is lost on its way.
func TestLostAnswers(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := newShop(t, major, 50)
		w := start(t, Options{URL: steal(t, url), Rate: 1000})
		until(t, "some lost answers", func() bool { return w.Ledger().Stats().Unknown >= 12 })
		stop(t, w)
		p := prove(t, url, w.Ledger())
		t.Log(p)
		if err := p.Err(); err != nil {
			t.Error(err)
		}
		if p.UnknownApplied == 0 || p.UnknownApplied == p.Unknown {
			t.Errorf("of %d writes of unknown outcome %d are there, want some, not all", p.Unknown, p.UnknownApplied)
		}
		unknown := 0
		for _, c := range w.Ledger().Commits() {
			if c.Unknown {
				unknown++
			}
		}
		if unknown != w.Ledger().Stats().Unknown {
			t.Errorf("%d unknown transactions in the list, %d counted", unknown, w.Ledger().Stats().Unknown)
		}
	})
}
