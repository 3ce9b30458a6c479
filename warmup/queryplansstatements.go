package warmup

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// ErrNoStatements is returned where pg_stat_statements cannot be read, with a
// hint that says how to have it. A file of queries is the other way.
var ErrNoStatements = errors.New("pg_stat_statements cannot be read")

// How to have it.
const (
	installHint = "have the old server load it (this restarts the server):  ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements';  keeping what is in that setting now, " +
		"then, in this database, as a superuser:  CREATE EXTENSION pg_stat_statements;  let it count for some hours. Or, without it, name your queries in a file: pgcutover warm --plans --queries FILE"
	createHint = "if the server loads it (SHOW shared_preload_libraries), in this database:  CREATE EXTENSION pg_stat_statements;  else first (this restarts the server):  " +
		"ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements';  keeping what is in that setting now. Or, without it, name your queries in a file: pgcutover warm --plans --queries FILE"
	hiddenHint = "on the old server:  GRANT pg_read_all_stats TO %s;"
)

// findStatementsSQL finds the view and how its columns are called: the names
// changed with version 1.8 of the extension, which is not always the server's.
const findStatementsSQL = `
select n.nspname,
       exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'total_exec_time')
  from pg_extension e
  join pg_namespace n on n.oid = e.extnamespace
  join pg_class c on c.relnamespace = n.oid and c.relname = 'pg_stat_statements'
 where e.extname = 'pg_stat_statements'`

// statementsSQL reads what this database has run, the most expensive first: one
// row for each query id with the role that spent most on it. %s is the
// extension's schema. Texts of other roles' statements are only told to members
// of pg_read_all_stats.
// Postgres manual: F.32, pg_stat_statements.
const statementsSQL = `
select s.queryid::text,
       left((array_agg(s.query order by s.total_exec_time desc))[1], 100001),
       (array_agg(coalesce(r.rolname::text, '') order by s.total_exec_time desc))[1],
       sum(s.calls)::bigint,
       sum(s.total_exec_time),
       bool_or(s.queryid is null)
  from %s.pg_stat_statements s
  left join pg_roles r on r.oid = s.userid
 where s.dbid = (select d.oid from pg_database d where d.datname = current_database())
 group by s.queryid
 order by 5 desc, 1`

// statementsBefore18SQL is the same for versions before 1.8.
const statementsBefore18SQL = `
select s.queryid::text,
       left((array_agg(s.query order by s.total_time desc))[1], 100001),
       (array_agg(coalesce(r.rolname::text, '') order by s.total_time desc))[1],
       sum(s.calls)::bigint,
       sum(s.total_time),
       bool_or(s.queryid is null)
  from %s.pg_stat_statements s
  left join pg_roles r on r.oid = s.userid
 where s.dbid = (select d.oid from pg_database d where d.datname = current_database())
 group by s.queryid
 order by 5 desc, 1`

// longestStatement is how many characters a statement may have, to be compared.
const longestStatement = 100000

// PlanStatement is a query whose plans are compared.
type PlanStatement struct {
	// ID is the query id of pg_stat_statements on old, or the line of the file.
	ID string `json:"id"`
	// Text is the statement with parameters in place of its literals, as
	// pg_stat_statements keeps it, or as the file has it.
	Text string `json:"text"`
	// Role ran it, as far as known; its search_path and planner settings hold.
	Role string `json:"role,omitempty"`
	// Calls, MeanMS and TotalMS are what pg_stat_statements counted on old.
	Calls   int64   `json:"calls,omitempty"`
	MeanMS  float64 `json:"mean_ms,omitempty"`
	TotalMS float64 `json:"total_ms,omitempty"`
	// Parameters are the values that a file gives; not nil, but perhaps empty, for
	// every statement of a file. Where they are nil the plan is the generic one.
	Parameters QueryValues `json:"parameters,omitempty"`

	tooLong bool
}

// readStatements lists the reads of this database, the most expensive first. hidden
// are the calls of statements whose texts this role may not see, lost those of
// statements whose texts are gone.
func readStatements(ctx context.Context, conn *pgx.Conn, user string) (list []PlanStatement, hidden, lost int64, err error) {
	var (
		schema string
		modern bool
	)
	err = conn.QueryRow(ctx, findStatementsSQL).Scan(&schema, &modern)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, 0, hint.With(fmt.Errorf("%w: the extension is not in this database", ErrNoStatements), createHint)
	}
	if err != nil {
		return nil, 0, 0, fmt.Errorf("looking for pg_stat_statements: %w", err)
	}
	sql := statementsBefore18SQL
	if modern {
		sql = statementsSQL
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(sql, pgx.Identifier{schema}.Sanitize()))
	if err != nil {
		return nil, 0, 0, noStatements(err, user)
	}
	var (
		id, text *string
		one      PlanStatement
		unseen   bool
	)
	_, err = pgx.ForEachRow(rows, []any{&id, &text, &one.Role, &one.Calls, &one.TotalMS, &unseen}, func() error {
		switch {
		case unseen || id == nil:
			hidden += one.Calls
			return nil
		case text == nil:
			lost += one.Calls
			return nil
		}
		s := one
		s.ID, s.Text = *id, unprepared(*text)
		if s.Calls > 0 {
			s.MeanMS = s.TotalMS / float64(s.Calls)
		}
		s.tooLong = len([]rune(*text)) > longestStatement
		if readsOnly(s.Text) == "" {
			list = append(list, s)
		}
		return nil
	})
	if err != nil {
		return nil, 0, 0, noStatements(err, user)
	}
	return list, hidden, lost, nil
}

// noStatements explains why the view was not to be read.
func noStatements(err error, user string) error {
	switch {
	case pg.IsCode(err, pg.ObjectNotInPrerequisite):
		return hint.With(fmt.Errorf("%w: the extension is there, but the server was not started with it: %w", ErrNoStatements, err), installHint)
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return hint.With(fmt.Errorf("%w: %w", ErrNoStatements, err), fmt.Sprintf(hiddenHint, pgx.Identifier{user}.Sanitize()))
	}
	return fmt.Errorf("reading pg_stat_statements: %w", err)
}

// unprepared takes PREPARE name (types) AS from the beginning of a text: what
// EXECUTE runs is counted under the text of the PREPARE.
func unprepared(text string) string {
	all := tokens(text)
	list := meaning(all)
	if len(list) < 4 || !list[0].is("prepare") {
		return text
	}
	depth := 0
	for i, t := range all {
		switch {
		case t.is("("):
			depth++
		case t.is(")"):
			depth--
		case depth == 0 && t.is("as"):
			return strings.TrimSpace(textOf(all[i+1:]))
		}
	}
	return text
}
