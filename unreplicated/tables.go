package unreplicated

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// group is tables that are tied by foreign keys, those that are referred to
// first.
type group []made

// made is a table, and how its triggers stand on the target.
type made struct {
	Table
	triggers []trigger
}

type trigger struct {
	Name    string
	Enabled string // pg_trigger.tgenabled
}

func (g group) bytes() int64 {
	var n int64
	for _, t := range g {
		n += t.Bytes
	}
	return n
}

// largest is the inventory's tables, the largest first.
func (i Inventory) largest() []Table {
	tables := slices.Clone(i.Tables)
	slices.SortStableFunc(tables, func(a, b Table) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return tables
}

// triggersSQL lists the triggers that fire on the given tables. Those of foreign
// keys and other constraints of the system are not named: the replica role keeps
// them quiet where the tool may take it, and otherwise they are met.
const triggersSQL = `
select n.nspname::text, c.relname::text,
       coalesce(array_agg(t.tgname::text order by t.tgname) filter (where t.tgname is not null), '{}'),
       coalesce(array_agg(t.tgenabled::text order by t.tgname) filter (where t.tgname is not null), '{}')
  from unnest($1::text[], $2::text[]) as x (schema, name)
  join pg_namespace n on n.nspname = x.schema
  join pg_class c on c.relnamespace = n.oid and c.relname = x.name and c.relkind = 'r'
  left join pg_trigger t on t.tgrelid = c.oid and t.tgenabled <> 'D' and t.tgconstraint = 0
 group by n.nspname, c.relname`

// referencesSQL lists the foreign keys that refer to one of the given tables: from
// which table, and to which.
const referencesSQL = `
select fn.nspname::text, f.relname::text, n.nspname::text, c.relname::text
  from unnest($1::text[], $2::text[]) as x (schema, name)
  join pg_namespace n on n.nspname = x.schema
  join pg_class c on c.relnamespace = n.oid and c.relname = x.name
  join pg_constraint k on k.contype = 'f' and k.confrelid = c.oid and k.conrelid <> c.oid
  join pg_class f on f.oid = k.conrelid and f.relkind = 'r'
  join pg_namespace fn on fn.oid = f.relnamespace`

// group puts together what has to be emptied together.
func (m *Mover) group(ctx context.Context) ([]group, error) {
	if len(m.inventory.Tables) == 0 {
		return nil, nil
	}
	tables, err := m.onTarget(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := m.target.Pool().Query(ctx, referencesSQL, m.schemas(), m.names())
	if err != nil {
		return nil, fmt.Errorf("reading the foreign keys of unlogged tables on the %s server: %w", m.target.Side(), err)
	}
	type reference struct{ FromSchema, From, ToSchema, To string }
	references, err := pgx.CollectRows(rows, pgx.RowToStructByPos[reference])
	if err != nil {
		return nil, fmt.Errorf("reading the foreign keys of unlogged tables on the %s server: %w", m.target.Side(), err)
	}
	refersTo := map[string][]string{}
	tied := newTies(tables)
	for _, r := range references {
		from, to := pgx.Identifier{r.FromSchema, r.From}.Sanitize(), pgx.Identifier{r.ToSchema, r.To}.Sanitize()
		if _, known := tables[from]; !known {
			return nil, hint.With(fmt.Errorf("table %s, which is not moved, refers to the unlogged table %s, which therefore cannot be emptied on the %s server", from, to, m.target.Side()),
				"take both into tables.include, or leave both out")
		}
		refersTo[from] = append(refersTo[from], to)
		tied.tie(from, to)
	}
	var groups []group
	for _, names := range tied.sets() {
		var g group
		for _, name := range inOrder(names, refersTo) {
			g = append(g, tables[name])
		}
		groups = append(groups, g)
	}
	return groups, nil
}

func (m *Mover) schemas() []string {
	out := make([]string, len(m.inventory.Tables))
	for i, t := range m.inventory.Tables {
		out[i] = t.Schema
	}
	return out
}

func (m *Mover) names() []string {
	out := make([]string, len(m.inventory.Tables))
	for i, t := range m.inventory.Tables {
		out[i] = t.Name
	}
	return out
}

// onTarget finds the tables there, by their quoted names.
func (m *Mover) onTarget(ctx context.Context) (map[string]made, error) {
	rows, err := m.target.Pool().Query(ctx, triggersSQL, m.schemas(), m.names())
	if err != nil {
		return nil, fmt.Errorf("reading the triggers of unlogged tables on the %s server: %w", m.target.Side(), err)
	}
	triggers := map[string][]trigger{}
	var schema, name string
	var names, enabled []string
	_, err = pgx.ForEachRow(rows, []any{&schema, &name, &names, &enabled}, func() error {
		ts := make([]trigger, len(names))
		for i := range names {
			ts[i] = trigger{names[i], enabled[i]}
		}
		triggers[pgx.Identifier{schema, name}.Sanitize()] = ts
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the triggers of unlogged tables on the %s server: %w", m.target.Side(), err)
	}
	tables := map[string]made{}
	for _, t := range m.inventory.Tables {
		ts, there := triggers[t.Identifier()]
		if !there && m.options.SkipMissing {
			continue
		}
		if !there {
			return nil, hint.With(fmt.Errorf("the unlogged table %s is not on the %s server", t.Identifier(), m.target.Side()), "make it there too, or leave it out by tables.exclude")
		}
		tables[t.Identifier()] = made{t, ts}
	}
	return tables, nil
}

// mayQuietSQL: the replica role keeps foreign keys from being checked row by row;
// what is copied was checked on the source.
const mayQuietSQL = `select rolsuper from pg_roles where rolname = current_user`

// mayQuiet15SQL: since 15 others can be granted the right.
const mayQuiet15SQL = `select has_parameter_privilege('session_replication_role', 'set')`

func mayQuiet(ctx context.Context, s *pg.Server) (bool, error) {
	sql := mayQuietSQL
	if s.Major() >= 15 {
		sql = mayQuiet15SQL
	}
	var may bool
	if err := s.Pool().QueryRow(ctx, sql).Scan(&may); err != nil {
		return false, fmt.Errorf("looking for the right to the replica role on the %s server: %w", s.Side(), err)
	}
	return may, nil
}

// moveGroup empties and fills the tables of a group in one transaction.
func (m *Mover) moveGroup(ctx context.Context, l *lane, g group) (Moved, error) {
	done := Moved{Tables: len(g)}
	err := m.transaction(ctx, l, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, strings.Join(emptySQL(g, m.quiet), ";\n")); err != nil {
			return fmt.Errorf("emptying %s on the %s server: %w", g[0].Identifier(), m.target.Side(), err)
		}
		if m.options.Tables != EmptyTables {
			for _, t := range g {
				rows, bytes, err := m.copyTable(ctx, l, t)
				if err != nil {
					return fmt.Errorf("copying the unlogged table %s: %w", t.Identifier(), err)
				}
				done.Rows += rows
				done.Bytes += bytes
			}
		}
		again := enableSQL(g)
		if len(again) == 0 {
			return nil
		}
		_, err := tx.Exec(ctx, strings.Join(again, ";\n"))
		return err
	})
	return done, err
}

// emptySQL takes the tables for the transaction alone, keeps their triggers quiet
// and empties them. A table's children are tables of their own.
func emptySQL(g group, quiet bool) []string {
	names := make([]string, len(g))
	for i, t := range g {
		names[i] = "only " + t.Identifier()
	}
	all := strings.Join(names, ", ")
	out := []string{"lock table " + all + " in access exclusive mode"}
	if quiet {
		out = append(out, "set local session_replication_role = replica")
	}
	for _, t := range g {
		for _, tr := range t.triggers {
			out = append(out, fmt.Sprintf("alter table only %s disable trigger %s", t.Identifier(), pgx.Identifier{tr.Name}.Sanitize()))
		}
	}
	return append(out, "truncate "+all)
}

// enableSQL puts the triggers back as they were.
func enableSQL(g group) []string {
	how := map[string]string{"O": "enable", "A": "enable always", "R": "enable replica"}
	var out []string
	for _, t := range g {
		for _, tr := range t.triggers {
			out = append(out, fmt.Sprintf("alter table only %s %s trigger %s", t.Identifier(), how[tr.Enabled], pgx.Identifier{tr.Name}.Sanitize()))
		}
	}
	return out
}

func columnList(t Table) string {
	if len(t.columns) == 0 {
		return "" // none at all, or generated ones only: COPY leaves these out by itself
	}
	quoted := make([]string, len(t.columns))
	for i, c := range t.columns {
		quoted[i] = pgx.Identifier{c}.Sanitize()
	}
	return " (" + strings.Join(quoted, ", ") + ")"
}

// CopyOutSQL reads a table's own rows, as text: names in place of OIDs.
func CopyOutSQL(t Table) string { return "copy " + t.Identifier() + columnList(t) + " to stdout" }

// CopyInSQL writes them.
func CopyInSQL(t Table) string { return "copy " + t.Identifier() + columnList(t) + " from stdin" }

// copyTable streams the rows from one server to the other.
func (m *Mover) copyTable(ctx context.Context, l *lane, t made) (rows, bytes int64, err error) {
	r, w := io.Pipe()
	var both errgroup.Group
	both.Go(func() error {
		err := m.read(ctx, l, t, w)
		w.CloseWithError(err)
		return err
	})
	counted := &counter{Reader: r}
	both.Go(func() error {
		tag, err := l.to.PgConn().CopyFrom(ctx, counted, CopyInSQL(t.Table))
		r.CloseWithError(errors.Join(errEnded, err))
		rows = tag.RowsAffected()
		return err
	})
	err = both.Wait()
	return rows, counted.n, err
}

var errEnded = errors.New("the other server takes no more rows")

// read sends a table's rows to w. Whoever waits for the table, with a TRUNCATE for
// example, waits for the lease that keeps DDL out, and others would wait behind
// him: that is not what the pause is for.
func (m *Mover) read(ctx context.Context, l *lane, t made, w io.Writer) error {
	lock := fmt.Sprintf("begin isolation level read committed read only; lock table only %s in access share mode nowait", t.Identifier())
	_, err := l.from.Exec(ctx, lock)
	if err == nil {
		_, err = l.from.PgConn().CopyTo(ctx, w, CopyOutSQL(t.Table))
	}
	if _, back := l.from.Exec(ctx, "rollback"); back != nil && err == nil {
		err = back
	}
	if pg.IsCode(err, pg.LockNotAvailable) && m.options.CopyTo != nil {
		return m.options.CopyTo(ctx, w, CopyOutSQL(t.Table))
	}
	return err
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}
