package sequences_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

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
		script := sequences.Script(changes)
		for _, line := range strings.SplitAfter(script, "\n") {
			if comment := strings.HasPrefix(line, "-- kept: "); comment && !strings.Contains(line, "new is there already; old stands at 1 (not handed out yet)") {
				t.Errorf("a kept sequence's comment is broken: %q", line)
			}
		}
		cmd := exec.CommandContext(t.Context(), psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", s.url, "-f", "-")
		cmd.Stdin = strings.NewReader(script)
		var output bytes.Buffer
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Run(); err != nil {
			t.Fatalf("psql: %v\n%s\n%s", err, output.String(), script)
		}
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
	got := sequences.Script(append(append(used, ended...), kept...))
	want := `-- Sequences of the new server, set past those of the old one.
-- 2 to set, 1 kept. Run with psql on the new server, before clients use it.
set standard_conforming_strings = on;
begin;
ALTER SEQUENCE "public"."s" RESTART WITH 142; -- old last value 41, new was 1 (not handed out yet): old stands at 41 (handed out), 100 more may follow there
SELECT pg_catalog.setval('"public"."s"'::pg_catalog.regclass, 100, true); -- old last value 100, new was 7 (handed out): old is at its end, 100; WARNING: exhausted: nextval will fail on new
-- kept: "public"."s" -- old last value 41, new was 500 (not handed out yet): new is ahead already; old stands at 41 (handed out), 100 more may follow there
commit;
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
