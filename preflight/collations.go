package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// usedCollationsSQL lists the collations that the application has made, and
// those of pg_catalog that its columns, domains and indexes name. locale is what
// one of its own is made of, when the C library has to know it. The database's
// own collation, C and POSIX are everywhere.
const usedCollationsSQL = `
with named as (
  select a.attcollation as coll, format('%I.%I', n.nspname, c.relname) as used
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid
    join pg_namespace n on n.oid = c.relnamespace
   where a.attcollation not in (0, 100, 950, 951) and a.attnum > 0 and not a.attisdropped and c.oid >= 16384
     and c.relpersistence <> 't' and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
  union
  select t.typcollation, format('%I.%I', n.nspname, t.typname)
    from pg_type t
    join pg_namespace n on n.oid = t.typnamespace
   where t.typcollation not in (0, 100, 950, 951) and t.oid >= 16384 and t.typtype in ('d', 'r')
  union
  select o.oid, '' from pg_collation o where o.oid >= 16384 and o.collnamespace <> 'pg_catalog'::regnamespace
)
select format('%I.%I', n.nspname, o.collname) as name, n.nspname = 'pg_catalog' as builtin, o.collname::text as bare,
       case when o.collprovider = 'c' then coalesce(o.collcollate::text, '') else '' end as locale,
       coalesce(array_agg(u.used order by u.used) filter (where u.used <> ''), '{}') as used
  from named u
  join pg_collation o on o.oid = u.coll
  join pg_namespace n on n.oid = o.collnamespace
 where not exists (select 1 from pg_depend d
                    where d.classid = 'pg_collation'::regclass and d.objid = o.oid and d.deptype = 'e')
 group by o.oid, n.nspname, o.collname, o.collprovider, o.collcollate
 order by 1`

type collationRow struct {
	Name    string
	Builtin bool
	Bare    string
	Locale  string // of the C library; empty when it needs none
	Used    []string
}

// knownCollationsSQL lists the collations that a server brings, and the locales
// that it found on its host.
const knownCollationsSQL = `
select o.collname::text as name, case when o.collprovider = 'c' then coalesce(o.collcollate::text, '') else '' end as locale
  from pg_collation o
 where o.collnamespace = 'pg_catalog'::regnamespace
   and o.collencoding in (-1, (select encoding from pg_database where datname = current_database()))`

type knownCollation struct{ Name, Locale string }

// checkCollations finds collations that the new server cannot make or has not
// (measured 15 to 18: CREATE COLLATION fails, and every table that names it).
// Postgres manual: 23.2.2, Managing Collations.
func checkCollations(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[collationRow](ctx, p.Old, "reading collations", usedCollationsSQL)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	known, err := read[knownCollation](ctx, p.New, "reading the collations it brings", knownCollationsSQL)
	names, locales := map[string]bool{}, map[string]bool{"c": true, "posix": true, "": true}
	for _, k := range known {
		names[k.Name], locales[normalLocale(k.Locale)] = true, true
	}
	var found []Finding
	for _, r := range rows {
		f := Finding{
			ID: "collations.missing", Severity: Warning, Server: string(pg.New), Object: "collation " + r.Name,
			Seen: fmt.Sprintf("made of locale %q on old, which is in no collation that new brings", r.Locale),
			Why:  "When the host of the new server does not have the locale, the collation cannot be made, nor what names it.",
			Fix:  "install the locale on the new server's host, then on new: SELECT pg_import_system_collations('pg_catalog');", FixKind: FixAction,
		}
		switch {
		case r.Builtin && !names[r.Bare]:
			f.Severity = Blocker
			f.Seen = "new does not bring it; used by " + list(r.Used)
			f.Why = "What names the collation cannot be made on the new server."
		case r.Builtin || locales[normalLocale(r.Locale)]:
			continue
		case len(r.Used) > 0:
			f.Seen += "; used by " + list(r.Used)
		}
		found = append(found, f)
	}
	return found, err
}

// normalLocale writes the name of a locale as the C library compares it.
func normalLocale(name string) string {
	return strings.ReplaceAll(strings.ToLower(name), "-", "")
}
