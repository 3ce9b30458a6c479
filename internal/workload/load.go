package workload

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// LoadOptions say how much Create loads.
type LoadOptions struct {
	// Rows is the number of orders; 0 means 20,000. The other tables follow:
	// two items and one payment for each order, a tenth of it customers,
	// tickets and stock, a fiftieth of it documents of about six kilobytes.
	Rows int
}

const defaultRows = 20000

// minCustomers is how many customers every shop has, however small: the
// writers' orders are theirs.
const minCustomers = 10

const versionSQL = `select current_setting('server_version_num')::int`

// Create makes the schema "SHOP" in conn's database, loads it and analyzes it.
// It is one transaction: after an error nothing is there. conn needs the right
// to create schemas; it works on every server from 10.
func Create(ctx context.Context, conn *pgx.Conn, o LoadOptions) error {
	if o.Rows <= 0 {
		o.Rows = defaultRows
	}
	var version int
	if err := conn.QueryRow(ctx, versionSQL).Scan(&version); err != nil {
		return fmt.Errorf("reading the server's version: %w", err)
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, sql := range Schema(version) {
			if _, err := tx.Exec(ctx, sql); err != nil {
				return fmt.Errorf("creating the shop's schema: %w", err)
			}
		}
		return load(ctx, tx, o.Rows)
	})
	if err != nil {
		return fmt.Errorf("making the shop: %w", err)
	}
	return nil
}

const loadCustomersSQL = `
insert into "SHOP".customers (email, name, note)
select 'customer' || i || '@example.com', 'Customer ' || i, 'loaded'
  from generate_series(1, $1::int) i`

const loadOrdersSQL = `
insert into "SHOP".orders (customer_id, status, amount, note)
select 1 + i % $2::int,
       (array['new', 'paid', 'shipped', 'cancelled'])[1 + i % 4]::"SHOP".order_status,
       (i % 100000)::numeric / 100, 'loaded'
  from generate_series(1, $1::int) i`

const loadItemsSQL = `
insert into "SHOP"."Order Items" (order_id, line, sku, qty, note)
select o.id, line, 'sku-' || o.id % 500, 1 + o.id % 9, 'loaded'
  from "SHOP".orders o
 cross join generate_series(1, 2) line`

const loadPaymentsSQL = `
insert into "SHOP".payments (order_no, amount, note)
select i, (i % 100000)::numeric / 100, 'loaded'
  from generate_series(1, $1::int) i`

const loadTicketsSQL = `
insert into "SHOP".tickets (topic, note)
select 'topic ' || i, 'loaded'
  from generate_series(1, $1::int / 10 + 1) i`

const loadEventsSQL = `
insert into "SHOP".events (at, kind, payload, note)
select timestamptz '2024-01-01 00:00:00+00' + i::bigint * 7919 % 1000003 * interval '1 minute',
       'kind ' || i % 7, jsonb_build_object('n', i, 'tags', array['a', 'b']), 'loaded'
  from generate_series(1, $1::int) i`

const loadDocumentsSQL = `
insert into "SHOP".documents (body, attrs, tags, raw, note)
select (select string_agg(md5(i::text || ':' || j), '') from generate_series(1, 150 + i % 100) j),
       jsonb_build_object('n', i, 'big', repeat('x', i % 4000)), array['loaded', null, 'x' || i],
       decode(md5(i::text), 'hex'), 'loaded'
  from generate_series(1, $1::int / 50 + 5) i`

const loadStockSQL = `
insert into "SHOP".stock (warehouse, sku, qty, note)
select 1 + i % 5, 'sku-' || i, i % 100, 'loaded'
  from generate_series(1, $1::int / 10 + 10) i`

const refreshSQL = `refresh materialized view "SHOP".revenue`

const analyzeSQL = `
analyze "SHOP".customers;
analyze "SHOP".orders;
analyze "SHOP"."Order Items";
analyze "SHOP".payments;
analyze "SHOP".tickets;
analyze "SHOP".events;
analyze "SHOP".documents;
analyze "SHOP".stock`

func load(ctx context.Context, tx pgx.Tx, rows int) error {
	customers := max(rows/10, minCustomers)
	steps := []struct {
		table string
		sql   string
		args  []any
	}{
		{"customers", loadCustomersSQL, []any{customers}},
		{"orders", loadOrdersSQL, []any{rows, customers}},
		{"Order Items", loadItemsSQL, nil},
		{"payments", loadPaymentsSQL, []any{rows}},
		{"tickets", loadTicketsSQL, []any{rows}},
		{"events", loadEventsSQL, []any{rows}},
		{"documents", loadDocumentsSQL, []any{rows}},
		{"stock", loadStockSQL, []any{rows}},
		{"revenue", refreshSQL, nil},
	}
	for _, s := range steps {
		if _, err := tx.Exec(ctx, s.sql, s.args...); err != nil {
			return fmt.Errorf("loading %q: %w", s.table, err)
		}
	}
	if _, err := tx.Exec(ctx, analyzeSQL); err != nil {
		return fmt.Errorf("analyzing the shop: %w", err)
	}
	return nil
}
