package schema

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// DatabaseReport says what became of what belongs to the database itself.
type DatabaseReport struct {
	Carried []string `json:"carried"` // the statements that were executed
	Notices []Notice `json:"notices"`
}

// database is what a database has besides its contents.
type database struct {
	Owner       string
	Connections int // -1: no limit
	Comment     *string
	Grants      []Grant
	Settings    []databaseSetting
	Everywhere  []Setting // of all roles in all databases
	Labels      []label
}

// databaseSetting is one of ALTER DATABASE ... SET, or, for a role, of ALTER
// ROLE ... IN DATABASE ... SET.
type databaseSetting struct {
	Role string // empty: every role
	Setting
}

// CarryDatabase gives the new database what the old one has besides its
// contents: settings (ALTER DATABASE ... SET and ALTER ROLE ... IN DATABASE ...
// SET), privileges (CONNECT, TEMPORARY, CREATE; what PUBLIC has lost included),
// connection limit, comment and security labels. It belongs after the copy:
// timeouts among the settings would end it, and a connection limit may refuse it
// its sessions.
//
// What an operator has set on new already is left as it is and listed, as is
// what new refuses, another owner, and a REVOKE that would lock the tool out.
// The read-only default is left out, since the tool itself sets it. Each change
// is recorded with its undo in schema pgcutover, in the same transaction: it may
// be called again, and [ReturnDatabase] takes everything back.
func CarryDatabase(ctx context.Context, old, new *pg.Server) (DatabaseReport, error) {
	report := DatabaseReport{Carried: []string{}, Notices: []Notice{}}
	err := carryDatabase(ctx, old, new, &report)
	if err != nil {
		return report, fmt.Errorf("setting up the new database (%s): %w", new.Address(), new.Redacted(old.Redacted(err)))
	}
	return report, nil
}

func carryDatabase(ctx context.Context, old, new *pg.Server, report *DatabaseReport) error {
	was, err := readDatabase(ctx, old.Pool())
	if err != nil {
		return fmt.Errorf("reading the old database: %w", err)
	}
	conn, err := new.Connect(ctx, "database", new.QuietSession())
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	return inTransaction(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, carriedSQL); err != nil {
			return fmt.Errorf("making pgcutover.carried: %w", err)
		}
		is, err := readDatabase(ctx, tx)
		if err != nil {
			return fmt.Errorf("reading the new database: %w", err)
		}
		todo, notices := was.onto(is, new.Database())
		report.Notices = append(report.Notices, notices...)
		for _, c := range todo {
			if err := c.carryOnto(ctx, tx, new, report); err != nil {
				return err
			}
		}
		return still(ctx, tx, was, new.Database(), report)
	})
}

// still lists what is not as it should be although nothing was refused: a GRANT
// without the right to it is a mere warning to Postgres.
func still(ctx context.Context, tx pgx.Tx, was database, name string, report *DatabaseReport) error {
	is, err := readDatabase(ctx, tx)
	if err != nil {
		return fmt.Errorf("reading the new database: %w", err)
	}
	left, _ := was.onto(is, name)
	for _, c := range left {
		if !slices.ContainsFunc(report.Notices, func(n Notice) bool { return n.Fix == c.text()+";" }) {
			report.Notices = append(report.Notices, Notice{Object: c.object, Seen: "the new server has not done it, and refused nothing", Fix: c.text() + ";"})
			report.Carried = slices.DeleteFunc(report.Carried, func(sql string) bool { return sql == c.text() })
		}
	}
	return nil
}

// carriedSQL makes the table that remembers how to take back what was carried.
const carriedSQL = `
create table if not exists pgcutover.carried (
  n integer generated always as identity primary key,
  undo text not null
)`

const recordUndoSQL = `insert into pgcutover.carried (undo) values ($1)`

// change is a statement with its undo.
type change struct {
	statement
	undo string
	// locksOut tells that the statement may take CONNECT from the tool's role.
	locksOut bool
}

// carry executes c and records its undo, or returns why not.
func (c change) carry(ctx context.Context, tx pgx.Tx, checks ...func(context.Context, pgx.Tx) (*Notice, error)) (*Notice, error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("setting a savepoint: %w", err)
	}
	defer rollback(ctx, inner)
	refused, err := c.attempt(ctx, inner)
	for _, check := range checks {
		if refused == nil && err == nil {
			refused, err = check(ctx, inner)
		}
	}
	if refused != nil || err != nil {
		return refused, err
	}
	if _, err := inner.Exec(ctx, recordUndoSQL, c.undo); err != nil {
		return nil, fmt.Errorf("recording how to take back %q: %w", c.text(), err)
	}
	return nil, inner.Commit(ctx)
}

// carryOnto carries c onto the new database.
func (c change) carryOnto(ctx context.Context, tx pgx.Tx, new *pg.Server, report *DatabaseReport) error {
	var checks []func(context.Context, pgx.Tx) (*Notice, error)
	if c.locksOut {
		checks = append(checks, func(ctx context.Context, tx pgx.Tx) (*Notice, error) { return c.lockedOut(ctx, tx, new) })
	}
	refused, err := c.carry(ctx, tx, checks...)
	if refused != nil {
		report.Notices = append(report.Notices, *refused)
	} else if err == nil {
		report.Carried = append(report.Carried, c.text())
	}
	return err
}

// lockedOutSQL lists those of the roles that may not connect.
const lockedOutSQL = `
select coalesce(string_agg(quote_ident(rolname), ', ' order by rolname), '')
  from pg_roles
 where rolname = any($1) and not has_database_privilege(oid, current_database(), 'connect')`

// lockedOut tells whether the tool's role, or that by which old reaches new for
// the way back, could no longer connect.
func (c change) lockedOut(ctx context.Context, tx pgx.Tx, new *pg.Server) (*Notice, error) {
	peer, err := new.Peer()
	if err != nil {
		return nil, err
	}
	var names string
	if err := tx.QueryRow(ctx, lockedOutSQL, []string{new.User(), userOf(peer)}).Scan(&names); err != nil {
		return nil, fmt.Errorf("asking who may connect: %w", err)
	}
	if names == "" {
		return nil, nil
	}
	return &Notice{
		Object: c.object, Fix: c.text() + ";",
		Seen: fmt.Sprintf("old does not let PUBLIC connect; new still does, since %s could not connect any more: run this after pgcutover complete", names),
	}, nil
}

// userOf is the role in a connection string.
func userOf(conninfo string) string {
	if strings.HasPrefix(conninfo, "postgres://") || strings.HasPrefix(conninfo, "postgresql://") {
		if u, err := url.Parse(conninfo); err == nil && u.User.Username() != "" {
			return u.User.Username()
		}
	}
	return pg.Keyword(conninfo, "user")
}

// ReturnDatabase takes back what [CarryDatabase] did, the last first. guard is as
// in [DropRoles].
func ReturnDatabase(ctx context.Context, new *pg.Server, guard func(context.Context, pgx.Tx) error) error {
	if err := returnDatabase(ctx, new, guard); err != nil {
		return fmt.Errorf("taking back what was set on the new database (%s): %w", new.Address(), new.Redacted(err))
	}
	return nil
}

// ReturnDatabaseSQL does by hand what ReturnDatabase does.
const ReturnDatabaseSQL = `
do $$
declare
  undo text;
begin
  for undo in select c.undo from pgcutover.carried c order by c.n desc loop
    execute undo;
  end loop;
  delete from pgcutover.carried;
end
$$`

const undosSQL = `select undo from pgcutover.carried order by n desc`

const forgetUndosSQL = `delete from pgcutover.carried`

func returnDatabase(ctx context.Context, new *pg.Server, guard func(context.Context, pgx.Tx) error) error {
	rows, err := new.Pool().Query(ctx, undosSQL)
	if err == nil {
		var undos []string
		if undos, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			for attempt := 1; ; attempt++ {
				err := undoAll(ctx, new, undos, guard)
				if attempt == roleAttempts || !inEachOthersWay(err) {
					return err
				}
			}
		}
	}
	if pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName) {
		return nil
	}
	return fmt.Errorf("reading what was carried over: %w", err)
}

func undoAll(ctx context.Context, new *pg.Server, undos []string, guard func(context.Context, pgx.Tx) error) error {
	if len(undos) == 0 {
		return nil
	}
	conn, err := new.Connect(ctx, "database", new.QuietSession())
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	return inTransaction(ctx, conn, func(tx pgx.Tx) error {
		if guard != nil {
			if err := guard(ctx, tx); err != nil {
				return err
			}
		}
		if err := execute(ctx, tx, undos); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, forgetUndosSQL)
		return err
	})
}

// DatabaseStatements are the statements of CarryDatabase as of now, for a plan.
func DatabaseStatements(ctx context.Context, old, new *pg.Server) ([]string, error) {
	was, err := readDatabase(ctx, old.Pool())
	if err != nil {
		return nil, fmt.Errorf("reading the old database: %w", old.Redacted(err))
	}
	is, err := readDatabase(ctx, new.Pool())
	if err != nil {
		return nil, fmt.Errorf("reading the new database: %w", new.Redacted(err))
	}
	todo, _ := was.onto(is, new.Database())
	list := []statement{{sql: strings.TrimSpace(carriedSQL)}}
	for _, c := range todo {
		list = append(list, c.statement, c.record())
	}
	return shownAll(list), nil
}

// ourComment is how the comment begins that the fence puts on a closed database.
const ourComment = "writes are refused: pgcutover"

// onto returns what has to be done so that is, the new database, becomes like d,
// and how they differ where that is left.
func (d database) onto(is database, name string) ([]change, []Notice) {
	target, object := "database "+quoteName(name), "database "+quoteName(name)
	todo, notices := d.settingsOnto(is, name)
	notices = append(notices, d.everywhereOnto(is)...)
	add := func(sql, undo string) {
		todo = append(todo, change{statement: statement{object: object, sql: sql}, undo: undo})
	}
	left := func(seen, sql string) {
		notices = append(notices, Notice{Object: object, Seen: seen + ": left as it is", Fix: sql + ";"})
	}
	if d.Owner != is.Owner {
		left(fmt.Sprintf("belongs to %s on old, to %s on new", quoteName(d.Owner), quoteName(is.Owner)), "alter "+target+" owner to "+quoteName(d.Owner))
	}
	todo = append(todo, d.grantsOnto(is, target)...)
	if text(d.Comment) != text(is.Comment) && d.Comment != nil && !strings.HasPrefix(*d.Comment, ourComment) {
		sql := "comment on " + target + " is " + quoteLiteral(*d.Comment)
		if is.Comment == nil {
			add(sql, "comment on "+target+" is null")
		} else if !strings.HasPrefix(*is.Comment, ourComment) {
			left("has another comment on new", sql)
		}
	}
	for _, l := range d.Labels {
		if !slices.Contains(is.Labels, l) {
			add(fmt.Sprintf("security label for %s on %s is %s", quoteName(l.provider), target, quoteLiteral(l.text)),
				fmt.Sprintf("security label for %s on %s is null", quoteName(l.provider), target))
		}
	}
	if d.Connections != is.Connections {
		sql := fmt.Sprintf("alter %s connection limit %d", target, d.Connections)
		if is.Connections < 0 {
			add(sql, "alter "+target+" connection limit -1")
		} else {
			left(fmt.Sprintf("has a connection limit of %d on old, of %d on new", d.Connections, is.Connections), sql)
		}
	}
	return todo, notices
}
