package subscriber

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/rowchange"
	"github.com/pgcutover/pgcutover/internal/state"
)

// Reason is why rows cannot be applied.
type Reason struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
	// Operation is what failed; COPY for the first copy of a table.
	Operation string `json:"operation"`
	Code      string `json:"code,omitempty"` // SQLSTATE, where the server gave one
	Text      string `json:"text"`
	// Drift says that the tables of both servers differ.
	Drift bool `json:"drift,omitempty"`
	// Missing are the columns that the subscriber's table lacks.
	Missing []string `json:"missing,omitempty"`
	// Mend are statements for the subscriber, or empty where they are not known.
	Mend string `json:"mend,omitempty"`
}

const originSQL = `select coalesce(pg_replication_origin_progress('pg_' || oid, false), '0/0')::text from pg_subscription where subname = $1 and subdbid = (select oid from pg_database where datname = current_database())`

// Applied is up to where the subscription has applied the stream; 0 when the role
// may not see it.
func Applied(ctx context.Context, s *pg.Server, st state.Stream) (pglogrepl.LSN, error) {
	var text string
	err := s.Pool().QueryRow(ctx, originSQL, st.Name()).Scan(&text)
	if errors.Is(err, pgx.ErrNoRows) || pg.IsCode(err, pg.InsufficientPrivilege, pg.UndefinedObject) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading how far subscription %q has applied: %w", st.Name(), err)
	}
	return pglogrepl.ParseLSN(text)
}

// targetSQL reads a table as an apply worker sees it: its columns, whether rows can
// be tried out there, and the triggers that fire for an apply worker.
const targetSQL = `
select c.relkind::text,
       array(select a.attname::text from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
       array(select quote_ident(t.tgname) from pg_trigger t
              where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled in ('A', 'R') and t.tgname <> $3),
       exists (select from pg_index i where i.indrelid = c.oid and i.indisvalid and (i.indisprimary or i.indisreplident))
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')`

// target is a table on the subscriber.
type target struct {
	kind     string
	columns  []string
	triggers []string
	identity bool // rows can be found by a key
}

func fenceName(s *pg.Server) string { return "pgcutover_" + s.Move() + "_fence" }

func readTarget(ctx context.Context, s *pg.Server, c rowchange.Change) (*target, error) {
	var t target
	err := s.Pool().QueryRow(ctx, targetSQL, c.Schema, c.Table, fenceName(s)).Scan(&t.kind, &t.columns, &t.triggers, &t.identity)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking at table %s on the %s server: %w", c.Identifier(), s.Side(), err)
	}
	return &t, nil
}

// Explain says at which change of a transaction an apply worker fails, and why:
// from the catalogs, and otherwise by doing the changes, as SQL, in a transaction
// that is rolled back. Nil when nothing fails. Changes are tried only by a superuser
// and on tables without triggers of the application that fire for an apply worker:
// those may do what no rollback takes back.
func Explain(ctx context.Context, s *pg.Server, tx rowchange.Transaction) (*Reason, error) {
	seen := map[string]*target{}
	var triggers []string
	for _, c := range tx.Changes {
		t, known := seen[c.Identifier()]
		if !known {
			var err error
			if t, err = readTarget(ctx, s, c); err != nil {
				return nil, err
			}
			seen[c.Identifier()] = t
		}
		if r := mismatch(s, c, t); r != nil {
			return r, nil
		}
		for _, name := range t.triggers {
			if !known {
				triggers = append(triggers, name+" on "+c.Identifier())
			}
		}
	}
	super, err := isSuperuser(ctx, s)
	if err != nil {
		return nil, err
	}
	if len(triggers) > 0 || !super {
		c := tx.Changes[0]
		text := "the catalogs show nothing, and the role may not try the rows out"
		if len(triggers) > 0 {
			text = "the catalogs show nothing; triggers that fire for the apply worker may fail: " + strings.Join(triggers, ", ")
		}
		return &Reason{Schema: c.Schema, Table: c.Table, Operation: string(c.Operation), Text: text + fmt.Sprintf("; the %s server's log has the error", s.Side())}, nil
	}
	return reproduce(ctx, s, tx, seen)
}

// mismatch finds what the subscriber's table lacks.
func mismatch(s *pg.Server, c rowchange.Change, t *target) *Reason {
	r := &Reason{Schema: c.Schema, Table: c.Table, Operation: string(c.Operation), Drift: true}
	if t == nil {
		r.Text = fmt.Sprintf("the table does not exist on the %s server", s.Side())
		return r
	}
	var missing []string
	for _, name := range c.Columns {
		if !slices.Contains(t.columns, name) {
			missing = append(missing, pgx.Identifier{name}.Sanitize())
			r.Missing = append(r.Missing, name)
		}
	}
	if len(missing) == 0 {
		if t.identity || c.Full || c.Operation != rowchange.Update && c.Operation != rowchange.Delete {
			return nil
		}
		r.Text = fmt.Sprintf("the table has neither a primary key nor a replica identity index on the %s server, so that rows cannot be found", s.Side())
		return r
	}
	r.Text = fmt.Sprintf("the table has no column %s on the %s server", strings.Join(missing, ", "), s.Side())
	return r
}

// reproduceSettings keep the attempt short, and let it do what an apply worker may.
func reproduceSettings() map[string]string {
	return map[string]string{"session_replication_role": "replica", "statement_timeout": "5s", "lock_timeout": "1s"}
}

// reproduce does the changes and takes them back. The fence lets nobody but apply
// workers write, and so is not there for this transaction.
func reproduce(ctx context.Context, s *pg.Server, t rowchange.Transaction, tables map[string]*target) (*Reason, error) {
	conn, err := s.Connect(ctx, "explain", reproduceSettings())
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, conn)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing of it is to stay
	for table := range tables {
		_, err := tx.Exec(ctx, withoutFence(s, table))
		if pg.IsCode(err, pg.LockNotAvailable, pg.QueryCanceled, pg.DeadlockDetected) {
			return nil, nil // somebody is in the way: nothing is known
		}
		if err != nil {
			return nil, fmt.Errorf("trying the stopped transaction out on table %s: %w", table, err)
		}
	}
	for _, c := range t.Changes {
		sql := c.SQL()
		if sql == "" {
			continue
		}
		_, err := tx.Exec(ctx, sql)
		var refused *pgconn.PgError
		switch {
		case err == nil:
		case !errors.As(err, &refused):
			return nil, fmt.Errorf("trying the stopped transaction out: %w", err)
		case refused.Code == pg.QueryCanceled || refused.Code == pg.LockNotAvailable || refused.Code == pg.DeadlockDetected:
			return nil, nil // somebody is in the way: nothing is known
		default:
			return refusal(s, c, refused), nil
		}
	}
	return nil, nil
}

// withoutFence takes the fence's trigger out of a transaction's way.
func withoutFence(s *pg.Server, table string) string {
	return fmt.Sprintf("do $$ begin if exists (select from pg_trigger where tgrelid = %s::regclass and tgname = %s) then alter table %s disable trigger %s; end if; end $$",
		literal(table), literal(fenceName(s)), table, pgx.Identifier{fenceName(s)}.Sanitize())
}

func refusal(s *pg.Server, c rowchange.Change, e *pgconn.PgError) *Reason {
	r := &Reason{Schema: c.Schema, Table: c.Table, Operation: string(c.Operation), Code: e.Code, Text: e.Message}
	if e.Detail != "" {
		r.Text += ": " + e.Detail
	}
	switch e.Code {
	case pg.UniqueViolation, "23P01": // exclusion
		r.Text += fmt.Sprintf(" The row that is in the way was written on the %s server.", s.Side())
		r.Mend = behindFence(s, c.Identifier(), "delete from "+c.Identifier()+" where <the key that is named>")
	case "22P02", "22001", "22003", "23502", "23514": // a value that the column, or a check, does not take
		r.Drift = true
	}
	return r
}

// behindFence is how a superuser writes on a server that is closed.
func behindFence(s *pg.Server, table, sql string) string {
	fence := pgx.Identifier{fenceName(s)}.Sanitize()
	return fmt.Sprintf("begin read write; alter table %[1]s disable trigger %[2]s; %[3]s; alter table %[1]s enable always trigger %[2]s; commit", table, fence, sql)
}

// copierSQL tells as whom a table is copied, and what that role may not: from 16 on
// it is the owner, unless the subscription says otherwise.
const copierSQL = `
select pg_get_userbyid(c.relowner)::text, has_schema_privilege(c.relowner, n.oid, 'usage'),
       has_table_privilege(c.relowner, c.oid, 'insert')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')`

// forbidden finds the right that whoever copies a table lacks.
func forbidden(ctx context.Context, s *pg.Server, c rowchange.Change) (*Reason, error) {
	if s.Major() < 16 {
		return nil, nil // then it is the subscription's owner, a superuser
	}
	var owner string
	var enters, inserts bool
	err := s.Pool().QueryRow(ctx, copierSQL, c.Schema, c.Table).Scan(&owner, &enters, &inserts)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && enters && inserts {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the rights on table %s on the %s server: %w", c.Identifier(), s.Side(), err)
	}
	r := &Reason{Schema: c.Schema, Table: c.Table, Operation: string(c.Operation), Code: pg.InsufficientPrivilege}
	right, grant := "INSERT on its table", fmt.Sprintf("grant insert on %s to %s", c.Identifier(), pgx.Identifier{owner}.Sanitize())
	if !enters {
		right, grant = "USAGE on its schema", fmt.Sprintf("grant usage on schema %s to %s", pgx.Identifier{c.Schema}.Sanitize(), pgx.Identifier{owner}.Sanitize())
	}
	r.Text = fmt.Sprintf("its owner %q, in whose name it is copied, has no %s; grant it on both servers", owner, right)
	r.Mend = "begin read write; " + grant + "; commit"
	return r, nil
}

const emptySQL = `select exists (select from only %s limit 1)`

// ExplainCopy says why the first copy of a table fails, as far as catalogs and the
// table itself tell; nil when they do not. sent are the columns that the publisher
// has.
func ExplainCopy(ctx context.Context, s *pg.Server, c rowchange.Change) (*Reason, error) {
	t, err := readTarget(ctx, s, c)
	if err != nil {
		return nil, err
	}
	if r := mismatch(s, c, t); r != nil {
		return r, nil
	}
	if r, err := forbidden(ctx, s, c); r != nil || err != nil {
		return r, err
	}
	var rows bool
	if err := s.Pool().QueryRow(ctx, fmt.Sprintf(emptySQL, c.Identifier())).Scan(&rows); err != nil {
		return nil, fmt.Errorf("looking into table %s on the %s server: %w", c.Identifier(), s.Side(), err)
	}
	if !rows {
		return nil, nil
	}
	return &Reason{
		Schema: c.Schema, Table: c.Table, Operation: string(c.Operation),
		Text: fmt.Sprintf("the table has rows on the %s server before its copy has ended: somebody wrote them there, and they collide with the copied ones or would be there twice", s.Side()),
		Mend: behindFence(s, c.Identifier(), "truncate only "+c.Identifier()),
	}, nil
}
