package schema

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// detailsSQL describes what has to be the same on both servers and is not in
// what a fingerprint compares.
const detailsSQL = `
select string_agg(line, E'\n' order by line collate "C")
  from (select format('statistics target %s.%s %s', attrelid::regclass, attname, attstattarget) as line
          from pg_attribute where attstattarget > 0 and attrelid >= 16384
        union all
        select format('column options %s.%s %s', attrelid::regclass, attname, array_to_string(attoptions, ','))
          from pg_attribute where attoptions is not null and attoptions::text !~ 'attver' and attrelid >= 16384
        union all
        select format('column storage %s.%s %s', attrelid::regclass, attname, attstorage)
          from pg_attribute a join pg_class c on c.oid = attrelid where attnum > 0 and not attisdropped and attrelid >= 16384 and c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace
        union all
        select format('parameters %s %s %s', c.oid::regclass, array_to_string(c.reloptions, ','), array_to_string(t.reloptions, ','))
          from pg_class c left join pg_class t on t.oid = c.reltoastrelid
         where c.oid >= 16384 and c.relkind <> 't' and (c.reloptions is not null or t.reloptions is not null)
        union all
        select format('comment %s: %s', (pg_identify_object(classoid, objoid, objsubid)).identity, description)
          from pg_description where objoid >= 16384
        union all
        select format('constraint %s %s %s', conrelid::regclass, conname, convalidated)
          from pg_constraint where conrelid >= 16384 and contype in ('c', 'f')
        union all
        select format('domain constraint %s %s %s', contypid::regtype, conname, convalidated)
          from pg_constraint where contypid >= 16384 and contype = 'c'
        union all
        select format('statistics %s %s', stxname, pg_get_statisticsobjdef(oid)) from pg_statistic_ext
        union all
        select format('default rights %s %s %s %s', defaclrole::regrole, defaclobjtype, x.grantee, x.privilege_type)
          from pg_default_acl cross join lateral aclexplode(defaclacl) x where x.grantee <> defaclrole
        union all
        select format('rights %s %s %s', c.oid::regclass, x.grantee::regrole, x.privilege_type)
          from pg_class c cross join lateral aclexplode(c.relacl) x where c.oid >= 16384 and x.grantee <> c.relowner) y`

// statisticsTargetsSQL is for 13 and later, where statistics objects have one;
// -1 and null mean that they have none.
const statisticsTargetsSQL = `
select coalesce(string_agg(format('%s %s', stxname, coalesce(stxstattarget, -1)), ', ' order by stxname), '') from pg_statistic_ext`

// What a schema's objects carry besides their definition arrives: statistics
// targets, storage parameters, comments, privileges. Constraints that are NOT
// VALID come after the data, which may violate them, and stay so.
func TestDetailsArrive(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.rolesFor(t, "pgct_a_reader")
		pgtest.Exec(t, p.oldURL,
			`create domain public.positive as integer`, `create table public.parent (id integer primary key)`,
			`create table public.t (id integer primary key, p integer, a text, b text, d public.positive) with (fillfactor = 71, autovacuum_enabled = off, toast.autovacuum_vacuum_threshold = 55)`,
			`insert into public.t values (1, 99, 'bad', 'bad', -1)`,
			`alter table public.t add constraint later_check check (a <> 'bad') not valid`,
			`alter table public.t add constraint later_fk foreign key (p) references public.parent not valid`,
			`alter domain public.positive add constraint later_domain check (value > 0) not valid`,
			`alter table public.t alter column a set statistics 321`, `alter table public.t alter column b set (n_distinct = -0.5)`,
			`alter table public.t alter column b set storage external`, `create index on public.t (lower(a)) with (fillfactor = 55)`,
			`create statistics public.s (dependencies) on a, b from public.t`, `comment on statistics public.s is 'of both'`,
			`comment on constraint later_check on public.t is 'later'`, `comment on index public.t_lower_idx is 'lower'`,
			`comment on domain public.positive is 'more than nothing'`, `comment on constraint later_domain on domain public.positive is 'later too'`,
			`grant select (a), update on public.t to pgct_a_reader`, `grant usage on domain public.positive to pgct_a_reader`,
			`alter default privileges for role pgct_a_reader grant select on tables to public`)
		if p.old.Major() >= 11 {
			pgtest.Exec(t, p.oldURL, `alter index public.t_lower_idx alter column 1 set statistics 222`)
		}
		if p.old.Major() >= 13 {
			pgtest.Exec(t, p.oldURL, `alter statistics public.s set statistics 444`)
		}
		p.makeRoles(t)
		a := p.dump(t)
		restore := func(section Section) {
			t.Helper()
			if err := a.Restore(t.Context(), p.new, section, RestoreOptions{}); err != nil {
				t.Fatal(err, hint.Of(err))
			}
		}
		restore(PreData)
		restore(Identity)
		pgtest.Exec(t, p.newURL, `insert into public.t values (1, 99, 'bad', 'bad', -1)`)
		restore(PostData)
		p.wantSame(t)
		if old, new := pgtest.Value[string](t, p.oldURL, detailsSQL), pgtest.Value[string](t, p.newURL, detailsSQL); old != new {
			t.Errorf("on old:\n%s\non new:\n%s", old, new)
		} else if strings.Count(old, " f") < 3 || !strings.Contains(old, "0.5") || !strings.Contains(old, "threshold=55") {
			t.Errorf("the test compares too little:\n%s", old)
		}
		if p.old.Major() >= 13 {
			if old, new := pgtest.Value[string](t, p.oldURL, statisticsTargetsSQL), pgtest.Value[string](t, p.newURL, statisticsTargetsSQL); old != new || old != "s 444" {
				t.Errorf("targets of statistics objects: %s on old, %s on new", old, new)
			}
		}
	})
}

// From 18 on NOT NULL may be NOT VALID too.
func TestNotNullNotValidArrives(t *testing.T) {
	p := between(t, 18, 18)
	pgtest.Exec(t, p.oldURL, `create table public.nn (id integer primary key, a text)`, `insert into public.nn values (1, null)`,
		`alter table public.nn add constraint nn_later not null a not valid`)
	a := p.dump(t)
	for _, section := range Sections() {
		if section == PostData {
			pgtest.Exec(t, p.newURL, `insert into public.nn values (1, null)`)
		}
		if err := a.Restore(t.Context(), p.new, section, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if !pgtest.Value[bool](t, p.newURL, `select not convalidated from pg_constraint where conname = 'nn_later'`) {
		t.Error("a NOT NULL constraint that is NOT VALID on old is valid on new")
	}
}

// between is a pair of majors that a feature needs.
func between(t *testing.T, old, new int) pair {
	t.Helper()
	p := pair{oldCluster: pgtest.Server(t, old), newCluster: pgtest.Server(t, new)}
	p.oldURL, p.newURL = pgtest.Database(t, p.oldCluster), pgtest.Database(t, p.newCluster)
	p.old, p.new = open(t, pg.Old, p.oldURL), open(t, pg.New, p.newURL)
	return p
}

// The exclusion constraint of a partitioned table, which 17 and later have,
// cannot be restored: a limit of Postgres, which the error names with the object
// and what to do.
func TestExclusionConstraintOfPartitions(t *testing.T) {
	p := between(t, 17, 18)
	pgtest.Exec(t, p.oldURL, `create extension btree_gist`,
		`create table public.booked (room integer, during tsrange, exclude using gist (room with =, during with &&)) partition by list (room)`,
		`create table public.booked_1 partition of public.booked for values in (1)`)
	a := p.dump(t)
	for _, section := range []Section{PreData, Identity} {
		if err := a.Restore(t.Context(), p.new, section, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	e, advice := wantRefused(t, p, a, PostData)
	if e.Entry != "INDEX ATTACH public booked_1_room_during_excl postgres" || !strings.Contains(advice, "exclusion constraint") {
		t.Errorf("got %v with the hint %q", e, advice)
	}
}

// A security label whose provider new does not load is an error that names the
// object and leaves nothing behind.
func TestSecurityLabelWithoutProvider(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create table public.secret (a integer primary key)`,
			`insert into pg_seclabel (objoid, classoid, objsubid, provider, label) values ('public.secret'::regclass, 'pg_class'::regclass, 0, 'pgct_nobody', 'top')`)
		defer pgtest.Exec(t, p.oldURL, `delete from pg_seclabel where provider = 'pgct_nobody'`)
		before := pgtest.Catalog(t, p.newURL)
		err, advice := wantRefused(t, p, p.dump(t), PreData)
		if !strings.Contains(err.Error(), "SECURITY LABEL") || !strings.Contains(err.Error(), "secret") || !strings.Contains(advice, "shared_preload_libraries") {
			t.Errorf("got %v with the hint %q", err, advice)
		}
		wantCatalog(t, p.newURL, before)
	})
}

// A check that a child only inherits arrives with its parent's, NOT VALID as that
// is, even if the child's was validated: no difference, neither before the rest of
// the schema is there nor after. Once the parent's is valid, it is one.
func TestValidatedChildOfNotValidCheck(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		pgtest.Exec(t, p.oldURL, `create table public.p (id integer primary key, a integer)`, `create table public.c (primary key (id)) inherits (public.p)`,
			`create table public.g (primary key (id)) inherits (public.c)`, `create table public.own (constraint positive check (a > 0), primary key (id)) inherits (public.p)`,
			`create table public.r (id integer not null, a integer) partition by range (id)`, `create table public.r1 partition of public.r for values from (1) to (9)`,
			`alter table public.r1 add primary key (id)`,
			`alter table public.p add constraint positive check (a > 0) not valid`, `alter table public.r add constraint positive check (a > 0) not valid`,
			`alter table public.c validate constraint positive`, `alter table public.r1 validate constraint positive`,
			`create table public.later () inherits (public.p)`)
		b := p.settled(t)
		if d := b.Compare(p.fingerprintOld(t), p.fingerprintNew(t)); len(d) > 0 {
			t.Errorf("right after the restore: %v", d)
		}
		pgtest.Exec(t, p.oldURL, `alter table public.p validate constraint positive`)
		if d := b.Compare(p.fingerprintOld(t), p.fingerprintNew(t)); len(d) == 0 {
			t.Error("no difference when the check of the parent was validated")
		}
	})
}
