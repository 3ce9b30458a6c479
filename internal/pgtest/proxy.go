package pgtest

import (
	"bufio"
	"errors"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// Action is what a proxy does with a message of a client.
type Action int

const (
	// Forward passes the message on.
	Forward Action = iota
	// CutBefore drops the connection on both sides; the server never sees the
	// message.
	CutBefore
	// CutAfter passes the message on and drops the client's side at once, so
	// that no answer reaches it, while the server goes on. The server's side
	// ends when it has answered a Query, Sync or CopyDone with ReadyForQuery.
	// After any other message it ends at once: a server that gets no Sync rolls
	// back what it did for Parse, Bind and Execute. The client's cancel requests
	// for the connection are dropped.
	CutAfter
)

// FrontendFunc decides about a client's message: conn is the connection's
// number, counted from 1 by startup messages (attempts to encrypt and cancel
// requests do not count), message the type byte of the protocol, payload what
// follows the length. It is called in the connection's own goroutine.
// https://www.postgresql.org/docs/current/protocol-message-formats.html
type FrontendFunc func(conn int, message byte, payload []byte) Action

// Proxy is a TCP proxy before a PostgreSQL server that makes networks fail. Its
// address stays the same. It declines encryption, in order to read along.
type Proxy struct {
	target string
	port   *pgserver.Port
	work   sync.WaitGroup // accepting and all connections

	mu       sync.Mutex
	closed   bool
	listener net.Listener // nil: cut
	stalled  chan struct{}
	handle   FrontendFunc
	links    map[*link]bool
	count    int // of startup messages so far
}

// NewProxy starts a proxy before the server at targetAddr (host:port, see
// [pgserver.Cluster.Addr]). It ends with the test.
func NewProxy(t testing.TB, targetAddr string) *Proxy {
	t.Helper()
	port, err := pgserver.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: targetAddr, port: port, links: map[*link]bool{}}
	if err := p.listen(); err != nil {
		port.Release()
		t.Fatalf("starting the proxy: %v", err)
	}
	t.Cleanup(func() {
		p.mu.Lock()
		p.closed = true
		p.mu.Unlock()
		p.Cut()
		p.work.Wait()
		port.Release()
	})
	return p
}

// Addr returns the proxy's host:port.
func (p *Proxy) Addr() string { return p.port.Addr() }

// URL returns a database URL that leads through the proxy.
func (p *Proxy) URL(t testing.TB, databaseURL string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatalf("parsing a database URL: %v", err)
	}
	u.Host = p.Addr()
	return u.String()
}

// OnFrontend sets what decides about the clients' messages after the startup,
// on open connections too; nil forwards all.
func (p *Proxy) OnFrontend(handle FrontendFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handle = handle
}

// Parameters returns the startup parameters of a connection: user, database,
// application_name, replication and others. It is empty for unknown ones.
func (p *Proxy) Parameters(conn int) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if l.number == conn {
			return l.parameters
		}
	}
	return nil
}

// Connections returns the number of connections now open to the server.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Cut drops all connections and refuses new ones, until Restore. It may be
// called by a FrontendFunc.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		p.listener.Close()
		p.listener = nil
	}
	for l := range p.links {
		l.close()
	}
}

// Stall keeps all connections open, and lets new ones be made, but passes
// nothing on in either direction until Restore: to both sides the other one has
// fallen silent.
func (p *Proxy) Stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled == nil {
		p.stalled = make(chan struct{})
	}
}

// Restore ends Cut and Stall. What a stall held back is then passed on.
func (p *Proxy) Restore(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
	p.mu.Unlock()
	if err := p.listen(); err != nil {
		t.Fatalf("restoring the proxy: %v", err)
	}
}

// listen opens the proxy's port, unless it is open.
func (p *Proxy) listen() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return errors.New("the proxy's test has ended")
	}
	if p.listener != nil {
		return nil
	}
	listener, err := net.Listen("tcp4", p.Addr())
	if err != nil {
		return err
	}
	p.listener = listener
	p.work.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil { // closed by Cut
				return
			}
			p.work.Go(func() { p.serve(listener, client) })
		}
	})
	return nil
}

// serve connects a client to the server and returns when both sides have ended.
func (p *Proxy) serve(listener net.Listener, client net.Conn) {
	defer client.Close()
	server, err := net.DialTimeout("tcp4", p.target, 10*time.Second)
	if err != nil {
		return // the server is down: its client sees the connection end
	}
	defer server.Close()
	l := &link{
		proxy: p, client: client, server: server.(*net.TCPConn),
		fromClient: bufio.NewReader(client), fromServer: bufio.NewReader(server),
		done: make(chan struct{}),
	}
	l.unanswered.Store(1) // the startup is answered by a ReadyForQuery, too
	p.mu.Lock()
	if p.listener != listener { // cut meanwhile
		p.mu.Unlock()
		return
	}
	p.links[l] = true
	p.mu.Unlock()
	var backend sync.WaitGroup
	backend.Go(l.backend)
	l.frontend()
	backend.Wait()
	l.close()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// decide asks the test about a message.
func (p *Proxy) decide(l *link, message byte, payload []byte) Action {
	p.mu.Lock()
	handle, conn := p.handle, l.number
	p.mu.Unlock()
	if handle == nil {
		return Forward
	}
	return handle(conn, message, payload)
}

// pass returns when nothing is stalled; false means that the connection was
// dropped meanwhile.
func (p *Proxy) pass(l *link) bool {
	for {
		p.mu.Lock()
		stalled := p.stalled
		p.mu.Unlock()
		if stalled == nil {
			return true
		}
		select {
		case <-stalled:
		case <-l.done:
			return false
		}
	}
}

// started gives a connection its number and its startup parameters.
func (p *Proxy) started(l *link, parameters map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	l.number = p.count
	l.parameters = parameters
}

// setKey stores the key that cancels a connection's statements.
func (p *Proxy) setKey(l *link, key []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.key = string(key)
}

// lost reports whether a key is that of a connection after CutAfter. Clients
// send a cancel request when they lose a connection; it must not stop the
// server, as it would not where the network failed.
func (p *Proxy) lost(key []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if l.key == string(key) && l.muted.Load() {
			return true
		}
	}
	return false
}
