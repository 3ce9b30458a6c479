package warmup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// defaultCollation is the object identifier of the database's own collation.
const defaultCollation = 100

// collation says by what a collation sorts.
type collation struct {
	Name       string // qualified and quoted
	Definition string // provider, locale, rules
	Version    string // of the provider's rules, as installed now; empty when it does not say
	Bytes      bool   // sorts by bytes, everywhere and forever
}

// sorts tells that values are in the same order by both, as far as the catalogs
// can prove that.
func (c collation) sorts(as collation) bool {
	if c.Bytes && as.Bytes {
		return true
	}
	return c.Name == as.Name && c.Definition == as.Definition && c.Version != "" && c.Version == as.Version
}

// Only from 15 on a server says the version of the database's own collation.
// Columns came and changed their names between majors, hence to_jsonb.
const (
	collationsSQL = `
select c.oid, format('%%I.%%I', n.nspname, c.collname),
       concat_ws('/', c.collprovider, coalesce(j.v ->> 'colllocale', j.v ->> 'colliculocale', c.collcollate),
                 coalesce(j.v ->> 'collicurules', ''), coalesce(j.v ->> 'collisdeterministic', 'true')),
       coalesce(pg_collation_actual_version(c.oid), ''),
       c.collprovider = 'c' and c.collcollate in ('C', 'POSIX') or c.collprovider = 'b'
  from pg_collation c
  join pg_namespace n on n.oid = c.collnamespace
 cross join lateral (select to_jsonb(c) as v) j
 where c.oid <> 100 and c.oid = any($1::oid[])
union all
select 100, 'pg_catalog."default"',
       concat_ws('/', coalesce(j.v ->> 'datlocprovider', 'c'), coalesce(j.v ->> 'datlocale', j.v ->> 'daticulocale', d.datcollate),
                 coalesce(j.v ->> 'daticurules', '')),
       %s,
       coalesce(j.v ->> 'datlocprovider', 'c') = 'c' and d.datcollate in ('C', 'POSIX') or coalesce(j.v ->> 'datlocprovider', 'c') = 'b'
  from pg_database d
 cross join lateral (select to_jsonb(d) as v) j
 where d.datname = current_database()`
	databaseVersion   = `coalesce(pg_database_collation_actual_version(d.oid), '')`
	noDatabaseVersion = `''`
)

// readCollations reads those that columns and types use.
func (d *side) readCollations(ctx context.Context, conn *pgx.Conn) error {
	used := map[uint32]bool{}
	for _, r := range d.byOID {
		for _, c := range r.columns {
			used[c.Collation] = true
		}
	}
	for _, t := range d.types {
		for _, oid := range append(slices.Clone(t.FieldCollations), t.Collation) {
			used[oid] = true
		}
	}
	sql := fmt.Sprintf(collationsSQL, noDatabaseVersion)
	if d.version >= 150000 {
		sql = fmt.Sprintf(collationsSQL, databaseVersion)
	}
	rows, err := conn.Query(ctx, sql, slices.Collect(maps.Keys(used)))
	if err != nil {
		return err
	}
	var oid uint32
	var c collation
	_, err = pgx.ForEachRow(rows, []any{&oid, &c.Name, &c.Definition, &c.Version, &c.Bytes}, func() error {
		d.collations[oid] = c
		return nil
	})
	return err
}

// statType is a type and what it is made of.
type statType struct {
	OID             uint32
	Name            string // as format_type writes it
	Kind            string // typtype
	Builtin         bool   // comes with every server
	Parts           []uint32
	Labels          []string // an enum's, in their order
	Fields          []string // a composite type's, with their types
	FieldCollations []uint32
	Collation       uint32 // a range's
	Extension       string // that it belongs to
}

// typesSQL describes the types $1. Parts are the types that its values hold and
// by which they are sorted.
const typesSQL = `
select t.oid, format_type(t.oid, null), t.typtype::text,
       n.nspname = 'pg_catalog' and t.oid < 16384,
       array_remove(array[nullif(t.typbasetype, 0),
                          case when t.typelem <> 0 and t.typlen = -1 then t.typelem end,
                          r.rngsubtype,
                          (select m.rngtypid from pg_range m
                            where (to_jsonb(m) ->> 'rngmultitypid')::oid = t.oid)], null)
         || array(select a.atttypid from pg_attribute a
                   where a.attrelid = t.typrelid and t.typrelid <> 0 and a.attnum > 0 and not a.attisdropped order by a.attnum),
       array(select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid order by e.enumsortorder),
       array(select format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)) from pg_attribute a
              where a.attrelid = t.typrelid and t.typrelid <> 0 and a.attnum > 0 and not a.attisdropped order by a.attnum),
       array(select a.attcollation from pg_attribute a
              where a.attrelid = t.typrelid and t.typrelid <> 0 and a.attnum > 0 and not a.attisdropped order by a.attnum),
       coalesce(r.rngcollation, 0),
       coalesce((select x.extname from pg_depend d join pg_extension x on x.oid = d.refobjid
                  where d.classid = 'pg_type'::regclass and d.objid = t.oid
                    and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' limit 1), '')::text
  from pg_type t
  join pg_namespace n on n.oid = t.typnamespace
  left join pg_range r on r.rngtypid = t.oid
 where t.oid = any($1::oid[])`

// readTypes reads those of all columns, and then of their parts.
func (d *side) readTypes(ctx context.Context, conn *pgx.Conn) error {
	wanted := map[uint32]bool{}
	for _, r := range d.byOID {
		for _, c := range r.columns {
			wanted[c.Type] = true
		}
	}
	for len(wanted) > 0 {
		rows, err := conn.Query(ctx, typesSQL, slices.Collect(maps.Keys(wanted)))
		if err != nil {
			return err
		}
		found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[statType])
		if err != nil {
			return err
		}
		wanted = map[uint32]bool{}
		for _, t := range found {
			d.types[t.OID] = t
		}
		for _, t := range found {
			for _, part := range t.Parts {
				if d.types[part] == nil {
					wanted[part] = true
				}
			}
		}
		if len(found) == 0 {
			return nil // dropped meanwhile
		}
	}
	return nil
}

// shape writes down all that a type's values consist of, so that two servers
// can be compared. Names of user types are qualified: search_path is pg_catalog.
func (d *side) shape(oid uint32) string {
	var b strings.Builder
	seen := map[uint32]bool{}
	var walk func(uint32)
	walk = func(oid uint32) {
		t := d.types[oid]
		if t == nil {
			fmt.Fprintf(&b, "(unknown %d)", oid)
			return
		}
		fmt.Fprintf(&b, "(%s %s %q %q %s", t.Name, t.Kind, t.Labels, t.Fields, t.Extension)
		if !seen[oid] {
			seen[oid] = true
			for _, part := range t.Parts {
				walk(part)
			}
		}
		b.WriteString(")")
	}
	walk(oid)
	return b.String()
}

// Types that need care. The order of jsonb and citext follows the database's
// own collation whatever the column's is; the reg types sort by object
// identifiers, which differ between servers.
var (
	byDefault = map[string]bool{"jsonb": true}
	byOIDs    = map[string]bool{
		"regclass": true, "regcollation": true, "regconfig": true, "regdictionary": true, "regnamespace": true, "regoper": true,
		"regoperator": true, "regproc": true, "regprocedure": true, "regrole": true, "regtype": true,
	}
)

// sortOrder is what a type's sort order depends on.
type sortOrder struct {
	collations []uint32
	doubt      bool // nobody knows but the server
	money      bool
}

func (d *side) order(oid uint32, own uint32) sortOrder {
	o := sortOrder{collations: []uint32{own}}
	seen := map[uint32]bool{}
	var walk func(uint32)
	walk = func(oid uint32) {
		t := d.types[oid]
		if t == nil || seen[oid] {
			return
		}
		seen[oid] = true
		o.collations = append(append(o.collations, t.FieldCollations...), t.Collation)
		switch {
		case t.Builtin && byDefault[t.Name]:
			o.collations = append(o.collations, defaultCollation)
		case t.Builtin && byOIDs[t.Name], !t.Builtin && t.Kind == "b" && len(t.Parts) == 0:
			o.doubt = true
		case t.Builtin && t.Name == "money":
			o.money = true
		}
		for _, part := range t.Parts {
			walk(part)
		}
	}
	walk(oid)
	slices.Sort(o.collations)
	o.collations = slices.Compact(o.collations)
	return o
}

// trust says how far the statistics of a column can be carried.
type trust struct {
	refuse string // why values cannot be carried at all; empty when they can
	check  bool   // the target has to look whether it finds them in order
}

// trustBetween finds out what may be carried from one column to another.
func trustBetween(from, to *side, a, b *statColumn) trust {
	if a.Typed != b.Typed || from.shape(a.Type) != to.shape(b.Type) {
		return trust{refuse: "the type differs"}
	}
	if a.Defined == nil || b.Defined == nil {
		return trust{refuse: "the table was locked, so that the expressions could not be compared"}
	}
	if *a.Defined != *b.Defined {
		return trust{refuse: "the expression reads differently"}
	}
	x, y := from.order(a.Type, a.Collation), to.order(b.Type, b.Collation)
	if x.money && from.monetary != to.monetary {
		return trust{refuse: "lc_monetary differs"}
	}
	t := trust{check: x.doubt}
	names := func(d *side, oids []uint32) (found []collation) {
		for _, oid := range oids {
			// By bytes is how name sorts, too, which had no collation before 12.
			if oid != 0 && !d.collations[oid].Bytes {
				found = append(found, d.collations[oid])
			}
		}
		slices.SortFunc(found, func(a, b collation) int { return strings.Compare(a.Name, b.Name) })
		return found
	}
	mine, theirs := names(from, x.collations), names(to, y.collations)
	textual := slices.ContainsFunc(y.collations, func(oid uint32) bool { return oid != 0 })
	t.check = t.check || textual && from.encoding != to.encoding || !slices.EqualFunc(mine, theirs, collation.sorts)
	return t
}
