package fence

import (
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// What the functions of this package run, for the plan: as scripts with their
// transactions, and with values in place of parameters.

// AttachScript makes the trigger on one table. The tool makes those of several
// tables in one transaction, and comes back to those that somebody holds.
func AttachScript(move string, t Table) string {
	return onTable(t, AttachSQL(move, t))
}

// DetachScript drops the trigger from one table.
func DetachScript(move string, t Table) string {
	return onTable(t, DetachSQL(move, t))
}

// onTable locks the table first as no writer notices. Nobody waits in line behind
// what follows for long: it is refused instead, and has to be run again.
func onTable(t Table, sql string) string {
	return state.Script("5s",
		fmt.Sprintf("set local lock_timeout = %d", politeWait.Milliseconds()),
		"lock table only "+t.Identifier()+" in share update exclusive mode",
		fmt.Sprintf("set local lock_timeout = %d", oneWait.Milliseconds()),
		sql, "commit")
}

// unfencedCheckSQL is the first number of unfencedSQL alone.
const unfencedCheckSQL = `
select u.n
  from (%s) as u(n, side)`

// UnfencedSQL counts the tables without a fence: it must answer 0.
func UnfencedSQL(move string) string {
	return fmt.Sprintf(unfencedCheckSQL, pg.Fill(unfencedSQL, TriggerName(move)))
}

// TryCloseScript is what DryRunClose runs.
func TryCloseScript(s *pg.Server, c Closing) (string, error) {
	statements, err := CloseSQL(s, c)
	return state.Script("3s", append(statements, "rollback")...), err
}

// TryOpenScript is what DryRun runs.
func TryOpenScript() string { return state.Script("5s", state.TurnLockSQL, OpenNowSQL, "rollback") }

// ArmScript is what Arm runs.
func ArmScript(attempt int64) string {
	return state.Script("5s", state.TurnLockSQL, pg.Fill(ArmSQL, attempt), "commit")
}

// ArmedSQL tells whether the guard is armed for an attempt: it must answer t.
func ArmedSQL(attempt int64) string {
	return pg.Fill(`select armed and attempt = $1 from pgcutover.turn`, attempt)
}

// DisarmScript is what Disarm runs.
func DisarmScript(attempt int64) string {
	return state.Script("5s", state.TurnLockSQL, pg.Fill(DisarmSQL, attempt), "commit")
}

// OpenSQLFor is what Open runs: it must answer opened, or open when the guard was
// quicker.
func OpenSQLFor(attempt int64, known bool) string { return pg.Fill(TryOpenSQL, attempt, known) }

// ServesSQL tells whether a server takes writes since an attempt: it must answer
// t.
func ServesSQL(attempt int64) string {
	return pg.Fill(`select open and attempt = $1 from pgcutover.turn`, attempt)
}

// PrepareOpenScript is what PrepareOpen runs.
func PrepareOpenScript(attempt int64) string {
	return "begin isolation level read committed read write;" + openingBegin + ";\n" + OpenSQLFor(attempt, true)
}

// MayUndoSQL tells whether an attempt may still be undone on its source: it must
// answer t.
func MayUndoSQL(d state.Direction, attempt int64) string {
	return fmt.Sprintf("select attempt = %d and (%s) = 0 from pgcutover.turn", attempt, state.DecidedSQL(d, attempt))
}
