package preflight

import (
	"context"
	"regexp"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// operatorUsesSQL lists what uses an = of the application's or of an extension's,
// with its text as pg_dump writes it: where the text says =, it names the
// operator's schema. casts: the type is one of pg_catalog's by an implicit cast,
// so that another = is found there. sorts: it orders or groups too, which uses =
// without words.
const operatorUsesSQL = `
with uses as (
  select d.classid, d.objid, min(format('OPERATOR(%I.=)', n.nspname)) as operator, bool_and(c.casts) as casts,
         exists (select from pg_depend l
                   join pg_operator s on s.oid = l.refobjid and s.oprname <> '=' and s.oid >= 16384
                  where l.classid = d.classid and l.objid = d.objid and l.refclassid = d.refclassid) as sorts
    from pg_depend d
    join pg_operator o on o.oid = d.refobjid and o.oprname = '=' and o.oid >= 16384
    join pg_namespace n on n.oid = o.oprnamespace and n.nspname not in ('pg_catalog', 'pgcutover')
   cross join lateral (
     select exists (select from pg_cast k where k.castsource = o.oprleft and k.castcontext = 'i') as casts
   ) c
   where d.refclassid = 'pg_operator'::regclass and d.deptype = 'n'
     and not exists (select from pg_depend e where e.classid = d.classid and e.objid = d.objid and e.deptype = 'e')
   group by d.classid, d.objid, d.refclassid
)
select 'view' as kind, format('%I.%I', n.nspname, c.relname) as name, pg_get_viewdef(c.oid) as text, u.operator, u.casts, u.sorts
  from uses u
  join pg_rewrite w on u.classid = 'pg_rewrite'::regclass and w.oid = u.objid and w.rulename = '_RETURN'
  join pg_class c on c.oid = w.ev_class
  join pg_namespace n on n.oid = c.relnamespace
union all
select 'rule', format('%I on %s', w.rulename, w.ev_class::regclass), pg_get_ruledef(w.oid), u.operator, u.casts, u.sorts
  from uses u
  join pg_rewrite w on u.classid = 'pg_rewrite'::regclass and w.oid = u.objid and w.rulename <> '_RETURN'
union all
select 'trigger', format('%I on %s', t.tgname, t.tgrelid::regclass), pg_get_triggerdef(t.oid), u.operator, u.casts, u.sorts
  from uses u
  join pg_trigger t on u.classid = 'pg_trigger'::regclass and t.oid = u.objid and not t.tgisinternal
union all
select 'constraint', format('%I on %s', k.conname, coalesce(nullif(k.conrelid, 0)::regclass::text, k.contypid::regtype::text)),
       pg_get_constraintdef(k.oid), u.operator, u.casts, u.sorts
  from uses u
  join pg_constraint k on u.classid = 'pg_constraint'::regclass and k.oid = u.objid and k.contype = 'c'
union all
select 'default', format('of %I of %s', a.attname, a.attrelid::regclass), pg_get_expr(f.adbin, f.adrelid), u.operator, u.casts, u.sorts
  from uses u
  join pg_attrdef f on u.classid = 'pg_attrdef'::regclass and f.oid = u.objid
  join pg_attribute a on a.attrelid = f.adrelid and a.attnum = f.adnum
union all
select 'index', c.oid::regclass::text, pg_get_indexdef(c.oid), u.operator, u.casts, u.sorts
  from uses u
  join pg_class c on u.classid = 'pg_class'::regclass and c.oid = u.objid and c.relkind in ('i', 'I')
union all
select 'policy', format('%I on %s', p.polname, p.polrelid::regclass),
       concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)), u.operator, u.casts, u.sorts
  from uses u
  join pg_policy p on u.classid = 'pg_policy'::regclass and p.oid = u.objid
union all
select 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid), u.operator, u.casts, u.sorts
  from uses u
  join pg_proc p on u.classid = 'pg_proc'::regclass and p.oid = u.objid
 where not exists (select from pg_aggregate a where a.aggfnoid = p.oid)
 order by 1, 2`

type operatorUse struct {
	Kind, Name, Text string
	Operator         string
	Casts, Sorts     bool
}

// unnamed are the words that use an operator and cannot name it; SELECT DISTINCT
// ... FROM and a CASE with conditions are not among them. Strings and names in
// quotes are taken out before.
var (
	unnamed = regexp.MustCompile(`\bIS (NOT )?DISTINCT FROM\b|\bNULLIF\(|\bCASE\s+([^W\s]|W[^H])|\bJOIN\b[^;]*\bUSING \(`)
	quoted  = regexp.MustCompile(`'(?:[^']|'')*'|"(?:[^"]|"")*"`)
)

// checkOperators finds what changes its meaning on the way: pg_dump writes, and
// pg_restore reads, with nothing but pg_catalog in the search_path, where the = of
// a type from elsewhere is not seen by words that cannot name it (measured 13 to
// 17, with citext and hstore).
func checkOperators(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[operatorUse](ctx, p.Old, "looking for operators", operatorUsesSQL)
	var refused, changed []string
	for _, r := range rows {
		if !unnamed.MatchString(quoted.ReplaceAllString(r.Text, "x")) {
			continue
		}
		name := r.Kind + " " + r.Name
		if certain := !r.Sorts && !strings.Contains(r.Text, r.Operator); certain && !r.Casts {
			refused = append(refused, name)
		} else {
			changed = append(changed, name)
		}
	}
	f := Finding{ID: "objects.operator", Server: string(pg.Old), Object: "operators outside of pg_catalog"}.told(
		"on old before start, or on new after it, write them with operators that pg_dump can name: a IS DISTINCT FROM b as coalesce(a <> b, (a IS NULL) <> (b IS NULL)); " +
			"NULLIF(a, b) as CASE WHEN a = b THEN NULL ELSE a END; CASE a WHEN b as CASE WHEN a = b; JOIN ... USING (a) as JOIN ... ON t.a = u.a")
	var found []Finding
	if len(refused) > 0 {
		f.Severity, f.Seen = Blocker, strings.Join(refused, ", ")
		f.Why = "They compare by IS DISTINCT FROM, NULLIF, CASE or USING, which cannot name the schema of their =: pg_restore does not find it and refuses them (operator does not exist)."
		found = append(found, f)
	}
	if len(changed) > 0 {
		f.Severity, f.Seen = Warning, strings.Join(changed, ", ")
		f.Why = "They compare by IS DISTINCT FROM, NULLIF, CASE or USING, which cannot name the schema of their =: on the new server they take the one of another type, without an error. " +
			"That of citext minds case there. Told from the text, so what compares other types is listed too."
		found = append(found, f)
	}
	return found, err
}
