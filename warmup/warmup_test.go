package warmup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// onEachMajor boots a cluster of each major without autovacuum, which would
// analyze tables at times of its own, and runs the subtests in turn.
func onEachMajor(t *testing.T, settings map[string]string, subtests []subtest) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			all := map[string]string{"autovacuum": "off", "max_prepared_transactions": "5"}
			for name, value := range settings {
				all[name] = value
			}
			c := pgtest.Cluster(t, pgserver.Options{Major: major, Name: "warmup", Settings: all})
			for _, s := range subtests {
				t.Run(s.name, func(t *testing.T) { s.run(t, c) })
			}
		})
	}
}

type subtest struct {
	name string
	run  func(*testing.T, *pgserver.Cluster)
}

// open connects as the tool does.
func open(t *testing.T, url string) *pg.Server {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: pg.New, URL: url, Move: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// lock takes a lock in a session of its own and returns the session's pid and
// what ends it.
func lock(t *testing.T, url, statement string) (pid int32, release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	release = func() {
		ctx := context.WithoutCancel(t.Context())
		if !conn.IsClosed() {
			// Its answer tells that the lock is gone; the session's end takes a while.
			if _, err := conn.Exec(ctx, "rollback"); err != nil {
				t.Errorf("giving a lock back: %v", err)
			}
		}
		conn.Close(ctx)
	}
	t.Cleanup(release)
	if _, err := conn.Exec(t.Context(), "begin; "+statement); err != nil {
		t.Fatal(err)
	}
	return int32(conn.PgConn().PID()), release
}

// noSessions checks that the tool left no session behind: one that was closed in
// good order needs a moment to go, one that was not stays.
func noSessions(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	err = pg.Wait(t.Context(), "the tool's sessions to end", 20*time.Millisecond, 30*time.Second, nil,
		func(ctx context.Context) (bool, string, error) {
			var left string
			err := conn.QueryRow(ctx, `select coalesce(string_agg(application_name || ': ' || query, ', '), '')
				from pg_stat_activity where application_name like 'pgcutover/%/%' and datname = current_database()`).Scan(&left)
			return left == "", left, err
		})
	if err != nil {
		t.Error(err)
	}
}

// column reads the only column of a query.
func column[T any](t *testing.T, url, sql string) []T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("querying %s\n%v", sql, err)
	}
	return values
}

func names[T fmt.Stringer](tables []T) string {
	var texts []string
	for _, t := range tables {
		texts = append(texts, strings.ReplaceAll(t.String(), `"`, ""))
	}
	return strings.Join(texts, " ")
}

func analysisOf(t *testing.T, r AnalyzeReport, schema, name string) TableAnalysis {
	t.Helper()
	at := slices.IndexFunc(r.Tables, func(a TableAnalysis) bool { return a.Schema == schema && a.Name == name })
	if at < 0 {
		t.Fatalf("%s.%s is not in the report", schema, name)
	}
	return r.Tables[at]
}

func outcomes(r AnalyzeReport) map[Outcome]int {
	found := map[Outcome]int{}
	for _, t := range r.Tables {
		found[t.Outcome]++
	}
	return found
}
