package schema

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// columnFacts are what the catalog of the old server says of a column.
type columnFacts struct {
	number     int16
	typ        string // with collation
	notNull    bool
	identity   string // a, d or empty
	generated  string // s, v or empty
	expression string // of the default or of the generated column
	missing    *string
	typmod     int32
	typOID     uint32
	storage    string
	target     int32
	options    []string
	method     string // of compression
}

// columnSQL10 reads a column on 10, where a default rewrites the table.
const columnSQL10 = `
select a.attnum,
       format_type(a.atttypid, a.atttypmod)
       || case when a.attcollation <> t.typcollation then
              (select ' collate ' || format('%I.%I', ln.nspname, l.collname)
                 from pg_collation l
                 join pg_namespace ln on ln.oid = l.collnamespace
                where l.oid = a.attcollation) else '' end,
       a.attnotnull, a.attidentity::text, '', coalesce(pg_get_expr(d.adbin, d.adrelid), ''), null::text,
       a.atttypmod, a.atttypid, a.attstorage::text, coalesce(a.attstattarget, -1)::int, coalesce(a.attoptions, '{}'), ''
  from pg_attribute a
  join pg_type t on t.oid = a.atttypid
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attrelid = $1::regclass and a.attname = $2 and not a.attisdropped`

// columnSQL11 reads the value that rows have which are older than the column.
const columnSQL11 = `
select a.attnum,
       format_type(a.atttypid, a.atttypmod)
       || case when a.attcollation <> t.typcollation then
              (select ' collate ' || format('%I.%I', ln.nspname, l.collname)
                 from pg_collation l
                 join pg_namespace ln on ln.oid = l.collnamespace
                where l.oid = a.attcollation) else '' end,
       a.attnotnull, a.attidentity::text, coalesce(to_jsonb(a)->>'attgenerated', ''), coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       case when a.atthasmissing then (a.attmissingval::text::text[])[1] end,
       a.atttypmod, a.atttypid, a.attstorage::text, coalesce(a.attstattarget, -1)::int, coalesce(a.attoptions, '{}'),
       coalesce(to_jsonb(a)->>'attcompression', '')
  from pg_attribute a
  join pg_type t on t.oid = a.atttypid
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where a.attrelid = $1::regclass and a.attname = $2 and not a.attisdropped`

func (s *syncing) column(ctx context.Context, o Object) (columnFacts, error) {
	sql := columnSQL11
	if s.old.Major() < 11 {
		sql = columnSQL10
	}
	var c columnFacts
	parts := names(o.Identity)
	err := s.old.Pool().QueryRow(ctx, sql, o.On, parts[len(parts)-1]).Scan(&c.number, &c.typ, &c.notNull, &c.identity, &c.generated,
		&c.expression, &c.missing, &c.typmod, &c.typOID, &c.storage, &c.target, &c.options, &c.method)
	c.identity, c.generated, c.method = strings.Trim(c.identity, "\x00"), strings.Trim(c.generated, "\x00"), strings.Trim(c.method, "\x00")
	return c, err
}

// kindOfSQL tells what a column is a part of.
const kindOfSQL = `select relkind::text, relfilenode::bigint from pg_class where oid = $1::regclass`

const again = "pgcutover abort, then start, copies everything anew"

// addColumn adds a column that was added on old. What its existing rows have
// there decides: without a default, nothing; with one that was the same for all
// rows, that value, which the catalog keeps (from 11 on) until the table is
// rewritten. Rows written later come through the stream.
func (s *syncing) addColumn(ctx context.Context, d Difference) (Fix, error) {
	var kind string
	var file int64
	if err := s.old.Pool().QueryRow(ctx, kindOfSQL, d.object.On).Scan(&kind, &file); err != nil {
		return Fix{}, err
	}
	c, err := s.column(ctx, d.object)
	if err != nil {
		return Fix{}, err
	}
	name := d.name()
	switch kind {
	case "c":
		return Fix{Statements: []string{fmt.Sprintf("alter type %s add attribute %s %s", d.object.On, name, c.typ)}, Order: orderAlter}, nil
	case "r", "p":
	default:
		return Fix{}, byHand("bring the view or foreign table in line by hand")
	}
	from, renamed, err := s.renamedColumn(ctx, d, c.number)
	switch {
	case err != nil:
		return Fix{}, err
	case renamed:
		return Fix{Statements: []string{fmt.Sprintf("alter table %s rename column %s to %s", d.object.On, from, name)}, Order: orderRename}, nil
	case c.identity != "" || len(d.Parts) > 0 && d.Parts[0].Kind == kindSequence:
		return Fix{}, byHand("every row got a number of its own on old, in an order that is not to be had again: %s", again)
	}
	sql := fmt.Sprintf("alter table %s add column %s %s", d.object.On, name, c.typ)
	if c.generated != "" {
		return Fix{Statements: []string{sql + " generated always as (" + c.expression + ") " + map[string]string{"s": "stored", "v": "virtual"}[c.generated]}, Order: orderAlter}, nil
	}
	if kind == "r" && c.missing == nil && s.baseline.rewritten(d.object.On, file) {
		return Fix{}, byHand("the table was rewritten on old, so that what the column's first value was is not known: %s", again)
	}
	return Fix{Statements: addedColumn(sql, d.object.On, name, c), Order: orderAlter}, nil
}

// addedColumn gives old rows the value that the catalog of old keeps for them. A
// column that became NOT NULL later is filled by the stream first.
func addedColumn(sql, table, name string, c columnFacts) []string {
	if c.missing == nil {
		out := []string{sql}
		if c.expression != "" {
			out = append(out, fmt.Sprintf("alter table %s alter column %s set default %s", table, name, c.expression))
		}
		return out
	}
	sql += " default " + quoteText(*c.missing)
	if c.notNull {
		sql += " not null"
	}
	if c.expression == "" {
		return []string{sql, fmt.Sprintf("alter table %s alter column %s drop default", table, name)}
	}
	return []string{sql, fmt.Sprintf("alter table %s alter column %s set default %s", table, name, c.expression)}
}

// renamedColumn reports whether the column is not new but renamed, and from what:
// a column that the table did not have at start has a higher number.
func (s *syncing) renamedColumn(ctx context.Context, d Difference, number int16) (from string, renamed bool, err error) {
	known, found := s.baseline.table(d.object.On)
	if !found {
		return "", false, byHand("what the table was like at start was not recorded, so that a new column cannot be told from a renamed one: %s", again)
	}
	if int(number) > known.Columns {
		return "", false, nil
	}
	var gone, came []Difference
	for _, other := range s.all {
		if other.Kind != kindColumn || other.object.On != d.object.On {
			continue
		}
		switch other.What {
		case Extra:
			gone = append(gone, other)
		case Absent:
			c, err := s.column(ctx, other.object)
			if err != nil {
				return "", false, err
			}
			if int(c.number) <= known.Columns {
				came = append(came, other)
			}
		}
	}
	if len(gone) != 1 || len(came) != 1 {
		return "", false, byHand("several columns of this table were renamed or dropped: rename them on the new server by hand (ALTER TABLE %s RENAME COLUMN ... TO ...), then run this again", d.object.On)
	}
	return gone[0].name(), true, nil
}

// dropColumn drops a column that old has dropped, and leaves one that was renamed
// to addColumn.
func (s *syncing) dropColumn(ctx context.Context, d Difference) (Fix, error) {
	if d.object.Section == PostData {
		return Fix{}, byHand("bring the view in line by hand")
	}
	known, found := s.baseline.table(d.object.On)
	for _, other := range s.all {
		if other.What != Absent || other.Kind != kindColumn || other.object.On != d.object.On {
			continue
		}
		c, err := s.column(ctx, other.object)
		if err != nil {
			return Fix{}, err
		}
		if !found || int(c.number) <= known.Columns {
			return Fix{Advice: "it was renamed on old: see the other column of this table"}, nil
		}
	}
	var kind string
	var file int64
	if err := s.new.Pool().QueryRow(ctx, kindOfSQL, d.object.On).Scan(&kind, &file); err != nil {
		return Fix{}, err
	}
	if kind == "c" {
		return Fix{Drop: []string{fmt.Sprintf("alter type %s drop attribute %s", d.object.On, d.name())}, Order: orderDrop}, nil
	}
	f := Fix{Drop: []string{fmt.Sprintf("alter table %s drop column %s", d.object.On, d.name())}, Order: orderDrop}
	parts := names(d.Identity)
	var refuses bool
	if err := s.new.Pool().QueryRow(ctx, refusesNullSQL, d.object.On, parts[len(parts)-1]).Scan(&refuses); err != nil {
		return Fix{}, err
	}
	if refuses {
		f.Loosen = []string{fmt.Sprintf("alter table %s alter column %s drop not null", d.object.On, d.name())}
	}
	return f, nil
}

// refusesNullSQL tells whether a column's NOT NULL can be dropped by itself. It
// refuses the rows that old writes without the column, behind which those wait
// that still have it. One of a primary key goes with that.
const refusesNullSQL = `
select a.attnotnull and a.attidentity = ''
       and not exists (select from pg_index i where i.indrelid = a.attrelid and i.indisprimary and a.attnum = any (i.indkey))
  from pg_attribute a
 where a.attrelid = $1::regclass and a.attname = $2 and not a.attisdropped`

// castSQL tells whether values of a type on new become those of another without
// a choice: by the same type, a binary coercible one, or an implicit cast whose
// result depends on nothing else.
const castSQL = `
select a.atttypid = $3::regtype
       or exists (select from pg_cast c
                   left join pg_proc p on p.oid = c.castfunc
                   where c.castsource = a.atttypid and c.casttarget = $3::regtype
                     and c.castcontext = 'i' and (c.castmethod = 'b' or p.provolatile = 'i'))
  from pg_attribute a
 where a.attrelid = $1::regclass and a.attname = $2 and not a.attisdropped`

const typeNameSQL = `select format_type($1::oid, null)`

// alterColumn changes a column's type, NOT NULL, identity and default.
func (s *syncing) alterColumn(ctx context.Context, d Difference) ([]string, error) {
	c, err := s.column(ctx, d.object)
	if err != nil {
		return nil, err
	}
	table, name := d.object.On, d.name()
	alter := fmt.Sprintf("alter table %s alter column %s ", table, name)
	if d.Aspect == Expression {
		switch {
		case c.generated != "":
			return nil, byHand("the column is computed in another way: its rows on new have to be computed anew: %s", again)
		case c.expression == "":
			return []string{alter + "drop default"}, nil
		}
		return []string{alter + "set default " + c.expression}, nil
	}
	onNew := d.New
	var out []string
	if typeOf(d.Old) != typeOf(onNew) {
		sql, err := s.changeType(ctx, d, c)
		if err != nil {
			return nil, err
		}
		out = append(out, sql)
	}
	has := func(text, word string) bool { return strings.Contains(text+" ", " "+word+" ") }
	if has(d.Old, "generated stored") != has(onNew, "generated stored") || has(d.Old, "generated virtual") != has(onNew, "generated virtual") {
		return nil, byHand("the column has become computed, or is not any more: %s", again)
	}
	if has(onNew, "as identity") && !has(d.Old, "as identity") {
		out = append(out, alter+"drop identity")
	}
	switch {
	case has(d.Old, "not null") && !has(onNew, "not null"):
		out = append(out, alter+"set not null")
	case !has(d.Old, "not null") && has(onNew, "not null"):
		out = append(out, alter+"drop not null")
	}
	switch identity := map[string]string{"a": "always", "d": "by default"}[c.identity]; {
	case identity != "" && !has(onNew, "as identity"):
		return nil, byHand("ALTER TABLE %s ALTER COLUMN %s ADD GENERATED %s AS IDENTITY on the new server, with the options of its sequence on old", table, name, strings.ToUpper(identity))
	case identity != "" && !has(onNew, "generated "+identity+" as identity"):
		out = append(out, alter+"set generated "+identity)
	}
	switch {
	case has(d.Old, "default") && c.expression != "" && c.identity == "" && !has(onNew, "default"):
		out = append(out, alter+"set default "+c.expression)
	case !has(d.Old, "default") && has(onNew, "default") && !has(onNew, "as identity"):
		out = append(out, alter+"drop default")
	}
	return out, nil
}

// typeOf is the part of a column's definition that tells its type.
func typeOf(definition string) string {
	for _, word := range []string{" not null", " generated always as identity", " generated by default as identity", " generated stored", " generated virtual", " default"} {
		if before, _, found := strings.Cut(definition+" ", word+" "); found {
			definition = before
		}
	}
	return strings.TrimSpace(definition)
}

func (s *syncing) changeType(ctx context.Context, d Difference, c columnFacts) (string, error) {
	parts := names(d.Identity)
	var to string
	if err := s.old.Pool().QueryRow(ctx, typeNameSQL, c.typOID).Scan(&to); err != nil {
		return "", err
	}
	var safe bool
	if err := s.new.Pool().QueryRow(ctx, castSQL, d.object.On, parts[len(parts)-1], to).Scan(&safe); err != nil {
		return "", err
	}
	if !safe {
		return "", byHand("how the existing rows were converted on old (USING) is not known: %s", again)
	}
	var kind string
	var file int64
	if err := s.new.Pool().QueryRow(ctx, kindOfSQL, d.object.On).Scan(&kind, &file); err != nil {
		return "", err
	}
	if kind == "c" {
		return fmt.Sprintf("alter type %s alter attribute %s set data type %s cascade", d.object.On, d.name(), c.typ), nil
	}
	return fmt.Sprintf("alter table %s alter column %s set data type %s", d.object.On, d.name(), c.typ), nil
}

// columnSettings sets storage, compression, statistics target and options.
func (s *syncing) columnSettings(ctx context.Context, d Difference) ([]string, error) {
	c, err := s.column(ctx, d.object)
	if err != nil {
		return nil, err
	}
	alter := fmt.Sprintf("alter table %s alter column %s ", d.object.On, d.name())
	storage := map[string]string{"p": "plain", "e": "external", "m": "main", "x": "extended"}[c.storage]
	out := []string{alter + "set storage " + storage, alter + "set statistics " + strconv.Itoa(int(c.target))}
	if method := map[string]string{"p": "pglz", "l": "lz4"}[c.method]; method != "" {
		out = append(out, alter+"set compression "+method)
	} else if strings.Contains(d.New, "compression ") {
		out = append(out, alter+"set compression default")
	}
	if strings.Contains(d.New, "options (") {
		out = append(out, alter+"reset (n_distinct, n_distinct_inherited)")
	}
	var options []string
	for _, o := range c.options {
		if !strings.HasPrefix(o, "pg_attver=") {
			options = append(options, o)
		}
	}
	if len(options) > 0 {
		out = append(out, alter+"set ("+strings.Join(options, ", ")+")")
	}
	return out, nil
}
