package step_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/step"
)

// book is a runbook with everything that statements can say.
func book(t *testing.T) step.Runbook {
	t.Helper()
	s := cutover()[2:4]
	s[0].About, s[0].Bound, s[0].UndoLast, s[0].Behind = "writers wait | at the gate", 1500*time.Millisecond, true, true
	s[0].Statements = step.Fixed(
		step.Statement{Server: "old", Session: step.Lease, SQL: "lock table pgcutover.gate\n  in exclusive mode;\n", Why: "writers wait"},
		step.Statement{Server: "old", SQL: "select '```' -- said"},
		step.Statement{Server: "new", SQL: "select count(*) from \"it's\"", Expect: "1", WaitSeconds: 30, Why: "it is there"},
		step.Statement{Server: "old", SQL: "select format('analyze %I', 'x')", RunOn: "old"},
		step.Statement{Server: "old", SQL: "select 'select 1'", RunOn: "new", Optional: "nobody needs it"},
	)
	s[0].UndoStatements = step.Fixed(step.Statement{Server: "old", Session: step.Lease, SQL: "rollback;"})
	s[1].About, s[1].Bound = "commits the decision", 10*time.Second
	entries, err := step.Plan(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	entries[1].Estimate = &step.Estimate{Known: true, Seconds: 120, How: "2 rows"}
	return step.Runbook{
		Title: "Move shop", Intro: []string{"Read this."},
		Variables: []step.Variable{{Name: "old_conninfo", Server: "new", What: "how new reaches old", Environment: "OLD_CONNINFO"}},
		Sessions: []step.Session{
			{Server: "old", Why: "The ordinary one.", Connect: "$OLD", Setup: "set a = 'b';"},
			{Server: "old", Name: step.Lease, Why: "Holds the lock.", Connect: "$OLD"},
			{Server: "new", Name: step.Subscribe, Why: "Quiet.", Connect: "$NEW"},
		},
		Parts: []step.Part{{Name: "cutover", Title: "Cutover", About: "Clients wait.", Entries: entries}},
	}
}

func TestRunbookMarkdown(t *testing.T) {
	var b strings.Builder
	if err := book(t).WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	want := strings.ReplaceAll(`# Move shop

Read this.

## Sessions

Every session is a window of its own with psql in it. Open it when the first statement asks for it.

### Session: old

The ordinary one.

'''sh
psql "$OLD"
'''

Begin with:

'''sql old - setup
set a = 'b';
'''

### Session: old, session lease

Holds the lock.

'''sh
psql "$OLD"
'''

### Session: new, session subscribe

Quiet.

'''sh
psql "$NEW"
'''

Begin with:

'''sql new subscribe setup
\set old_conninfo 'printf %s "$OLD_CONNINFO"'
'''

Passwords are not in this text. Set before opening psql:

- 'OLD_CONNINFO': how new reaches old

# Cutover

Clients wait.

| # | step | does | at most | takes | undo | |
|--:|---|---|--:|---|---|---|
| 1 | freeze | writers wait \| at the gate | 1.5s |  | at most 30s | undone last |
| 2 | decide | commits the decision | 10s | about 2 min | nothing to undo | point of no return |

## cutover 1: freeze

Writers wait | at the gate.

At most 1.5s.

Clients wait during this step.

On **old**, session **lease**: writers wait

'''sql old lease
lock table pgcutover.gate
  in exclusive mode;
'''

On **old**

''''sql old -
select '''''' -- said
;
''''

On **new**: it is there

'''sql new -
select count(*) from "it's";
'''

Wait until it answers '1', at most 30s.

On **old**

'''sql old -
select format('analyze %I', 'x')
\gexec
'''

Run each row that it answers here, too.

On **old**

'''sql old -
select 'select 1';
'''

Run each row that it answers on new.

May be left out: nobody needs it.

### Undo of freeze

Only to take it back, after the undo of all other steps. At most 30s.

On **old**, session **lease**

'''sql old lease undo
rollback;
'''

## cutover 2: decide

Commits the decision.

At most 10s. Takes about 2 min (2 rows).

> **Point of no return.** Until the COMMIT of this step everything before can be undone; after it, only forward, or by a rollback of its own.

No statement changes a server.
`, "'''", "```")
	for from, to := range map[string]string{
		"select ``````": "select '```'", "````sql old -\nselect '": "````sql old -\nselect '", "\n```'": "\n````", "```'sql": "````sql",
		"'printf %s \"$OLD_CONNINFO\"'": "`printf %s \"$OLD_CONNINFO\"`", "- 'OLD_CONNINFO'": "- `OLD_CONNINFO`", "answers '1'": "answers `1`",
	} {
		want = strings.ReplaceAll(want, from, to)
	}
	if b.String() != want {
		t.Fatalf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestRunbookSQL(t *testing.T) {
	var both, old, new strings.Builder
	for server, b := range map[string]*strings.Builder{"": &both, "old": &old, "new": &new} {
		if err := book(t).WriteSQL(b, server); err != nil {
			t.Fatal(err)
		}
	}
	wantNew := `-- Move shop
-- Read this.
-- This is the script of new. At "<<< n" wait until the script of the other server has come to ">>> n".
\set ON_ERROR_STOP on

-- Session new, session subscribe: Quiet.
--   psql "$NEW"
--   \set old_conninfo ` + "`printf %s \"$OLD_CONNINFO\"`" + `
--   -- OLD_CONNINFO: how new reaches old

-- ######## Cutover ########
-- Clients wait.

-- ==== cutover 1: freeze: writers wait | at the gate
-- at most 1.5s, undone last
-- <<< 1: new goes on when old has come so far
-- ---- in the window of new
-- it is there
-- wait until it answers 1, at most 30s
do $pgcutover_wait$
declare
  answer text;
begin
  for i in 1 .. 151 loop
    perform pg_catalog.pg_stat_clear_snapshot();
    execute 'select count(*) from "it''s"' into answer;
    if answer in ('1') then
      return;
    end if;
    if i < 151 then
      perform pg_catalog.pg_sleep(0.2);
    end if;
  end loop;
  raise exception '%: do not go on', coalesce('the answer is ' || answer, 'there is no answer');
end
$pgcutover_wait$;
-- >>> 2: new has come so far

-- ==== cutover 2: decide: commits the decision
-- at most 10s, takes about 2 min (2 rows), point of no return
`
	if new.String() != wantNew {
		t.Errorf("new: got\n%s\nwant\n%s", new.String(), wantNew)
	}
	for _, text := range []string{"-- >>> 1: old has come so far\n", "-- <<< 2: old goes on when new has come so far\n", "-- undo on old, session lease:\n-- rollback;\n"} {
		if !strings.Contains(old.String(), text) || !strings.Contains(both.String(), text) {
			t.Errorf("the script of old, or that of both, is without %q:\n%s", text, old.String())
		}
	}
	if !strings.Contains(old.String(), "\n-- may be left out: nobody needs it\n-- select 'select 1';\n") {
		t.Errorf("what may be left out is no comment:\n%s", old.String())
	}
	if strings.Contains(old.String(), "it's") {
		t.Errorf("the script of old holds what is for new:\n%s", old.String())
	}
}

// The text form shows a few of many of a kind, and says how many there are; the
// others show all.
func TestPlanShortens(t *testing.T) {
	s := cutover()[:1]
	var statements []step.Statement
	for i := range 10000 {
		statements = append(statements, step.Statement{Server: "old", SQL: fmt.Sprintf("create trigger t%d", i), Why: "a fence trigger"})
	}
	s[0].Statements = step.Fixed(append(statements, step.Statement{Server: "old", SQL: strings.Repeat("select\n", 50)},
		step.Statement{Server: "old", SQL: "lock table " + strings.Repeat("ä", 5000)})...)
	entries, err := step.Plan(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	var text, markdown, sql strings.Builder
	r := step.Runbook{Parts: []step.Part{{Name: "cutover", Entries: entries}}}
	for _, err := range []error{r.WriteText(&text), r.WriteMarkdown(&markdown), r.WriteSQL(&sql, "")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(text.String(), "create trigger"); n != 3 || !strings.Contains(text.String(), "... and 9997 more of these on old") || !strings.Contains(text.String(), "... and 20 more lines") {
		t.Errorf("the text shows %d:\n%.2000s", n, text.String())
	}
	if !strings.Contains(text.String(), "ää ...\n") || text.Len() > 3000 {
		t.Errorf("the text has %d bytes", text.Len())
	}
	for what, b := range map[string]*strings.Builder{"markdown": &markdown, "sql": &sql} {
		if n := strings.Count(b.String(), "create trigger"); n != 10000 {
			t.Errorf("%s shows %d", what, n)
		}
	}
}

// The journal's records stand in the plan where a Runner writes them: the same
// list is run, and both are compared.
func TestRecordsAreWhereTheRunnerWrites(t *testing.T) {
	for name, steps := range map[string][]step.Step{"cutover": cutover(), "behind": behind()} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(steps)
			store := &spying{Store: w.store}
			w.store = store
			if err := w.run(t); err != nil {
				t.Fatal(err)
			}
			entries, err := step.Plan(t.Context(), w.steps)
			if err != nil {
				t.Fatal(err)
			}
			var planned []string
			err = step.Records(entries, func(records []journal.Record) (step.Statement, error) {
				planned = append(planned, words(records))
				return step.Statement{Server: "new", SQL: words(records)}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(planned, store.writes) {
				t.Errorf("planned\n%s\nwritten\n%s", strings.Join(planned, "\n"), strings.Join(store.writes, "\n"))
			}
			for _, e := range entries {
				if e.Behind && len(e.Statements) > 0 && strings.HasPrefix(e.Statements[0].SQL, "freeze") {
					t.Errorf("clients wait for the journal in step %s", e.Name)
				}
			}
		})
	}
}

func words(records []journal.Record) string {
	var out []string
	for _, r := range records {
		out = append(out, r.Step+" "+string(r.Event))
	}
	return strings.Join(out, ", ")
}

// spying is a store that notes each write.
type spying struct {
	journal.Store
	writes []string
}

func (s *spying) Append(ctx context.Context, records ...journal.Record) error {
	s.writes = append(s.writes, words(records))
	return s.Store.Append(ctx, records...)
}
