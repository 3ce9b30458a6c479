package subscriber_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// stream is two databases of one server: a publication with its slot, and the
// new side of a move.
type stream struct {
	*pg.Server
	from, to string // URLs
	conninfo string
}

func eachMajor(t *testing.T, test func(t *testing.T, s *stream)) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			test(t, newStream(t, pgtest.Server(t, major)))
		})
	}
}

func newStream(t *testing.T, cluster *pgserver.Cluster) *stream {
	t.Helper()
	s := &stream{from: pgtest.Database(t, cluster), to: pgtest.Database(t, cluster)}
	move := fmt.Sprintf("s%d", time.Now().UnixNano())
	var err error
	if s.Server, err = pg.Open(t.Context(), pg.Options{Side: pg.New, URL: s.to, Move: move}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	old, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: s.from, Move: move})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(old.Close)
	s.conninfo = old.Conninfo()
	for _, side := range []*pg.Server{old, s.Server} {
		id, err := state.Identify(t.Context(), side)
		if err != nil {
			t.Fatal(err)
		}
		if err := state.Create(t.Context(), side, state.Move{Name: move, Old: id, New: id}); err != nil {
			t.Fatal(err)
		}
	}
	for _, url := range []string{s.from, s.to} {
		pgtest.Exec(t, url, `create table public.t (id integer primary key)`)
	}
	name := state.FirstStream(move).Name()
	pgtest.Exec(t, s.from, `insert into public.t select generate_series(1, 100)`,
		`create publication `+name+` for table public.t, pgcutover.marker_forward, pgcutover.decision_forward`)
	pgtest.Exec(t, s.from, `select pg_create_logical_replication_slot('`+name+`', 'pgoutput')`)
	return s
}

// forward is the stream that start makes for the server's move.
func forward(s *pg.Server) state.Stream { return state.FirstStream(s.Move()) }
