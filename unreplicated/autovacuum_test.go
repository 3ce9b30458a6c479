package unreplicated_test

import (
	"fmt"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// An autovacuum that is at work on the target's table, such as after an attempt
// that copied its rows and was undone, gives way.
func TestSendsAutovacuumAway(t *testing.T) {
	for _, pair := range pgtest.Pairs(t) {
		t.Run(fmt.Sprintf("%dto%d", pair.Old, pair.New), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Cluster(t, pgserver.Options{Major: pair.New, Settings: map[string]string{
				"autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1",
				"autovacuum_vacuum_threshold": "10", "autovacuum_vacuum_scale_factor": "0",
			}})
			oldURL, newURL := pgtest.Database(t, pgtest.Server(t, pair.Old)), c.URL("postgres")
			old, new := open(t, pg.Old, oldURL, "vacuum"), open(t, pg.New, newURL, "vacuum")
			pgtest.Exec(t, oldURL, `create unlogged table public.u (n integer)`, `insert into public.u values (1)`)
			pgtest.Exec(t, newURL, `create unlogged table public.u (n integer)`, `insert into public.u select generate_series(1, 20000)`, `delete from public.u where n % 2 = 0`)
			until(t, func() bool {
				return pgtest.Value[bool](t, newURL, `select exists (select 1 from pg_stat_activity where query like 'autovacuum: VACUUM%public.u%')`)
			})
			if _, err := move(t, old, new, options()); err != nil {
				t.Fatal(err)
			}
			if n := pgtest.Value[int](t, newURL, `select count(*) from public.u`); n != 1 {
				t.Errorf("%d rows", n)
			}
		})
	}
}
