package preflight

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// usesSQL lists where functions of the application run while the new server is
// filled, or while it maintains its tables: constraints, indexes, generated
// columns, statistics, materialized views, and triggers that fire on apply.
// revalidate is the statement by which a constraint of a table forgets the rows
// that are there.
const usesSQL = `
with expressions as (
  select d.refobjid as func, d.classid, d.objid
    from pg_depend d
   where d.refclassid = 'pg_proc'::regclass and d.refobjid >= 16384 and d.deptype = 'n'
     and d.classid in ('pg_constraint'::regclass, 'pg_class'::regclass, 'pg_attrdef'::regclass,
                       'pg_rewrite'::regclass, 'pg_statistic_ext'::regclass)
)
select e.func, case when k.convalidated then 'check' else 'not valid' end as kind,
       case when k.conrelid <> 0 then format('constraint %I on %s', k.conname, k.conrelid::regclass)
            else format('constraint %I on domain %s', k.conname, k.contypid::regtype) end as used,
       case when k.conrelid <> 0 and k.convalidated
            then format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s NOT VALID;',
                        (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = k.conrelid),
                        k.conname, k.conname, pg_get_constraintdef(k.oid)) else '' end as revalidate
  from expressions e
  join pg_constraint k on e.classid = 'pg_constraint'::regclass and k.oid = e.objid and k.contype = 'c'
                      and (k.conrelid = 0 or k.conislocal)
union all
select e.func, 'index', format('index %s', c.oid::regclass), ''
  from expressions e
  join pg_class c on e.classid = 'pg_class'::regclass and c.oid = e.objid and c.relkind in ('i', 'I')
union all
select e.func, 'generated', format('generated column %I of %s', a.attname, a.attrelid::regclass), ''
  from expressions e
  join pg_attrdef f on e.classid = 'pg_attrdef'::regclass and f.oid = e.objid
  join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum
 where to_jsonb(a) ->> 'attgenerated' = 's'
union all
select e.func, 'view', format('materialized view %s', c.oid::regclass), ''
  from expressions e
  join pg_rewrite w on e.classid = 'pg_rewrite'::regclass and w.oid = e.objid
  join pg_class c on c.oid = w.ev_class and c.relkind = 'm'
union all
select e.func, 'statistics', format('statistics object %I', s.stxname), ''
  from expressions e
  join pg_statistic_ext s on e.classid = 'pg_statistic_ext'::regclass and s.oid = e.objid
union all
select t.tgfoid, 'trigger', format('trigger %I on %s', t.tgname, t.tgrelid::regclass), ''
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
 where not t.tgisinternal and t.tgenabled in ('A', 'R') and t.tgfoid >= 16384
   and c.relnamespace <> coalesce((select oid from pg_namespace where nspname = 'pgcutover'), 0)
 order by 3`

type useRow struct {
	Func       uint32
	Kind       string
	Used       string
	Revalidate string
}

// sourcesSQL lists the application's functions whose text is in the database.
// pinned: they bring a search_path of their own.
const sourcesSQL = `
select p.oid, n.nspname::text as schema, p.proname::text as name,
       format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as signature, p.prosrc as source,
       exists (select 1 from unnest(p.proconfig) c where c like 'search_path=%') as pinned
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_language l on l.oid = p.prolang
 where l.lanname in ('sql', 'plpgsql') and p.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
 order by 4`

type functionRow struct {
	Oid       uint32
	Schema    string
	Name      string
	Signature string
	Source    string
	Pinned    bool
}

// namesSQL lists the names of functions and tables outside of pg_catalog, each
// with its schemas: those of the application and of extensions. What pg_catalog
// has under the same name is found with an empty search_path too.
const namesSQL = `
select 'function' as kind, p.proname::text as name, array_agg(distinct n.nspname::text) as schemas
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
 where p.oid >= 16384 and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
   and not exists (select 1 from pg_proc b where b.proname = p.proname and b.pronamespace = 'pg_catalog'::regnamespace)
 group by p.proname
union all
select 'table', c.relname::text, array_agg(distinct n.nspname::text)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_class b where b.relname = c.relname and b.relnamespace = 'pg_catalog'::regnamespace)
 group by c.relname`

type nameRow struct {
	Kind, Name string
	Schemas    []string
}

// codebase is what is known about the application's functions.
type codebase struct {
	functions map[uint32]functionRow
	named     map[string][]uint32 // schema.name to functions
	schemas   map[string][]string // kind name to the schemas that have one
}

// checkCode looks into the functions that run while the new server is filled.
// What it finds it finds by their text.
func checkCode(ctx context.Context, p *Pair) ([]Finding, error) {
	uses, err := read[useRow](ctx, p.Old, "looking where functions are used", usesSQL)
	if err != nil || len(uses) == 0 {
		return nil, err
	}
	code, err := readCode(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	unqualified, reading := map[uint32]*problem{}, map[uint32]*problem{}
	for _, u := range uses {
		for _, oid := range code.reached(u.Func) {
			f := code.functions[oid]
			bare, tables := code.judge(f)
			if len(bare) > 0 && (u.Kind != "view" || p.New.Major() >= 17) {
				note(unqualified, f, bare, u)
			}
			if len(tables) > 0 && u.Kind == "check" {
				note(reading, f, tables, u)
			}
		}
	}
	var found []Finding
	for _, oid := range slices.SortedFunc(maps.Keys(unqualified), bySignature(code)) {
		found = append(found, code.unqualifiedFinding(unqualified[oid]))
	}
	for _, oid := range slices.SortedFunc(maps.Keys(reading), bySignature(code)) {
		found = append(found, readingFindings(reading[oid])...)
	}
	return found, nil
}

func bySignature(c codebase) func(a, b uint32) int {
	return func(a, b uint32) int { return strings.Compare(c.functions[a].Signature, c.functions[b].Signature) }
}

// problem is a function with the names that matter in it, and where it is used.
type problem struct {
	function functionRow
	names    []reference
	uses     []useRow
}

func note(m map[uint32]*problem, f functionRow, names []reference, u useRow) {
	if m[f.Oid] == nil {
		m[f.Oid] = &problem{function: f, names: names}
	}
	m[f.Oid].uses = append(m[f.Oid].uses, u)
}

func readCode(ctx context.Context, s *pg.Server) (codebase, error) {
	c := codebase{functions: map[uint32]functionRow{}, named: map[string][]uint32{}, schemas: map[string][]string{}}
	functions, err := read[functionRow](ctx, s, "reading functions", sourcesSQL)
	if err != nil {
		return c, err
	}
	for _, f := range functions {
		c.functions[f.Oid] = f
		c.named[f.Schema+"."+f.Name] = append(c.named[f.Schema+"."+f.Name], f.Oid)
	}
	names, err := read[nameRow](ctx, s, "reading names", namesSQL)
	for _, n := range names {
		c.schemas[n.Kind+" "+n.Name] = n.Schemas
	}
	return c, err
}

// reached returns the function and those that it calls by qualified names,
// as far as the search_path is not theirs.
func (c codebase) reached(oid uint32) []uint32 {
	var out []uint32
	seen := map[uint32]bool{}
	for todo := []uint32{oid}; len(todo) > 0; todo = todo[1:] {
		f, ok := c.functions[todo[0]]
		if !ok || seen[f.Oid] {
			continue
		}
		seen[f.Oid] = true
		out = append(out, f.Oid)
		for _, r := range references(f.Source) {
			if r.call && r.schema != "" {
				todo = append(todo, c.named[r.schema+"."+r.name]...)
			}
		}
	}
	return out
}

// judge returns the names of a function that need a search_path it does not
// bring, and the tables that it reads.
func (c codebase) judge(f functionRow) (bare, tables []reference) {
	for _, r := range references(f.Source) {
		key := "function " + r.name
		if r.table {
			key = "table " + r.name
		}
		known := c.schemas[key]
		if len(known) == 0 || (r.schema != "" && !slices.Contains(known, r.schema)) {
			continue
		}
		if r.table {
			tables = append(tables, r)
		}
		if r.schema == "" && !f.Pinned {
			bare = append(bare, r)
		}
	}
	return bare, tables
}

func (c codebase) unqualifiedFinding(p *problem) Finding {
	schemas := []string{"pg_catalog"}
	for _, r := range p.names {
		known := c.schemas["function "+r.name]
		if r.table {
			known = c.schemas["table "+r.name]
		}
		schema := known[0]
		for _, better := range []string{"public", p.function.Schema} {
			if slices.Contains(known, better) {
				schema = better
			}
		}
		if q := quote(schema); !slices.Contains(schemas, q) {
			schemas = append(schemas, q)
		}
	}
	return Finding{
		ID: "functions.unqualified", Severity: Warning, Server: string(pg.Old), Object: "function " + p.function.Signature,
		Seen: fmt.Sprintf("its text says %s without a schema; used by %s", p.nameList(), p.useList()),
		Why: "Apply workers, pg_restore and (17 and later) ANALYZE, CREATE INDEX and REFRESH run with no schema in the search_path: " +
			"there these names are not found, and the stream or the command stops. Told from the text of the function, so it may be mistaken.",
		Fix: fmt.Sprintf("ALTER FUNCTION %s SET search_path = %s, pg_temp;", p.function.Signature, strings.Join(schemas, ", ")), FixKind: FixSQL,
	}
}

// readingFindings tells of checks that look into other tables.
func readingFindings(p *problem) []Finding {
	f := Finding{
		ID: "functions.check-reads", Severity: Warning, Server: string(pg.Old), Object: "function " + p.function.Signature,
		Seen: fmt.Sprintf("reads %s; used by %s", p.nameList(), p.useList()),
		Why: "A CHECK is to depend on its own row only. The copy fills tables in an order of its own: " +
			"while the rows that it looks for are not there yet, it refuses rows that are right.",
		FixKind: FixSQL,
	}
	var fixes []string
	for _, u := range p.uses {
		if u.Revalidate == "" {
			f.FixKind = FixAction
		}
		fixes = append(fixes, u.Revalidate)
	}
	f.Fix = "-- NOT VALID constraints come to the new server after the copy:\n" + strings.Join(fixes, "\n")
	if f.FixKind == FixAction {
		f.Fix = "replace the constraint by a trigger, or drop it until the copy is through: " + p.useList()
	}
	return []Finding{f}
}

func (p *problem) nameList() string {
	var names []string
	for _, r := range p.names {
		name := r.name
		if r.schema != "" {
			name = r.schema + "." + name
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return list(names)
}

func (p *problem) useList() string {
	var uses []string
	for _, u := range p.uses {
		if !slices.Contains(uses, u.Used) {
			uses = append(uses, u.Used)
		}
	}
	return list(uses)
}
