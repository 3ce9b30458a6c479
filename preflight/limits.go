package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// nearLimitSQL lists the sequences of which $1 (a fraction) or more is used up,
// and the integer columns that they come to the end of first. A column is fed by
// a sequence that it owns, or that its default calls.
const nearLimitSQL = `
with fed (seq, tab, num) as (
  select d.objid, d.refobjid, d.refobjsubid
    from pg_depend d
   where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i') and d.refobjsubid > 0
  union
  select d.refobjid, f.adrelid, f.adnum
    from pg_depend d
    join pg_attrdef f on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid
   where d.refclassid = 'pg_class'::regclass and d.refobjid <> f.adrelid
), narrow as (
  select distinct on (fed.seq) fed.seq, format('%I.%I', n.nspname, c.relname) as tab, quote_ident(a.attname) as col,
         case a.atttypid when 'int2'::regtype then 32767 else 2147483647 end as roof
    from fed
    join pg_class c on c.oid = fed.tab and c.relkind in ('r', 'p')
    join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = fed.tab and a.attnum = fed.num and a.atttypid in ('int2'::regtype, 'int4'::regtype)
   order by fed.seq, roof, n.nspname, c.relname
), ends as (
  select format('%I.%I', s.schemaname, s.sequencename) as name, s.last_value::numeric as last, s.increment_by > 0 as up,
         s.min_value::numeric as low, s.max_value::numeric as high, s.data_type::text as type, s.cycle, t.tab, t.col, t.roof
    from pg_sequences s
    join pg_namespace n on n.nspname = s.schemaname
    join pg_class c on c.relnamespace = n.oid and c.relname = s.sequencename
    left join narrow t on t.seq = c.oid
   where s.last_value is not null and c.oid >= 16384 and s.schemaname <> 'pgcutover'
     and not exists (select 1 from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
)
select name, type, coalesce(tab, '') as tab, coalesce(col, '') as col, last::text as last,
       round(100 * u.used)::int as percent, case when up then high < 9223372036854775807 else low > -9223372036854775808 end as bounded, up, u.column_first
  from ends
 cross join lateral (
   select case when up then (last - least(low, 0)) / nullif(least(high, coalesce(roof, high)) - least(low, 0), 0)
               else (greatest(high, 0) - last) / nullif(greatest(high, 0) - low, 0) end as used,
          up and roof < high as column_first
 ) u
 where not cycle and u.used >= $1
 order by name`

type nearLimitRow struct {
	Name        string
	Type        string
	Tab, Col    string // a smallint or integer column that it feeds
	Last        string
	Percent     int
	Bounded     bool
	Up          bool  // its increment is positive
	ColumnFirst *bool `db:"column_first"`
}

// nearLimit is how much of a sequence may be used before it is told.
const nearLimit = 0.8

// checkSequenceLimits finds sequences that come to their end soon. The cutover
// sets new past old by a margin, which takes a part of what is left.
func checkSequenceLimits(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[nearLimitRow](ctx, p.Old, "reading how far sequences are", nearLimitSQL, nearLimit)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, r := range rows {
		f := Finding{
			ID: "sequences.near-limit", Severity: Warning, Server: string(pg.Old), Object: "sequence " + r.Name,
			Seen: fmt.Sprintf("%s (%s) is at %s, %d %% of its numbers", r.Name, r.Type, r.Last, r.Percent),
			Why:  "At its end INSERTs fail. The cutover sets it past the old one by a margin, which takes a part of what is left.",
		}
		if r.ColumnFirst != nil && *r.ColumnFirst {
			f.Seen = fmt.Sprintf("it is at %s, %d %% of what column %s of %s can hold", r.Last, r.Percent, r.Col, r.Tab)
		}
		f.Fix, f.FixKind = widen(r), FixSQL
		if f.Fix == "" {
			f.Fix, f.FixKind = "let it begin anew, or give its numbers to something wider", FixAction
		}
		found = append(found, f)
	}
	cycling, err := readValues[string](ctx, p.Old, "looking for sequences that wrap", cyclingSQL)
	if len(cycling) > 0 {
		found = append(found, Finding{
			ID: "sequences.cycle", Severity: Note, Server: string(pg.Old), Object: "sequences with CYCLE",
			Seen: fmt.Sprintf("%s: %s", plural(len(cycling), "sequence"), list(cycling)),
			Why:  "They begin again at their end, where ahead and behind lose their meaning: one that wraps during the cutover may give out some numbers again.",
			Fix:  "nothing, when its numbers may come twice; else ALTER SEQUENCE ... NO CYCLE", FixKind: FixAction,
		})
	}
	return found, err
}

// widen is what gives a sequence, and the column that it feeds, more room.
func widen(r nearLimitRow) string {
	var fixes []string
	if r.Tab != "" {
		fixes = append(fixes, "-- rewrites the table and locks it meanwhile:", fmt.Sprintf("ALTER TABLE %s ALTER COLUMN %s TYPE bigint;", r.Tab, r.Col))
	}
	end := "NO MINVALUE"
	if r.Up {
		end = "NO MAXVALUE"
	}
	switch {
	case r.Type != "bigint":
		fixes = append(fixes, fmt.Sprintf("ALTER SEQUENCE %s AS bigint %s;", r.Name, end))
	case r.Bounded:
		fixes = append(fixes, fmt.Sprintf("ALTER SEQUENCE %s %s;", r.Name, end))
	}
	return strings.Join(fixes, "\n")
}

// cyclingSQL lists the sequences that wrap.
const cyclingSQL = `
select format('%I.%I', n.nspname, c.relname)
  from pg_sequence s
  join pg_class c on c.oid = s.seqrelid
  join pg_namespace n on n.oid = c.relnamespace
 where s.seqcycle and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
   and not exists (select 1 from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1`
