package doctor

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/preflight"
)

// triggerRow is a fence trigger of one name, in one state, on all its tables.
type triggerRow struct {
	Name    string
	Enabled string   // pg_trigger.tgenabled: O origin, D disabled, R replica, A always
	Ours    bool     // it calls pgcutover.fence()
	Tables  int      // that have it
	Some    []string // the first of them
}

// triggersSQL finds fence triggers by what they are called and by what they
// call.
const triggersSQL = `
select t.tgname::text as name, t.tgenabled::text as enabled,
       pn.nspname = 'pgcutover' and p.proname = 'fence' as ours,
       count(*)::int as tables,
       (array_agg(quote_ident(n.nspname) || '.' || quote_ident(c.relname) order by n.nspname, c.relname))[1:8] as some
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_proc p on p.oid = t.tgfoid
  join pg_namespace pn on pn.oid = p.pronamespace
 where not t.tgisinternal and n.nspname <> 'pgcutover'
   and (t.tgname ~ '^pgcutover_.*_fence$' or (pn.nspname = 'pgcutover' and p.proname = 'fence'))
 group by t.tgname, t.tgenabled, ours
 order by t.tgname, t.tgenabled`

// unfenced are the tables that no fence trigger of ours stands on, whatever its
// name.
type unfenced struct {
	Tables  int
	All     int      // tables in all
	Schemas []string // of the first of them
	Names   []string
}

// unfencedSQL looks at the same tables as the fence does: all that are ordinary
// or partitioned, whether in scope or not.
const unfencedSQL = `
select count(*) filter (where not fenced)::int as tables, count(*)::int as "all",
       coalesce((array_agg(schema order by schema, name) filter (where not fenced))[1:8], '{}') as schemas,
       coalesce((array_agg(name order by schema, name) filter (where not fenced))[1:8], '{}') as names
  from (select n.nspname::text as schema, c.relname::text as name,
               exists (select 1 from pg_trigger t
                         join pg_proc p on p.oid = t.tgfoid
                         join pg_namespace pn on pn.oid = p.pronamespace
                        where t.tgrelid = c.oid and not t.tgisinternal
                          and pn.nspname = 'pgcutover' and p.proname = 'fence') as fenced
          from pg_class c
          join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
           and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')) as tables`

func lookTriggers(ctx context.Context, s *server, _ Options) error {
	var err error
	if s.triggers, err = read[triggerRow](ctx, s.conn, "reading fence triggers", triggersSQL); err != nil {
		return err
	}
	row, err := readOne[unfenced](ctx, s.conn, "looking for tables without a fence", unfencedSQL)
	if err == nil && row != nil {
		s.unfenced = *row
	}
	return err
}

// fenced counts the tables that have a trigger of ours which is not disabled.
func (s *server) fenced() int {
	n := 0
	for _, t := range s.triggers {
		if t.Ours && t.Enabled != "D" {
			n += t.Tables
		}
	}
	return n
}

// each writes a statement for every table that is named: %[1]s is the trigger,
// %[2]s the table, both quoted.
func (t triggerRow) each(format string) []string {
	out := make([]string, len(t.Some))
	for i, table := range t.Some {
		out[i] = fmt.Sprintf(format, quote(t.Name), table)
	}
	return out
}

// enabledText says what tgenabled means.
var enabledText = map[string]string{
	"O": "enabled for ordinary sessions only: session_replication_role = replica gets past it",
	"D": "disabled: it refuses nothing",
	"R": "enabled for replica sessions only: it refuses nothing",
}

// fenceFindings judges the triggers: all tables have one, always enabled, where
// the fence is closed, and none has where it is open.
func (e *examination) fenceFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		k := s.kind(e.name)
		if k == copied || k == newer || k == unknown {
			continue
		}
		for _, t := range s.triggers {
			if f := e.triggerFinding(s, k, t); f != nil {
				found = append(found, *f)
			}
		}
		if k == live && s.closed() && s.unfenced.Tables > 0 && e.shouldBeFenced(s) {
			found = append(found, e.gap(s))
		}
	}
	return found
}

// closed tells whether the fence is closed on a live server, by its check() and
// by its turn: where the two disagree, that is reported, and no trigger is
// touched.
func (s *server) closed() bool { return s.refuses() && !s.turn.Open }

// gap reports the tables behind a closed fence that have no trigger.
func (e *examination) gap(s *server) Finding {
	var names, sql []string
	for i, name := range s.unfenced.Names {
		t := fence.Table{Schema: s.unfenced.Schemas[i], Name: name}
		names, sql = append(names, t.Identifier()), append(sql, fence.AttachSQL(e.name, t))
	}
	return Finding{
		ID: "fence.missing", Severity: e.gapSeverity(s), Server: on(s.side), Object: "tables", Whose: This,
		Seen: fmt.Sprintf("%d of %s without a fence trigger, though the fence is closed: %s", s.unfenced.Tables, plural(s.unfenced.All, "table"), some(names, s.unfenced.Tables)),
		Why:  "Clients can write to them here, and these rows are lost.",
		SQL:  sql,
		Mend: func(ctx context.Context) error { return attach(ctx, s) },
	}
}

// triggerFinding judges the triggers of one name and state; nil when they are
// as they should be.
func (e *examination) triggerFinding(s *server, k kind, t triggerRow) *Finding {
	f := Finding{Server: on(s.side), Object: "trigger " + quote(t.Name), Whose: This}
	tables := some(t.Some, t.Tables)
	drop := t.each("DROP TRIGGER %[1]s ON %[2]s")
	switch {
	case !t.Ours:
		f.ID, f.Severity, f.Whose = "fence.foreign-trigger", preflight.Note, Other
		f.Seen = "called like a fence trigger, on " + tables + ", but it does not call pgcutover.fence()"
		f.Why = "pgcutover refuses to go on where it needs that name."
		f.SQL = drop
	case k == live && t.Name == fence.TriggerName(e.name):
		return e.ourTrigger(s, t)
	case k == live || k == another && t.Name != fence.TriggerName(s.move.Name):
		f.ID, f.Severity, f.Whose = "fence.other-trigger", preflight.Warning, Another
		f.Seen = "calls this move's pgcutover.fence() from " + tables
		f.Why = "Its name is another move's: nobody removes it, and schema pgcutover cannot be dropped while it stands."
		f.SQL = drop
	default:
		return nil // part of another move's fence, or of a schema that is reported whole
	}
	return &f
}

// ourTrigger judges this move's triggers.
func (e *examination) ourTrigger(s *server, t triggerRow) *Finding {
	f := Finding{Server: on(s.side), Object: "trigger " + quote(t.Name), Whose: This}
	tables := some(t.Some, t.Tables)
	switch {
	case s.closed() && t.Enabled != "A":
		f.ID, f.Severity = "fence.not-always", e.gapSeverity(s)
		f.Seen = fmt.Sprintf("on %s it is %s", tables, enabledText[t.Enabled])
		f.Why = "The fence is closed, and clients can write to these tables all the same. A restore with --disable-triggers leaves them so."
		f.SQL = t.each("ALTER TABLE %[2]s ENABLE ALWAYS TRIGGER %[1]s")
		f.Mend = func(ctx context.Context) error { return enableAlways(ctx, s, t) }
	case !s.refuses() && s.turn.Open && e.pos.Serving() == s.side:
		f.ID, f.Severity = "fence.leftover-trigger", preflight.Warning
		f.Seen = fmt.Sprintf("left on %s; it is open and refuses nothing", tables)
		f.Why = "It costs every statement some microseconds, and a dump of this database carries it along."
		f.SQL = t.each("DROP TRIGGER %[1]s ON %[2]s")
		f.Mend = func(ctx context.Context) error { return e.detach(ctx, s) }
		if e.interrupted != "" {
			f.Next = "run: pgcutover resume"
		}
	default:
		return nil
	}
	return &f
}

// gapSeverity is that of a hole in a closed fence: on a server that has given
// its writes away a row is lost at once; before the cutover the read-only
// default stands before it as well.
func (e *examination) gapSeverity(s *server) preflight.Severity {
	if s.side != e.pos.Serving() && (e.pos.Forward > 0 || e.pos.Back > 0) {
		return preflight.Blocker
	}
	return preflight.Warning
}

// shouldBeFenced tells whether start has come as far as making the triggers on
// the new server; a server that has given its writes away has them.
func (e *examination) shouldBeFenced(s *server) bool {
	if e.pos.Forward > 0 || e.pos.Back > 0 {
		return true
	}
	done, known := e.phaseDone("schema")
	return done || !known || s.fenced() > 0
}
