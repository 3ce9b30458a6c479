package publisher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/rowchange"
	"github.com/pgcutover/pgcutover/internal/state"
)

// ErrInUse means that the slot is in use each time that it was looked at: its
// subscriber streams, or tries to.
var ErrInUse = errors.New("the replication slot is in use")

// How a slot is peeked into: a subscriber that fails comes back every few
// seconds, and is then in the way for moments only.
const (
	peekTries   = 6
	peekRest    = 200 * time.Millisecond
	peekChanges = 2000 // of one transaction; the rest is not looked at
)

// peekSQL decodes what the slot would send, and leaves it there. $3 is a number of
// changes after which no further transaction is begun.
// https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-REPLICATION
const peekSQL = `
select data
  from pg_logical_slot_peek_binary_changes($1, null, $3, 'proto_version', '1', 'publication_names', $2)`

// FirstUnapplied returns the first transaction of the stream whose commit ends
// behind applied, nil when there is none with changes. It changes nothing: the
// slot sends it again. ErrInUse when the slot was never free.
func FirstUnapplied(ctx context.Context, s *pg.Server, st state.Stream, applied pglogrepl.LSN) (*rowchange.Transaction, error) {
	for try := 1; ; try++ {
		found, err := peek(ctx, s, st, applied)
		switch {
		case err == nil:
			return found, nil
		case pg.IsCode(err, pg.ObjectInUse) && try < peekTries:
			if err := pg.Pause(ctx, peekRest); err != nil {
				return nil, err
			}
		case pg.IsCode(err, pg.ObjectInUse):
			return nil, fmt.Errorf("looking into slot %q on the %s server: %w", st.Name(), s.Side(), ErrInUse)
		default:
			return nil, fmt.Errorf("looking into slot %q on the %s server: %w", st.Name(), s.Side(), err)
		}
	}
}

// manyChanges is how many changes one look decodes before it ends with the
// transaction that it is in: those that are applied already come first.
const manyChanges = 1000

func peek(ctx context.Context, s *pg.Server, st state.Stream, applied pglogrepl.LSN) (*rowchange.Transaction, error) {
	rows, err := s.Pool().Query(ctx, peekSQL, st.Name(), `"`+st.Name()+`"`, manyChanges)
	if err != nil {
		return nil, err
	}
	d := decoder{relations: map[uint32]*pglogrepl.RelationMessage{}, applied: applied}
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&data}, func() error {
		done, err := d.read(data)
		if done {
			return errFound
		}
		return err
	})
	if err != nil && !errors.Is(err, errFound) {
		return nil, err
	}
	return d.found, nil
}

// errFound ends the reading of what comes behind.
var errFound = errors.New("found")

// decoder reads the messages of pgoutput, version 1.
type decoder struct {
	relations map[uint32]*pglogrepl.RelationMessage
	applied   pglogrepl.LSN
	current   *rowchange.Transaction
	found     *rowchange.Transaction
}

// read takes one message; true when the transaction that is looked for has ended.
func (d *decoder) read(data []byte) (bool, error) {
	message, err := pglogrepl.Parse(data)
	if err != nil {
		return false, fmt.Errorf("decoding the stream: %w", err)
	}
	switch m := message.(type) {
	case *pglogrepl.BeginMessage:
		d.current = &rowchange.Transaction{XID: m.Xid, Committed: m.CommitTime}
	case *pglogrepl.RelationMessage:
		d.relations[m.RelationID] = m
	case *pglogrepl.CommitMessage:
		if d.current != nil && m.TransactionEndLSN > d.applied && len(d.current.Changes) > 0 {
			d.current.End = m.TransactionEndLSN
			d.found = d.current
			return true, nil
		}
		d.current = nil
	case *pglogrepl.InsertMessage:
		d.change(rowchange.Insert, m.RelationID, m.Tuple, nil, 0)
	case *pglogrepl.UpdateMessage:
		d.change(rowchange.Update, m.RelationID, m.NewTuple, m.OldTuple, m.OldTupleType)
	case *pglogrepl.DeleteMessage:
		d.change(rowchange.Delete, m.RelationID, nil, m.OldTuple, m.OldTupleType)
	case *pglogrepl.TruncateMessage:
		for _, id := range m.RelationIDs {
			d.change(rowchange.Truncate, id, nil, nil, 0)
		}
	}
	return false, nil
}

func (d *decoder) change(op rowchange.Operation, relation uint32, now, was *pglogrepl.TupleData, kind uint8) {
	r := d.relations[relation]
	if r == nil || d.current == nil || len(d.current.Changes) == peekChanges {
		return
	}
	c := rowchange.Change{Operation: op, Schema: r.Namespace, Table: r.RelationName, Full: r.ReplicaIdentity == 'f', New: values(r, now, false)}
	c.Old = values(r, was, kind == pglogrepl.UpdateMessageTupleTypeKey)
	for _, column := range r.Columns {
		c.Columns = append(c.Columns, column.Name)
	}
	d.current.Changes = append(d.current.Changes, c)
}

// values are those of a tuple; of a key only the columns that are in it.
func values(r *pglogrepl.RelationMessage, t *pglogrepl.TupleData, key bool) []rowchange.Value {
	if t == nil {
		return nil
	}
	var out []rowchange.Value
	for i, c := range t.Columns {
		if i >= len(r.Columns) || c.DataType == pglogrepl.TupleDataTypeToast {
			continue
		}
		v := rowchange.Value{Column: r.Columns[i].Name, Key: r.Columns[i].Flags&1 == 1}
		if key && !v.Key {
			continue
		}
		if c.DataType == pglogrepl.TupleDataTypeText {
			text := string(c.Data)
			v.Text = &text
		}
		out = append(out, v)
	}
	return out
}

const columnsSQL = `
select a.attname::text
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped
   and coalesce(to_jsonb(a)->>'attgenerated', '') = ''
 order by a.attnum`

// Columns lists the columns of a table that a publication sends, by name.
func Columns(ctx context.Context, s *pg.Server, t Table) ([]string, error) {
	rows, err := s.Pool().Query(ctx, columnsSQL, t.Schema, t.Name)
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s on the %s server: %w", t, s.Side(), err)
	}
	columns, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the columns of %s on the %s server: %w", t, s.Side(), err)
	}
	return columns, nil
}
