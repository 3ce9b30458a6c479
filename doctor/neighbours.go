package doctor

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/preflight"
)

// eventRow is an event trigger that fires on statements of the tool.
type eventRow struct {
	Name     string
	Event    string
	Enabled  string // O, R or A
	Function string
	Tags     []string // empty: all statements
}

// eventsSQL finds event triggers that the tool's own DDL sets off. Databases
// and roles are shared: statements about them fire none.
const eventsSQL = `
select e.evtname::text as name, e.evtevent::text as event, e.evtenabled::text as enabled,
       quote_ident(n.nspname) || '.' || quote_ident(p.proname) as function, coalesce(e.evttags, '{}') as tags
  from pg_event_trigger e
  join pg_proc p on p.oid = e.evtfoid
  join pg_namespace n on n.oid = p.pronamespace
 where e.evtenabled <> 'D'
   and e.evtevent in ('ddl_command_start', 'ddl_command_end', 'sql_drop')
   and (e.evttags is null or e.evttags && array[
        'CREATE SCHEMA', 'DROP SCHEMA', 'CREATE TABLE', 'CREATE FUNCTION', 'REVOKE', 'COMMENT',
        'CREATE TRIGGER', 'DROP TRIGGER', 'ALTER TABLE',
        'CREATE PUBLICATION', 'DROP PUBLICATION',
        'CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION', 'DROP SUBSCRIPTION'])
 order by e.evtname`

func lookEvents(ctx context.Context, s *server, _ Options) error {
	var err error
	s.events, err = read[eventRow](ctx, s.conn, "reading event triggers", eventsSQL)
	return err
}

// eventFindings lists event triggers: none of them is ours.
func (e *examination) eventFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		for _, r := range s.events {
			tags := "all statements"
			if len(r.Tags) > 0 {
				tags = some(r.Tags, len(r.Tags))
			}
			found = append(found, Finding{
				ID: "event-trigger", Severity: preflight.Note, Server: on(s.side), Object: "event trigger " + quote(r.Name), Whose: Other,
				Seen: fmt.Sprintf("calls %s at %s of %s", r.Function, r.Event, tags),
				Why:  "It fires for statements of pgcutover. One that fails, or writes a table behind a closed fence, makes them fail: a start, a cutover (undone safely), or what --fix does.",
				Next: "if it gets in the way, disable it for the time of the move",
				SQL:  []string{fmt.Sprintf("ALTER EVENT TRIGGER %s DISABLE", quote(r.Name))},
			})
		}
	}
	return found
}

// preparedRow is a prepared transaction.
type preparedRow struct {
	GID      string `db:"gid"`
	Owner    string
	Database string
	Here     bool
	Age      float64 // seconds
}

// preparedSQL lists prepared transactions older than $1 seconds, in all
// databases: each holds up the creation of slots in the whole cluster.
const preparedSQL = `
select gid, owner::text as owner, database::text as database, database = current_database() as here,
       extract(epoch from clock_timestamp() - prepared)::float8 as age
  from pg_prepared_xacts
 where prepared < clock_timestamp() - make_interval(secs => $1)
 order by prepared`

func lookPrepared(ctx context.Context, s *server, o Options) error {
	var err error
	s.prepared, err = read[preparedRow](ctx, s.conn, "reading prepared transactions", preparedSQL, o.PreparedAge.Seconds())
	return err
}

// preparedFindings reports transactions that were prepared and forgotten.
func (e *examination) preparedFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		for _, r := range s.prepared {
			age := r.Age
			f := Finding{
				ID: "prepared-transaction", Severity: preflight.Warning, Server: on(s.side), Object: "prepared transaction " + literal(r.GID), Whose: Other,
				Seen: fmt.Sprintf("prepared %s ago by %s in database %s", ago(r.Age), quote(r.Owner), quote(r.Database)), Age: &age,
				Why:  "Its locks survive restarts. It holds up a cutover's freeze and the creation of slots, and keeps dead rows from being vacuumed.",
				Next: "ask its owner whether to COMMIT PREPARED or to ROLLBACK PREPARED",
				SQL:  []string{"ROLLBACK PREPARED " + literal(r.GID)},
			}
			if !r.Here {
				f.Next += fmt.Sprintf(", in database %s", quote(r.Database))
			}
			found = append(found, f)
		}
	}
	return found
}
