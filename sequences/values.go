package sequences

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// ReadValues returns the positions of the named sequences, in the order of
// refs. It is the short reading for the write pause, where the definitions are
// known. version is the server's server_version_num. A sequence that is gone
// or may not be read is an error; the latter an *UnreadableError.
func ReadValues(ctx context.Context, q Querier, version int, refs []Ref) ([]Value, error) {
	read := readDirectly
	if version >= 180000 {
		read = readByFunction
	}
	values, err := read(ctx, q, refs)
	if err != nil {
		return nil, fmt.Errorf("reading the values of sequences: %w", err)
	}
	return values, nil
}

// calledSQL reads the last numbers of the sequences named by two arrays, schemas
// and names, in one statement; null for one that has handed out nothing.
// Postgres manual: 52.21, pg_sequences.
const calledSQL = `
select pg_sequence_last_value(c.seqrelid)
  from unnest($1::text[], $2::text[]) with ordinality as u(schema, name, i)
  left join lateral (
       select s.seqrelid
         from pg_namespace n
         join pg_class k on k.relnamespace = n.oid
         join pg_sequence s on s.seqrelid = k.oid
        where n.nspname = u.schema::name and k.relname = u.name::name
       offset 0) c on true
 order by u.i`

// ReadCalled is ReadValues for the write pause: ten times as fast before 18, and
// without the sequences that have handed out nothing, of which it cannot tell
// whether somebody has set them. Read them all with ReadValues afterwards.
func ReadCalled(ctx context.Context, q Querier, version int, refs []Ref) ([]Value, error) {
	if version >= 180000 {
		return ReadValues(ctx, q, version, refs)
	}
	var values []Value
	err := inParts(len(refs), chunk, func(from, to int) error {
		schemas, names := split(refs[from:to])
		rows, err := q.Query(ctx, calledSQL, schemas, names)
		if err != nil {
			return err
		}
		var last *int64
		var part []Value
		i := from
		_, err = pgx.ForEachRow(rows, []any{&last}, func() error {
			if last != nil {
				part = append(part, Value{Ref: refs[i], LastValue: *last, IsCalled: true})
			}
			i++
			return nil
		})
		if err != nil {
			return explain(ctx, q, refs[from:to], err)
		}
		values = append(values, part...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the values of sequences: %w", err)
	}
	return values, nil
}

// values18SQL reads the positions of the sequences named by two arrays,
// schemas and names, one index lookup each (see lookupSQL).
// pg_get_sequence_data keeps no lock.
const values18SQL = `
select d.last_value, d.is_called
  from unnest($1::text[], $2::text[]) with ordinality as u(schema, name, i)
  left join lateral (
       select s.seqrelid
         from pg_namespace n
         join pg_class k on k.relnamespace = n.oid
         join pg_sequence s on s.seqrelid = k.oid
        where n.nspname = u.schema::name and k.relname = u.name::name
       offset 0) c on true
  left join lateral pg_get_sequence_data(c.seqrelid) d on true
 order by u.i`

func readByFunction(ctx context.Context, q Querier, refs []Ref) ([]Value, error) {
	schemas, names := split(refs)
	rows, err := q.Query(ctx, values18SQL, schemas, names)
	if err != nil {
		return nil, err
	}
	values := make([]Value, 0, len(refs))
	missing := -1
	var (
		last   *int64
		called *bool
	)
	_, err = pgx.ForEachRow(rows, []any{&last, &called}, func() error {
		v := Value{Ref: refs[len(values)]}
		if last != nil && called != nil {
			v.LastValue, v.IsCalled = *last, *called
		} else {
			missing = len(values)
		}
		values = append(values, v)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if missing >= 0 {
		return nil, explain(ctx, q, refs, vanished(refs[missing]))
	}
	return values, nil
}

// readDirectly asks each sequence for its row, 1,000 in a round trip and a
// transaction, or fewer when the lock table has no room for so many. This is
// exact on every version. A UNION ALL of many is slower, for its planning.
func readDirectly(ctx context.Context, q Querier, refs []Ref) ([]Value, error) {
	values := make([]Value, 0, len(refs))
	if len(refs) == 0 {
		return values, nil
	}
	err := session(ctx, q, func(conn *pgx.Conn) error {
		return inParts(len(refs), chunk, func(from, to int) error {
			values = values[:from]
			statements := make([]string, 0, to-from)
			for _, r := range refs[from:to] {
				statements = append(statements, selectValue(r))
			}
			_, err := send(ctx, conn, statements, func(i int, row [][]byte) error {
				last, err := strconv.ParseInt(string(row[0]), 10, 64)
				values = append(values, Value{Ref: refs[from+i], LastValue: last, IsCalled: string(row[1]) == "t"})
				return err
			})
			if pg.IsCode(err, pg.InsufficientPrivilege, pg.UndefinedTable, pg.InvalidSchemaName) {
				err = explain(ctx, conn, refs[from:to], err)
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return values, nil
}

func selectValue(r Ref) string { return "select last_value, is_called from " + r.Ident() }

// explain finds out which of the sequences a missing right or a missing object
// is about, and returns err when it is neither. The server's message names no
// schema, and in a pipeline the statement that failed is not always the one
// whose result was being read.
func explain(ctx context.Context, q Querier, refs []Ref, err error) error {
	found, lookupErr := lookup(ctx, q, refs)
	if lookupErr != nil {
		return err
	}
	var hidden []Ref
	for _, f := range found {
		if !f.exists {
			return vanished(f.Ref)
		}
		if !f.readable {
			hidden = append(hidden, f.Ref)
		}
	}
	if len(hidden) > 0 {
		return unreadable(found[0].role, hidden)
	}
	return err
}

func split(refs []Ref) (schemas, names []string) {
	schemas, names = make([]string, len(refs)), make([]string, len(refs))
	for i, r := range refs {
		schemas[i], names[i] = r.Schema, r.Name
	}
	return schemas, names
}
