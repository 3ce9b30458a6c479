package warmup

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// statisticsMajors are those that statistics are carried from: some of each
// time, or all that PGCUTOVER_TEST_STATISTICS names, such as "11 12 14 16 18".
func statisticsMajors(t *testing.T) []int {
	var majors []int
	for _, text := range strings.Fields(os.Getenv("PGCUTOVER_TEST_STATISTICS")) {
		major, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		majors = append(majors, major)
	}
	if majors == nil {
		majors = []int{10, 13, 15, 17}
	}
	return majors
}

// quietCluster has no autovacuum, which would analyze tables meanwhile.
func quietCluster(t *testing.T, major int) *pgserver.Cluster {
	return pgtest.Cluster(t, pgserver.Options{Major: major, Name: fmt.Sprintf("statistics%d", major), Settings: map[string]string{"autovacuum": "off"}})
}

// TestCarryStatistics carries the statistics of every type from servers of each
// age to one of 18.
func TestCarryStatistics(t *testing.T) {
	to := quietCluster(t, 18)
	for _, major := range statisticsMajors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			from := to
			if major != 18 {
				from = quietCluster(t, major)
			}
			// A superuser sees what pg_stats does not show before 17.
			carryFamilies(t, from, to, major == 10 || major == 15)
		})
	}
	t.Run("details", func(t *testing.T) {
		for _, s := range carryDetails {
			t.Run(s.name, func(t *testing.T) { s.run(t, to) })
		}
	})
}

// fill makes a database with all types and kinds of tables, owned by a role that
// is no superuser, and returns its URL for that role.
func fill(t *testing.T, c *pgserver.Cluster, types int) (admin, owner string) {
	t.Helper()
	admin = pgtest.Database(t, c)
	pgtest.Exec(t, admin,
		`do $$begin if not exists (select from pg_roles where rolname = 'stats owner') then create role "stats owner" login; end if; end$$`,
		`create schema "St at" authorization "stats owner"`, extensionsSetup)
	owner = pgtest.WithUser(t, admin, "stats owner", "")
	pgtest.Exec(t, owner, typesSetup)
	pgtest.Exec(t, owner, familiesSetup(types)...)
	pgtest.Exec(t, owner, tablesSetup)
	return admin, owner
}

// oddSettings give a database settings by which values look strange.
func oddSettings(t *testing.T, url, interval, date, zone, bytes string) {
	t.Helper()
	for name, value := range map[string]string{"IntervalStyle": interval, "DateStyle": date, "TimeZone": zone, "bytea_output": bytes, "extra_float_digits": "-9", "array_nulls": "off", "quote_all_identifiers": "on"} {
		pgtest.Exec(t, url, fmt.Sprintf(`do $$begin execute format('alter database %%I set %s = %%L', current_database(), '%s'); end$$`, name, value))
	}
}

func openSide(t *testing.T, side pg.Side, url string) *pg.Server {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: side, URL: url, Move: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func carryFamilies(t *testing.T, from, to *pgserver.Cluster, superuser bool) {
	major := from.Major()
	fromAdmin, fromOwner := fill(t, from, major)
	toAdmin, toOwner := fill(t, to, major)
	pgtest.Exec(t, fromOwner, "analyze")
	oddSettings(t, fromAdmin, "sql_standard", "SQL, DMY", "Asia/Tokyo", "escape")
	oddSettings(t, toAdmin, "postgres_verbose", "German", "America/St_Johns", "escape")
	if superuser {
		fromOwner, toOwner = fromAdmin, toAdmin
	}
	old, new := openSide(t, pg.Old, fromOwner), openSide(t, pg.New, toOwner)
	log, err := os.ReadFile(to.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	report, err := CarryStatistics(t.Context(), old, new, CarryOptions{Jobs: 2, Stale: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("took %s", report.Took)
	after, err := os.ReadFile(to.LogPath())
	if err != nil {
		t.Fatal(err)
	}
	if said := string(after[len(log):]); strings.Contains(said, "WARNING") || strings.Contains(said, "ERROR") {
		t.Errorf("the target complained:\n%s", said)
	}
	expectReport(t, report, superuser || major >= 17)
	sameStats(t, old, new, superuser)
	carriedPlans(t, new, toOwner, superuser || major >= 17)
	carryByHand(t, old, new)
	noSessions(t, toAdmin)
	noSessions(t, fromAdmin)
}

// expectReport checks what became of each table.
func expectReport(t *testing.T, report CarryReport, ranges bool) {
	t.Helper()
	want := map[string]CarryOutcome{
		"Or ders": Carried, "orders_1": Carried, "orders_2": Carried, "parent": Carried, "child": Carried,
		"expressions": Carried, "view of": Carried, "objects": Carried, "empty": NoneOnSource, "all_types": Carried,
	}
	if !ranges {
		want["all_types"] = PartlyCarried
	}
	for _, c := range report.Tables {
		if c.Outcome != want[c.Name] {
			t.Errorf("%s is %q, want %q: %+v", c.Name, c.Outcome, want[c.Name], c)
		}
		delete(want, c.Name)
		if c.Extended != (c.Name == "objects") {
			t.Errorf("%s: extended is %t", c.Name, c.Extended)
		}
		for _, s := range c.Skipped {
			if ranges || !strings.Contains(s.Column, "range") {
				t.Errorf("%s.%s was skipped: %s", s.Relation, s.Column, s.Reason)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("not in the report: %v", want)
	}
}

// statsOfSQL reads all statistics in one text form.
const statsOfSQL = `
select s.tablename || '.' || s.attname || case when s.inherited then ' (tree)' else '' end, to_jsonb(s)::text
  from pg_stats s
 where s.schemaname = 'St at'`

func statsOf(t *testing.T, s *pg.Server) map[string]map[string]any {
	t.Helper()
	conn, err := s.Connect(t.Context(), "", map[string]string{
		"IntervalStyle": "iso_8601", "TimeZone": "UTC", "bytea_output": "hex", "extra_float_digits": "3",
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(context.WithoutCancel(t.Context()), conn)
	rows, err := conn.Query(t.Context(), statsOfSQL)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string]any{}
	var name, text string
	if _, err := pgx.ForEachRow(rows, []any{&name, &text}, func() error {
		var values map[string]any
		err := json.Unmarshal([]byte(text), &values)
		found[name] = values
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

var digits = regexp.MustCompile(`-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?`)

// rounded takes out the digits by which servers before 12 write more of a number
// than is needed.
func rounded(text string) string {
	return digits.ReplaceAllStringFunc(text, func(number string) string {
		f, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return number
		}
		return strconv.FormatFloat(float64(float32(f)), 'g', 6, 32)
	})
}

// sameStats compares what both servers have.
func sameStats(t *testing.T, old, new *pg.Server, superuser bool) {
	t.Helper()
	from, to := statsOf(t, old), statsOf(t, new)
	if len(from) < 140 || len(from) != len(to) {
		t.Errorf("%d rows of statistics on old, %d on new", len(from), len(to))
	}
	for name, values := range from {
		for field, value := range values {
			if field == "tablename" || field == "attname" || value == nil {
				continue
			}
			want, got := fmt.Sprint(value), fmt.Sprint(to[name][field])
			if old.Major() < 12 {
				want, got = rounded(want), rounded(got)
			}
			byOrder := field == "histogram_bounds" || field == "correlation"
			if strings.HasPrefix(strings.TrimPrefix(name, "all_types."), "reg") && byOrder && got == "<nil>" {
				continue
			}
			// Without a histogram, nothing tells whether these are in the same order.
			if regexp.MustCompile(`citext|hstore`).MatchString(name) && field == "correlation" && got == "<nil>" && values["histogram_bounds"] == nil {
				continue
			}
			if want != got {
				t.Errorf("%s %s of %s differs:\nold %.300s\nnew %.300s", name, field, values["tablename"], want, got)
			}
		}
	}
	if !superuser && old.Major() < 17 {
		return
	}
	for _, column := range []string{"int4range_many", "tsrange_many", "ownrange_many"} {
		got := to["all_types."+column]
		if got["range_length_histogram"] == nil || got["range_empty_frac"] == nil || got["range_bounds_histogram"] == nil {
			t.Errorf("%s has no statistics of ranges: %v", column, got)
		}
	}
}

// carryByHand does what the plan tells a person to do.
func carryByHand(t *testing.T, old, new *pg.Server) {
	t.Helper()
	rows, err := old.Pool().Query(t.Context(), CarrySQL(old.Version()))
	if err != nil {
		t.Fatal(err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(statements) < 140 {
		t.Errorf("the plan makes only %d calls", len(statements))
	}
	conn, err := new.Connect(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(context.WithoutCancel(t.Context()), conn)
	for _, sql := range statements {
		var taken bool
		if err := conn.QueryRow(t.Context(), sql, pgx.QueryExecModeExec).Scan(&taken); err != nil || !taken {
			t.Errorf("taken %t (%v): %.200s", taken, err, sql)
		}
	}
}

// planQueries are explained with carried statistics and with analyzed ones.
func planQueries(ranges bool) []string {
	queries := []string{
		`select from "St at"."Or ders" where customer = 'customer 7'`,
		`select from "St at"."Or ders" where id between 100 and 200 and total > 300`,
		`select customer, count(*) from "St at"."Or ders" group by customer`,
		`select from "St at".orders_2 o join "St at".orders_1 p on o."the ""Day""" = p."the ""Day"""`,
		`select from "St at".parent where kind = 'c1'`,
		`select from only "St at".parent where kind = 'p1'`,
		`select from "St at".expressions where lower(email) = 'user7@example.com'`,
		`select from "St at".expressions where date_trunc('day', at) < '2024-01-10'`,
		`select from "St at"."view of" where n > 10`,
		`select from "St at".all_types where tsvector_few @@ 'word3 & all'`,
		`select from "St at".all_types where ints_many @> array[3, 4]`,
	}
	if ranges {
		queries = append(queries, `select from "St at".all_types where int4range_many && int4range(10, 200)`,
			`select from "St at".all_types where int4range_many << int4range(2500, 2510)`)
	}
	for _, name := range []string{"int4", "num", "f8", "text", "varchar", "date", "stamptz", "uuid", "inet", "enum", "domain", "bytea", "interval"} {
		queries = append(queries,
			fmt.Sprintf(`select from "St at".all_types where %[1]s_few = (select %[1]s_few from "St at".all_types where id = 3)`, name),
			fmt.Sprintf(`select %[1]s_many from "St at".all_types group by %[1]s_many`, name),
			fmt.Sprintf(`select from "St at".all_types a join "St at".all_types b on a.%[1]s_few = b.%[1]s_few`, name))
	}
	return append(queries,
		`select from "St at".all_types where text_many > 'a "quoted" \ {x,y} '''||chr(10)||' é 中 5'`,
		`select from "St at".all_types where int4_many < 20000`, `select from "St at".all_types where date_many < '2025-01-01'`,
		`select from "St at".all_types where interval_many < '1 day'`, `select from "St at".all_types where stamp_many > '2020-01-03'`)
}

type explained struct {
	Plan struct {
		Node string  `json:"Node Type"`
		Rows float64 `json:"Plan Rows"`
		Cost float64 `json:"Total Cost"`
	}
}

func explain(t *testing.T, url string, ranges bool) []explained {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var all []explained
	for _, query := range planQueries(ranges) {
		var text string
		if err := conn.QueryRow(t.Context(), "explain (format json) "+query).Scan(&text); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		var plans []explained
		if err := json.Unmarshal([]byte(text), &plans); err != nil {
			t.Fatal(err)
		}
		all = append(all, plans[0])
	}
	return all
}

// carriedPlans compares plans made with carried statistics with those after an
// ANALYZE, of which the first two stages must pass over what was carried.
func carriedPlans(t *testing.T, s *pg.Server, url string, ranges bool) {
	t.Helper()
	carried := explain(t, url, ranges)
	without, err := WithoutStatistics(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range without {
		if table.Name != "objects" { // CREATE STATISTICS: not carried
			t.Errorf("counts as without statistics: %s", table)
		}
	}
	report, err := Analyze(t.Context(), s, AnalyzeOptions{Stages: Stages(), Small: -1, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range report.Tables {
		rough := strings.Join(table.Targets, " ") != "default"
		if lacked := table.Name == "objects" || table.Name == "empty"; rough && !lacked {
			t.Errorf("%s was carried, and yet has gone through the stages %s (%s)", table.Table, table.Targets, table.Outcome)
		}
	}
	analyzed := explain(t, url, ranges)
	for i, query := range planQueries(ranges) {
		a, b := carried[i].Plan, analyzed[i].Plan
		near := func(x, y float64) bool { return x <= 2*y+5 && y <= 2*x+5 }
		if a.Node != b.Node || !near(a.Rows, b.Rows) || !near(a.Cost, b.Cost) {
			t.Errorf("%s\ncarried:  %+v\nanalyzed: %+v", query, a, b)
		}
	}
}
