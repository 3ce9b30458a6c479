package state_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// pair is the two databases of a move, on one server.
type pair struct {
	old, new       *pg.Server
	oldURL, newURL string
	move           state.Move
}

func eachMajor(t *testing.T, test func(t *testing.T, p *pair)) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.Server(t, major)
			p := &pair{oldURL: pgtest.Database(t, cluster), newURL: pgtest.Database(t, cluster)}
			p.old, p.new = open(t, pg.Old, p.oldURL, "m"), open(t, pg.New, p.newURL, "m")
			m, err := state.Observe(t.Context(), "m", p.old, p.new)
			if err != nil {
				t.Fatal(err)
			}
			p.move = *m
			test(t, p)
		})
	}
}

func open(t *testing.T, side pg.Side, url, move string) *pg.Server {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: side, URL: url, Move: move})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// created makes the state on both.
func (p *pair) created(t *testing.T) {
	t.Helper()
	for _, s := range []*pg.Server{p.old, p.new} {
		if err := state.Create(t.Context(), s, p.move); err != nil {
			t.Fatal(err)
		}
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(context.WithoutCancel(t.Context()), conn) })
	return conn
}
