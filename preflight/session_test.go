package preflight

import (
	"context"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// pooler is the smallest transaction pooler: it lends a server connection to a
// client for as long as a transaction lasts, the last returned one first.
type pooler struct {
	t      *testing.T
	server string // URL
	listen net.Listener
	work   sync.WaitGroup

	mu   sync.Mutex
	idle []*pgconn.HijackedConn
	all  []net.Conn
}

func newPooler(t *testing.T, server string) *pooler {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pooler{t: t, server: server, listen: l}
	p.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.keep(c)
			p.work.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		for _, c := range p.all {
			c.Close()
		}
		p.mu.Unlock()
		p.work.Wait()
	})
	return p
}

// url is the pooler's, with what a client adds to its connection.
func (p *pooler) url() string {
	u, err := url.Parse(p.server)
	if err != nil {
		p.t.Fatal(err)
	}
	u.Host = p.listen.Addr().String()
	return u.String()
}

func (p *pooler) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, c)
}

func (p *pooler) borrow() (*pgconn.HijackedConn, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgconn.Connect(ctx, p.server)
	if err != nil {
		return nil, err
	}
	h, err := c.Hijack()
	if err == nil {
		p.keep(h.Conn)
	}
	return h, err
}

func (p *pooler) giveBack(c *pgconn.HijackedConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
}

// serve is one client, until it goes or the test ends.
func (p *pooler) serve(c net.Conn) {
	defer c.Close()
	client := pgproto3.NewBackend(c, c)
	if _, err := client.ReceiveStartupMessage(); err != nil {
		return
	}
	client.Send(&pgproto3.AuthenticationOk{})
	for name, value := range map[string]string{"server_version": "15.0", "client_encoding": "UTF8", "standard_conforming_strings": "on"} {
		client.Send(&pgproto3.ParameterStatus{Name: name, Value: value})
	}
	client.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if client.Flush() != nil {
		return
	}
	var server *pgconn.HijackedConn
	for {
		message, err := client.Receive()
		if err != nil {
			return
		}
		if _, ok := message.(*pgproto3.Terminate); ok {
			return
		}
		if server == nil {
			if server, err = p.borrow(); err != nil {
				return
			}
		}
		server.Frontend.Send(message)
		switch message.(type) {
		case *pgproto3.Query, *pgproto3.Sync:
			idle, err := relay(server, client)
			if err != nil {
				return
			}
			if idle {
				p.giveBack(server)
				server = nil
			}
		}
	}
}

// relay passes answers on until the server is ready, and tells whether the
// transaction has ended.
func relay(server *pgconn.HijackedConn, client *pgproto3.Backend) (bool, error) {
	if err := server.Frontend.Flush(); err != nil {
		return false, err
	}
	for {
		answer, err := server.Frontend.Receive()
		if err != nil {
			return false, err
		}
		client.Send(answer)
		if ready, ok := answer.(*pgproto3.ReadyForQuery); ok {
			return ready.TxStatus == 'I', client.Flush()
		}
	}
}

func TestPoolerIsFoundOut(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		none(t, check(t, "session", p.Pair))
		through := newPooler(t, p.oldURL)
		p.Old = open(t, pg.Old, through.url(), "")
		f := only(t, check(t, "session", p.Pair), "session.pooler", "")
		// Two statements are answered by two backends, unless one was free again in
		// time; then the settings tell.
		if f.Severity != Blocker || f.Server != "old" || !(strings.Contains(f.Seen, "by backend") || strings.Contains(f.Seen, "statement_timeout is 0")) {
			t.Errorf("got %+v", f)
		}
	})
}

// A proxy that keeps sessions apart, but drops the settings of the startup
// packet, is as bad.
func TestDroppedStartupSettings(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	s := open(t, pg.Old, newPooler(t, p.oldURL).url(), "")
	c, err := s.Connect(t.Context(), "check", map[string]string{"statement_timeout": oddTimeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(t.Context(), c) })
	b, err := askBackend(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if b.Timeout == oddTimeout {
		t.Errorf("the pooler passed the startup settings on: %+v", b)
	}
	if f := judgeSession(s, backend{1, "0"}, backend{2, "0"}, backend{1, "0"}); len(f) != 1 || !strings.Contains(f[0].Seen, "statement_timeout is 0") {
		t.Errorf("got %+v", f)
	}
	none(t, judgeSession(s, backend{1, oddTimeout}, backend{2, oddTimeout}, backend{1, oddTimeout}))
}

// A server on which PL/pgSQL does not run.
func TestPlpgsqlMissing(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		pgtest.Exec(t, p.oldURL, `drop extension plpgsql`)
		f := only(t, check(t, "session", p.Pair), "session.plpgsql", "")
		if f.Severity != Blocker || f.Server != "old" {
			t.Errorf("got %+v", f)
		}
		mend(t, p.oldURL, Finding{ID: "x", Fix: f.Fix[strings.Index(f.Fix, "CREATE EXTENSION"):]})
		none(t, check(t, "session", p.Pair))
	})
}
