// Package publisher says what has to be said to the publishing side of a
// stream: which tables it publishes, the publication, the slot, the WAL that
// the slot retains, the marker, and the lease under which its writers wait.
//
// It takes a server, not a colour: on rollback the new server is the
// publisher.
package publisher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// Table is a table as a publication names it.
type Table struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// Identifier returns the table's name, quoted.
func (t Table) Identifier() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// String returns schema.table for messages.
func (t Table) String() string { return t.Schema + "." + t.Name }

// ownTables are ours that travel in a stream: the pair of its direction.
func ownTables(d state.Direction) []Table {
	return []Table{{"pgcutover", "marker_" + string(d)}, {"pgcutover", "decision_" + string(d)}}
}

// publishableSQL lists the application's permanent ordinary tables. Partitions
// are published one by one and never their roots: that works on every major,
// 10 and later, and both servers have the same partitions.
// Members of extensions belong to CREATE EXTENSION.
const publishableSQL = `
select n.nspname, c.relname
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence = 'p' and c.oid >= 16384
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by n.nspname, c.relname`

// Tables lists the application tables for which inScope says yes.
func Tables(ctx context.Context, s *pg.Server, inScope func(schema, table string) bool) ([]Table, error) {
	all, err := listTables(ctx, s, "listing the application's tables", publishableSQL)
	if err != nil {
		return nil, err
	}
	tables := all[:0]
	for _, t := range all {
		if inScope(t.Schema, t.Name) {
			tables = append(tables, t)
		}
	}
	return tables, nil
}

func listTables(ctx context.Context, s *pg.Server, doing, sql string, args ...any) ([]Table, error) {
	rows, err := s.Pool().Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("%s on the %s server: %w", doing, s.Side(), err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Table])
	if err != nil {
		return nil, fmt.Errorf("%s on the %s server: %w", doing, s.Side(), err)
	}
	return tables, nil
}

// CreatePublicationSQL publishes the given tables and our own. A subscriber of
// 10 knows no TRUNCATE: it would fail on one for ever, so that it gets none.
func CreatePublicationSQL(st state.Stream, tables []Table, subscriberMajor int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "create publication %s for table", pgx.Identifier{st.Name()}.Sanitize())
	for i, t := range append(ownTables(st.Direction), tables...) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n  only " + t.Identifier())
	}
	if subscriberMajor < 11 {
		b.WriteString("\n  with (publish = 'insert, update, delete')")
	}
	return b.String()
}

const publicationExistsSQL = `select exists (select 1 from pg_publication where pubname = $1)`

// publishedSQL lists what a publication names, without what follows from a
// partitioned root.
const publishedSQL = `
select n.nspname, c.relname
  from pg_publication p
  join pg_publication_rel r on r.prpubid = p.oid
  join pg_class c on c.oid = r.prrelid
  join pg_namespace n on n.oid = c.relnamespace
 where p.pubname = $1 and n.nspname <> 'pgcutover'
 order by n.nspname, c.relname`

// EnsurePublication makes the publication of a stream, or adopts it when it
// stands there with the same tables. It must exist before the slot.
func EnsurePublication(ctx context.Context, s *pg.Server, st state.Stream, tables []Table, subscriberMajor int) error {
	var exists bool
	if err := s.Pool().QueryRow(ctx, publicationExistsSQL, st.Name()).Scan(&exists); err != nil {
		return fmt.Errorf("looking for the publication: %w", err)
	}
	if !exists {
		if _, err := s.Pool().Exec(ctx, s.Quiet(CreatePublicationSQL(st, tables, subscriberMajor))); err != nil {
			return publicationHint(fmt.Errorf("creating publication %q on the %s server: %w", st.Name(), s.Side(), err), s)
		}
		return nil
	}
	have, err := Published(ctx, s, st)
	if err != nil {
		return err
	}
	if missing, extra := Compare(tables, have); len(missing)+len(extra) > 0 {
		return hint.With(fmt.Errorf("publication %q exists on the %s server but lists other tables (missing: %s; not in scope: %s)",
			st.Name(), s.Side(), join(missing), join(extra)), otherTables(s, st))
	}
	return nil
}

// otherTables is what to do about a publication that lists other tables than it
// should. That of a way back is a cutover's or a rollback's own, made anew by the
// next one.
func otherTables(s *pg.Server, st state.Stream) string {
	if st.Attempt != 0 {
		return fmt.Sprintf("somebody altered it while the %[1]s was under way; then run: pgcutover %[1]s", state.DirectionTo(s.Side()).Command())
	}
	return "tables were made or dropped, or tables.include/exclude changed, since start: run pgcutover abort, then start"
}

// AddTablesSQL adds tables to a stream's publication.
func AddTablesSQL(st state.Stream, tables []Table) string {
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = "only " + t.Identifier()
	}
	return fmt.Sprintf("alter publication %s add table %s", pgx.Identifier{st.Name()}.Sanitize(), strings.Join(names, ", "))
}

// AddTables publishes tables that were made since the publication. The
// subscriber copies them when it is told to look: see subscriber.Refresh.
func AddTables(ctx context.Context, s *pg.Server, st state.Stream, tables []Table) error {
	if len(tables) == 0 {
		return nil
	}
	if _, err := s.Pool().Exec(ctx, s.Quiet(AddTablesSQL(st, tables))); err != nil {
		return publicationHint(fmt.Errorf("adding tables to publication %q on the %s server: %w", st.Name(), s.Side(), err), s)
	}
	return nil
}

func publicationHint(err error, s *pg.Server) error {
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return hint.With(err, fmt.Sprintf("the role %q must own the tables and have CREATE on the database; run: pgcutover check", s.User()))
	}
	return err
}

// Published lists the application tables in a stream's publication.
func Published(ctx context.Context, s *pg.Server, st state.Stream) ([]Table, error) {
	return listTables(ctx, s, "reading the publication", publishedSQL, st.Name())
}

// Compare tells which of want are missing from have and which of have nobody
// wants.
func Compare(want, have []Table) (missing, extra []Table) {
	there := make(map[Table]bool, len(have))
	for _, t := range have {
		there[t] = true
	}
	for _, t := range want {
		if !there[t] {
			missing = append(missing, t)
		}
		delete(there, t)
	}
	for _, t := range have {
		if there[t] {
			extra = append(extra, t)
		}
	}
	return missing, extra
}

func join(tables []Table) string {
	if len(tables) == 0 {
		return "none"
	}
	names := make([]string, 0, len(tables))
	for i, t := range tables {
		if i == 10 {
			names = append(names, fmt.Sprintf("and %d more", len(tables)-i))
			break
		}
		names = append(names, t.String())
	}
	return strings.Join(names, ", ")
}

// DropPublicationSQL removes a stream's publication.
func DropPublicationSQL(st state.Stream) string { return dropPublicationSQL(st.Name()) }

func dropPublicationSQL(name string) string {
	return "drop publication if exists " + pgx.Identifier{name}.Sanitize()
}

// DropPublication removes a stream's publication, if it is there.
func DropPublication(ctx context.Context, s *pg.Server, st state.Stream) error {
	if _, err := s.Pool().Exec(ctx, s.Quiet(DropPublicationSQL(st))); err != nil {
		return fmt.Errorf("dropping publication %q on the %s server: %w", st.Name(), s.Side(), err)
	}
	return nil
}

// namesSQL lists the publications and the slots whose names match a pattern.
const namesSQL = `
select pubname from pg_publication where pubname ~ $1
union
select slot_name from pg_replication_slots where slot_name ~ $1 and database = current_database()
 order by 1`

// Names lists what publications and slots of the server's move are called,
// whichever attempt made them.
func Names(ctx context.Context, s *pg.Server) ([]string, error) {
	rows, err := s.Pool().Query(ctx, namesSQL, state.StreamPattern(s.Move()))
	if err != nil {
		return nil, fmt.Errorf("listing the streams of the %s server: %w", s.Side(), err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("listing the streams of the %s server: %w", s.Side(), err)
	}
	return names, nil
}

// Remove drops the publication and the slot of that name, if they are there.
// guard, if not nil, is asked at the beginning of each transaction.
func Remove(ctx context.Context, s *pg.Server, name string, bound time.Duration, guard func(context.Context, pgx.Tx) error) error {
	if err := dropSlot(ctx, s, name, bound, guard); err != nil {
		return err
	}
	err := guarded(ctx, s, guard, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, s.Quiet(dropPublicationSQL(name)))
		return err
	})
	if err != nil {
		return fmt.Errorf("dropping publication %q on the %s server: %w", name, s.Side(), err)
	}
	return nil
}

func guarded(ctx context.Context, s *pg.Server, guard func(context.Context, pgx.Tx) error, f func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.Pool(), func(tx pgx.Tx) error {
		if guard != nil {
			if err := guard(ctx, tx); err != nil {
				return err
			}
		}
		return f(tx)
	})
}

// MarkForwardSQL writes the marker of a cutover: its arrival on the subscriber
// proves that everything committed before it was applied.
const MarkForwardSQL = `
insert into pgcutover.marker_forward (attempt, stream)
values ($1, 0)
on conflict (attempt, stream) do nothing`

// MarkBackSQL writes the marker of a rollback.
const MarkBackSQL = `
insert into pgcutover.marker_back (attempt, stream)
values ($1, 0)
on conflict (attempt, stream) do nothing`

// MarkSQL returns the one of a direction.
func MarkSQL(d state.Direction) string {
	if d == state.Back {
		return MarkBackSQL
	}
	return MarkForwardSQL
}

// Mark commits the marker, synchronously (all our sessions are).
func Mark(ctx context.Context, s *pg.Server, d state.Direction, attempt int64) error {
	if _, err := s.Pool().Exec(ctx, MarkSQL(d), attempt); err != nil {
		return fmt.Errorf("writing marker %d on the %s server: %w", attempt, s.Side(), err)
	}
	return nil
}

// ErrNoSlot means that the stream's slot is gone: its WAL with it.
var ErrNoSlot = errors.New("the replication slot does not exist")
