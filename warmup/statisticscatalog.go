package warmup

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// statRelation is a table, or an index that has expressions.
type statRelation struct {
	OID      uint32
	Schema   string
	Name     string
	Kind     string // relkind
	Of       string // an index: its table's name
	Pages    int32
	Tuples   float32
	Changed  int64 // rows changed since the last ANALYZE
	Analyzed bool  // the server remembers an ANALYZE
	Own      bool  // pg_stats shows statistics of its own rows
	Tree     bool  // and of the rows of its whole tree
	Extended bool  // has statistics objects

	columns map[string]*statColumn
}

func (r *statRelation) table() Table {
	if r.Of != "" {
		return Table{r.Schema, r.Of}
	}
	return Table{r.Schema, r.Name}
}

// statColumn is a column that may have statistics. Of an index only expressions
// are: the others have the table's.
type statColumn struct {
	Relation  uint32
	Number    int16
	Name      string
	Type      uint32
	Typed     string // with its modifiers, as format_type writes it
	Collation uint32
	Defined   *string // an index's expression, nil when its table was locked; else empty
	Visible   bool    // pg_stats shows it to this role
	Countable bool    // its statistics target is not 0
}

// side is what the catalogs of one server say.
type side struct {
	version    int
	relations  map[Table]*statRelation // indexes among them, by their own name
	byOID      map[uint32]*statRelation
	types      map[uint32]*statType
	collations map[uint32]collation
	monetary   string
	encoding   string
	slots      bool  // pg_statistic itself can be read
	bytes      int64 // of pg_statistic
}

// readSide reads everything but the statistics.
func readSide(ctx context.Context, conn *pgx.Conn, s *pg.Server) (*side, error) {
	d := &side{version: s.Version(), types: map[uint32]*statType{}, collations: map[uint32]collation{}, relations: map[Table]*statRelation{}, byOID: map[uint32]*statRelation{}}
	if err := s.Pool().QueryRow(ctx, monetarySQL).Scan(&d.monetary); err != nil {
		return nil, fmt.Errorf("reading lc_monetary of the %s server: %w", s.Side(), err)
	}
	for _, read := range []func(context.Context, *pgx.Conn) error{d.readDatabase, d.readRelations, d.readColumns, d.readTypes, d.readCollations} {
		if err := read(ctx, conn); err != nil {
			return nil, fmt.Errorf("reading the catalogs of the %s server: %w", s.Side(), err)
		}
	}
	return d, nil
}

// databaseSQL asks for what values depend on; lc_monetary is asked for in an
// ordinary session, since those that carry set their own.
const (
	databaseSQL = `
select current_setting('server_encoding'), has_table_privilege('pg_catalog.pg_statistic', 'select'),
       pg_total_relation_size('pg_catalog.pg_statistic')`
	monetarySQL = `
select current_setting('lc_monetary')`
)

func (d *side) readDatabase(ctx context.Context, conn *pgx.Conn) error {
	return conn.QueryRow(ctx, databaseSQL).Scan(&d.encoding, &d.slots, &d.bytes)
}

// statRelationsSQL lists the application tables, foreign ones included, and
// their indexes that have expressions.
const statRelationsSQL = `
with stats as (
    select s.schemaname, s.tablename, bool_or(not s.inherited) as own, bool_or(s.inherited) as tree
      from pg_stats s
     group by s.schemaname, s.tablename
)
select c.oid, n.nspname::text, c.relname::text, c.relkind::text, coalesce(t.relname, '')::text, c.relpages, c.reltuples,
       coalesce(pg_stat_get_mod_since_analyze(c.oid), 0),
       pg_stat_get_last_analyze_time(coalesce(t.oid, c.oid)) is not null
         or pg_stat_get_last_autoanalyze_time(coalesce(t.oid, c.oid)) is not null,
       coalesce(s.own, false), coalesce(s.tree, false),
       exists (select 1 from pg_statistic_ext e where e.stxrelid = c.oid)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_index i on i.indexrelid = c.oid and i.indexprs is not null
  left join pg_class t on t.oid = i.indrelid
  left join stats s on s.schemaname = n.nspname and s.tablename = c.relname
 where (c.relkind in ('r', 'p', 'm', 'f') or c.relkind = 'i' and t.relkind in ('r', 'm'))
   and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and n.nspname not like 'pg\_temp\_%' and n.nspname not like 'pg\_toast\_temp\_%'
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = coalesce(t.oid, c.oid) and d.deptype = 'e')`

func (d *side) readRelations(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, statRelationsSQL)
	if err != nil {
		return err
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*statRelation, error) {
		r := &statRelation{columns: map[string]*statColumn{}}
		return r, row.Scan(&r.OID, &r.Schema, &r.Name, &r.Kind, &r.Of, &r.Pages, &r.Tuples, &r.Changed, &r.Analyzed, &r.Own, &r.Tree, &r.Extended)
	})
	for _, r := range all {
		d.relations[Table{r.Schema, r.Name}], d.byOID[r.OID] = r, r
	}
	return err
}

// statColumnsSQL lists the columns of $1, of which those of indexes only where
// they are expressions. Writing an expression down opens the table: of one that
// somebody locks exclusively it is left out.
const statColumnsSQL = `
with locked as (
    select l.relation
      from pg_locks l
     where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
)
select a.attrelid, a.attnum, a.attname::text, a.atttypid, format_type(a.atttypid, a.atttypmod), a.attcollation,
       case when i.indexrelid is null then '' when i.indrelid in (select relation from locked) then null else pg_get_indexdef(a.attrelid, a.attnum, false) end,
       has_column_privilege(a.attrelid, a.attnum, 'select') and not row_security_active(coalesce(i.indrelid, a.attrelid)),
       coalesce(a.attstattarget, -1) <> 0
  from unnest($1::oid[]) as r(oid)
  join pg_attribute a on a.attrelid = r.oid
  left join pg_index i on i.indexrelid = a.attrelid
 where a.attnum > 0 and not a.attisdropped
   and (i.indexrelid is null or i.indkey[a.attnum - 1] = 0)`

func (d *side) readColumns(ctx context.Context, conn *pgx.Conn) error {
	oids := make([]uint32, 0, len(d.byOID))
	for oid := range d.byOID {
		oids = append(oids, oid)
	}
	var all []*statColumn
	err := untilUnlocked(ctx, func() error {
		rows, err := conn.Query(ctx, statColumnsSQL, oids)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[statColumn])
		return err
	})
	for _, c := range all {
		d.byOID[c.Relation].columns[c.Name] = c
	}
	return err
}
