package preflight

import (
	"context"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// advisorySQL counts the sessions of others that hold advisory locks here.
const advisorySQL = `
select count(distinct l.pid)::int
  from pg_locks l
  join pg_database d on d.oid = l.database and d.datname = current_database()
  left join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted and coalesce(a.application_name, '') not like 'pgcutover%'`

// listeningSQL counts the sessions whose last statement was a LISTEN, which is
// all that others can see of it.
const listeningSQL = `
select count(*)::int
  from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and query ~* '^\s*listen\M'`

// checkSessions looks for what sessions share through one server only.
func checkSessions(ctx context.Context, p *Pair) ([]Finding, error) {
	advisory, err := readValues[int](ctx, p.Old, "looking for advisory locks", advisorySQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	if n := advisory[0]; n > 0 {
		found = append(found, Finding{
			ID: "sessions.advisory-lock", Severity: Note, Server: string(pg.Old), Object: "advisory locks",
			Seen: plural(n, "session") + " held some just now",
			Why:  "An advisory lock holds on one server: a client that still has it on old does not keep one on new from taking the same.",
			Fix:  "have those that rely on it (leader election, job queues) stop on old before they begin on new; cutover.on_closed: disconnect ends their sessions", FixKind: FixAction,
		})
	}
	listening, err := readValues[int](ctx, p.Old, "looking for listeners", listeningSQL)
	if err != nil {
		return nil, err
	}
	if n := listening[0]; n > 0 {
		found = append(found, Finding{
			ID: "sessions.listen", Severity: Note, Server: string(pg.Old), Object: "LISTEN",
			Seen: plural(n, "session") + " said LISTEN last",
			Why:  "NOTIFY does not cross to another server: a listener that stays on old hears nothing of what is written on new.",
			Fix:  "see that listeners connect anew at the cutover; cutover.on_closed: disconnect only reaches those that write", FixKind: FixAction,
		})
	}
	return found, nil
}
