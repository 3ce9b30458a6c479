package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// generatedIdentitySQL lists the tables whose replica identity, or else whose
// primary key, contains generated columns (12 and later), and those that send
// whole rows with generated columns in them. plain_pk and index are what could be
// named instead: neither has a generated column.
const generatedIdentitySQL = `
select n.nspname::text as schema, c.relname::text as table, c.relreplident = 'f' as whole,
       c.relreplident = 'n' as nothing, c.relreplident = 'i' as by_index, g.columns,
       coalesce(ident.generated, false) as in_identity, coalesce(pk.generated, false) as in_pk,
       coalesce(not pk.generated, false) as plain_pk,
       coalesce((
         select ic.relname::text
           from pg_index i
           join pg_class ic on ic.oid = i.indexrelid
          where i.indrelid = c.oid and not i.indisprimary
            and i.indisunique and i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null
            and not exists (
              select 1 from pg_attribute a
               where a.attrelid = c.oid and (not a.attnotnull or a.attgenerated <> '')
                 and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
          order by i.indnkeyatts, i.indexrelid
          limit 1), '') as index
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join lateral (
    select array_agg(a.attname::text order by a.attnum) as columns, array_agg(a.attnum) as numbers
      from pg_attribute a
     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated <> ''
  ) g on g.columns is not null
  left join lateral (
    select (i.indkey::int2[])[0:i.indnkeyatts - 1] && g.numbers as generated
      from pg_index i where i.indrelid = c.oid and i.indisprimary and i.indimmediate and i.indisvalid
  ) pk on true
  left join lateral (
    select (i.indkey::int2[])[0:i.indnkeyatts - 1] && g.numbers as generated
      from pg_index i
     where i.indrelid = c.oid and i.indimmediate and i.indisvalid
       and ((c.relreplident = 'd' and i.indisprimary) or (c.relreplident = 'i' and i.indisreplident))
  ) ident on true
 where c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname`

type generatedRow struct {
	Schema, Table string
	Whole         bool // REPLICA IDENTITY FULL
	Nothing       bool
	ByIndex       bool `db:"by_index"` // REPLICA IDENTITY USING INDEX
	Columns       []string
	InIdentity    bool `db:"in_identity"`
	InPK          bool `db:"in_pk"`
	PlainPK       bool `db:"plain_pk"`
	Index         string
}

// checkGeneratedIdentity finds tables whose rows cannot be identified because
// generated columns are not sent (measured from 13 to 18, as publishers and as
// subscribers): with one in the key the subscriber stops at the first UPDATE, or
// from 18 on the publisher refuses it; whole rows with one are refused by
// publishers of 18 and later only, and a rollback makes the new server one.
// Postgres manual: 29.6, Generated Column Replication.
func checkGeneratedIdentity(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.Old.Major() < 12 {
		return nil, nil
	}
	rows, err := read[generatedRow](ctx, p.Old, "reading generated columns", generatedIdentitySQL)
	var found []Finding
	for _, r := range rows {
		why := generatedWhy(p, r)
		if why == "" || !p.Scope.Match(r.Schema, r.Table) {
			continue
		}
		f := Finding{
			ID: "tables.generated-identity", Severity: Blocker, Server: string(pg.Old), Object: quote(r.Schema) + "." + quote(r.Table),
			Seen: "its replica identity has generated columns: " + list(r.Columns), Why: why,
		}
		alter := "ALTER TABLE " + f.Object
		switch {
		case r.PlainPK:
			f.Fix, f.FixKind = alter+" REPLICA IDENTITY DEFAULT;", FixSQL
		case r.Index != "":
			f.Fix, f.FixKind = alter+" REPLICA IDENTITY USING INDEX "+quote(r.Index)+";", FixSQL
		default:
			f.Fix = fmt.Sprintf("identify its rows by ordinary columns: make a unique index on columns that are NOT NULL and not generated, then %s REPLICA IDENTITY USING INDEX ...;", alter)
			f.FixKind = FixAction
		}
		switch {
		case f.FixKind == FixAction || r.ByIndex: // nothing to take back, or to an index that does not do
		case r.Whole:
			f.Undo = alter + " REPLICA IDENTITY FULL;"
		default:
			f.Undo = alter + " REPLICA IDENTITY DEFAULT;"
		}
		found = append(found, f)
	}
	return found, err
}

// generatedWhy says what goes wrong with a table; empty when nothing does.
func generatedWhy(p *Pair, r generatedRow) string {
	const refused = "Generated columns are not sent, so that PostgreSQL 18 refuses every UPDATE and DELETE of the published table (55000)"
	switch {
	case r.Nothing:
		return "" // told as tables.replica-identity
	case (r.InIdentity || r.Whole) && p.Old.Major() >= 18:
		return refused + "."
	case r.InIdentity || (r.Whole && r.InPK):
		return "Generated columns are not sent: the first UPDATE or DELETE stops the stream, for the new server gets no value for its key."
	case r.Whole && p.Settings.Rollback && p.New.Major() >= 18:
		return refused + ": after the cutover, when the new server publishes for the way back."
	}
	return ""
}

// wideBytes is the size of a TOAST table from which sending whole rows matters.
const wideBytes = 100 << 20

// wideSQL lists the tables that send whole old rows and have much in their TOAST
// table, as of the last VACUUM.
const wideSQL = `
select n.nspname::text as schema, c.relname::text as table,
       t.relpages::bigint * current_setting('block_size')::bigint as size,
       exists (select 1 from pg_index i
                where i.indrelid = c.oid and i.indisprimary and i.indimmediate and i.indisvalid) as has_pk
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class t on t.oid = c.reltoastrelid
 where c.relkind = 'r' and c.relpersistence = 'p' and c.relreplident = 'f' and c.oid >= 16384
   and t.relpages::bigint * current_setting('block_size')::bigint >= $1
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname`

type wideRow struct {
	Schema, Table string
	Size          int64
	HasPK         bool `db:"has_pk"`
}

// checkWideRows finds tables of long values that send whole old rows.
// Postgres manual: ALTER TABLE, REPLICA IDENTITY; 66.2, TOAST.
func checkWideRows(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[wideRow](ctx, p.Old, "looking for tables of long values", wideSQL, int64(wideBytes))
	var found []Finding
	for _, r := range rows {
		if !p.Scope.Match(r.Schema, r.Table) {
			continue
		}
		f := Finding{
			ID: "tables.replica-identity-wide", Severity: Warning, Server: string(pg.Old), Object: quote(r.Schema) + "." + quote(r.Table),
			Seen: "REPLICA IDENTITY FULL, and " + bytes(r.Size) + " of long values in its TOAST table",
			Why:  "Each UPDATE and DELETE writes the whole old row to the WAL and sends it, long values too, even those that did not change.",
		}
		f.Fix, f.FixKind = "give it a primary key, then: ALTER TABLE "+f.Object+" REPLICA IDENTITY DEFAULT;", FixAction
		if r.HasPK {
			f.Fix = "-- unless a reader of its changes (change data capture) needs whole old rows:\nALTER TABLE " + f.Object + " REPLICA IDENTITY DEFAULT;"
			f.FixKind = FixSQL
		}
		found = append(found, f)
	}
	return found, err
}
