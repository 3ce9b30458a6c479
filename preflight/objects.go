package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// sequencesSQL lists the sequences that the role cannot read, by schema.
const sequencesSQL = `
select n.nspname::text as schema, array_agg(format('%I.%I', n.nspname, c.relname) order by c.relname) as names
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'S' and c.relpersistence <> 't' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
   and not (has_sequence_privilege(c.oid, 'select') and has_schema_privilege(n.oid, 'usage'))
 group by n.nspname
 order by n.nspname`

type namesRow struct {
	Schema string
	Names  []string
}

// checkSequences finds sequences whose values the role may not read: they would
// begin anew on the new server.
func checkSequences(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[namesRow](ctx, p.Old, "reading rights on the sequences", sequencesSQL)
	if err != nil {
		return nil, err
	}
	role := quote(p.Old.User())
	var found []Finding
	for _, r := range rows {
		found = append(found, Finding{
			ID: "sequences.unreadable", Severity: Blocker, Server: string(pg.Old), Object: "schema " + quote(r.Schema),
			Seen: fmt.Sprintf("no SELECT for %s on %s: %s", role, plural(len(r.Names), "sequence"), list(r.Names)),
			Why:  "Logical replication does not carry sequences: one that cannot be read would give out used values on the new server.",
			Fix: fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO %s;",
				quote(r.Schema), role, quote(r.Schema), role), FixKind: FixSQL,
		})
	}
	return found, nil
}

// removedTypesSQL lists columns of types that 12 removed.
// https://www.postgresql.org/docs/release/12.0/
const removedTypesSQL = `
select format('%I.%I', n.nspname, c.relname) as table, format('%I %s', a.attname, format_type(a.atttypid, null)) as column,
       case when c.relkind not in ('r', 'p', 'f') or t.typname = 'tinterval' then ''
            else format('ALTER TABLE %I.%I ALTER COLUMN %I TYPE %s;', n.nspname, c.relname, a.attname,
                        case t.typname when 'abstime' then 'timestamptz' else 'interval' end
                        || case when t.oid = a.atttypid then '' else '[]' end) end as fix
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_type t on t.oid = a.atttypid or t.typarray = a.atttypid
 where t.typnamespace = 'pg_catalog'::regnamespace and t.typname in ('abstime', 'reltime', 'tinterval')
   and c.relkind in ('r', 'p', 'v', 'm', 'f', 'c') and c.oid >= 16384 and a.attnum > 0 and not a.attisdropped
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
 order by n.nspname, c.relname, a.attnum`

// withOidsSQL lists tables with a hidden oid column, which 12 no longer has.
// relhasoids exists before 12 only.
const withOidsSQL = `
select format('%I.%I', n.nspname, c.relname)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relhasoids and c.relkind in ('r', 'p') and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
 order by 1`

type columnRow struct{ Table, Column, Fix string }

// checkTypes finds what a move from before 12 to 12 or later cannot carry.
func checkTypes(ctx context.Context, p *Pair) ([]Finding, error) {
	if p.Old.Major() >= 12 || p.New.Major() < 12 {
		return nil, nil
	}
	columns, err := read[columnRow](ctx, p.Old, "looking for removed types", removedTypesSQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, c := range columns {
		f := Finding{
			ID: "types.removed", Severity: Blocker, Server: string(pg.Old), Object: c.Table,
			Seen: "column " + c.Column, Why: "PostgreSQL 12 removed the types abstime, reltime and tinterval.",
			Fix: "-- rewrites the table and locks it meanwhile:\n" + c.Fix, FixKind: FixSQL,
		}
		if c.Fix == "" {
			f.Fix, f.FixKind = "give it another type (timestamptz, interval, tstzrange), or drop it", FixAction
		}
		found = append(found, f)
	}
	tables, err := readValues[string](ctx, p.Old, "looking for tables with OIDs", withOidsSQL)
	for _, t := range tables {
		found = append(found, Finding{
			ID: "types.with-oids", Severity: Warning, Server: string(pg.Old), Object: t,
			Seen: "WITH OIDS", Why: "PostgreSQL 12 and later have no hidden oid column: the table arrives without it.",
			Fix: fmt.Sprintf("-- rewrites the table and locks it meanwhile:\nALTER TABLE %s SET WITHOUT OIDS;", t), FixKind: FixSQL,
		})
	}
	return found, err
}

// triggersSQL lists user triggers that fire while changes are applied. Ours are
// told by the schema of their function.
const triggersSQL = `
select format('%I on %I.%I', t.tgname, n.nspname, c.relname) as name, n.nspname::text as schema, c.relname::text as table,
       format('ALTER TABLE %I.%I ENABLE TRIGGER %I;', n.nspname, c.relname, t.tgname) as fix,
       case t.tgenabled when 'A' then 'ALWAYS' else 'REPLICA' end as fires,
       p.oid::regprocedure::text as function
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_proc p on p.oid = t.tgfoid
  join pg_namespace f on f.oid = p.pronamespace
 where not t.tgisinternal and t.tgenabled in ('A', 'R') and f.nspname <> 'pgcutover' and n.nspname <> 'pgcutover'
 order by n.nspname, c.relname, t.tgname`

type triggerRow struct{ Name, Schema, Table, Fix, Fires, Function string }

// eventTriggersSQL lists event triggers that are on and not an extension's.
// active: as far as the text of its function tells, it writes or refuses; what a
// function that is not in the database does cannot be told.
const eventTriggersSQL = `
select format('%I (%s, %s)', e.evtname, e.evtevent, e.evtfoid::regprocedure) as name, e.evtname::text as trigger,
       format('ALTER EVENT TRIGGER %I DISABLE;', e.evtname) as fix,
       e.evtenabled::text as enabled, pg_has_role(e.evtowner, 'usage') as mine,
       p.prosrc ~* '\m(insert\s+into|update\s+\S+\s+(as\s+\S+\s+)?set|delete\s+from|truncate|merge\s+into)\M'
       and coalesce(e.evttags && array['CREATE FUNCTION', 'DROP FUNCTION', 'CREATE TABLE', 'DROP TABLE', 'CREATE TRIGGER', 'ALTER TABLE', 'DROP TRIGGER',
                                       'CREATE PUBLICATION', 'DROP PUBLICATION', 'CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION', 'DROP SUBSCRIPTION',
                                       'CREATE SCHEMA', 'DROP SCHEMA', 'ALTER SEQUENCE', 'GRANT', 'REVOKE'], true)
       and e.evtevent <> 'login' as writes,
       p.prosrc ~* '\m(insert|update|delete|truncate|merge|copy|execute|perform|dblink\w*|raise\s+exception)\M'
       or l.lanname in ('c', 'internal') as active
  from pg_event_trigger e
  join pg_proc p on p.oid = e.evtfoid
  join pg_language l on l.oid = p.prolang
 where e.evtenabled <> 'D'
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_event_trigger'::regclass and d.objid = e.oid and d.deptype = 'e')
 order by e.evtname`

// checkTriggers lists what of the application's code runs inside the move.
func checkTriggers(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[triggerRow](ctx, p.Old, "reading triggers", triggersSQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, t := range rows {
		if !p.Scope.Match(t.Schema, t.Table) {
			continue
		}
		found = append(found, Finding{
			ID: "triggers.replica", Severity: Warning, Server: string(pg.Old), Object: "trigger " + t.Name,
			Seen: fmt.Sprintf("ENABLE %s, calls %s", t.Fires, t.Function),
			Why: "It fires on the new server for every replicated row, with an empty search_path: " +
				"unqualified names in it stop the stream, and what it writes may be there twice.",
			Fix: fmt.Sprintf("-- unless it is to fire for replicated rows; when the move is complete, on new: ENABLE %s TRIGGER\n%s", t.Fires, t.Fix), FixKind: FixSQL,
		})
	}
	events, err := eventTriggers(ctx, p)
	return append(found, events...), err
}

type eventTrigger struct {
	Name    string
	Trigger string
	Fix     string
	Enabled string
	Mine    bool
	Writes  bool // for a statement of the tool's
	Active  bool
}

// quietFor reports whether the tool's own DDL does not fire the trigger.
func (e eventTrigger) quietFor(s *pg.Server) bool {
	return len(s.QuietSettings()) > 0 && (s.Major() >= 17 || e.Enabled == "O")
}

// writingTrigger tells of one that the tool cannot keep away from its statements.
func writingTrigger(e eventTrigger) Finding {
	f := Finding{
		ID: "triggers.event-writes", Severity: Blocker, Server: string(pg.Old), Object: "event trigger " + quote(e.Trigger), Seen: e.Name + " writes",
		Why: "It fires for the tool's own statements, and the tool's role may not keep it from that. When the server is closed its write is refused, " +
			"and the tool's statement with it: the cutover can neither close nor open.",
	}.mended(e.Fix)
	if e.Mine {
		f.Undo = fmt.Sprintf("ALTER EVENT TRIGGER %s %s;", quote(e.Trigger), enabling[e.Enabled])
	}
	return f
}

// enabling are the ways of firing, by their letters in the catalogs.
var enabling = map[string]string{"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}

// eventTriggers tells those that write or refuse from those that only look.
func eventTriggers(ctx context.Context, p *Pair) ([]Finding, error) {
	s := p.Old
	all, err := read[eventTrigger](ctx, s, "reading event triggers", eventTriggersSQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	var rows []eventTrigger
	for _, r := range all {
		if r.Writes && !(r.quietFor(p.Old) && r.quietFor(p.New)) {
			found = append(found, writingTrigger(r))
		} else {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return found, nil
	}
	f := Finding{
		ID: "triggers.event", Severity: Note, Server: string(s.Side()), Object: "event triggers",
		Why: "They fire for the move's own DDL. As far as their text tells, they neither write nor refuse.",
		Fix: "-- to be rid of them for the time of the move:\n", FixKind: FixSQL,
	}
	var names, fixes []string
	for _, r := range rows {
		if r.Active {
			r.Name += " writes or refuses"
			f.Severity = Warning
			f.Why = fmt.Sprintf("They fire for the move's own DDL on the %s server: one that refuses it, or writes a table during the freeze, stops the cutover (undone safely).", s.Side())
			f.Fix = "-- for the time of the move, then ENABLE:\n"
		}
		names, fixes = append(names, r.Name), append(fixes, r.Fix)
	}
	f.Seen = list(names)
	f.Fix += strings.Join(fixes, "\n")
	return append(found, f), nil
}

// notCarriedSQL lists, by kind, the application's relations that logical
// replication does not carry, with their size as of the last VACUUM or ANALYZE:
// asking for the size of now would wait for locks.
const notCarriedSQL = `
select k.kind, array_agg(format('%I.%I', n.nspname, c.relname) order by n.nspname, c.relname) as names,
       sum(c.relpages::bigint * current_setting('block_size')::bigint)::bigint as size
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 cross join lateral (
   select case when c.relkind = 'm' then 'materialized view'
               when c.relkind = 'f' then 'foreign table'
               when c.relkind = 'p' then 'partitioned table'
               when c.relkind = 'r' and c.relpersistence = 'u' then 'unlogged table'
               when c.relkind = 'r' and c.relhassubclass then 'inheritance parent' end as kind
 ) k
 where k.kind is not null and c.oid >= 16384 and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 group by k.kind
 order by k.kind`

type kindRow struct {
	Kind  string
	Names []string
	Size  int64
}

// consequence says, of each kind, how much it matters and what becomes of it.
var consequence = map[string]struct {
	severity Severity
	why, fix string
}{
	"materialized view": {
		Warning, "Logical replication does not fill materialized views: start does, and a cutover refreshes them before it begins (refresh.before_cutover). What changes afterwards on old is not in them.",
		"on new, after the cutover, if they must be younger: REFRESH MATERIALIZED VIEW ...;",
	},
	"foreign table": {
		Note, "Foreign tables are carried as definitions: the new server must reach the same foreign servers. The fence does not refuse writes through them: these change another server, which stays the same.",
		"see from the new server's host that it reaches the foreign servers",
	},
	"partitioned table": {
		Note, "Partitions are replicated one by one: a partition made during the move must be made on both servers.",
		"pause the making of partitions (pg_partman) until the move is complete, or make them ahead",
	},
	"inheritance parent": {Note, "Inherited tables are replicated one by one, each with its own replica identity.", "nothing, as long as every table of the tree has one; a table that begins to inherit during the move must be made on both servers"},
}

// checkNotCarried lists what the move leaves behind or carries differently.
func checkNotCarried(ctx context.Context, p *Pair) ([]Finding, error) {
	kinds, err := read[kindRow](ctx, p.Old, "looking for what is not replicated", notCarriedSQL)
	if err != nil {
		return nil, err
	}
	moving, err := p.inFreeze(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, k := range kinds {
		c := consequence[k.Kind]
		if k.Kind == "unlogged table" {
			c.severity, c.why, c.fix = moving.unloggedTables()
		}
		seen := fmt.Sprintf("%s: %s", plural(len(k.Names), k.Kind), list(k.Names))
		if k.Size > 0 {
			seen += ", about " + bytes(k.Size)
		}
		found = append(found, Finding{
			ID:       "not-carried." + strings.ReplaceAll(k.Kind, " ", "-"),
			Severity: c.severity, Server: string(pg.Old), Object: k.Kind + "s", Seen: seen, Why: c.why, Fix: c.fix, FixKind: FixAction,
		})
	}
	if p.Old.Major() < 11 {
		found = append(found, Finding{
			ID: "not-carried.truncate", Severity: Warning, Server: string(pg.Old), Object: "TRUNCATE",
			Seen: "PostgreSQL 10 publishes",
			Why:  "PostgreSQL 10 does not replicate TRUNCATE: the rows would stay on the new server.",
			Fix:  "use DELETE in place of TRUNCATE until the move is complete", FixKind: FixAction,
		})
	}
	return found, nil
}
