package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// operation chooses what the next transaction does.
func (w *writer) operation() func(context.Context, *transaction) error {
	switch n := w.rng.IntN(100); {
	case n < 34:
		return w.insertOne
	case n < 54:
		return w.updateOne
	case n < 62:
		return w.deleteOne
	case n < 88:
		return w.purchase
	case n < 94:
		return w.drawOne
	default:
		return w.copyStock
	}
}

// mode chooses the protocol of the next statement: extended with a named
// prepared statement, extended without, or simple.
func (w *writer) mode() pgx.QueryExecMode {
	n := w.rng.IntN(3)
	switch {
	case n == 0:
		return pgx.QueryExecModeSimpleProtocol
	case n == 1 || w.o.Pooled:
		return pgx.QueryExecModeExec
	}
	return pgx.QueryExecModeCacheStatement
}

// insertOne inserts a row in a transaction of its own, with a value that was
// drawn before when there is one.
func (w *writer) insertOne(ctx context.Context, t *transaction) error {
	t.atStake = true
	choice := []*table{customers, orders, payments, tickets, events, documents}
	tb := choice[w.rng.IntN(len(choice))]
	if held := w.held[tb.sequence]; len(held) > 0 && tb.with != "" {
		d := held[0]
		w.held[tb.sequence] = held[1:]
		t.used = append(t.used, d)
		_, err := w.insert(ctx, t, tb, &d.Value)
		return err
	}
	_, err := w.insert(ctx, t, tb, nil)
	return err
}

// updateOne updates one of the writer's rows in a transaction of its own.
func (w *writer) updateOne(ctx context.Context, t *transaction) error {
	r := w.pick(t)
	if r == nil {
		return w.insertOne(ctx, t)
	}
	t.atStake = true
	return w.update(ctx, t, r)
}

// deleteOne deletes one of the writer's rows in a transaction of its own.
func (w *writer) deleteOne(ctx context.Context, t *transaction) error {
	r := w.pick(t)
	if r == nil {
		return w.insertOne(ctx, t)
	}
	t.atStake = true
	return w.remove(ctx, t, r)
}

// drawOne draws a value and holds it for a later insert, perhaps on the other
// server, as allocators of keys in clients do.
func (w *writer) drawOne(ctx context.Context, t *transaction) error {
	t.atStake = true
	choice := []*sequence{orderIDs, paymentNumbers, ticketNumbers, eventIDs, documentIDs}
	s := choice[w.rng.IntN(len(choice))]
	d := Draw{Sequence: s.name}
	if err := w.conn.QueryRow(ctx, s.draw, w.mode()).Scan(&d.Value, &d.Server); err != nil {
		return fmt.Errorf("drawing from %s: %w", s.name, err)
	}
	d.At = time.Now()
	t.server = d.Server
	t.draws = append(t.draws, d)
	w.held[s] = append(w.held[s], d)
	return nil
}

// purchase writes an order with its items and a payment, and sometimes changes
// rows of earlier ones, in one transaction of several statements.
func (w *writer) purchase(ctx context.Context, t *transaction) error {
	return w.within(ctx, t, func() error {
		order, err := w.insert(ctx, t, orders, nil)
		if err != nil {
			return err
		}
		for range 1 + w.rng.IntN(2) {
			item, err := w.insert(ctx, t, items, &order.id)
			if err != nil {
				return err
			}
			order.children = append(order.children, item)
		}
		if _, err := w.insert(ctx, t, payments, nil); err != nil {
			return err
		}
		if r := w.pick(t); r != nil && w.rng.IntN(2) == 0 {
			if err := w.update(ctx, t, r); err != nil {
				return err
			}
		}
		if r := w.pick(t); r != nil && w.rng.IntN(4) == 0 {
			return w.remove(ctx, t, r)
		}
		return nil
	})
}

// copyStock writes a few rows with COPY.
func (w *writer) copyStock(ctx context.Context, t *transaction) error {
	return w.within(ctx, t, func() error {
		var rows [][]any
		for range 3 {
			c := w.inserting(t, stock)
			c.record.id = w.warehouse()
			rows = append(rows, []any{c.record.id, "sku-" + c.nonce.String(), c.record.number, c.after.note, 0, c.nonce.String()})
		}
		columns := []string{"warehouse", "sku", "qty", "note", "version", "nonce"}
		n, err := w.conn.CopyFrom(ctx, pgx.Identifier{"SHOP", "stock"}, columns, pgx.CopyFromRows(rows))
		if err != nil {
			return fmt.Errorf("copying into %s: %w", stock.name, err)
		}
		if n != int64(len(rows)) {
			return fmt.Errorf("copying into %s: %d rows of %d arrived", stock.name, n, len(rows))
		}
		// With one row by INSERT beside it, which the pooler may not split.
		id := w.warehouse()
		_, err = w.insert(ctx, t, stock, &id)
		return err
	})
}

// warehouse is the writer's own: loaded stock lies in 1 to 5.
func (w *writer) warehouse() int64 { return int64(1000 + w.index) }

// within runs do between BEGIN and COMMIT, one time in three in REPEATABLE
// READ. After an error the connection is closed by the caller, which is the
// rollback.
func (w *writer) within(ctx context.Context, t *transaction, do func() error) error {
	begin := "begin"
	if w.rng.IntN(3) == 0 {
		begin = "begin isolation level repeatable read"
	}
	if _, err := w.conn.Exec(ctx, begin); err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	if err := do(); err != nil {
		return err
	}
	t.atStake = true
	tag, err := w.conn.Exec(ctx, "commit")
	if err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	if tag.String() != "COMMIT" {
		t.atStake = false // the server said what it did instead
		return fmt.Errorf("committing: the server answered %s", tag)
	}
	return nil
}

// inserting enters a new row into the transaction.
func (w *writer) inserting(t *transaction, tb *table) *change {
	r := &record{table: tb, nonce: w.nonce(), number: w.next()}
	c := &change{record: r, nonce: r.nonce, kind: Insert, after: state{present: true, note: w.note(tb, r)}}
	t.changes = append(t.changes, c)
	return c
}

// note is the text of a write, of varying length.
func (w *writer) note(tb *table, r *record) string {
	return fmt.Sprintf("%s %s %0*d", tb.name, r.nonce, 1+w.rng.IntN(60), w.rng.IntN(1000))
}

func (w *writer) insert(ctx context.Context, t *transaction, tb *table, id *int64) (*record, error) {
	c := w.inserting(t, tb)
	sql, args := tb.insert, []any{w.mode(), c.nonce.String(), c.after.note, c.record.number}
	if id != nil {
		sql, args = tb.with, append(args, *id)
	}
	var got int64
	var server string
	if err := w.conn.QueryRow(ctx, sql, args...).Scan(&got, &server); err != nil {
		return nil, fmt.Errorf("inserting into %s: %w", tb.name, err)
	}
	c.record.id, t.server = got, server
	if id == nil {
		t.draws = append(t.draws, Draw{Sequence: tb.sequence.name, Value: got, Server: server, At: time.Now()})
	}
	return c.record, nil
}

func (w *writer) update(ctx context.Context, t *transaction, r *record) error {
	nonce := w.nonce()
	after := r.state
	after.version++
	after.note, after.touched = w.note(r.table, r), nonce.String()
	t.changes = append(t.changes, &change{record: r, nonce: nonce, kind: Update, after: after})
	var version int
	err := w.conn.QueryRow(ctx, r.table.update, w.mode(), nonce.String(), after.note, r.state.version, r.id, r.nonce.String()).
		Scan(&version, &t.server)
	return checked(err, "updating", r)
}

func (w *writer) remove(ctx context.Context, t *transaction, r *record) error {
	gone := append([]*record{r}, r.children...)
	for _, g := range gone {
		if g == r || g.state.present && !t.touches(g) {
			t.changes = append(t.changes, &change{record: g, nonce: w.nonce(), kind: Delete})
		}
	}
	var version int
	err := w.conn.QueryRow(ctx, r.table.remove, w.mode(), r.id, r.nonce.String(), r.state.version).
		Scan(&version, &t.server)
	return checked(err, "deleting from", r)
}

func checked(err error, doing string, r *record) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%s %s: %w: id %d, nonce %s, version %d", doing, r.table.name, errStale, r.id, r.nonce, r.state.version)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", doing, r.table.name, err)
	}
	return nil
}

// pick chooses one of the writer's rows that the transaction does not touch
// yet, every table as often, or nil. A few attempts suffice: there are soon
// rows in every table, and transactions are small.
func (w *writer) pick(t *transaction) *record {
	for range 3 {
		rows := w.rows[tables[w.rng.IntN(len(tables))]]
		if len(rows) == 0 {
			continue
		}
		r := rows[w.rng.IntN(len(rows))]
		if !t.touches(r) && !t.touchesChild(r) {
			return r
		}
	}
	return nil
}

// touchesChild says whether a row that goes away with r is changed by the
// transaction, or in doubt: then r stays, so that no row is in doubt twice.
func (t *transaction) touchesChild(r *record) bool {
	for _, c := range r.children {
		if t.touches(c) || c.unknown != nil {
			return true
		}
	}
	return false
}
