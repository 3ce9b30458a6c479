package pgtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// TestDatabaseIsDropped leaves in a test's database all that keeps it in use.
func TestDatabaseIsDropped(t *testing.T) {
	t.Parallel()
	for _, major := range allMajors {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := Server(t, major)
			var name string
			t.Run("use", func(t *testing.T) {
				var busy *pgx.Conn
				t.Cleanup(func() { // runs after the dropping
					if busy != nil {
						busy.Close(context.WithoutCancel(t.Context()))
					}
				})
				url := Database(t, c)
				name = Value[string](t, url, "SELECT current_database()")
				quoted := pgx.Identifier{name}.Sanitize()
				Exec(t, url,
					"CREATE TABLE t (n int)",
					"SELECT pg_create_logical_replication_slot('left_'||oid, 'pgoutput') FROM pg_database WHERE datname = current_database()",
					// Enabled: its worker tries to reach a publisher again and again.
					"CREATE SUBSCRIPTION left_sub CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p WITH (connect = false, slot_name = 'z'); ALTER SUBSCRIPTION left_sub ENABLE",
					"BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left_"+name+"'",
					"CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$",
					"CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE PROCEDURE refuse()")
				var err error
				if busy, err = pgx.Connect(t.Context(), url); err != nil {
					t.Fatal(err)
				}
				for _, sql := range []string{"BEGIN", "LOCK TABLE pg_subscription IN ROW EXCLUSIVE MODE"} {
					if _, err := busy.Exec(t.Context(), sql); err != nil {
						t.Fatal(err)
					}
				}
				Exec(t, c.URL("postgres"),
					"ALTER DATABASE "+quoted+" SET default_transaction_read_only = on",
					"ALTER DATABASE "+quoted+" SET statement_timeout = '1ms'",
					"ALTER DATABASE "+quoted+" CONNECTION LIMIT 0",
					"ALTER DATABASE "+quoted+" ALLOW_CONNECTIONS false")
			})
			for _, query := range []string{
				"SELECT count(*) FROM pg_database WHERE datname = $1",
				"SELECT count(*) FROM pg_replication_slots WHERE database = $1",
				"SELECT count(*) FROM pg_prepared_xacts WHERE database = $1",
				"SELECT count(*) FROM pg_subscription WHERE subname = 'left_sub' AND $1 <> ''",
			} {
				if n := Value[int](t, c.URL("postgres"), query, name); n != 0 {
					t.Errorf("%d of %s", n, query)
				}
			}
		})
	}
}

// TestDatabaseOfAStoppedServer must not fail when the test stopped its server.
func TestDatabaseOfAStoppedServer(t *testing.T) {
	t.Parallel()
	c := Cluster(t, pgserver.Options{Major: oldest})
	Database(t, c)
	if err := c.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestServerIsShared(t *testing.T) {
	t.Parallel()
	if again := Server(t, newest); again != Server(t, newest) {
		t.Error("two servers of one major")
	}
	if a, b := Server(t, oldest), Server(t, newest); a.Major() != oldest || b.Major() != newest {
		t.Errorf("majors %d and %d, want %d and %d", a.Major(), b.Major(), oldest, newest)
	}
	if Cluster(t, pgserver.Options{Major: newest}) == Server(t, newest) {
		t.Error("the test's own cluster is the shared server")
	}
}

func TestDatabaseNames(t *testing.T) {
	t.Parallel()
	var names []string
	for _, test := range []string{"TestÄ/x y", "TestÄ/x y", strings.Repeat("long/", 50), ""} {
		name := databaseName(test)
		if len(name) > 63 || slices.Contains(names, name) || notInNames.MatchString(strings.ReplaceAll(name, "_", "")) {
			t.Errorf("name %q after %q", name, names)
		}
		names = append(names, name)
	}
}

func TestExecAndValue(t *testing.T) {
	t.Parallel()
	url := Database(t, Server(t, newest))
	// One text is one transaction, one call one session.
	Exec(t, url, "CREATE TABLE t (n int); INSERT INTO t VALUES (1)", "SET my.value = '5'", "INSERT INTO t SELECT current_setting('my.value')::int")
	if got := Value[[]int32](t, url, "SELECT array_agg(n ORDER BY n) FROM t WHERE n < $1", 9); !slices.Equal(got, []int32{1, 5}) {
		t.Errorf("rows %v, want 1 and 5", got)
	}
	if got := Value[*string](t, url, "SELECT NULL::text"); got != nil {
		t.Errorf("value %q, want none", *got)
	}
	Exec(t, url, "CREATE ROLE pgtest_other LOGIN PASSWORD 'p:w'")
	t.Cleanup(func() { Exec(t, url, "DROP ROLE pgtest_other") })
	if got := Value[string](t, WithUser(t, url, "pgtest_other", "p:w"), "SELECT current_user"); got != "pgtest_other" {
		t.Errorf("user %q, want pgtest_other", got)
	}
}

func TestPairs(t *testing.T) {
	for text, want := range map[string][]Pair{
		"":                     {{15, 18}},
		"13:17":                {{13, 17}},
		" 15:18, 10:18 ,15:17": {{15, 18}, {10, 18}, {15, 17}},
	} {
		t.Setenv(PairsVariable, text)
		if got := Pairs(t); !slices.Equal(got, want) {
			t.Errorf("pairs of %q are %v, want %v", text, got, want)
		}
	}
	if got := Majors(t); len(got) == 0 || !slices.IsSorted(got) {
		t.Errorf("majors %v", got)
	}
	t.Setenv(PairsVariable, "15:18,10:18,15:17")
	if got := Majors(t); !slices.Equal(got, []int{10, 15, 17, 18}) {
		t.Errorf("majors %v, want 10, 15, 17, 18", got)
	}
	for _, text := range []string{"15", "15:", ":18", "9:15", "15:19", "15:18,", "15-18", "15:18:19"} {
		if got, err := parsePairs(text); err == nil {
			t.Errorf("pairs of %q are %v, want an error", text, got)
		}
	}
	if got := fmt.Sprint(Pair{15, 18}); got != "15:18" {
		t.Errorf("a pair is written %q", got)
	}
}
