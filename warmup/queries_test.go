package warmup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func parsedQueries(t *testing.T, text string) []Query {
	t.Helper()
	queries, err := ParseQueries(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return queries
}

const queriesSQL = "\ufeff" + `-- what the shop asks most
-- name: by customer
-- parameters: [5]
-- parameters: ["44"]
-- parameters: [null]
select id, state
  from orders -- parameters: no, not here
 where customer = $1; -- name: with types
/* parameters: [1] */
-- parameters: [[1, 2, null], ["a\"b", "c\\d"], {"a": 1}, 1.5, true, "2026-01-01", "good", [[1],[2]], [1, "x"]]
select count(*) from orders where tags && $1 and not state = any($2) and not data @> $3 and amount > $4 and $5
	and created > $6 and $7::mood = 'good' and tags <> $8 and not data @> $9;

select ';' || $q$;--$q$ as x from customers where id < 4 /* ; */;
with few as (select id from customers where id in (1, 2)) select * from few`

func TestParseQueries(t *testing.T) {
	queries := parsedQueries(t, queriesSQL)
	var got []string
	for _, q := range queries {
		got = append(got, fmt.Sprintf("%s %d %d", q, q.Line, len(q.Parameters)))
	}
	want := []string{"by customer 6 3", "with types 11 1", "line 14 14 1", "line 15 15 1"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if !strings.HasSuffix(queries[2].SQL, "id < 4 /* ; */") || strings.Contains(queries[0].SQL, "name:") {
		t.Errorf("%q", queries[2].SQL)
	}
	for text, want := range map[string]string{
		"":                                   "no query",
		"select 1;\n\nselect $1":             "line 3: it has 1 parameters; a line before it",
		"-- parameters: [1]\nselect $1, $2;": "line 2: it has 2 parameters, and a list of 1 values",
		"-- parameters: [1]\nselect 1":       "line 2: it has 0 parameters, and a list of 1",
		"\n-- parameters: {1}\nselect $1;":   "line 2: parameters: expects a JSON list",
		"-- parameters: null\nselect $1;":    "line 1: parameters: expects a JSON list",
		"delete from orders":                 "line 1: it is no SELECT",
		"select 1;\nwith x as (delete from orders returning *)\nselect * from x": "line 2: it writes within WITH",
		"with x as (select 1), y as (insert into o values (1)) table x":          "it writes within WITH",
		"with x as (select 1) update o set a = 1":                                "it writes within WITH",
		"select * into x from orders":                                            "SELECT INTO",
		"\\timing\nselect 1;":                                                    "commands of psql",
		"-- name: a\nselect 1; -- name: a\nselect 2;":                            `line 3: another query is named "a"`,
		"select $0": "$0 is no parameter",
	} {
		if _, err := ParseQueries(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	if two := parsedQueries(t, "select 1; select 2;"); two[0].String() != "line 1" || two[1].String() != "line 1, query 2" {
		t.Errorf("%s, %s", two[0], two[1])
	}
	parsedQueries(t, `with x as (select "update", delete, 1 as insert from o for update) select * from x; (select 1); values (1); table o`)
}

// The pieces of a text put together are the text, whatever it is.
func TestTokens(t *testing.T) {
	for _, sql := range append(append([]string{queriesSQL, "'", `"`, "/*", "$$", "$", "$a", "1..2", "1e-5+x", `U&"d\0061t"`, "é=ß", "\x80", "a$1", "$1$2"}, reads...), shopSQL...) {
		if got := textOf(tokens(sql)); got != sql {
			t.Errorf("%q became %q", sql, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		sql := rapid.StringOf(rapid.RuneFrom([]rune("aeEuUx$10 '\"\\/*-\n;().:é"))).Draw(t, "sql")
		if got := textOf(tokens(sql)); got != sql {
			t.Fatalf("%q became %q", sql, got)
		}
		once := spaced(meaning(tokens(sql)))
		if again := spaced(meaning(tokens(once))); again != once {
			t.Fatalf("%q became %q, and that %q", sql, once, again)
		}
	})
	for sql, want := range map[string]string{
		`select interval $1, x from o`:                                      `select $1 :: interval , x from o`,
		`select timestamp(3) with time zone $2 - interval $1 day to hour`:   `select $1 :: timestamp ( 3 ) with time zone - $2 :: interval day to hour`,
		`select extract($1 from x), $2`:                                     `select extract ( 'epoch' from x ), $1`,
		`select extract($1 from x) from o group by extract(year from x), b`: `select extract ( year from x ) from o group by extract ( year from x ), b`,
		`select double precision $1`:                                        `select $1 :: double precision`,
		`select a->>$1, b from o group by a->>'x', b`:                       `select a ->> 'x' , b from o group by a ->> 'x' , b`,
		`select f($1, x), f($2, x) from o order by f($3, x) desc, $4`:       `select f ( $1 , x ), f ( $2 , x ) from o order by f ( $1 , x ) desc , $3`,
		`select x from o where a = -$1 and b = $2`:                          `select x from o where a = -$1 and b = $2`,
		`select x from o where a = -interval $1 and x = $$a$$`:              `select x from o where a = - $1 :: interval and x = $$a$$`,
	} {
		if got := repaired(sql); got != want {
			t.Errorf("%s\nbecame %s\nwant   %s", sql, got, want)
		}
	}
}

// What is run: every query with each list of values, in transactions that cannot
// write, and what fails is told by line.
func queriesRun(t *testing.T, p plansPair) {
	_, newURL := p.shop(t)
	pgtest.Exec(t, newURL, `create sequence shop.seq`, `create function shop.writes() returns int language sql as 'insert into shop.customers values (-1) returning 1'`)
	failing := `
-- name: sequence
select nextval('seq');
select writes();
select set_config('default_transaction_read_only', 'off', false), set_config('search_path', 'none', false);
-- name: missing
select * from nowhere;
-- name: zero
-- parameters: [1]
-- parameters: [0]
select 1 / $1::int;
-- name: wrong value
-- parameters: ["x"]
select * from orders where id = $1;
-- name: gone
select pg_terminate_backend(pg_backend_pid());
-- name: notified
select pg_notify('shop', 'x');`
	before := pgtest.Catalog(t, newURL)
	xid := pgtest.Value[int64](t, newURL, `select txid_snapshot_xmax(txid_current_snapshot())`)
	s := open(t, newURL)
	good, err := RunQueries(t.Context(), s, parsedQueries(t, queriesSQL), QueriesOptions{Jobs: 3, Rounds: 4})
	if err != nil {
		t.Fatal(err)
	}
	if good.Runs != 4*6 || good.Failed != 0 {
		t.Errorf("%d runs, %d failed: %+v", good.Runs, good.Failed, good.Queries)
	}
	for i, want := range [][]int64{{20, 20, 0}, {1}, {3}, {2}} {
		if q := good.Queries[i]; !slices.Equal(q.Rows, want) || q.Runs != 4*len(want) || q.MinMS <= 0 || q.MedianMS < q.MinMS || q.P99MS < q.MedianMS || q.MaxMS < q.P99MS {
			t.Errorf("%s: %+v, want rows %v", q.label(), q, want)
		}
	}
	bad, err := RunQueries(t.Context(), s, parsedQueries(t, failing), QueriesOptions{Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"25006", "25006", "", "42P01", "22012", "22P02", "57P01", ""} {
		q := bad.Queries[i]
		code := ""
		if len(q.Errors) == 1 && q.Errors[0].Count == 2 {
			code = q.Errors[0].Code
		}
		if code != want || (want == "") != (len(q.Errors) == 0) {
			t.Errorf("%s: %+v, want %s", q.label(), q.Errors, want)
		}
	}
	if q := bad.Queries[4]; q.Failed != 2 || !slices.Equal(q.Rows, []int64{1, -1}) || q.Errors[0].Parameters != 2 {
		t.Errorf("of two lists of values the second fails: %+v", q)
	}
	long, err := RunQueries(t.Context(), s, parsedQueries(t, `select pg_sleep(600)`), QueriesOptions{Timeout: 200 * time.Millisecond})
	if err != nil || long.Failed != 1 || long.Queries[0].Errors[0].Code != "57014" {
		t.Errorf("too long: %+v, %v", long, err)
	}
	var text bytes.Buffer
	if err := bad.WriteText(&text); err != nil || !strings.Contains(text.String(), "2 failed, line 11 with values 2: division by zero 22012") {
		t.Errorf("%v\n%s", err, &text)
	}
	if after := pgtest.Catalog(t, newURL); after != before {
		t.Error(pgtest.Diff(before, after))
	}
	if now := pgtest.Value[int64](t, newURL, `select txid_snapshot_xmax(txid_current_snapshot())`); now != xid {
		t.Errorf("transactions with an id: %d before, %d after", xid, now)
	}
	noSessions(t, newURL)
	queriesBounds(t, newURL)
}

// Rate and duration hold, and the context ends it.
func queriesBounds(t *testing.T, url string) {
	s, queries := open(t, url), parsedQueries(t, `select 1`)
	began := time.Now()
	paced, err := RunQueries(t.Context(), s, queries, QueriesOptions{Rounds: 11, Rate: 20, Jobs: 2})
	if err != nil || paced.Runs != 11 || time.Since(began) < 500*time.Millisecond {
		t.Errorf("11 runs at 20 a second took %s, %d runs, %v", time.Since(began), paced.Runs, err)
	}
	bounded, err := RunQueries(t.Context(), s, queries, QueriesOptions{For: 200 * time.Millisecond, Rate: 5})
	if err != nil || bounded.Runs > 2 {
		t.Errorf("0.2 s at 5 a second: %d runs, %v", bounded.Runs, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = RunQueries(ctx, s, queries, QueriesOptions{For: time.Hour, Progress: func(n int) {
		if n == 3 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	noSessions(t, url)
}

// Both servers run the file: times, numbers of rows and plans are compared.
func queriesCompared(t *testing.T, p plansPair) {
	oldURL, newURL := p.shop(t)
	pgtest.Exec(t, newURL, `delete from shop.customers where id = 2`, `drop index shop.orders_customer`)
	c, err := CompareQueries(t.Context(), open(t, oldURL), open(t, newURL), parsedQueries(t, queriesSQL), QueriesOptions{Rounds: 2}, PlansOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []QueryComparison{{Plan: PlanIndexMissing, SameRows: true}, {Plan: PlanSame, SameRows: true}, {Plan: PlanSame}, {Plan: PlanSame}}
	for i, q := range c.Queries {
		if q.SameRows != want[i].SameRows || i != 3 && q.Plan != want[i].Plan || q.Ratio <= 0 {
			t.Errorf("%+v, want %+v", q, want[i])
		}
	}
	var text bytes.Buffer
	if err := c.WriteText(&text); err != nil || !strings.Contains(text.String(), "3 / 2") || !strings.Contains(text.String(), "index missing") {
		t.Errorf("%v\n%s", err, &text)
	}
	if t.Failed() {
		t.Log(text.String())
	}
	if out, err := json.Marshal(c); err != nil || !bytes.Contains(out, []byte(`"rows":[20,20,0]`)) {
		t.Errorf("%v\n%s", err, out)
	}
}

// With the values of a file the plans are those for these values.
func plansOfFile(t *testing.T, p plansPair) {
	oldURL, newURL := p.shop(t)
	for _, url := range []string{oldURL, newURL} {
		pgtest.Exec(t, url, `update shop.orders set customer = 1 where id > 500`, `vacuum full shop.orders`, `analyze shop.orders`)
	}
	queries := parsedQueries(t, "-- name: q\n-- parameters: [1]\n-- parameters: [7]\nselect * from orders where customer = $1;\n-- name: none\nselect * from nowhere;")
	r := comparedPlans(t, oldURL, newURL, PlansOptions{Statements: PlanStatements(queries)})
	for id, want := range map[string]string{"q #1": "Seq Scan on shop.orders", "q #2": "using orders_customer"} {
		at := slices.IndexFunc(r.Statements, func(c PlanComparison) bool { return c.ID == id })
		if at < 0 {
			t.Fatalf("no %s", id)
		}
		s := r.Statements[at]
		if s.Verdict != PlanSame || s.Method != ParameterPlan || !strings.Contains(s.New.Root.String(), want) {
			t.Errorf("%s is %s\n%s", id, s.Verdict, textOfReport(t, r))
		}
	}
	if s := comparisonOf(t, r, "nowhere"); s.Verdict != PlanUnexplained || s.Unexplained != "old" {
		t.Errorf("%s: %s", s.Text, s.Verdict)
	}
}
