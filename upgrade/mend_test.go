package upgrade

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/preflight"
)

// Settings of the server, which no transaction can change, are set for the time of
// the move and put back as they were: one that ALTER SYSTEM had set, and one
// that it had not.
func TestMendSettingsOfTheServer(t *testing.T) {
	m, _, newURL := opened(t, "settings")
	reload := func(sql ...string) {
		t.Helper()
		before := pgtest.Value[time.Time](t, newURL, `select pg_conf_load_time()`)
		pgtest.Exec(t, newURL, append(sql, `select pg_reload_conf()`)...)
		for !pgtest.Value[time.Time](t, newURL, `select pg_conf_load_time()`).After(before) {
			if t.Context().Err() != nil {
				t.Fatal("the server does not read its files again")
			}
		}
	}
	reload(`alter system set autovacuum_naptime = '1h'`, `alter system set vacuum_cost_delay = '20ms'`, `alter system set autovacuum_vacuum_cost_delay = -1`)
	t.Cleanup(func() { reload(`alter system reset all`) })
	const files = `select coalesce(string_agg(name || '=' || setting, ' ' order by name), '') from pg_file_settings where sourcefile like '%auto.conf' and name like 'autovac%'`
	before := pgtest.Value[string](t, newURL, files)
	m = reopened(t, "settings", m.Options.Old.URL, newURL)
	report, err := m.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fixes := slices.DeleteFunc(Mendable(report.Findings), func(f preflight.Finding) bool { return !strings.HasPrefix(f.ID, "autovacuum.") })
	if len(fixes) != 2 {
		t.Fatalf("%d fixes, want those of autovacuum.timid and autovacuum.rare: %+v", len(fixes), fixes)
	}
	if _, err := m.Mend(t.Context(), fixes); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.Value[string](t, newURL, files); got != "autovacuum_naptime=1min autovacuum_vacuum_cost_delay=2 autovacuum_vacuum_cost_limit=1000" {
		t.Errorf("meanwhile ALTER SYSTEM has %q", got)
	}
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := pgtest.Value[string](t, newURL, files); got != before {
		t.Errorf("after abort ALTER SYSTEM has %q, want %q", got, before)
	}
}
