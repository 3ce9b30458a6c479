package upgrade

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/warmup"
)

func TestOwnerOfColumn(t *testing.T) {
	url := pgtest.Database(t, pgtest.Server(t, pgtest.Majors(t)[0]))
	for _, want := range []warmup.Table{
		{Schema: "public", Name: "plain"}, {Schema: "S p", Name: `quo"ted`}, {Schema: `"`, Name: `""`}, {Schema: "a.b", Name: `c"."d`}, {Schema: "Ünï", Name: "select"},
	} {
		text := pgtest.Value[string](t, url, `select format('%I.%I.%I', $1::text, $2::text, 'i.d')`, want.Schema, want.Name)
		if got, ok := owner(text); !ok || got != want {
			t.Errorf("%s is of %v, want %v", text, got, want)
		}
	}
	if _, ok := owner(""); ok {
		t.Error("a sequence that no column owns has a table")
	}
}

// What the first queries find: each table with its statistics and the margin of
// its sequences, those of no table apart, and a line that sums them up.
func TestCondition(t *testing.T) {
	m, oldURL, newURL := opened(t, "condition")
	for _, url := range []string{oldURL, newURL} {
		pgtest.Exec(t, url, `create schema "S p"`, `create table "S p"."quo""ted" (id bigserial primary key)`, `create sequence lonely`)
	}
	pgtest.Exec(t, newURL, itemSQL, `insert into public.item (name) select 'x' from generate_series(1, 50)`, `analyze public.item`,
		`insert into "S p"."quo""ted" select from generate_series(1, 7)`, `select setval('item_id_seq', 120)`, `select setval('lonely', 60)`, `select setval('"S p"."quo""ted_id_seq"', 40)`)
	pgtest.Exec(t, oldURL, `select setval('lonely', 20)`, `select setval('"S p"."quo""ted_id_seq"', 30)`)
	c, err := m.Condition(t.Context(), pg.New)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]TableCondition{}
	for _, table := range c.Tables {
		byName[table.String()] = table
	}
	item, quoted := byName[pgx.Identifier{"public", "item"}.Sanitize()], byName[pgx.Identifier{"S p", `quo"ted`}.Sanitize()]
	if age, known := item.Age(c.At); !known || age > time.Hour || item.Lacks != "" {
		t.Errorf("a table that was just analyzed: %+v", item)
	}
	if quoted.Lacks == "" || len(quoted.Sequences) != 1 || quoted.Sequences[0].Left != 10 {
		t.Errorf("a table that was never analyzed, with 10 numbers left: %+v", quoted)
	}
	if len(c.Unowned) != 1 || c.Unowned[0].Left != 40 || c.Room == nil || c.Room.Least.Left != 10 {
		t.Errorf("sequences: %+v, %+v", c.Unowned, c.Room)
	}
	for _, url := range []string{oldURL, newURL} {
		pgtest.Exec(t, url, `create extension pg_buffercache`, `do $$ begin for i in 1..50 loop perform count(name) from public.item; end loop; end $$`)
	}
	if err := m.ReadCache(t.Context(), &c, nil); err != nil {
		t.Fatal(err)
	}
	for _, table := range c.Tables {
		if table.Table == item.Table && (table.Hot == nil || *table.Hot == 0 || *table.Warm != *table.Hot) {
			t.Errorf("a table that is read on both: %+v", table)
		}
	}
	var b strings.Builder
	if err := c.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	text := b.String() + strings.Join(c.Summary(), "\n")
	for _, want := range []string{`"S p"."quo""ted"`, "MISSING", "10 of 100", "40 of 100", "s old", "at least 10 of 100 numbers left", "1 without", "100 % of ", "what is hot on old is in the cache"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

// After a cutover status has to say whether one can go back, whatever else cannot
// be seen.
func TestStatusWithoutACondition(t *testing.T) {
	m, _, _ := opened(t, "unseen")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	s := Status{Verdict: Verdict{CanGoBack: "yes"}}
	m.condition(over, &s)
	if s.Condition != nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "new server") {
		t.Errorf("a look that fails: %+v", s)
	}
	m.condition(t.Context(), &s)
	if s.Condition == nil || len(s.Warnings) != 1 {
		t.Errorf("a look that does not: %+v", s)
	}
}

// Of a move that is not there nobody knows whether it is yet to come or over, and so
// not who serves.
func TestStatusWithoutAMove(t *testing.T) {
	m, _, _ := opened(t, "absent")
	s, err := m.Status(t.Context())
	if err != nil || s.Serving != "unknown" || s.Verdict.CanCutOver || !strings.Contains(s.Phase, "or ended") {
		t.Errorf("%+v, %v", s, err)
	}
}
