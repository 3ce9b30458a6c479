package sequences_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/sequences"
)

// TestScript runs a script with psql on names made to break out of its
// comments and literals.
func TestScript(t *testing.T) {
	psql, _, err := pgclient.FindClient(t.Context(), "psql", 10)
	if err != nil {
		t.Fatal(err)
	}
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		names := append([]string{"x\ncreate table evil();\n--", "x\r\ncreate table evil();--", `\! touch evil`, `q'); create table evil();--`, ":name :'name'"}, oddNames...)
		for _, n := range names {
			s.exec(t, "create sequence "+pgx.Identifier{n}.Sanitize()+" maxvalue 1000")
		}
		onNew := s.read(t)
		onOld := append([]sequences.Sequence(nil), onNew...)
		for i := range onOld {
			switch i % 3 {
			case 0:
				onOld[i].LastValue, onOld[i].IsCalled = int64(100+i), true
			case 1:
				onOld[i].LastValue, onOld[i].IsCalled = 1000, true
			}
		}
		changes, problems := sequences.Plan(onOld, onNew, 0)
		if len(problems) != 0 || len(changes) != len(names) {
			t.Fatalf("%d changes, problems %+v", len(changes), problems)
		}
		script := sequences.Script(changes, nil)
		for _, line := range strings.SplitAfter(script, "\n") {
			if comment := strings.HasPrefix(line, "-- kept: "); comment && !strings.Contains(line, "new is there already; old stands at 1 (not handed out yet)") {
				t.Errorf("a kept sequence's comment is broken: %q", line)
			}
		}
		runScript(t, psql, s.url, script)
		for i, n := range s.read(t) {
			c := changes[i]
			if want := (sequences.Value{Ref: c.Ref, LastValue: c.Value, IsCalled: c.Exhausted}); n.Value != want {
				t.Errorf("stands at %+v, want %+v\n%s", n.Value, want, script)
			}
		}
		var evil bool
		if err := s.client.QueryRow(t.Context(), `select to_regclass('public.evil') is not null`).Scan(&evil); err != nil || evil {
			t.Errorf("a name was executed (error %v)\n%s", err, script)
		}
	})
}

func TestScriptText(t *testing.T) {
	old, fresh := seq(41, true), seq(1, false)
	used, _ := sequences.Plan([]sequences.Sequence{old}, []sequences.Sequence{fresh}, 100)
	end := bounds(1, 100)
	ended, _ := sequences.Plan([]sequences.Sequence{seq(100, true, end)}, []sequences.Sequence{seq(7, true, end)}, 100)
	kept, _ := sequences.Plan([]sequences.Sequence{old}, []sequences.Sequence{seq(500, false)}, 100)
	got := sequences.Script(append(append(used, ended...), kept...), []sequences.Problem{{Ref: used[0].Ref, Text: "missing\n on new", Hint: "CREATE"}})
	want := `-- Sequences of the new server, set past those of the old one.
-- 2 to set, 1 kept, 1 without a safe change.
-- Run with psql on the new server, before clients use it: it looks at nothing again.
\set ON_ERROR_STOP on
set client_encoding = 'UTF8';
set standard_conforming_strings = on;
-- PROBLEM: "public"."s": missing? on new: CREATE
begin read write;
ALTER SEQUENCE "public"."s" RESTART WITH 142; -- new was 1 (not handed out yet), next is 142; old stands at 41 (handed out), 100 more may follow there
SELECT pg_catalog.setval('"public"."s"'::pg_catalog.regclass, 100, true); -- new was 7 (handed out), next is none; old is at its end, 100; WARNING: exhausted: nextval will fail on new
-- kept: "public"."s" -- new stands at 500 (not handed out yet); new is ahead already; old stands at 41 (handed out), 100 more may follow there
commit;
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// runScript runs a script as a person would, who has no ON_ERROR_STOP.
func runScript(t *testing.T, psql, url, script string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), psql, "-X", "-q", "-d", url, "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		t.Fatalf("psql: %v\n%s\n%s", err, output.String(), script)
	}
}

// TestScriptOfEveryKind lets psql set sequences of every kind, then draws the next
// number of each: it is the one that the script says, and no number of old.
func TestScriptOfEveryKind(t *testing.T) {
	psql, _, err := pgclient.FindClient(t.Context(), "psql", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs(t) {
		t.Run(p.String(), func(t *testing.T) {
			old, fresh := open(t, p.Old), open(t, p.New)
			old.exec(t, kinds+used)
			fresh.exec(t, kinds)
			if p.Old >= 15 {
				old.exec(t, `create unlogged sequence unlogged; select nextval('unlogged')`)
				fresh.exec(t, `create unlogged sequence unlogged`)
			}
			changes, problems := sequences.Plan(old.read(t), fresh.read(t), 10)
			if len(problems) > 0 {
				t.Fatalf("problems %+v", problems)
			}
			script := sequences.Script(changes, problems)
			// Until a cutover new is closed for clients.
			fresh.exec(t, `do $$ begin execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$`)
			runScript(t, psql, fresh.url, script)
			for _, c := range changes {
				var got int64
				err := fresh.client.QueryRow(t.Context(), `select nextval($1::text::regclass)`, c.Ident()).Scan(&got)
				switch {
				case c.Exhausted && !pg.IsCode(err, "2200H"):
					t.Errorf("%s is to be at its end: %d, %v", c.Ident(), got, err)
				case c.Exhausted:
				case err != nil || got != c.Value:
					t.Errorf("%s: next is %d (%v), the script says %d", c.Ident(), got, err, c.Value)
				case c.Old.IsCalled && (got > c.Old.LastValue) != (c.Old.Increment > 0):
					t.Errorf("%s: next is %d, old has handed out %d", c.Ident(), got, c.Old.LastValue)
				}
			}
		})
	}
}

// More than 1,000 sequences are more than one transaction.
func TestScriptOfMany(t *testing.T) {
	changes, _ := sequences.Plan([]sequences.Sequence{seq(41, true)}, []sequences.Sequence{seq(1, false)}, 100)
	kept, _ := sequences.Plan([]sequences.Sequence{seq(41, true)}, []sequences.Sequence{seq(500, false)}, 100)
	for _, tt := range []struct{ due, parts int }{{0, 1}, {1, 1}, {1000, 1}, {1001, 2}, {2001, 3}} {
		var all []sequences.Change
		for range tt.due {
			all = append(all, changes[0], kept[0])
		}
		script := sequences.Script(all, nil)
		if begins, commits := strings.Count(script, "\nbegin read write;\n"), strings.Count(script, "\ncommit;\n"); begins != tt.parts || commits != tt.parts {
			t.Errorf("%d: %d begins, %d commits, want %d", tt.due, begins, commits, tt.parts)
		}
	}
}

func TestSetText(t *testing.T) {
	end := bounds(1, 100)
	changes, _ := sequences.Plan([]sequences.Sequence{seq(95, true, end)}, []sequences.Sequence{seq(1, false, end)}, 100)
	want := "1 sequence set\n  \"public\".\"s\": next is 98: room for only 5 numbers before the bound 100: the margin is 2 instead of 100\n"
	if got := sequences.SetText(changes); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
