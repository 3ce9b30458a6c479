package state

import (
	"fmt"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/journal"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// FirstTurn is the number that the turn begins with on a server where a move
// starts now; the server computes it the same way. See turnSQL.
func FirstTurn(now time.Time) int64 {
	return max(int64(now.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).Seconds()), 10000000)
}

// planTurnSQL is turnSQL with the number filled in, so that what comes later in a
// plan can name it.
const planTurnSQL = `
insert into pgcutover.turn (attempt, open)
values ($1, $2)`

// CreateScript is what Create runs on a server that has nothing yet, for the
// plan, with turn as the number of the turn.
func CreateScript(s *pg.Server, m Move, turn int64) string {
	return join("begin", schemaSQL,
		pg.Fill(moveSQL, m.Name, string(s.Side()), Format, identities{Old: m.Old, New: m.New}),
		pg.Fill(planTurnSQL, turn, s.Side() == pg.Old),
		commentSQL(s, m), "commit")
}

// commentSQL says in the schema's comment whose it is.
func commentSQL(s *pg.Server, m Move) string {
	return "comment on schema pgcutover is " + quoteLiteral(fmt.Sprintf(
		"made by pgcutover for the move %q (%s server); removed by: pgcutover abort, pgcutover complete", m.Name, s.Side()))
}

// Script puts statements into one transaction as Tx makes it, for the plan. The
// last one is the transaction's end.
func Script(lockTimeout string, statements ...string) string {
	return join(append([]string{"begin isolation level read committed read write", txBegin + quoteLiteral(lockTimeout)}, statements...)...)
}

// join separates statements, each of which may end in a semicolon or not.
func join(statements ...string) string {
	for i, s := range statements {
		statements[i] = strings.Trim(s, "\n; ")
	}
	return strings.Join(statements, ";\n")
}

// JournalSQL is what one Append of the journal runs, for the plan. seq is the
// number of the first record.
func JournalSQL(list string, run, seq int64, records []journal.Record) string {
	rows := make([]row, len(records))
	for i, r := range records {
		rows[i] = row{List: list, Run: run, Seq: seq + int64(i), Step: r.Step, Event: string(r.Event), Facts: r.Facts, Error: r.Error, At: "now"}
	}
	return pg.Fill(appendSQL, rows)
}

// DecidedSQL counts the decisions of an attempt, for the plan.
func DecidedSQL(d Direction, attempt int64) string {
	if d == Back {
		return pg.Fill(isDecidedBackSQL, attempt)
	}
	return pg.Fill(isDecidedForwardSQL, attempt)
}
