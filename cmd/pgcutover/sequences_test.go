package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/sequences"
)

// sequences diff, sql and apply, as an operator sees them.
func TestSequences(t *testing.T) {
	old, new := servers(t)
	pgtest.Exec(t, old, `create table orders (id serial primary key)`, `insert into orders values (900)`, `create sequence gone`, `create sequence same`,
		`select nextval('orders_id_seq') from generate_series(1, 7)`)
	pgtest.Exec(t, new, `create table orders (id serial primary key)`, `insert into orders values (900)`, `create sequence same`)
	sequence := func(args ...string) result {
		return pgcutover(t, append([]string{"sequences", "--old", old, "--new", new}, args...)...)
	}
	r := sequence("diff")
	r.expect(t, exitDone, "3 sequences compared: 1 equal or ahead on new, 2 to look at.", `"public"."gone": missing on new`, `on new: CREATE SEQUENCE "public"."gone"`,
		`"public"."orders_id_seq": old stands at 7 (handed out), new is 7 numbers behind at 1 (not handed out yet)`,
		"rows: column public.orders.id has 900 as its greatest number on old, and the sequence is to hand out 8 next there")
	if strings.Contains(r.out, `"same"`) {
		t.Errorf("an equal one is named:\n%s", r.out)
	}
	sequence("diff", "--all").expect(t, exitDone, `"public"."same": both stand at 1`)
	var diff sequenceDiff
	r = sequence("diff", "--json")
	if err := json.Unmarshal([]byte(r.out), &diff); err != nil || len(diff.Sequences) != 3 {
		t.Fatalf("%v in %s", err, r.out)
	}
	for _, d := range diff.Sequences {
		if d.Name == "orders_id_seq" && (d.Status != sequences.Behind || len(d.Beyond) != 1 || !strings.Contains(d.Beyond[0].Mend, "setval")) {
			t.Errorf("got %+v", d)
		}
	}
	r = sequence("sql")
	r.expect(t, exitDone, `ALTER SEQUENCE "public"."orders_id_seq" RESTART WITH 108; -- new was 1 (not handed out yet), next is 108; old stands at 7 (handed out)`,
		`-- PROBLEM: "public"."gone": missing on new`)
	if !strings.Contains(r.err, `"public"."gone": missing on new: CREATE SEQUENCE`) {
		t.Errorf("who keeps the script in a file is not told what it lacks: %q", r.err)
	}
	sequence("apply").expect(t, exitFailed, `"public"."gone": missing on new`, "CREATE SEQUENCE")
	pgtest.Exec(t, new, `create sequence gone`)
	sequence("apply").expect(t, exitDone, "3 sequences set")
	sequence("apply").expect(t, exitDone, "0 sequences set")
	if got := pgtest.Value[int64](t, new, `select nextval('orders_id_seq')`); got != 108 {
		t.Errorf("the next number on new is %d, want 108", got)
	}
}
