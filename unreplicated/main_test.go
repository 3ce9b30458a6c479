package unreplicated_test

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/unreplicated"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// two is two servers with a database each.
type two struct {
	old, new       *pg.Server
	oldURL, newURL string
}

var count atomic.Int64

func eachPair(t *testing.T, test func(t *testing.T, p two)) {
	for _, pair := range pgtest.Pairs(t) {
		t.Run(fmt.Sprintf("%dto%d", pair.Old, pair.New), func(t *testing.T) {
			test(t, newTwo(t, pair))
		})
	}
}

func newTwo(t *testing.T, pair pgtest.Pair) two {
	t.Helper()
	p := two{
		oldURL: pgtest.Database(t, pgtest.Server(t, pair.Old)),
		newURL: pgtest.Database(t, pgtest.Server(t, pair.New)),
	}
	move := fmt.Sprintf("u%d", count.Add(1))
	p.old, p.new = open(t, pg.Old, p.oldURL, move), open(t, pg.New, p.newURL, move)
	return p
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

func options() unreplicated.Options {
	return unreplicated.Options{
		Tables: unreplicated.CopyTables, Objects: unreplicated.CopyObjects, Bound: time.Minute,
		Guard: func(context.Context, pgx.Tx) error { return nil },
	}
}

// move looks, prepares and moves.
func move(t *testing.T, from, to *pg.Server, o unreplicated.Options) (unreplicated.Moved, error) {
	t.Helper()
	inventory, err := unreplicated.LookAgain(t.Context(), from, nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := unreplicated.Prepare(t.Context(), from, to, inventory, o)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close(context.WithoutCancel(t.Context()))
	return m.Move(t.Context(), true)
}

type writer = io.Writer

// until waits for a condition.
func until(t *testing.T, met func() bool) {
	t.Helper()
	err := pg.Wait(t.Context(), "a condition", 5*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) { return met(), "", nil })
	if err != nil {
		t.Fatal(err)
	}
}
