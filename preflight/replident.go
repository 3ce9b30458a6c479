package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// replicaIdentitySQL lists the application's permanent tables for which
// Postgres itself finds no usable replica identity, and those that send whole
// rows (FULL) without a primary key. It judges as RelationGetIndexList does:
// only valid, immediate, unique indexes without predicate count; a deferrable
// primary key does not. index is the best one that could be named instead; the
// length of indclass is its number of key columns, INCLUDE columns (11 and
// later) left out. Partitions count one by one, their roots do not.
// Postgres manual: 29.1.1, Replica Identity.
const replicaIdentitySQL = `
select c.oid, n.nspname::text as schema, c.relname::text as table, j.problem,
       pk.indisprimary is not null as has_pk,
       exists (select 1 from pg_index i
                where i.indrelid = c.oid and i.indisprimary and not i.indimmediate) as deferrable_pk,
       greatest(c.reltuples, 0)::bigint as rows,
       coalesce((
         select ic.relname::text
           from pg_index i
           join pg_class ic on ic.oid = i.indexrelid
          where i.indrelid = c.oid and not i.indisprimary
            and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
            and not exists (
              select 1 from pg_attribute a
               where a.attrelid = c.oid and not a.attnotnull
                 and a.attnum = any ((i.indkey::int2[])[0:array_length(i.indclass::oid[], 1) - 1]))
          order by array_length(i.indclass::oid[], 1), i.indexrelid
          limit 1), '') as index
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_index pk on pk.indrelid = c.oid and pk.indisprimary and pk.indimmediate and pk.indisvalid
 cross join lateral (
   select case
     when c.relreplident = 'd' and pk.indisprimary is null then 'none'
     when c.relreplident = 'n' then 'nothing'
     when c.relreplident = 'f' and pk.indisprimary is null then 'full'
     when c.relreplident = 'i' and not exists (
       select 1 from pg_index i
        where i.indrelid = c.oid and i.indisreplident
          and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null) then 'lost'
   end as problem
 ) j
 where c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384 and j.problem is not null
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname`

// incomparableSQL lists, of the tables in $1, the columns whose type has
// neither a btree nor a hash operator class: rows that contain them cannot be
// looked up by comparing whole rows. Domains, arrays and composites are as
// comparable as what they are made of.
// Postgres manual: 29.1.1 and 11.10, Operator Classes.
const incomparableSQL = `
with recursive used as (
  select a.attrelid as tab, a.attname as col, a.atttypid as typ
    from pg_attribute a
   where a.attrelid = any ($1::oid[]) and a.attnum > 0 and not a.attisdropped
  union
  select u.tab, u.col, part.typ
    from used u
    join pg_type t on t.oid = u.typ
    cross join lateral (
      select t.typbasetype as typ where t.typtype = 'd'
      union all
      select t.typelem where t.typtype = 'b' and t.typelem <> 0 and t.typlen = -1
      union all
      select a.atttypid from pg_attribute a
       where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    ) part
)
select u.tab as oid, array_agg(distinct u.col::text || ' ' || t.typname) as columns
  from used u
  join pg_type t on t.oid = u.typ
 where t.typtype = 'b' and not (t.typelem <> 0 and t.typlen = -1)
   and not exists (
     select 1
       from pg_opclass oc
       join pg_am am on am.oid = oc.opcmethod
      where oc.opcdefault and am.amname in ('btree', 'hash')
        and (oc.opcintype = t.oid
             or exists (select 1 from pg_cast k
                         where k.castsource = t.oid and k.casttarget = oc.opcintype
                           and k.castmethod = 'b' and k.castcontext = 'i')))
 group by u.tab`

type identityRow struct {
	Oid          uint32
	Schema       string
	Table        string
	Problem      string // none, nothing, lost, full
	HasPK        bool   `db:"has_pk"`
	DeferrablePK bool   `db:"deferrable_pk"`
	Rows         int64
	Index        string // the best candidate; empty when there is none
}

func (r identityRow) name() string { return quote(r.Schema) + "." + quote(r.Table) }

type incomparableRow struct {
	Oid     uint32
	Columns []string
}

// checkReplicaIdentity finds the tables whose UPDATE and DELETE would fail on
// the old server as soon as they are published, and those whose changes the new
// server could not apply.
func checkReplicaIdentity(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[identityRow](ctx, p.Old, "reading replica identities", replicaIdentitySQL)
	if err != nil {
		return nil, err
	}
	var inScope []identityRow
	var unkeyed []uint32
	for _, r := range rows {
		if p.Scope.Match(r.Schema, r.Table) {
			inScope = append(inScope, r)
			if !r.HasPK {
				unkeyed = append(unkeyed, r.Oid)
			}
		}
	}
	if len(inScope) == 0 {
		return nil, nil
	}
	bad, err := read[incomparableRow](ctx, p.Old, "looking for types without equality", incomparableSQL, unkeyed)
	if err != nil {
		return nil, err
	}
	incomparable := make(map[uint32][]string, len(bad))
	for _, r := range bad {
		incomparable[r.Oid] = r.Columns
	}
	var found []Finding
	for _, r := range inScope {
		found = append(found, identityFinding(r, incomparable[r.Oid]))
	}
	return found, nil
}

// slowRows is the size from which reading a whole table for each change matters.
const slowRows = 10_000

// identityFinding judges one table; incomparable are its columns that FULL
// could not compare.
func identityFinding(r identityRow, incomparable []string) Finding {
	f := Finding{
		ID: "tables.replica-identity", Severity: Blocker, Server: string(pg.Old), Object: r.name(),
		Why: "Once the table is published, every UPDATE and DELETE on it fails on the old server (55000).",
	}
	f.Fix, f.FixKind = identityFix(r, incomparable)
	if f.FixKind == FixSQL {
		f.Undo = r.restore()
	}
	switch {
	case r.Problem == "nothing":
		f.Seen = "REPLICA IDENTITY NOTHING"
	case r.Problem == "lost":
		f.Seen = "the index of its REPLICA IDENTITY is gone or not usable"
	case r.Problem == "none" && r.DeferrablePK:
		f.Seen = "its primary key is deferrable, which cannot identify rows"
	case r.Problem == "none":
		f.Seen = "no primary key"
	case len(incomparable) > 0:
		f.ID = "tables.replica-identity-full"
		f.Seen = "REPLICA IDENTITY FULL without a primary key, and no equality for " + list(incomparable)
		f.Why = "The first UPDATE or DELETE stops the stream: the new server cannot compare such rows."
	default:
		f.ID, f.Severity = "tables.replica-identity-slow", Note
		f.Seen = fmt.Sprintf("REPLICA IDENTITY FULL without a primary key, about %d rows", r.Rows)
		f.Why = "Every replicated UPDATE and DELETE reads the whole table on the new server, unless an index helps (16 and later)."
		if r.Rows >= slowRows {
			f.Severity = Warning
		}
	}
	return f
}

// restore is the statement that gives a table back the replica identity that it
// has. One whose index is gone identifies rows as little as NOTHING does.
func (r identityRow) restore() string {
	was := map[string]string{"none": "DEFAULT", "full": "FULL", "nothing": "NOTHING", "lost": "NOTHING"}[r.Problem]
	return "ALTER TABLE " + r.name() + " REPLICA IDENTITY " + was + ";"
}

// identityFix prefers what identifies rows by an index; whole rows are the last
// resort, and none where they cannot be compared.
func identityFix(r identityRow, incomparable []string) (string, FixKind) {
	alter := "ALTER TABLE " + r.name()
	switch {
	case r.Problem != "full" && r.Problem != "none" && r.HasPK:
		return alter + " REPLICA IDENTITY DEFAULT;", FixSQL
	case r.Index != "":
		return alter + " REPLICA IDENTITY USING INDEX " + quote(r.Index) + ";", FixSQL
	case r.Problem == "full" || len(incomparable) > 0:
		return strings.Join([]string{
			alter + " ADD PRIMARY KEY (...);",
			"-- or, without such columns: " + alter + " ADD COLUMN row_id bigserial PRIMARY KEY; (rewrites the table)",
		}, "\n"), FixAction
	}
	return "-- a primary key would be better: ADD PRIMARY KEY (...)\n" + alter + " REPLICA IDENTITY FULL;", FixSQL
}
