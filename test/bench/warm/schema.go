package main

import "fmt"

// A shop: orders with items, events and documents, that grow over 200 days,
// customers old and new, and an archive that nobody reads. Rows lie in the
// order in which they were made, as after a copy, but for the customers, some
// of which were updated.
const tablesSQL = `
create schema shop;
create table shop.customers (id bigint not null, email text not null, name text not null, about text, updated_at timestamptz not null);
create table shop.products (id integer not null, name text not null, price integer not null);
create table shop.orders (
    id bigint not null, customer_id bigint not null, token uuid not null, status text not null,
    note text, created_at timestamptz not null);
create table shop.items (
    id bigint not null, order_id bigint not null, product_id integer not null, quantity integer not null, note text);
create table shop.events (id bigint not null, order_id bigint not null, kind text not null, at timestamptz not null)
    partition by range (order_id);
create table shop.documents (order_id bigint not null, body text not null);
alter table shop.documents alter column body set storage external;
create table shop.archive (id bigint not null, body text not null)`

// partitionSQL makes a partition of shop.events: its number and its bounds.
const partitionSQL = `create table shop.events_%d partition of shop.events for values from (%d) to (%d)`

// indexesSQL are made when the rows are there.
var indexesSQL = []string{
	"alter table shop.customers add primary key (id)",
	"create unique index customers_email on shop.customers (email)",
	"create index customers_updated_at on shop.customers (updated_at)",
	"alter table shop.products add primary key (id)",
	"alter table shop.orders add primary key (id)",
	"create unique index orders_token on shop.orders (token)",
	"create index orders_customer on shop.orders (customer_id, created_at)",
	"create index orders_created_at on shop.orders (created_at)",
	"alter table shop.items add primary key (id)",
	"create index items_order on shop.items (order_id)",
	"alter table shop.events add primary key (order_id, id)",
	"alter table shop.documents add primary key (order_id)",
	"alter table shop.archive add primary key (id)",
}

const (
	partitions      = 8
	productRows     = 20_000
	perCustomer     = 8   // orders for each customer
	perDocument     = 100 // orders for each document
	bytesPerOrder   = 655 // of everything, indexes included; measured
	historyDays     = 200
	regularEvery    = 20 // one in so many customers orders again and again
	lastPartitionTo = 1 << 60
)

// shop is how much of it there is.
type shop struct{ orders int64 }

func newShop(megabytes int) shop {
	return shop{orders: max(int64(megabytes)<<20/bytesPerOrder, 1000)}
}

func (s shop) customers() int64 { return s.orders / perCustomer }

// customer is who gave an order: mostly somebody who was new at that time,
// else one of the regulars. customerSQL says the same.
func (s shop) customer(order int64) int64 {
	all := s.customers()
	if order%10 < 7 {
		newest := order * all / s.orders
		return max(newest-(order*7919)%(all/50+1), 1)
	}
	return max((order*104729)%(all/regularEvery)*regularEvery, 1)
}

// customerSQL is the customer of order n: %[1]d orders, %[2]d customers.
const customerSQL = `
    case when n %% 10 < 7 then greatest(n * %[2]d / %[1]d - (n * 7919) %% (%[2]d / 50 + 1), 1)
         else greatest((n * 104729) %% (%[2]d / 20) * 20, 1) end`

func email(customer int64) string { return fmt.Sprintf("customer%d@shop.example", customer) }

// tables lists what holds rows.
func (s shop) tables() []string {
	all := []string{"shop.customers", "shop.products", "shop.orders", "shop.items", "shop.documents", "shop.archive"}
	for n := range partitions {
		all = append(all, fmt.Sprintf("shop.events_%d", n))
	}
	return all
}

func (s shop) schema() []string {
	statements := []string{tablesSQL}
	for n := range int64(partitions) {
		to := (n+1)*s.orders/partitions + 1
		if n == partitions-1 {
			to = lastPartitionTo
		}
		statements = append(statements, fmt.Sprintf(partitionSQL, n, n*s.orders/partitions+1, to))
	}
	return statements
}

// rows fills the tables on old.
func (s shop) rows() []string {
	at := fmt.Sprintf("now() - make_interval(secs => (%d - n) * %f)", s.orders, historyDays*86400/float64(s.orders))
	return []string{
		fmt.Sprintf(`insert into shop.orders
			select n, %s, md5(n::text)::uuid, (array['open','paid','sent','done'])[1 + n %% 4], repeat('n', (n %% 80)::int), %s
			  from generate_series(1::bigint, %d) as n`, fmt.Sprintf(customerSQL, s.orders, s.customers()), at, s.orders),
		fmt.Sprintf(`insert into shop.items
			select n, (n * 2 + 2) / 3, 1 + n * 7919 %% %d, 1 + n %% 5, repeat('i', (n %% 20)::int)
			  from generate_series(1::bigint, %d) as n`, productRows, s.orders*3/2),
		fmt.Sprintf(`insert into shop.events
			select n, n, (array['made','paid','sent'])[1 + n %% 3], %s from generate_series(1::bigint, %d) as n`, at, s.orders),
		fmt.Sprintf(`insert into shop.documents
			select n, (select string_agg(md5((n * 1000 + m)::text), '') from generate_series(1, 156) as m)
			  from generate_series(%[1]d::bigint, %[2]d, %[1]d) as n`, perDocument, s.orders),
		fmt.Sprintf(`insert into shop.customers
			select n, 'customer' || n || '@shop.example', 'Customer ' || n, repeat('c', 100), now() - make_interval(secs => (%d - n) * %f)
			  from generate_series(1::bigint, %d) as n`, s.customers(), historyDays*86400/float64(s.customers()), s.customers()),
		// Regulars move to where there is room: the end.
		fmt.Sprintf(`update shop.customers set updated_at = now() where id %% %d = 0 and id %% 3 = 0`, regularEvery),
		fmt.Sprintf(`insert into shop.products select n, 'Product ' || n || repeat('p', 60), n %% 1000 from generate_series(1, %d) as n`, productRows),
		fmt.Sprintf(`insert into shop.archive select n, repeat('a', 600) from generate_series(1::bigint, %d) as n`, s.orders/10),
	}
}
