package preflight

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// vacuuming are settings of new, with a way back for each.
func vacuuming(values map[string]string) vacuumSettings {
	v := vacuumSettings{have: map[string]settingFacts{}, undo: map[string]string{}}
	for name, value := range map[string]string{
		"autovacuum_vacuum_cost_limit": "-1", "vacuum_cost_limit": "200", "autovacuum_vacuum_cost_delay": "2", "vacuum_cost_delay": "0", "autovacuum_max_workers": "3",
	} {
		v.have[name] = settingFacts{Name: name, Setting: value}
		v.undo[name] = "ALTER SYSTEM RESET " + name + ";"
	}
	for name, value := range values {
		v.have[name] = settingFacts{Name: name, Setting: value}
	}
	return v
}

func TestVacuumByLoad(t *testing.T) {
	none(t, vacuuming(nil).timid(vacuumLoad{Cost: 66_000, Seconds: 3600}))
	f := only(t, vacuuming(nil).timid(vacuumLoad{Cost: 70_000, Seconds: 3600}), "autovacuum.timid", "")
	for _, want := range []string{"cost limit 200, delay 2 ms", "39.1 MiB a second", "in the last 1h0m0s", "27.3 MiB a second"} {
		if !strings.Contains(f.Seen, want) {
			t.Errorf("%q lacks %q", f.Seen, want)
		}
	}
	if !strings.Contains(f.Fix, "cost_limit = 1000;") || f.Undo != "ALTER SYSTEM RESET autovacuum_vacuum_cost_limit; ALTER SYSTEM RESET autovacuum_vacuum_cost_delay; SELECT pg_reload_conf();" {
		t.Errorf("got %+v", f)
	}
	for cost, limit := range map[float64]string{600_000: "= 2400;", 1e9: "= 10000;"} {
		if f := only(t, vacuuming(nil).timid(vacuumLoad{Cost: cost, Seconds: 1e6}), "autovacuum.timid", ""); !strings.Contains(f.Fix, limit) || !strings.Contains(f.Seen, "11 days") {
			t.Errorf("at %g units a second: %+v", cost, f)
		}
	}
	// What is advised suffices.
	none(t, vacuuming(map[string]string{"autovacuum_vacuum_cost_limit": "2400"}).timid(vacuumLoad{Cost: 600_000, Seconds: 1}))
	// No delay, no bound.
	none(t, vacuuming(map[string]string{"autovacuum_vacuum_cost_delay": "0"}).timid(vacuumLoad{Cost: 1e9, Seconds: 1}))
}

func TestVacuumWorkers(t *testing.T) {
	none(t, vacuuming(nil).timid(vacuumLoad{Slow: 2, Seconds: 1}))
	f := only(t, vacuuming(nil).timid(vacuumLoad{Slow: 4, Seconds: 1}), "autovacuum.workers", "")
	if f.FixKind != FixRestart || f.Undo != "" || !strings.Contains(f.Fix, "= 6;") {
		t.Errorf("before 18: %+v", f)
	}
	slots := map[string]string{"autovacuum_worker_slots": "5"}
	f = only(t, vacuuming(slots).timid(vacuumLoad{Slow: 4, Seconds: 1}), "autovacuum.workers", "")
	if f.FixKind != FixSQL || f.Undo == "" || !strings.Contains(f.Fix, "= 5;") {
		t.Errorf("from 18 on: %+v", f)
	}
	slots["autovacuum_max_workers"] = "5" // no slot is left: a restart gives more
	if f = only(t, vacuuming(slots).timid(vacuumLoad{Slow: 9, Seconds: 1}), "autovacuum.workers", ""); f.FixKind != FixRestart || !strings.Contains(f.Fix, "= 11;") {
		t.Errorf("all slots are workers: %+v", f)
	}
	none(t, vacuuming(map[string]string{"autovacuum_max_workers": "16"}).timid(vacuumLoad{Slow: 40, Seconds: 1}))
}

// What production writes is found in the counters of old: dead rows and indexes,
// not rows that were only inserted.
func TestVacuumLoad(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		load := func() vacuumLoad {
			t.Helper()
			l, err := readOne[vacuumLoad](t.Context(), p.Old, "", vacuumLoadSQL, 0.2, 50.0, 60.0, 5.0)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		pgtest.Exec(t, p.oldURL, `create table inserted (a int)`, `insert into inserted select generate_series(1, 20000)`)
		if l := load(); l.Cost != 0 || l.Slow != 0 || l.Seconds < 1 {
			t.Fatalf("before an update: %+v", l)
		}
		pgtest.Exec(t, p.oldURL, `create table updated (a int)`, `insert into updated select generate_series(1, 20000)`, `analyze updated`,
			`update updated set a = a + 1`)
		eventually(t, "the update to be counted", func() bool { return load().Cost > 0 })
		bare := load()
		if bare.Slow != 1 {
			t.Errorf("a vacuum of more than 5 units, and %+v", bare)
		}
		pgtest.Exec(t, p.oldURL, `create index on updated (a)`)
		if l := load(); l.Cost*l.Seconds <= bare.Cost*bare.Seconds {
			t.Errorf("an index makes no work: %+v, and before %+v", l, bare)
		}
	})
}
