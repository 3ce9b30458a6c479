package plan

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/upgrade"
)

// explained are the statements that the tool sends and no plan shows, with the
// reason. Reads are left out as a whole; see reads.
var explained = map[string]string{
	`^declare pgcutover_warm `:                                                     "a cursor: step warm reads tables",
	`^lock table .* in access share mode$`:                                         "pg_dump, against DDL meanwhile",
	`^(prepare|execute) (dump|get)\w+ \(`:                                          "pg_dump reads by prepared statements",
	`^lock table only .* in share update exclusive mode nowait$`:                   "keeps ANALYZE of a partitioned table from doing its partitions again",
	`^analyze \( skip_locked \) `:                                                  "step follow: the plan has the query that names the tables, and analyzes partitioned ones with their partitions",
	`^delete from .* where \?$`:                                                    "step follow sees that old refuses it",
	`^do \$\$begin perform \? end\$\$$`:                                            "check sees whether PL/pgSQL works",
	`^do \$\$declare looks int .* pg_stat_activity `:                               "check waits for a session of the other server",
	`^do \$\$declare p record .* perform set_config \( p \. name`:                  "a session's own settings",
	`^select t \. i , setval \(`:                                                   "the plan sets them one by one",
	`^select pg_terminate_backend \( \? \)$`:                                       "the walsender of a slot that is to be dropped: the plan names the slot",
	`^select pg_cancel_backend \( pid \) from pg_stat_activity `:                   "an autovacuum in the way, which comes again by itself",
	`^select count \( pg_terminate_backend \( pid \) \) .* application_name = \? `: "sessions of a pg_restore that was killed",
	`^do \$\$(declare .* )?begin perform \? from pgcutover \. gate for key share `: "ties a session of the tool's to the lease; a person has these locks in the lease itself",
	`^select .* pg_restore_attribute_stats \(`:                                     "step statistics writes a table's statistics at once, the plan a column's at a time",
	`^insert into pgcutover \. turn `:                                              "the plan has the number that the server computes",
	`^insert into pgcutover \. baseline `:                                          "what status compares the schemas with; it is not needed for anything else",
}

// reads change nothing, or nothing that outlives their transaction or session.
var reads = regexp.MustCompile(`^(select|with|show|values|fetch|close|begin|start transaction|commit|rollback|end|savepoint|release|set|reset|copy .* to stdout|identify_system|start_replication|deallocate|discard|explain \( (analyze , buffers , timing off , )?format json)\b`)

// changing are the functions by which a SELECT changes something.
var changing = regexp.MustCompile(`\b(setval|nextval|pg_drop_replication_slot|pg_create_logical_replication_slot|pg_terminate_backend|pg_cancel_backend|pg_(try_)?advisory_\w+|pg_restore_\w+_stats|lo_\w+|pgcutover \. \w+) \(`)

// TestEverythingIsInThePlan lets the servers log every statement while the tool
// does a whole move and a rollback, and looks each of them up in what was printed.
func TestEverythingIsInThePlan(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		if pairs := pgtest.Pairs(t); pair != pairs[0] && pair != pairs[len(pairs)-1] {
			return // enough majors
		}
		m := newMove(t, pair)
		shown := map[string]bool{}
		show(t, m, shown)
		old, new := listen(t, pgtest.Server(t, pair.Old), m.name), listen(t, pgtest.Server(t, pair.New), m.name)
		m.start(t)
		show(t, m, shown) // what depends on the moment: sequences' values
		m.turn(t)
		show(t, m, shown)
		m.back(t)
		show(t, m, shown)
		m.turn(t)
		show(t, m, shown)
		if err := m.Complete(t.Context(), t.Context(), upgrade.RemoveOptions{}); err != nil {
			t.Fatal(err)
		}
		missing := map[string]bool{}
		sent := 0
		for server, heard := range map[string][]string{"old": old(), "new": new()} {
			for _, statement := range heard {
				if reads.MatchString(statement) && !changing.MatchString(statement) {
					continue
				}
				sent++
				if !shown[statement] && reason(statement) == "" {
					missing[server+": "+statement] = true
				}
			}
		}
		if sent < 50 {
			t.Errorf("the servers' logs show only %d statements that change something", sent)
		}
		for _, statement := range slices.Sorted(maps.Keys(missing)) {
			t.Errorf("sent, but not in the plan, to %.600s", statement)
		}
	})
}

func reason(statement string) string {
	for pattern, why := range explained {
		if regexp.MustCompile(pattern).MatchString(statement) {
			return why
		}
	}
	return ""
}

// show adds the statements of the plan as it is now.
func show(t *testing.T, m *move, shown map[string]bool) {
	t.Helper()
	plan, err := m.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range plan.Runbook().Parts {
		for _, e := range part.Entries {
			for _, list := range [][]step.Statement{e.Statements, e.UndoStatements} {
				for _, s := range list {
					for _, one := range apart(s.SQL) {
						shown[one] = true
					}
				}
			}
		}
	}
}

// listen makes a server log all statements, and returns a function that returns
// those that the tool has sent to the database, in the form of apart.
func listen(t *testing.T, c *pgserver.Cluster, database string) func() []string {
	t.Helper()
	admin := c.URL("postgres")
	settings := map[string]string{
		"log_statement": "'all'", "log_line_prefix": "'@@%d@%a@@'", "log_replication_commands": "on", "log_error_verbosity": "'terse'",
	}
	for name, value := range settings {
		pgtest.Exec(t, admin, fmt.Sprintf("alter system set %s = %s", name, value))
	}
	t.Cleanup(func() {
		for name := range settings {
			pgtest.Exec(t, admin, "alter system reset "+name)
		}
		pgtest.Exec(t, admin, "select pg_reload_conf()")
	})
	pgtest.Exec(t, admin, "select pg_reload_conf()")
	limit := time.Now().Add(time.Minute)
	for tick := time.NewTicker(20 * time.Millisecond); pgtest.Value[string](t, admin, "show log_statement") != "all"; <-tick.C {
		if time.Now().After(limit) {
			t.Fatal("the server does not take the settings of its log")
		}
	}
	before, err := os.ReadFile(c.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	return func() []string {
		text, err := os.ReadFile(c.LogPath())
		if err != nil {
			t.Fatal(err)
		}
		return logged(string(text[len(before):]), database)
	}
}

var statementLine = regexp.MustCompile(`^(?:LOG:  (?:statement|execute [^:]*|received replication command)|LOG:  received replication command): (?s:(.*))$`)

// logged takes the statements of the tool out of a log: each message begins with
// the prefix, and a tab stands at the beginning of each further line.
func logged(text, database string) []string {
	var out []string
	for _, message := range strings.Split("\n"+text, "\n@@") {
		where, what, found := strings.Cut(message, "@@")
		db, application, _ := strings.Cut(where, "@")
		if !found || db != database || !strings.HasPrefix(application, "pgcutover/") {
			continue
		}
		match := statementLine.FindStringSubmatch(strings.TrimRight(what, "\n"))
		if match == nil {
			continue
		}
		out = append(out, apart(strings.ReplaceAll(match[1], "\n\t", "\n"))...)
	}
	return out
}
