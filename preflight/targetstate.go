package preflight

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// strangersSQL lists the sessions of clients in the new database that are not
// the tool's.
const strangersSQL = `
select pid, coalesce(usename::text, '') as role, coalesce(application_name, '') as application,
       coalesce(host(client_addr), 'local') as address
  from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid()
   and coalesce(backend_type, 'client backend') = 'client backend'
   and coalesce(application_name, '') not like 'pgcutover/%'
 order by pid`

type strangerRow struct {
	PID                        int32 `db:"pid"`
	Role, Application, Address string
}

func (r strangerRow) String() string {
	text := "role " + quote(r.Role) + " from " + r.Address
	if r.Application != "" {
		text += " (" + r.Application + ")"
	}
	return text
}

// staying is how long a session has to be there to be reported: one that ends at
// this very moment is nobody's.
const staying = time.Second

// checkStrangers looks for clients that work with the new database already.
func checkStrangers(ctx context.Context, p *Pair) ([]Finding, error) {
	move, err := state.Load(ctx, p.New)
	if err != nil || move != nil {
		return nil, err // the fence keeps writers out, and readers may be there
	}
	var rows []strangerRow
	tick := time.NewTicker(staying / 5)
	defer tick.Stop()
	for i := range 6 {
		now, err := read[strangerRow](ctx, p.New, "looking for sessions", strangersSQL)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			rows = now
		}
		if rows = stillThere(rows, now); len(rows) == 0 {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
	who := make([]string, len(rows))
	for i, r := range rows {
		who[i] = r.String()
	}
	return []Finding{Finding{
		ID: "target.sessions", Severity: Warning, Server: string(pg.New), Object: "database " + quote(p.New.Database()),
		Seen: fmt.Sprintf("%s connected: %s", plural(len(rows), "client"), list(who)),
		Why:  "Somebody works with the new database already: what they write collides with what arrives, and what they lock holds the copy up.",
	}.mended(endSessions(p.New))}, nil
}

func stillThere(before, now []strangerRow) []strangerRow {
	var out []strangerRow
	for _, b := range before {
		for _, n := range now {
			if b.PID == n.PID {
				out = append(out, b)
			}
		}
	}
	return out
}

// endSessions ends the sessions that strangersSQL lists, and waits for it where
// the server can.
func endSessions(s *pg.Server) string {
	wait := ", 5000"
	if s.Major() < 14 {
		wait = ""
	}
	return fmt.Sprintf(`SELECT pg_terminate_backend(pid%s) FROM pg_stat_activity
 WHERE datname = %s AND pid <> pg_backend_pid() AND backend_type = 'client backend'
   AND coalesce(application_name, '') NOT LIKE 'pgcutover/%%';`, wait, literal(s.Database()))
}

// targetDatabaseSQL reads what the database allows.
const targetDatabaseSQL = `
select datconnlimit as connections, datistemplate as template
  from pg_database
 where datname = current_database()`

type databaseFacts struct {
	Connections int
	Template    bool
}

// checkTargetDatabase compares the attributes of the two databases, and looks at
// what the new server keeps its clients from.
func checkTargetDatabase(ctx context.Context, p *Pair) ([]Finding, error) {
	older, err := readOne[databaseFacts](ctx, p.Old, "reading the database's attributes", targetDatabaseSQL)
	if err != nil {
		return nil, err
	}
	newer, err := readOne[databaseFacts](ctx, p.New, "reading the database's attributes", targetDatabaseSQL)
	if err != nil {
		return nil, err
	}
	found := attributeFindings(p.New, older, newer)
	settings, err := readAsClient(ctx, p.New, []string{"default_transaction_read_only", "session_replication_role"})
	if err != nil {
		return nil, err
	}
	return append(found, serverSettingFindings(settings)...), nil
}

func attributeFindings(s *pg.Server, older, newer databaseFacts) []Finding {
	var found []Finding
	database := quote(s.Database())
	if newer.Connections >= 0 && (older.Connections < 0 || newer.Connections < older.Connections) {
		found = append(found, Finding{
			ID: "target.connection-limit", Severity: Warning, Server: string(pg.New), Object: "database " + database,
			Seen: fmt.Sprintf("CONNECTION LIMIT %d on new, %d on old (-1 is none)", newer.Connections, older.Connections),
			Why:  "Clients are refused by new that old let in.",
		}.mended(fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d;", database, older.Connections)))
	}
	if newer.Template && !older.Template {
		found = append(found, Finding{
			ID: "target.template", Severity: Note, Server: string(pg.New), Object: "database " + database,
			Seen: "it is a template",
			Why:  "Every role with CREATEDB may make a copy of it, with all its rows.",
		}.mended(fmt.Sprintf("ALTER DATABASE %s IS_TEMPLATE false;", database)))
	}
	return found
}

// serverSettingFindings looks at settings of the server itself: those of roles
// and databases are found by another check.
func serverSettingFindings(have map[string]settingFacts) []Finding {
	ofServer := func(s settingFacts) bool {
		return s.Source != "database" && s.Source != "user" && s.Source != "database user" && s.Source != "global"
	}
	var found []Finding
	if s := have["default_transaction_read_only"]; s.Setting == "on" && ofServer(s) {
		found = append(found, Finding{
			ID: "target.read-only", Severity: Warning, Server: string(pg.New), Object: s.Name,
			Seen: s.Name + " is on for the whole server",
			Why:  "Opening the new server takes the read-only default off the database: what the server itself has is in force again then, and clients still cannot write.",
		}.mended("ALTER SYSTEM SET default_transaction_read_only = off; SELECT pg_reload_conf();"))
	}
	if s := have["session_replication_role"]; s.Setting == "replica" && ofServer(s) {
		found = append(found, Finding{
			ID: "target.replica-role", Severity: Blocker, Server: string(pg.New), Object: s.Name,
			Seen: s.Name + " is replica for the whole server",
			Why:  "No client fires an ordinary trigger or a foreign key there: what they write is not held to any rule, and the fence relies on triggers.",
		}.mended("ALTER SYSTEM SET session_replication_role = origin; SELECT pg_reload_conf();"))
	}
	return found
}

// targetTriggersSQL lists the event triggers of a database that fire, and are no
// members of extensions.
const targetTriggersSQL = `
select e.evtname::text as name, e.evtevent::text as event, e.evtenabled::text as enabled, e.evtfoid::regproc::text as function
  from pg_event_trigger e
 where e.evtenabled <> 'D' and e.evtname not like 'pgcutover%'
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_event_trigger'::regclass and d.objid = e.oid and d.deptype = 'e')
 order by 1`

type targetTriggerRow struct{ Name, Event, Enabled, Function string }

// checkTargetTriggers looks for event triggers that are there before the schema
// is: they fire for each statement of the restore, and may refuse it.
func checkTargetTriggers(ctx context.Context, p *Pair) ([]Finding, error) {
	move, err := state.Load(ctx, p.New)
	if err != nil || move != nil || p.Settings.DataPresent {
		return nil, err // then they may be old's own
	}
	rows, err := read[targetTriggerRow](ctx, p.New, "looking for event triggers", targetTriggersSQL)
	var found []Finding
	for _, r := range rows {
		f := Finding{
			ID: "target.event-trigger", Severity: Warning, Server: string(pg.New), Object: "event trigger " + quote(r.Name),
			Seen: fmt.Sprintf("runs %s on %s", r.Function, r.Event),
			Why:  "It fires for every statement that brings the schema, and may refuse it or change what it makes.",
		}.mended(fmt.Sprintf("ALTER EVENT TRIGGER %s DISABLE;", quote(r.Name)))
		f.Undo = fmt.Sprintf("ALTER EVENT TRIGGER %s %s;", quote(r.Name), enabling[r.Enabled])
		found = append(found, f)
	}
	return found, err
}

// targetNotValidSQL lists the constraints that not all rows have been held to.
const targetNotValidSQL = `
select format('%I.%I', n.nspname, c.relname) as table, quote_ident(o.conname) as name
  from pg_constraint o
  join pg_class c on c.oid = o.conrelid
  join pg_namespace n on n.oid = c.relnamespace
 where not o.convalidated and o.contype in ('c', 'f', 'n') and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
 order by 1, 2`

type constraintRow struct{ Table, Name string }

// checkTargetConstraints compares, where the tables are on new already, which
// constraints their rows have been held to.
func checkTargetConstraints(ctx context.Context, p *Pair) ([]Finding, error) {
	if !p.Settings.DataPresent {
		return nil, nil
	}
	older, err := read[constraintRow](ctx, p.Old, "looking for constraints that are not valid", targetNotValidSQL)
	if err != nil {
		return nil, err
	}
	same := map[constraintRow]bool{}
	for _, r := range older {
		same[r] = true
	}
	newer, err := read[constraintRow](ctx, p.New, "looking for constraints that are not valid", targetNotValidSQL)
	var found []Finding
	for _, r := range newer {
		if same[r] {
			continue
		}
		found = append(found, Finding{
			ID: "target.not-valid", Severity: Warning, Server: string(pg.New), Object: "constraint " + r.Name + " of " + r.Table,
			Seen: "NOT VALID on new, valid on old",
			Why:  "Rows that are there need not keep to it, and the planner does not count on it.",
		}.mended(strings.Join([]string{"ALTER TABLE", r.Table, "VALIDATE CONSTRAINT", r.Name + ";"}, " ")))
	}
	return found, err
}
