package schema

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestNewestCommonVersion(t *testing.T) {
	for _, c := range []struct {
		a, b []string
		want string
	}{
		{[]string{"1.9", "1.10", "1.2"}, []string{"1.10", "1.9", "2.0"}, "1.10"},
		{[]string{"1.4"}, []string{"1.5", "1.6"}, ""},
		{[]string{"unpackaged", "ANY", "1.0"}, []string{"unpackaged", "ANY"}, ""},
		{[]string{"3.4.0beta1", "3.4.0", "3.3.9"}, []string{"3.4.0beta1", "3.3.9"}, "3.4.0beta1"},
		{[]string{"3.4.0beta1", "3.4.0"}, []string{"3.4.0", "3.4.0beta1"}, "3.4.0"},
		{[]string{"3.4", "3.4.1"}, []string{"3.4.1", "3.4"}, "3.4.1"},
	} {
		if got := newestCommon(c.a, c.b); got != c.want {
			t.Errorf("of %v and %v: %q, want %q", c.a, c.b, got, c.want)
		}
	}
}

// Extensions arrive at the newest version that both servers have, in the schema
// of old with its owner; pg_restore leaves them alone, and Remove takes them.
func TestExtensionsArriveAtACommonVersion(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.rolesFor(t, "pgct_x_owner")
		pgtest.Exec(t, p.newURL, `create role pgct_x_owner`)
		pgtest.Exec(t, p.oldURL, `create schema "E xt" authorization pgct_x_owner`, `grant usage on schema "E xt" to public`,
			`create extension hstore schema "E xt"`, `create extension cube`, `create extension earthdistance`, `create extension pg_trgm`,
			`create table public.t (a integer primary key, h "E xt".hstore)`)
		before := snapshotOf(t, p.new)
		catalog := pgtest.Catalog(t, p.newURL)
		pgtest.Exec(t, p.newURL, `create extension pg_trgm`)
		report, err := MakeExtensions(t.Context(), p.old, p.new, nil)
		if err != nil {
			t.Fatal(err, hint.Of(err))
		}
		var names []string
		for _, e := range report.Made {
			names = append(names, e.Name)
			if got := pgtest.Value[string](t, p.newURL, `select extversion from pg_extension where extname = $1`, e.Name); got != e.Version || e.Version == "" {
				t.Errorf("%s is at %s, want %s", e.Name, got, e.Version)
			}
			older := pgtest.Value[string](t, p.oldURL, `select extversion from pg_extension where extname = $1`, e.Name)
			if e.Version != older { // it is the newest there, and each major has the scripts of the earlier ones
				t.Errorf("%s was made at %s, the newest of old is %s", e.Name, e.Version, older)
			}
			if noted := noticed(report.Notices, `extension "`+e.Name+`"`) != ""; noted != (e.Version != e.Default) {
				t.Errorf("%s at %s, default %s: noted %v", e.Name, e.Version, e.Default, noted)
			}
		}
		if !slices.Equal(names, []string{"cube", "earthdistance", "hstore"}) {
			t.Errorf("made %v", names)
		}
		state := `select string_agg(format('%s %s %s %s', extname, extversion, nspname, pg_get_userbyid(nspowner)), ', ' order by extname)
			from pg_extension join pg_namespace n on n.oid = extnamespace`
		now := pgtest.Value[string](t, p.newURL, state)
		if !strings.Contains(now, "E xt pgct_x_owner") {
			t.Errorf("now %s", now)
		}
		if again, err := MakeExtensions(t.Context(), p.old, p.new, nil); err != nil || len(again.Made) > 0 {
			t.Errorf("again: %+v, %v", again, err)
		}
		a := p.move(t, RestoreOptions{Resume: true})
		p.wantSame(t)
		if after := pgtest.Value[string](t, p.newURL, state); after != now {
			t.Errorf("after the restore: %s\nbefore: %s", after, now)
		}
		if err := Remove(t.Context(), p.new, before, RemoveOptions{Ours: a.Objects()}); err != nil {
			t.Fatal(err)
		}
		wantCatalog(t, p.newURL, catalog)
	})
}

// Rows of the user in an extension's configuration table are reported, those of
// the extension are not; an extension that new lacks is an error that names it.
func TestExtensionsWithConfiguration(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create extension citext`, `create table public."con fig" (a integer)`, `create table public.own (a integer)`,
			`insert into public."con fig" values (1), (2), (3)`, `insert into public.own values (1)`,
			`alter extension citext add table public."con fig"`, `alter extension citext add table public.own`,
			`update pg_extension set extconfig = array['public."con fig"'::regclass::oid, 'public.own'::regclass::oid],
			        extcondition = array['where a > 1', 'where a > 1'] where extname = 'citext'`)
		report, err := MakeExtensions(t.Context(), p.old, p.new, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := noticed(report.Notices, `extension "citext"`)
		if !strings.Contains(got, `2 rows of yours in its table public."con fig" are not carried over`) || strings.Contains(got, "public.own") {
			t.Errorf("notices: %s", got)
		}
		pgtest.Exec(t, p.oldURL, `update pg_extension set extname = 'pgct_nowhere' where extname = 'citext'`)
		_, err = MakeExtensions(t.Context(), p.old, p.new, nil)
		if err == nil || !strings.Contains(err.Error(), `"pgct_nowhere"`) || !strings.Contains(hint.Of(err), "install the extension pgct_nowhere") {
			t.Errorf("got %v with the hint %q", err, hint.Of(err))
		}
		pgtest.Exec(t, p.oldURL, `update pg_extension set extname = 'citext' where extname = 'pgct_nowhere'`)
	})
}
