package schema

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// Views are refreshed in the order in which they read each other, without locking
// readers out where they allow it, and those that old has not filled stay empty.
func TestRefreshAgain(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		for _, url := range []string{p.oldURL, p.newURL} {
			pgtest.Exec(t, url,
				"create table public.rows (n integer primary key)",
				"insert into public.rows select generate_series(1, 3)",
				`create materialized view public.zz as select n from public.rows`,
				`create unique index on public.zz (n)`,
				`create view public.between as select count(*) as n from public.zz`,
				`create materialized view public."a view" as select n from public.between`,
				`create unique index on public."a view" ((n + 1))`, // an expression does not serve
				`create materialized view public.partial as select n from public.rows`,
				`create unique index on public.partial (n) where n > 0`,
				`create materialized view public.never as select 1 as n with no data`)
		}
		pgtest.Exec(t, p.newURL, `insert into public.rows values (4)`)
		statements, err := RefreshAgainSQL(t.Context(), p.old, p.new)
		if err != nil {
			t.Fatal(err)
		}
		want := "refresh materialized view public.partial; refresh materialized view concurrently public.zz; refresh materialized view public.\"a view\""
		if got := strings.Join(statements, "; "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		var said []string
		done, err := RefreshAgain(t.Context(), p.old, p.new, func(text string) { said = append(said, text) })
		if err != nil || done.Views != 3 || done.Concurrent != 1 || len(said) != 3 || done.At.IsZero() {
			t.Errorf("%+v, %v, said %q", done, err, said)
		}
		for view, rows := range map[string]int{"public.zz": 4, "public.partial": 4, `public.between`: 1} {
			if n := pgtest.Value[int](t, p.newURL, "select count(*) from "+view); n != rows {
				t.Errorf("%s has %d rows, want %d", view, n, rows)
			}
		}
		if n := pgtest.Value[int](t, p.newURL, `select n from public."a view"`); n != 4 {
			t.Errorf("the view that reads the other one has %d, want 4", n)
		}
		if pgtest.Value[bool](t, p.newURL, `select relispopulated from pg_class where relname = 'never'`) {
			t.Error("a view that is empty on old was filled")
		}
	})
}
