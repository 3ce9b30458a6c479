package unreplicated_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/unreplicated"
)

// tables have what makes copying awkward: names, types whose text depends on
// settings, generated and identity columns, heirs, partitions, foreign keys,
// triggers in every state.
var tables = []string{
	`create schema "Odd ""s"`,
	`create table public.logged (id integer primary key)`,
	`create unlogged table public.parent (id integer primary key, name text)`,
	`create unlogged table public.child (id integer primary key references public.parent, up integer references public.child, ref integer references public.logged)`,
	`create unlogged table "Odd ""s"."T ,x" ("a b" integer generated always as identity, "c""" real, d double precision, t oid, r regclass, y regtype,
	   i interval, z timestamptz, b bytea, j jsonb, n numeric, ch "char", acl aclitem, arr text[])`,
	`create unlogged table public.heir () inherits (public.parent)`,
	`create unlogged table public.nothing ()`,
	`create unlogged table public.fenced (id integer)`,
	`create function public.no() returns trigger language plpgsql as $$ begin raise exception 'fired: %', tg_name; end $$`,
	`create trigger fence before insert or update or delete or truncate on public.fenced for each statement execute procedure public.no()`,
	`alter table public.fenced enable always trigger fence`,
	`create trigger o before insert on public.fenced for each row execute procedure public.no()`,
	`create trigger r before insert on public.fenced for each row execute procedure public.no()`,
	`alter table public.fenced enable replica trigger r`,
	`create trigger d before insert on public.fenced for each row execute procedure public.no()`,
	`alter table public.fenced disable trigger d`,
	`create table public.root (id integer, k integer) partition by list (k)`,
	`create table public.leaf1 partition of public.root for values in (1)`,
	`create unlogged table public.leaf2 partition of public.root for values in (2)`,
}

// rows go into the old server's tables.
var rows = []string{
	`insert into public.logged values (1)`,
	`insert into public.parent select i, 'p' || i from generate_series(1, 2000) i`,
	`insert into public.heir select i, 'h' || i from generate_series(1, 10) i`,
	`insert into public.child select i, nullif(i - 1, 0), 1 from generate_series(1, 1000) i`,
	`insert into "Odd ""s"."T ,x" ("c""", d, t, r, y, i, z, b, j, n, ch, acl, arr) values
	   (0.1::real + 0.2, 0.1::float8 + 0.2, 'public.logged'::regclass, 'public.logged', 'public.logged', '1 mon 2 days -3:04:05.678', '2024-02-29 12:00:00.123456+14',
	    '\x00ff5c', '{"a\\b": "c\nd"}', 1e100, 'x', 'postgres=r/postgres', array['a,b', null, '\N', 'tab	'])`,
	`insert into public.nothing default values`,
	`insert into public.nothing default values`,
	`set session_replication_role = replica; alter table public.fenced disable trigger fence; alter table public.fenced disable trigger r;
	 insert into public.fenced select generate_series(1, 10); alter table public.fenced enable always trigger fence; alter table public.fenced enable replica trigger r`,
	`insert into public.root select i, 1 + i % 2 from generate_series(1, 100) i`,
}

// contentsSQL is what every table has, but for OIDs that differ by nature.
const contentsSQL = `
select jsonb_build_object(
  'parent', (select jsonb_agg(x order by id) from only public.parent x), 'heir', (select jsonb_agg(x order by id) from public.heir x),
  'child', (select jsonb_agg(x order by id) from public.child x),
  'odd', (select jsonb_agg(array["a b"::text, float4send("c""")::text, float8send(d)::text, r::text, y::text, i::text, (extract(epoch from z) * 1000000)::bigint::text, b::text, j::text, n::text, ch::text, acl::text, arr::text]) from "Odd ""s"."T ,x"),
  'nothing', (select count(*) from public.nothing), 'fenced', (select jsonb_agg(x order by id) from public.fenced x),
  'leaf2', (select jsonb_agg(x order by id) from public.leaf2 x))::text`

const triggerStatesSQL = `
select string_agg(tgname::text || tgenabled::text, ' ' order by tgname) from pg_trigger where tgrelid = 'public.fenced'::regclass`

func TestTablesAreExact(t *testing.T) {
	eachPair(t, func(t *testing.T, p two) {
		for _, url := range []string{p.oldURL, p.newURL} {
			pgtest.Exec(t, url, tables...)
		}
		if p.new.Major() >= 12 && p.old.Major() >= 12 {
			for _, url := range []string{p.oldURL, p.newURL} {
				pgtest.Exec(t, url, `alter table public.parent add doubled integer generated always as (id * 2) stored`)
			}
		}
		pgtest.Exec(t, p.oldURL, rows...)
		pgtest.Exec(t, p.newURL, `insert into public.logged values (1)`, `insert into public.parent values (7, 'stale'), (99999, 'stale')`, `insert into public.leaf1 values (5, 1)`)
		moved, err := move(t, p.old, p.new, options())
		if err != nil {
			t.Fatal(err)
		}
		if moved.Tables != 7 || moved.Rows < 3000 {
			t.Errorf("moved %+v", moved)
		}
		want, got := pgtest.Value[string](t, p.oldURL, contentsSQL), pgtest.Value[string](t, p.newURL, contentsSQL)
		if want != got {
			t.Errorf("the contents differ:\n%.2000s\n%.2000s", want, got)
		}
		if n := pgtest.Value[int](t, p.newURL, `select count(*) from public.leaf1`); n != 1 {
			t.Errorf("a table that is not unlogged was touched: %d rows", n)
		}
		if s := pgtest.Value[string](t, p.newURL, triggerStatesSQL); s != "dD fenceA oO rR" {
			t.Errorf("triggers are left as %q", s)
		}
		// The other way, with other rows, and to be empty.
		pgtest.Exec(t, p.newURL, `delete from public.child where id > 500`, `update public.parent set name = 'new'`)
		if _, err := move(t, p.new, p.old, options()); err != nil {
			t.Fatal(err)
		}
		if want, got := pgtest.Value[string](t, p.newURL, contentsSQL), pgtest.Value[string](t, p.oldURL, contentsSQL); want != got {
			t.Errorf("the contents differ on the way back:\n%.2000s\n%.2000s", want, got)
		}
		o := options()
		o.Tables = unreplicated.EmptyTables
		if _, err := move(t, p.old, p.new, o); err != nil {
			t.Fatal(err)
		}
		if n := pgtest.Value[int](t, p.newURL, `select (select count(*) from public.parent) + (select count(*) from public.leaf2)`); n != 0 {
			t.Errorf("%d rows in tables that were to be empty", n)
		}
	})
}

// A guard that says no keeps every table as it is.
func TestGuardRefuses(t *testing.T) {
	eachPair(t, func(t *testing.T, p two) {
		for _, url := range []string{p.oldURL, p.newURL} {
			pgtest.Exec(t, url, `create unlogged table public.u (id integer)`)
		}
		pgtest.Exec(t, p.oldURL, `insert into public.u values (1)`)
		pgtest.Exec(t, p.newURL, `insert into public.u values (2)`, `select lo_create(77)`)
		no := errors.New("no")
		o := options()
		o.Guard = func(context.Context, pgx.Tx) error { return no }
		if _, err := move(t, p.old, p.new, o); !errors.Is(err, no) {
			t.Errorf("%v, want %v", err, no)
		}
		if n := pgtest.Value[int](t, p.newURL, `select id from public.u`); n != 2 {
			t.Errorf("the table has %d", n)
		}
		if n := pgtest.Value[int](t, p.newURL, `select count(*) from pg_largeobject_metadata`); n != 1 {
			t.Errorf("%d large objects", n)
		}
	})
}

// Who waits for a table, for the lease to end, is not waited for.
func TestReadsPastWhoWaits(t *testing.T) {
	eachPair(t, func(t *testing.T, p two) {
		for _, url := range []string{p.oldURL, p.newURL} {
			pgtest.Exec(t, url, `create unlogged table public.u (id integer)`)
		}
		pgtest.Exec(t, p.oldURL, `insert into public.u select generate_series(1, 100)`)
		lease, err := p.old.Connect(t.Context(), "lease", pg.LongRunning())
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Close(context.WithoutCancel(t.Context()))
		if _, err := lease.Exec(t.Context(), `begin; lock table public.u in share update exclusive mode`); err != nil {
			t.Fatal(err)
		}
		waits := make(chan error, 1)
		conn, err := p.old.Connect(t.Context(), "client", map[string]string{"lock_timeout": "0"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		go func() {
			_, err := conn.Exec(context.WithoutCancel(t.Context()), `truncate public.u`)
			waits <- err
		}()
		until(t, func() bool {
			return pgtest.Value[bool](t, p.oldURL, `select exists (select 1 from pg_locks where relation = 'public.u'::regclass and not granted)`)
		})
		o := options()
		if _, err := move(t, p.old, p.new, o); err == nil {
			t.Error("read past a waiting TRUNCATE without the lease")
		}
		o.CopyTo = func(ctx context.Context, w writer, sql string) error {
			_, err := lease.PgConn().CopyTo(ctx, w, sql)
			return err
		}
		if _, err := move(t, p.old, p.new, o); err != nil {
			t.Error(err)
		}
		if n := pgtest.Value[int](t, p.newURL, `select count(*) from public.u`); n != 100 {
			t.Errorf("%d rows", n)
		}
		if _, err := lease.Exec(t.Context(), "rollback"); err != nil {
			t.Error(err)
		}
		if err := <-waits; err != nil {
			t.Error(err)
		}
	})
}

// objects make large objects of every shape on the old server.
var objects = []string{
	`select lo_create(1001)`,
	`select lo_from_bytea(1002, 'x')`,
	`select lo_from_bytea(1003, decode(repeat('ab', 2048), 'hex'))`,
	`select lo_from_bytea(1004, decode(repeat('cd', 2049), 'hex'))`,
	`select lo_from_bytea(1005, decode(repeat(md5('a'), 200000), 'hex'))`,
	`select lo_from_bytea(1006, 'head')`, `select lo_put(1006, 100000, 'after a hole')`,
	`begin; select lo_truncate(lo_open(lo_from_bytea(1007, decode(repeat('ff', 5000), 'hex')), 131072), 3000); commit`,
	`begin; select lo_truncate(lo_open(lo_create(1008), 131072), 10000); commit`,
	`select lo_create(4294967295)`,
	`comment on large object 1002 is 'it''s \ a comment'`,
	`select count(lo_from_bytea(i, ('n' || i)::bytea)) from generate_series(20000, 21200) i`,
}

const objectsSQL = `
select string_agg(concat_ws(' ', m.oid, pg_get_userbyid(m.lomowner), coalesce(m.lomacl::text, 'default'), obj_description(m.oid, 'pg_largeobject'),
                            md5(lo_get(m.oid)), length(lo_get(m.oid)), (select string_agg(l.pageno || ':' || length(l.data), ',' order by l.pageno) from pg_largeobject l where l.loid = m.oid)), E'\n' order by m.oid)
  from pg_largeobject_metadata m`

func TestObjectsAreExact(t *testing.T) {
	eachPair(t, func(t *testing.T, p two) {
		owner, reader := "owner_"+p.old.Move(), `"Reader `+p.old.Move()+`"`
		for _, url := range []string{p.oldURL, p.newURL} {
			pgtest.Exec(t, url, "create role "+owner, "create role "+reader)
			t.Cleanup(func() {
				pgtest.Exec(t, url, "drop owned by "+owner, "drop owned by "+reader, "drop role "+owner, "drop role "+reader)
			})
		}
		pgtest.Exec(t, p.oldURL, objects...)
		pgtest.Exec(t, p.oldURL,
			"alter large object 1003 owner to "+owner, "grant select on large object 1003 to "+reader+" with grant option", "grant all on large object 1004 to public",
			"revoke all on large object 1005 from postgres")
		pgtest.Exec(t, p.newURL, `select lo_from_bytea(1002, 'another')`, `select lo_create(555)`, `select count(lo_create(i)) from generate_series(30000, 31500) i`)
		moved, err := move(t, p.old, p.new, options())
		if err != nil {
			t.Fatal(err)
		}
		same(t, p.oldURL, p.newURL)
		if moved.Objects != 1210 {
			t.Errorf("moved %+v", moved)
		}
		pgtest.Exec(t, p.newURL, `select lo_unlink(1001)`, `select lo_put(1002, 0, 'changed')`, `select lo_create(9)`)
		if _, err := move(t, p.new, p.old, options()); err != nil {
			t.Fatal(err)
		}
		same(t, p.newURL, p.oldURL)
		o := options()
		o.Objects = unreplicated.IgnoreObjects
		pgtest.Exec(t, p.oldURL, `select count(lo_unlink(oid)) from pg_largeobject_metadata where oid < 20000`, `select count(lo_unlink(oid)) from pg_largeobject_metadata where oid < 20700`,
			`select count(lo_unlink(oid)) from pg_largeobject_metadata`)
		if _, err := move(t, p.old, p.new, o); err != nil {
			t.Fatal(err)
		}
		if n := pgtest.Value[int](t, p.newURL, `select count(*) from pg_largeobject_metadata`); n != 1210 {
			t.Errorf("%d large objects, which were to be left alone", n)
		}
		p.removesStale(t, owner, 1210)
	})
}

// removesStale moves from old, which has no large objects, to new, which has some.
// On old that takes no right.
func (p two) removesStale(t *testing.T, role string, some int64) {
	t.Helper()
	pgtest.Exec(t, p.oldURL, "alter role "+role+" login")
	limited := open(t, pg.Old, pgtest.WithUser(t, p.oldURL, role, ""), p.old.Move())
	inventory, err := unreplicated.LookAgain(t.Context(), limited, nil)
	if err != nil || !inventory.Empty() {
		t.Fatalf("%+v, %v", inventory, err)
	}
	if err := inventory.LookAtTarget(t.Context(), p.new); err != nil || inventory.Stale != some || inventory.Empty() || !inventory.AnyObjects() ||
		inventory.Estimate(true, true) == 0 || inventory.Estimate(true, false) != 0 || !strings.Contains(inventory.String(), "to be removed") {
		t.Errorf("%+v (%s), %v", inventory, inventory, err)
	}
	left := func(from *pg.Server) int {
		t.Helper()
		m, err := unreplicated.Prepare(t.Context(), from, p.new, inventory, options())
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close(context.WithoutCancel(t.Context()))
		if _, err := m.Move(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		return pgtest.Value[int](t, p.newURL, `select count(*) from pg_largeobject_metadata`)
	}
	if n := left(limited); n != 0 {
		t.Errorf("%d large objects, which are not on the source any more", n)
	}
	pgtest.Exec(t, p.oldURL, "select lo_create(77)")
	if n := left(p.old); n != 1 {
		t.Errorf("%d large objects, where one was made since the look", n)
	}
}

func same(t *testing.T, from, to string) {
	t.Helper()
	want, got := strings.Split(pgtest.Value[string](t, from, objectsSQL), "\n"), strings.Split(pgtest.Value[string](t, to, objectsSQL), "\n")
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("object %d of %d and %d differs:\n%s\n%s", i, len(want), len(got), at(want, i), at(got, i))
		}
	}
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "none"
}

func TestLookSaysWhatThereIs(t *testing.T) {
	eachPair(t, func(t *testing.T, p two) {
		i, err := unreplicated.Look(t.Context(), p.old, nil)
		if err != nil || !i.Empty() || i.String() != "nothing" || i.Estimate(true, true) != 0 {
			t.Errorf("%+v, %v", i, err)
		}
		pgtest.Exec(t, p.oldURL, `create unlogged table public.big as select repeat('x', 1000) as t from generate_series(1, 20000)`,
			`create unlogged table public.small (id integer)`, `create unlogged table public.out (id integer)`, `create table public.logged (id integer)`,
			`select count(lo_from_bytea(0, 'x')) from generate_series(1, 1000)`)
		if i, err = unreplicated.Look(t.Context(), p.old, func(_, table string) bool { return table != "out" }); err != nil {
			t.Fatal(err)
		}
		if len(i.Tables) != 2 || i.Objects.Count != 1000 || !strings.Contains(i.String(), "2 unlogged tables of 22 MiB: \"public\".\"big\" (22 MiB)") || !strings.Contains(i.String(), "1000 large objects of ") {
			t.Errorf("%s", i)
		}
		if e := i.Estimate(true, true); e < i.Estimate(true, false)+i.Estimate(false, true)/2 || i.Estimate(true, false).Seconds() < 0.5 {
			t.Errorf("estimate %s", e)
		}
		there, err := unreplicated.AnyObjects(t.Context(), p.old)
		if err != nil || !there {
			t.Errorf("%t, %v", there, err)
		}
	})
}

// A table that is not there, or that somebody else refers to, is known before
// clients wait.
func TestPrepareRefuses(t *testing.T) {
	eachPair(t, func(t *testing.T, p two) {
		pgtest.Exec(t, p.oldURL, `create unlogged table public.u (id integer primary key)`, `create unlogged table public.v (id integer references public.u)`)
		i, err := unreplicated.Look(t.Context(), p.old, func(_, table string) bool { return table == "u" })
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unreplicated.Prepare(t.Context(), p.old, p.new, i, options()); err == nil || !strings.Contains(err.Error(), `"public"."u" is not on the new server`) {
			t.Error(err)
		}
		pgtest.Exec(t, p.newURL, `create unlogged table public.u (id integer primary key)`, `create unlogged table public.v (id integer references public.u)`)
		if _, err := unreplicated.Prepare(t.Context(), p.old, p.new, i, options()); err == nil || !strings.Contains(err.Error(), "refers to the unlogged table") {
			t.Error(err)
		}
	})
}

// Default privileges of the role that makes the objects give nobody rights that he
// has not on the source.
func TestObjectsGetNoDefaultPrivileges(t *testing.T) {
	eachPair(t, func(t *testing.T, p two) {
		if p.new.Major() < 18 {
			return // large objects have none
		}
		pgtest.Exec(t, p.oldURL, `select lo_from_bytea(1, 'secret')`, `select lo_from_bytea(2, 'public')`, `grant select on large object 2 to public`)
		pgtest.Exec(t, p.newURL, `alter default privileges grant select on large objects to public`)
		if _, err := move(t, p.old, p.new, options()); err != nil {
			t.Fatal(err)
		}
		const rights = `select string_agg(m.oid || ' ' || a.grantee::regrole || ' ' || a.privilege_type, ', ' order by m.oid, a.grantee, a.privilege_type)
			from pg_largeobject_metadata m cross join lateral aclexplode(m.lomacl) a`
		const want = "1 postgres SELECT, 1 postgres UPDATE, 2 - SELECT, 2 postgres SELECT, 2 postgres UPDATE"
		if got := pgtest.Value[string](t, p.newURL, rights); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}
