package sequences_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/sequences"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Both kinds of connection fit.
var (
	_ sequences.Querier = (*pgx.Conn)(nil)
	_ sequences.Querier = (*pgxpool.Pool)(nil)
)

// connect opens a session as the tool's own ones are.
func connect(t testing.TB, url string) *pgx.Conn { return connectWith(t, url, "pg_catalog") }

func connectWith(t testing.TB, url, searchPath string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	config.RuntimeParams["search_path"] = searchPath
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(func() {
		if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("closing a session: %v", err)
		}
	})
	return conn
}

// side is one server's database with a session of the tool and a client's.
type side struct {
	url     string
	conn    *pgx.Conn
	client  *pgx.Conn
	version int
}

func open(t testing.TB, major int) side {
	t.Helper()
	url := pgtest.Database(t, pgtest.Server(t, major))
	return side{url: url, conn: connect(t, url), client: connectWith(t, url, "public"), version: major * 10000}
}

func (s side) exec(t testing.TB, sql string) {
	t.Helper()
	if _, err := s.client.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("running %s\n%v", sql, err)
	}
}

func (s side) read(t testing.TB) []sequences.Sequence {
	t.Helper()
	all, err := sequences.Read(t.Context(), s.conn, s.version)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// readOne reads public.name.
func (s side) readOne(t testing.TB, name string) sequences.Sequence {
	t.Helper()
	for _, one := range s.read(t) {
		if one.Schema == "public" && one.Name == name {
			return one
		}
	}
	t.Fatalf("sequence %q was not read", name)
	return sequences.Sequence{}
}

func (s side) apply(t testing.TB, changes []sequences.Change, fast bool) []sequences.Change {
	t.Helper()
	made, err := sequences.Apply(t.Context(), s.conn, changes, sequences.Options{Fast: fast})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// eachMajor runs the test on the majors of the pairs, and on 10, 13 and 18,
// between which the catalogs and functions for sequences changed.
func eachMajor(t *testing.T, test func(t *testing.T, major int)) {
	seen := map[int]bool{}
	for _, major := range append([]int{10, 13, 18}, pgtest.Majors(t)...) {
		if !seen[major] {
			seen[major] = true
			t.Run(fmt.Sprint(major), func(t *testing.T) { test(t, major) })
		}
	}
}

// pairs are those asked for and two that begin at the oldest servers.
func pairs(t testing.TB) []pgtest.Pair {
	all := pgtest.Pairs(t)
	for _, p := range []pgtest.Pair{{Old: 10, New: 18}, {Old: 13, New: 15}} {
		found := false
		for _, q := range all {
			found = found || p == q
		}
		if !found {
			all = append(all, p)
		}
	}
	return all
}
