package cutover_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

// A position that somebody sets on old after new's was set ahead, without handing
// out a number, is seen: before 18 the short reading of the pause cannot tell it
// from a sequence that was never used, the look after the switch can. One that is
// dropped or renamed after the decision keeps nothing from its end.
func TestSequencesThatAreSetMeanwhile(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		m := started(t, pair)
		for _, url := range []string{m.oldURL, m.newURL} {
			pgtest.Exec(t, url, `set default_transaction_read_only = off`, `create sequence public.fresh`, `create sequence public.used`, `create sequence public.down increment -1`)
		}
		pgtest.Exec(t, m.oldURL, `select nextval('public.used')`)
		pgtest.Exec(t, m.oldURL, `create sequence public.dropped`, `create sequence public.renamed`)
		pgtest.Exec(t, m.newURL, `set default_transaction_read_only = off`, `create sequence public.dropped`, `create sequence public.renamed`)
		m.Options.Margin = 1000
		c := m.cutover(t)
		report := &reporting{facts: map[string]any{}}
		c.Observer = &decided{leased: leased{reporting: report, act: func() {
			pgtest.Exec(t, m.oldURL, `select setval('public.fresh', 5000, false), setval('public.used', 6000, false), setval('public.down', -7000, false)`)
		}}, act: func() {
			pgtest.Exec(t, m.oldURL, `set default_transaction_read_only = off`, `drop sequence public.dropped`, `alter sequence public.renamed rename to other`)
		}}
		if err := c.Run(t.Context(), t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, hint.Of(err))
		}
		if text, err := json.Marshal(report.facts["switch"]); err != nil || !strings.Contains(string(text), "2 sequences cannot be read on the old server any more") {
			t.Errorf("%s, %v", text, err)
		}
		for name, least := range map[string]int64{"fresh": 5000, "used": 6000, "down": 7000} {
			if next := pgtest.Value[int64](t, m.newURL, `select abs(nextval($1::text::regclass))`, "public."+name); next < least {
				t.Errorf("%s hands out %d on new, old had been set to %d", name, next, least)
			}
		}
	})
}

// decided acts after the decision as well.
type decided struct {
	leased
	act func()
}

func (d *decided) StepDone(s step.Step, facts any, took time.Duration) {
	d.leased.StepDone(s, facts, took)
	if s.Final {
		d.act()
	}
}

// Thousands that nobody uses cost nothing in the pause's record, and those that
// outran what new was given get more in the pause, through a lost session as well.
func TestManySequencesInThePause(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	m := started(t, pair)
	const many, busy = 3000, 40 // for two sessions
	for _, url := range []string{m.oldURL, m.newURL} {
		for i := 0; i < many; i += 500 {
			pgtest.Exec(t, url, `set default_transaction_read_only = off`,
				fmt.Sprintf(`do $$ begin for i in %d .. %d loop execute 'create sequence public.many' || i; end loop; end $$`, i, i+499))
		}
	}
	m.Options.Margin = 1000
	report := &reporting{facts: map[string]any{}}
	c := m.cutover(t)
	ended := int64(0)
	c.Observer = &paused{reporting: report, act: func() {
		pgtest.Exec(t, m.oldURL, fmt.Sprintf(`select count(setval('public.many' || i, 990)) from generate_series(0, %d) i`, busy-1))
		ended = pgtest.Value[int64](t, m.oldURL, `select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name like 'pgcutover/%/sequences' and datname = current_database()
			and pid <> (select max(pid) from pg_stat_activity where application_name like 'pgcutover/%/sequences' and datname = current_database())`)
	}}
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	if ended != 1 {
		t.Errorf("%d of the sessions were ended", ended)
	}
	text, err := json.Marshal(report.facts["sequences"])
	if err != nil {
		t.Fatal(err)
	}
	var facts struct {
		Read  int
		Again []struct{ Name string }
	}
	if err := json.Unmarshal(text, &facts); err != nil {
		t.Fatal(err)
	}
	again := 0
	for _, s := range facts.Again { // the shop's are in use, too
		if strings.HasPrefix(s.Name, "many") {
			again++
		}
	}
	if facts.Read < many || again != busy || len(text) > 300*(len(facts.Again)+1) {
		t.Errorf("%d read, %d set again, %d bytes", facts.Read, again, len(text))
	}
	wrong := fmt.Sprintf(`select count(*) from generate_series(0, %d) i where nextval('public.many' || i) <> case when i < %d then 1991 else 1001 end`, many-1, busy)
	if n := pgtest.Value[int64](t, m.newURL, wrong); n != 0 {
		t.Errorf("%d of them stand elsewhere on new", n)
	}
}

// paused acts when the poolers are paused, before writers are frozen.
type paused struct {
	*reporting
	act func()
}

func (p *paused) StepDone(s step.Step, facts any, took time.Duration) {
	p.reporting.StepDone(s, facts, took)
	if s.Name == "pause" {
		p.act()
	}
}
