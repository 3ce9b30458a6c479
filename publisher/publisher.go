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

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
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

// StreamName is what the forward stream's publication, slot and subscription
// are called.
func StreamName(move string) string { return "pgcutover_" + move }

// ownTables are ours that travel in the forward stream.
func ownTables() []Table {
	return []Table{{"pgcutover", "marker_forward"}, {"pgcutover", "decision_forward"}}
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

// CreatePublicationSQL publishes the given tables and our own.
func CreatePublicationSQL(move string, tables []Table) string {
	var b strings.Builder
	fmt.Fprintf(&b, "create publication %s for table", pgx.Identifier{StreamName(move)}.Sanitize())
	for i, t := range append(ownTables(), tables...) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n  only " + t.Identifier())
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

// EnsurePublication makes the publication of the forward stream, or adopts it
// when it stands there with the same tables. It must exist before the slot.
func EnsurePublication(ctx context.Context, s *pg.Server, tables []Table) error {
	var exists bool
	if err := s.Pool().QueryRow(ctx, publicationExistsSQL, StreamName(s.Move())).Scan(&exists); err != nil {
		return fmt.Errorf("looking for the publication: %w", err)
	}
	if !exists {
		if _, err := s.Pool().Exec(ctx, CreatePublicationSQL(s.Move(), tables)); err != nil {
			return publicationHint(fmt.Errorf("creating publication %q on the %s server: %w", StreamName(s.Move()), s.Side(), err), s)
		}
		return nil
	}
	have, err := Published(ctx, s)
	if err != nil {
		return err
	}
	if missing, extra := Compare(tables, have); len(missing)+len(extra) > 0 {
		return hint.With(fmt.Errorf("publication %q exists but lists other tables (missing: %s; not in scope: %s)",
			StreamName(s.Move()), join(missing), join(extra)),
			"tables were made or dropped, or tables.include/exclude changed, since start: run pgcutover abort, then start")
	}
	return nil
}

func publicationHint(err error, s *pg.Server) error {
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return hint.With(err, fmt.Sprintf("the role %q must own the tables and have CREATE on the database; run: pgcutover check", s.User()))
	}
	return err
}

// Published lists the application tables in the forward stream's publication.
func Published(ctx context.Context, s *pg.Server) ([]Table, error) {
	return listTables(ctx, s, "reading the publication", publishedSQL, StreamName(s.Move()))
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

// DropPublicationSQL removes the forward stream's publication.
func DropPublicationSQL(move string) string {
	return "drop publication if exists " + pgx.Identifier{StreamName(move)}.Sanitize()
}

// DropPublication removes the forward stream's publication, if it is there.
func DropPublication(ctx context.Context, s *pg.Server) error {
	if _, err := s.Pool().Exec(ctx, DropPublicationSQL(s.Move())); err != nil {
		return fmt.Errorf("dropping publication %q on the %s server: %w", StreamName(s.Move()), s.Side(), err)
	}
	return nil
}

// MarkSQL writes the marker of an attempt: its arrival on the subscriber
// proves that everything committed before it was applied.
const MarkSQL = `
insert into pgcutover.marker_forward (attempt, stream)
values ($1, 0)
on conflict (attempt, stream) do nothing`

// Mark commits the marker, synchronously (all our sessions are).
func Mark(ctx context.Context, s *pg.Server, attempt int64) error {
	if _, err := s.Pool().Exec(ctx, MarkSQL, attempt); err != nil {
		return fmt.Errorf("writing marker %d on the %s server: %w", attempt, s.Side(), err)
	}
	return nil
}

// ErrNoSlot means that the stream's slot is gone: its WAL with it.
var ErrNoSlot = errors.New("the replication slot does not exist")
