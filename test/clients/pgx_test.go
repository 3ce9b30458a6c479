package clients

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// writeBound is how long a row may take, waiting at the gate included.
const writeBound = 30 * time.Second

const insertSQL = `insert into ledger (client, n) values ($1, $2) returning port`

// queryer is what a connection and a pool have in common.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// insert writes one row and keeps account of it.
func insert(ctx context.Context, q queryer, a *account) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeBound)
	defer cancel()
	n, began := a.next(), time.Now()
	var port int
	err := q.QueryRow(bounded, insertSQL, a.name, n).Scan(&port)
	switch code := pg.Code(err); {
	case err == nil:
		a.ack(n, ack{port, began, time.Now()})
	case code != "" && !pg.Lost(err):
		a.refuse(n, code)
	case code != "":
		a.doubt(n, code)
	case pgconn.SafeToRetry(err):
		a.refuse(n, "connection")
	default:
		a.doubt(n, "connection")
	}
	return err
}

// session is a client with one connection that opens another one only when that
// one is closed: an error alone does not move it.
func session(t *testing.T, to target) client {
	t.Helper()
	return func(ctx context.Context, a *account) {
		var conn *pgx.Conn
		defer func() { pg.Close(ctx, conn) }()
		for ctx.Err() == nil {
			if conn == nil || conn.IsClosed() {
				bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeBound)
				fresh, err := pgx.Connect(bounded, to.conninfo)
				cancel()
				if err != nil {
					a.doubt(0, "connecting")
					breathe(ctx)
					continue
				}
				conn = fresh
			}
			if err := insert(ctx, conn, a); err != nil {
				breathe(ctx)
			}
			breathe(ctx)
		}
	}
}

// pool is a client with a pool. With reset it empties the pool when a write is
// refused because the server is read-only, as applications should.
func pool(t *testing.T, to target, reset bool) client {
	t.Helper()
	return func(ctx context.Context, a *account) {
		p, err := pgxpool.New(ctx, to.conninfo)
		if err != nil {
			t.Error(err)
			return
		}
		defer p.Close()
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				for ctx.Err() == nil {
					if err := insert(ctx, p, a); pg.IsCode(err, pg.ReadOnlyTransaction) && reset {
						p.Reset()
					}
					breathe(ctx)
				}
			})
		}
		group.Wait()
	}
}

// reader reads through a pool and remembers which server answered last.
type reader struct {
	mu   sync.Mutex
	last int
	err  error
}

func (r *reader) run(ctx context.Context, t *testing.T, to target) {
	p, err := pgxpool.New(ctx, to.conninfo)
	if err != nil {
		t.Error(err)
		return
	}
	defer p.Close()
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeBound)
		var port int
		err := p.QueryRow(bounded, `select current_setting('port')::int from ledger limit 1`).Scan(&port)
		cancel()
		r.mu.Lock()
		r.err = err
		if err == nil {
			r.last = port
		}
		r.mu.Unlock()
		breathe(ctx)
	}
}

func (r *reader) state() (port int, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, fmt.Sprintf("the reader is on port %d, last error %v", r.last, r.err)
}
