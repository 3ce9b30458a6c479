package probe

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// newSession is a round's connection, so that a test can come between two of its
// statements.
func newSession(t *testing.T, o Options) *session {
	t.Helper()
	p, err := newProber(o, &running{t: t})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), p.config)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{prober: p, r: &Round{}, conn: conn}
	t.Cleanup(func() { s.close(t.Context()) })
	return s
}

// A move that is completed between two statements of a round is no failure: the
// round looks again.
func TestMoveEndsInBetween(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		moving(t, url)
		pgtest.Exec(t, url, fmt.Sprintf(createSQL, "mine"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		// One asks the fence by itself, the other makes the table and its fence.
		asks, makes := newSession(t, Options{URL: url, Table: "mine"}), newSession(t, Options{URL: url})
		for _, s := range []*session{asks, makes} {
			if err := s.look(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if !asks.facts.checkable || !makes.facts.fencing || makes.table != moveTable {
			t.Fatalf("%+v, %+v", asks.facts, makes.facts)
		}
		pgtest.Exec(t, url, `drop function pgcutover.fence() cascade`)
		if err := makes.write(ctx); !errors.Is(err, errMoved) {
			t.Errorf("without the fence's function: %v", err)
		}
		pgtest.Exec(t, url, `drop schema pgcutover cascade`)
		if err := asks.write(ctx); !errors.Is(err, errMoved) {
			t.Errorf("without the schema: %v", err)
		}
		for _, s := range []*session{asks, makes} {
			var err error
			for range attempts {
				if err = s.writeAndRead(ctx); !errors.Is(err, errMade) {
					break
				}
			}
			if err != nil {
				t.Errorf("afterwards: %v", err)
			}
		}
	})
}

// A transaction that the server ended because the round took too long, and nobody
// said anything any more, is a timeout and no broken connection.
func TestIdleForTooLong(t *testing.T) {
	eachMajor(t, func(t *testing.T, url string) {
		s := newSession(t, Options{URL: url})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.begin(ctx, 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		until(t, "the server to end the session", func() bool {
			return pgtest.Value[int](t, url, `select count(*) from pg_stat_activity where pid = $1`, s.conn.PgConn().PID()) == 0
		})
		_, err := s.conn.Exec(ctx, `select 1`)
		if kind := s.kind(ctx, err); kind != Timeout || pg.Code(err) != pg.IdleInTransaction {
			t.Errorf("%s: %v", kind, err)
		}
	})
}
