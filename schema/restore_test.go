package schema

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// wantRefused restores a section that fails, checks that it left nothing, and
// returns the error.
func wantRefused(t *testing.T, p pair, a *Archive, section Section) (*RestoreError, string) {
	t.Helper()
	catalog := pgtest.Catalog(t, p.newURL)
	err := a.Restore(t.Context(), p.new, section, RestoreOptions{})
	var refused *RestoreError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, want a RestoreError", err)
	}
	wantCatalog(t, p.newURL, catalog)
	return refused, hint.Of(err)
}

func TestRestoreErrorNamesTheRole(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		name := fmt.Sprintf(`pgct Only on "%d"`, p.old.Major())
		role := pgx.Identifier{name}.Sanitize()
		pgtest.Exec(t, p.oldURL, `create role `+role+` login createdb connection limit 3`,
			`create table public.first (a integer)`, `create table public."Not ""theirs" (a integer)`,
			`alter table public."Not ""theirs" owner to `+role)
		t.Cleanup(func() { pgtest.Exec(t, p.oldURL, `drop owned by `+role, `drop role `+role) })
		e, advice := wantRefused(t, p, p.dump(t), PreData)
		if want := `TABLE public Not "theirs ` + name; e.Entry != want {
			t.Errorf("the entry is %q, want %q", e.Entry, want)
		}
		if !strings.Contains(e.Message, `role "`+name+`" does not exist`) {
			t.Errorf("the message is %q", e.Message)
		}
		if want := `ALTER TABLE public."Not ""theirs" OWNER TO ` + role + `;`; e.Command != want {
			t.Errorf("the statement is %q, want %q", e.Command, want)
		}
		if want := `create role ` + role + ` login connection limit 3 createdb;`; !strings.Contains(advice, want) {
			t.Errorf("the hint is %q, want %q in it", advice, want)
		}
	})
}

func TestRestoreErrorNamesTheExtension(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create extension citext`, `update pg_extension set extname = 'no "where' where extname = 'citext'`)
		e, advice := wantRefused(t, p, p.dump(t), PreData)
		if !strings.HasPrefix(e.Entry, `EXTENSION - no "where`) || !strings.Contains(advice, `install the extension no "where`) {
			t.Errorf("entry %q, hint %q", e.Entry, advice)
		}
	})
}

func TestRestoreErrorShowsTheConflict(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create table public.a (a integer)`, `create table public."b
c" (a integer unique)`)
		pgtest.Exec(t, p.newURL, `create table public."b
c" (other integer)`)
		a := p.dump(t)
		e, _ := wantRefused(t, p, a, PreData)
		if !strings.HasPrefix(e.Entry, "TABLE public b c ") || !strings.Contains(e.Error(), "already exists") ||
			!strings.Contains(e.Error(), "CREATE TABLE") {
			t.Errorf("entry %q, error %q", e.Entry, e)
		}
		// Constraints fail for what the data is like.
		pgtest.Exec(t, p.newURL, `drop table public."b
c"`)
		if err := a.Restore(t.Context(), p.new, PreData, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, p.newURL, `insert into public."b
c" values (5), (5)`)
		e, _ = wantRefused(t, p, a, PostData)
		if !strings.HasPrefix(e.Entry, "CONSTRAINT public b c ") || !strings.Contains(e.Detail, "Key (a)=(5) is duplicated") {
			t.Errorf("entry %q, detail %q", e.Entry, e.Detail)
		}
	})
}

// A mapping's options hold passwords.
func TestRestoreErrorKeepsSecrets(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create role pgct_mapped`, `create foreign data wrapper w`, `create server s foreign data wrapper w`,
			`create user mapping for pgct_mapped server s options (password 'hunter2')`)
		t.Cleanup(func() { pgtest.Exec(t, p.oldURL, `drop owned by pgct_mapped`, `drop role pgct_mapped`) })
		err := p.dump(t).Restore(t.Context(), p.new, PreData, RestoreOptions{})
		var e *RestoreError
		if !errors.As(err, &e) || !strings.HasPrefix(e.Entry, "USER MAPPING") {
			t.Fatalf("got %v", err)
		}
		if strings.Contains(err.Error()+e.Command+e.Detail+hint.Of(err), "hunter2") {
			t.Errorf("the password is in: %v", err)
		}
	})
}

func TestTablespaces(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		space := fmt.Sprintf(`"pgct Fa""st %d"`, p.old.Major())
		pgtest.Exec(t, p.oldURL, `set allow_in_place_tablespaces = on`, `create tablespace `+space+` location ''`,
			`create table public.t (a integer primary key using index tablespace `+space+`) tablespace `+space)
		t.Cleanup(func() { pgtest.Exec(t, p.oldURL, `drop table public.t`, `drop tablespace `+space) })
		a := p.dump(t)
		e, advice := wantRefused(t, p, a, PreData)
		if !strings.HasPrefix(e.Entry, "TABLE public t ") || !strings.Contains(advice, "CREATE TABLESPACE") {
			t.Errorf("entry %q, hint %q", e.Entry, advice)
		}
		for _, section := range Sections() {
			if err := a.Restore(t.Context(), p.new, section, RestoreOptions{NoTablespaces: true}); err != nil {
				t.Fatal(err)
			}
		}
		p.wantSame(t)
	})
}

// An owner of the new database without superuser needs rights that the hint
// names; with them the move succeeds.
func TestRestoreWithoutSuperuser(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		const roles = `do $$ begin
			if to_regrole('pgct_mover') is null then create role pgct_mover login; end if;
			if to_regrole('pgct_owner') is null then create role pgct_owner; end if;
		end $$`
		pgtest.Exec(t, p.oldURL, roles, `create schema s authorization pgct_owner`,
			`create table s.t (a serial primary key, b text)`, `alter table s.t owner to pgct_owner`,
			`create extension citext`, `grant pgct_owner to pgct_mover`)
		pgtest.Exec(t, p.newURL, roles, `revoke pgct_owner from pgct_mover`,
			`do $$ begin execute format('alter database %I owner to pgct_mover', current_database()); end $$`)
		mover := p
		mover.old = open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "pgct_mover", ""))
		mover.new = open(t, pg.New, pgtest.WithUser(t, p.newURL, "pgct_mover", ""))
		a := mover.dump(t)
		_, advice := wantRefused(t, mover, a, PreData)
		if !strings.Contains(advice, `role "pgct_mover" on the new server lacks a right`) {
			t.Errorf("the hint is %q", advice)
		}
		pgtest.Exec(t, p.newURL, `grant pgct_owner to pgct_mover`)
		before := pgtest.Catalog(t, p.newURL)
		state := snapshotOf(t, mover.new)
		for _, section := range Sections() {
			if err := a.Restore(t.Context(), mover.new, section, RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		mover.wantSame(t)
		if err := Remove(t.Context(), mover.new, state, RemoveOptions{Ours: a.Objects()}); err != nil {
			t.Fatal(err)
		}
		wantCatalog(t, p.newURL, before)
	})
}

// Names that a bare --dbname would take for a connection string.
func TestOddDatabaseName(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		const name = `host=nowhere o'dd \ "n"`
		oddOld, oddNew := oddDatabase(t, p.oldURL, name), oddDatabase(t, p.newURL, name)
		odd := pair{old: open(t, pg.Old, oddOld), new: open(t, pg.New, oddNew), oldURL: oddOld, newURL: oddNew}
		pgtest.Exec(t, oddOld, `create table public.t (a integer primary key)`)
		odd.move(t, RestoreOptions{})
		odd.wantSame(t)
		if !pgtest.Value[bool](t, oddNew, `select to_regclass('public.t') is not null`) {
			t.Error("the table is not in the oddly named database")
		}
	})
}

func oddDatabase(t *testing.T, near, name string) string {
	t.Helper()
	quoted := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
	pgtest.Exec(t, near, `drop database if exists `+quoted)
	pgtest.Exec(t, near, `create database `+quoted+` template template0`)
	t.Cleanup(func() {
		pgtest.Exec(t, near, `select pg_terminate_backend(pid) from pg_stat_activity where datname = '`+strings.ReplaceAll(name, `'`, `''`)+`'`)
		pgtest.Exec(t, near, `drop database `+quoted)
	})
	u, err := url.Parse(near)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// A dump that waits ends with its context, and leaves neither files nor
// sessions.
func TestDumpEndsWithItsContext(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create table public.busy (a integer)`)
		holder, err := p.old.Connect(t.Context(), "holder", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer pg.Close(t.Context(), holder)
		if _, err := holder.Exec(t.Context(), `begin; lock table public.busy`); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		dir, begun := t.TempDir(), time.Now()
		a, err := Dump(ctx, p.old, dir)
		if !errors.Is(err, context.DeadlineExceeded) || a != nil {
			t.Errorf("got %v, want the context's error", err)
		}
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("the dump ended after %s", took)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left in the folder: %v, %v", left, err)
		}
		waitForNone(t, p.oldURL, p.old.ApplicationName("dump"))
	})
}

// waitForNone waits until no session has the name.
func waitForNone(t *testing.T, url, application string) {
	t.Helper()
	err := pg.Wait(t.Context(), "sessions to end", 20*time.Millisecond, time.Minute, nil,
		func(context.Context) (bool, string, error) {
			n := pgtest.Value[int](t, url, `select count(*)::int from pg_stat_activity where application_name = $1`, application)
			return n == 0, fmt.Sprint(n), nil
		})
	if err != nil {
		t.Error(err)
	}
}

// What a killed tool left on the new server, a session that holds locks, does
// not stop the next try.
func TestRestoreEndsItsPredecessor(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create schema "Ext"`, `create table "Ext".t (a integer primary key)`)
		stale, err := p.new.Connect(t.Context(), restorePurpose, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer pg.Close(t.Context(), stale)
		if _, err := stale.Exec(t.Context(), `begin; create schema "Ext"`); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		if err := p.dump(t).Restore(ctx, p.new, PreData, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := stale.Exec(t.Context(), `commit`); err == nil {
			t.Error("the earlier session lives on")
		}
	})
}

// Parallel restore of indexes and constraints gives the same schema, and goes on
// after a failure with what is lacking.
func TestParallelRestoreResumes(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.loadRich(t)
		pgtest.Exec(t, p.oldURL, `create table public.twice (a integer unique)`)
		a := p.dump(t)
		for _, section := range []Section{PreData, Identity} {
			if err := a.Restore(t.Context(), p.new, section, RestoreOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		pgtest.Exec(t, p.newURL, `insert into public.twice values (1), (1)`)
		err := a.Restore(t.Context(), p.new, PostData, RestoreOptions{Jobs: 2})
		var e *RestoreError
		if !errors.As(err, &e) || !strings.Contains(e.Entry, "twice_a_key") {
			t.Fatalf("got %v", err)
		}
		pgtest.Exec(t, p.newURL, `truncate public.twice`)
		var seen []string
		err = a.Restore(t.Context(), p.new, PostData, RestoreOptions{Jobs: 2, Resume: true, Progress: func(s string) { seen = append(seen, s) }})
		if err != nil {
			t.Fatal(err)
		}
		p.wantSame(t)
		if !slices.ContainsFunc(seen, func(s string) bool { return strings.Contains(s, "twice_a_key") }) {
			t.Errorf("progress named %q", seen)
		}
		catalog := pgtest.Catalog(t, p.newURL)
		if err := a.Restore(t.Context(), p.new, PostData, RestoreOptions{Jobs: 2, Resume: true}); err != nil {
			t.Errorf("resuming what is finished: %v", err)
		}
		wantCatalog(t, p.newURL, catalog)
	})
}

// Schemas beyond the lock table are restored and removed in several
// transactions, and both go on after an interruption.
func TestLargeSchema(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		// A lock table for 600, half of which is used; a table takes 6.
		small := pgtest.Cluster(t, pgserver.Options{Major: p.new.Major(), Name: "small", Settings: map[string]string{
			"max_connections": "60", "max_prepared_transactions": "0", "max_locks_per_transaction": "10",
		}})
		p.newURL = pgtest.Database(t, small)
		p.new = open(t, pg.New, p.newURL)
		const tables = 400
		pgtest.Exec(t, p.oldURL, fmt.Sprintf(`do $$ begin
			for i in 1..%d loop
				execute format('create table public.t%%s (a integer primary key, b text)', lpad(i::text, 4, '0'));
			end loop;
		end $$`, tables/2), fmt.Sprintf(`do $$ begin
			for i in %d..%d loop
				execute format('create table public.t%%s (a integer primary key, b integer references public.t0001)', lpad(i::text, 4, '0'));
			end loop;
		end $$`, tables/2+1, tables))
		catalog := pgtest.Catalog(t, p.newURL)
		before := snapshotOf(t, p.new)
		a := p.dump(t)
		pgtest.Exec(t, p.newURL, fmt.Sprintf(`create table public.t%04d ()`, tables))
		var e *RestoreError
		err := a.Restore(t.Context(), p.new, PreData, RestoreOptions{})
		if !errors.As(err, &e) || !strings.Contains(e.Entry, fmt.Sprintf("t%04d", tables)) {
			t.Fatalf("got %v", err)
		}
		pgtest.Exec(t, p.newURL, fmt.Sprintf(`drop table public.t%04d`, tables))
		some := len(p.missing(t, PreData))
		if some == 0 || some > 3*tables/2 {
			t.Errorf("%d objects are missing after the failure: want some, since not all is one transaction", some)
		}
		for _, section := range Sections() {
			if err := a.Restore(t.Context(), p.new, section, RestoreOptions{Resume: true}); err != nil {
				t.Fatal(err)
			}
		}
		p.wantSame(t)

		var seen []string
		stop, cancel := context.WithCancel(t.Context())
		defer cancel()
		interrupted := RemoveOptions{Ours: a.Objects(), Progress: func(s string) { seen = append(seen, s); cancel() }}
		if err := Remove(stop, p.new, before, interrupted); !errors.Is(err, context.Canceled) || len(seen) != 1 {
			t.Errorf("the interrupted removal: %v, %q", err, seen)
		}
		if err := Remove(t.Context(), p.new, before, RemoveOptions{Ours: a.Objects()}); err != nil {
			t.Fatal(err)
		}
		wantCatalog(t, p.newURL, catalog)
	})
}

// A restored public schema lets the same roles in as before, although its
// default rights and its owner changed with 15.
func TestPublicSchemaKeepsItsRights(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		before, catalog := snapshotOf(t, p.new), pgtest.Catalog(t, p.newURL)
		pgtest.Exec(t, p.oldURL, `grant create on schema public to public`, `create table public.t (a integer)`)
		a := p.move(t, RestoreOptions{})
		if !pgtest.Value[bool](t, p.newURL, `select has_schema_privilege('pg_monitor', 'public', 'create')`) {
			t.Error("everybody may create in schema public on the old server, not on the new one")
		}
		if err := Remove(t.Context(), p.new, before, RemoveOptions{Ours: a.Objects()}); err != nil {
			t.Fatal(err)
		}
		wantCatalog(t, p.newURL, catalog)
	})
}

// A restore that waits ends with its context, and leaves nothing.
func TestRestoreEndsWithItsContext(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create schema s`, `create table s.t (a integer)`)
		a := p.dump(t)
		holder, err := p.new.Connect(t.Context(), "holder", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer pg.Close(t.Context(), holder)
		if _, err := holder.Exec(t.Context(), `begin; create schema s`); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		err = a.Restore(ctx, p.new, PreData, RestoreOptions{})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		if took := time.Since(begun); took > 30*time.Second {
			t.Errorf("the restore ended after %s", took)
		}
		waitForNone(t, p.newURL, p.new.ApplicationName(restorePurpose))
		if _, err := holder.Exec(t.Context(), `rollback`); err != nil {
			t.Fatal(err)
		}
		if left := inventoryOf(t, p.new); len(left) != 1 {
			t.Errorf("left: %v", left)
		}
	})
}

// A view that reads another waits for it; what the old server left empty stays.
func TestRefresh(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create materialized view public."Z" as select 1 as n`,
			`create materialized view public.a as select n + 1 as n from public."Z"`,
			`create view public.between as select n from public.a`,
			`create materialized view public."0" as select n + 1 as n from public.between`,
			`create materialized view public.empty as select 1 as n with no data`)
		p.move(t, RestoreOptions{})
		var seen []string
		for range 2 {
			if err := Refresh(t.Context(), p.old, p.new, func(s string) { seen = append(seen, s) }); err != nil {
				t.Fatal(err)
			}
		}
		if n := pgtest.Value[int](t, p.newURL, `select n from public."0"`); n != 3 {
			t.Errorf("the last view holds %d, want 3", n)
		}
		if pgtest.Value[bool](t, p.newURL, `select relispopulated from pg_class where relname = 'empty'`) {
			t.Error("a view that is empty on the old server was filled")
		}
		if !slices.Contains(seen, `refreshing public."Z"`) {
			t.Errorf("progress named %q", seen)
		}

		pgtest.Exec(t, p.oldURL, `create table public.divisor (a integer)`, `create materialized view public.fails as select 1 / a as n from public.divisor`)
		pgtest.Exec(t, p.newURL, `create table public.divisor (a integer)`, `insert into public.divisor values (0)`,
			`create materialized view public.fails as select 1 / a as n from public.divisor with no data`)
		if err := Refresh(t.Context(), p.old, p.new, nil); err == nil || !strings.Contains(err.Error(), "public.fails") {
			t.Errorf("got %v, want an error that names the view", err)
		}
	})
}

func TestDumpWithoutRights(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `do $$ begin
			if to_regrole('pgct_nobody') is null then create role pgct_nobody login; end if;
		end $$`, `create table public.secret (a integer)`)
		nobody := open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "pgct_nobody", ""))
		_, err := Dump(t.Context(), nobody, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), "permission denied for") || !strings.Contains(hint.Of(err), "SELECT") {
			t.Errorf("got %v with the hint %q", err, hint.Of(err))
		}
	})
}
