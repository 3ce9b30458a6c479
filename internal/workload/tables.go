package workload

import (
	"crypto/md5" //nolint:gosec // filler text that the server makes too, not a secret
	"encoding/hex"
	"fmt"
	"strings"
)

// table is one table that writers use. All take the same parameters, so that
// one writer serves all:
//
//	insert     $1 nonce, $2 note, $3 number          returns id, server
//	insertWith $1 nonce, $2 note, $3 number, $4 id   returns id, server
//	update     $1 touched, $2 note, $3 version before, $4 id, $5 nonce   returns version, server
//	remove     $1 id, $2 nonce, $3 version before    returns version, server
//	rows       $1 lowest nonce, $2 highest nonce     returns nonce, id, version, note, touched, detail
//	loaded     returns the number of rows without nonce
//
// id is the leading column of the key. The columns of detail are made from the
// number by the server, and from the same number by the client to compare.
type table struct {
	name     string // as written in SQL
	sequence *sequence
	insert   string // empty: an id has to be given
	with     string // empty: the id cannot be given
	update   string
	remove   string
	rows     string
	loaded   string
	detail   func(r *record, s state) string
}

// sequence is one sequence that writers draw from.
type sequence struct {
	name      string // as written in SQL
	ascending bool
	draw      string // one value
	read      string // last_value, is_called
}

var (
	customerIDs = &sequence{
		`"SHOP".customers_id_seq`, true,
		`select nextval('"SHOP".customers_id_seq'), "SHOP".server()`,
		`select last_value, is_called from "SHOP".customers_id_seq`,
	}
	orderIDs = &sequence{
		`"SHOP".orders_id_seq`, true,
		`select nextval('"SHOP".orders_id_seq'), "SHOP".server()`,
		`select last_value, is_called from "SHOP".orders_id_seq`,
	}
	paymentNumbers = &sequence{
		`"SHOP".payment_numbers`, true,
		`select nextval('"SHOP".payment_numbers'), "SHOP".server()`,
		`select last_value, is_called from "SHOP".payment_numbers`,
	}
	ticketNumbers = &sequence{
		`"SHOP".ticket_numbers`, false,
		`select nextval('"SHOP".ticket_numbers'), "SHOP".server()`,
		`select last_value, is_called from "SHOP".ticket_numbers`,
	}
	eventIDs = &sequence{
		`"SHOP".events_id_seq`, true,
		`select nextval('"SHOP".events_id_seq'), "SHOP".server()`,
		`select last_value, is_called from "SHOP".events_id_seq`,
	}
	documentIDs = &sequence{
		`"SHOP".documents_id_seq`, true,
		`select nextval('"SHOP".documents_id_seq'), "SHOP".server()`,
		`select last_value, is_called from "SHOP".documents_id_seq`,
	}
)

// sequences lists all that writers draw from.
var sequences = []*sequence{customerIDs, orderIDs, paymentNumbers, ticketNumbers, eventIDs, documentIDs}

var customers = &table{
	name:     `"SHOP".customers`,
	sequence: customerIDs,
	insert: `
insert into "SHOP".customers (nonce, note, email, name)
values ($1::uuid, $2::text, $1::uuid || '@shop.example', 'Customer ' || $3::bigint)
returning id, "SHOP".server()`,
	update: `
update "SHOP".customers
   set touched = $1::uuid, note = $2::text, version = version + 1
 where version = $3::int and id = $4::bigint and nonce = $5::uuid
returning version, "SHOP".server()`,
	remove: `
delete from "SHOP".customers
 where id = $1::bigint and nonce = $2::uuid and version = $3::int
returning version, "SHOP".server()`,
	rows: `
select nonce::text, id::bigint, version, coalesce(note, ''), coalesce(touched::text, ''), format('%s %s', email, name)
  from "SHOP".customers
 where nonce between $1::uuid and $2::uuid`,
	loaded: `select count(*) from "SHOP".customers where nonce is null`,
	detail: func(r *record, _ state) string {
		return fmt.Sprintf("%s@shop.example Customer %d", r.nonce, r.number)
	},
}

var orders = &table{
	name:     `"SHOP".orders`,
	sequence: orderIDs,
	insert: `
insert into "SHOP".orders (nonce, note, customer_id, amount)
values ($1::uuid, $2::text, 1 + $3::bigint % 10, $3::bigint / 100.0)
returning id, "SHOP".server()`,
	with: `
insert into "SHOP".orders (nonce, note, customer_id, amount, id)
overriding system value
values ($1::uuid, $2::text, 1 + $3::bigint % 10, $3::bigint / 100.0, $4::bigint)
returning id, "SHOP".server()`,
	update: `
update "SHOP".orders
   set touched = $1::uuid, note = $2::text, version = version + 1, status = 'paid'
 where version = $3::int and id = $4::bigint and nonce = $5::uuid
returning version, "SHOP".server()`,
	remove: `
delete from "SHOP".orders
 where id = $1::bigint and nonce = $2::uuid and version = $3::int
returning version, "SHOP".server()`,
	rows: `
select nonce::text, id, version, coalesce(note, ''), coalesce(touched::text, ''),
       format('%s %s %s', customer_id, status, amount)
  from "SHOP".orders
 where nonce between $1::uuid and $2::uuid`,
	loaded: `select count(*) from "SHOP".orders where nonce is null`,
	detail: func(r *record, s state) string {
		status := "new"
		if s.version > 0 {
			status = "paid"
		}
		return fmt.Sprintf("%d %s %s", 1+r.number%10, status, cents(r.number))
	},
}

// items have no sequence: their id is the order's.
var items = &table{
	name: `"SHOP"."Order Items"`,
	with: `
insert into "SHOP"."Order Items" (nonce, note, line, sku, qty, order_id)
values ($1::uuid, $2::text, $3::bigint, 'sku-' || $3::bigint, 1 + $3::bigint % 9, $4::bigint)
returning order_id, "SHOP".server()`,
	update: `
update "SHOP"."Order Items"
   set touched = $1::uuid, note = $2::text, version = version + 1
 where version = $3::int and order_id = $4::bigint and nonce = $5::uuid
returning version, "SHOP".server()`,
	remove: `
delete from "SHOP"."Order Items"
 where order_id = $1::bigint and nonce = $2::uuid and version = $3::int
returning version, "SHOP".server()`,
	rows: `
select nonce::text, order_id, version, coalesce(note, ''), coalesce(touched::text, ''),
       format('%s %s %s', line, sku, qty)
  from "SHOP"."Order Items"
 where nonce between $1::uuid and $2::uuid`,
	loaded: `select count(*) from "SHOP"."Order Items" where nonce is null`,
	detail: func(r *record, _ state) string {
		return fmt.Sprintf("%d sku-%d %d", r.number, r.number, 1+r.number%9)
	},
}

var payments = &table{
	name:     `"SHOP".payments`,
	sequence: paymentNumbers,
	insert: `
insert into "SHOP".payments (nonce, note, order_no, amount)
values ($1::uuid, $2::text, $3::bigint, $3::bigint / 100.0)
returning id, "SHOP".server()`,
	with: `
insert into "SHOP".payments (nonce, note, order_no, amount, id)
values ($1::uuid, $2::text, $3::bigint, $3::bigint / 100.0, $4::bigint)
returning id, "SHOP".server()`,
	update: `
update "SHOP".payments
   set touched = $1::uuid, note = $2::text, version = version + 1
 where version = $3::int and id = $4::bigint and nonce = $5::uuid
returning version, "SHOP".server()`,
	remove: `
delete from "SHOP".payments
 where id = $1::bigint and nonce = $2::uuid and version = $3::int
returning version, "SHOP".server()`,
	rows: `
select nonce::text, id, version, coalesce(note, ''), coalesce(touched::text, ''), format('%s %s', order_no, amount)
  from "SHOP".payments
 where nonce between $1::uuid and $2::uuid`,
	loaded: `select count(*) from "SHOP".payments where nonce is null`,
	detail: func(r *record, _ state) string { return fmt.Sprintf("%d %s", r.number, cents(r.number)) },
}

var tickets = &table{
	name:     `"SHOP".tickets`,
	sequence: ticketNumbers,
	insert: `
insert into "SHOP".tickets (nonce, note, topic)
values ($1::uuid, $2::text, 'topic ' || $3::bigint)
returning id, "SHOP".server()`,
	with: `
insert into "SHOP".tickets (nonce, note, topic, id)
values ($1::uuid, $2::text, 'topic ' || $3::bigint, $4::bigint)
returning id, "SHOP".server()`,
	update: `
update "SHOP".tickets
   set touched = $1::uuid, note = $2::text, version = version + 1
 where version = $3::int and id = $4::bigint and nonce = $5::uuid
returning version, "SHOP".server()`,
	remove: `
delete from "SHOP".tickets
 where id = $1::bigint and nonce = $2::uuid and version = $3::int
returning version, "SHOP".server()`,
	rows: `
select nonce::text, id, version, coalesce(note, ''), coalesce(touched::text, ''), topic
  from "SHOP".tickets
 where nonce between $1::uuid and $2::uuid`,
	loaded: `select count(*) from "SHOP".tickets where nonce is null`,
	detail: func(r *record, _ state) string { return fmt.Sprintf("topic %d", r.number) },
}

// events go to the partition of their time, which spreads over all of them.
var events = &table{
	name:     `"SHOP".events`,
	sequence: eventIDs,
	insert: `
insert into "SHOP".events (nonce, note, at, kind, payload)
values ($1::uuid, $2::text, timestamptz '2024-01-01 00:00:00+00' + $3::bigint * interval '1 minute',
        'kind ' || $3::bigint % 7, jsonb_build_object('n', $3::bigint))
returning id, "SHOP".server()`,
	with: `
insert into "SHOP".events (nonce, note, at, kind, payload, id)
values ($1::uuid, $2::text, timestamptz '2024-01-01 00:00:00+00' + $3::bigint * interval '1 minute',
        'kind ' || $3::bigint % 7, jsonb_build_object('n', $3::bigint), $4::bigint)
returning id, "SHOP".server()`,
	update: `
update "SHOP".events
   set touched = $1::uuid, note = $2::text, version = version + 1
 where version = $3::int and id = $4::bigint and nonce = $5::uuid
returning version, "SHOP".server()`,
	remove: `
delete from "SHOP".events
 where id = $1::bigint and nonce = $2::uuid and version = $3::int
returning version, "SHOP".server()`,
	rows: `
select nonce::text, id, version, coalesce(note, ''), coalesce(touched::text, ''),
       format('%s %s %s', extract(epoch from at)::bigint, kind, payload ->> 'n')
  from "SHOP".events
 where nonce between $1::uuid and $2::uuid`,
	loaded: `select count(*) from "SHOP".events where nonce is null`,
	detail: func(r *record, _ state) string {
		const start = 1704067200 // 2024-01-01 00:00:00 UTC
		return fmt.Sprintf("%d kind %d %d", start+60*r.number, r.number%7, r.number)
	},
}

var documents = &table{
	name:     `"SHOP".documents`,
	sequence: documentIDs,
	insert: `
insert into "SHOP".documents (nonce, note, body, attrs, tags)
select $1::uuid, $2::text,
       (select string_agg(md5($1::uuid || ':' || i), '' order by i) from generate_series(1, 100 + $3::bigint % 100) i),
       jsonb_build_object('n', $3::bigint), array['n', $3::bigint::text]
returning id, "SHOP".server()`,
	with: `
insert into "SHOP".documents (nonce, note, body, attrs, tags, id)
select $1::uuid, $2::text,
       (select string_agg(md5($1::uuid || ':' || i), '' order by i) from generate_series(1, 100 + $3::bigint % 100) i),
       jsonb_build_object('n', $3::bigint), array['n', $3::bigint::text], $4::bigint
returning id, "SHOP".server()`,
	update: `
update "SHOP".documents
   set touched = $1::uuid, note = $2::text, version = version + 1
 where version = $3::int and id = $4::bigint and nonce = $5::uuid
returning version, "SHOP".server()`,
	remove: `
delete from "SHOP".documents
 where id = $1::bigint and nonce = $2::uuid and version = $3::int
returning version, "SHOP".server()`,
	rows: `
select nonce::text, id, version, coalesce(note, ''), coalesce(touched::text, ''),
       format('%s %s %s', md5(body), attrs ->> 'n', tags[2])
  from "SHOP".documents
 where nonce between $1::uuid and $2::uuid`,
	loaded: `select count(*) from "SHOP".documents where nonce is null`,
	detail: func(r *record, _ state) string {
		return fmt.Sprintf("%s %d %d", md5hex(body(r.nonce, r.number)), r.number, r.number)
	},
}

// stock has no primary key and no sequence: its id is the writer's warehouse.
var stock = &table{
	name: `"SHOP".stock`,
	with: `
insert into "SHOP".stock (nonce, note, sku, qty, warehouse)
values ($1::uuid, $2::text, 'sku-' || $1::uuid, $3::bigint, $4::bigint)
returning warehouse::bigint, "SHOP".server()`,
	update: `
update "SHOP".stock
   set touched = $1::uuid, note = $2::text, version = version + 1
 where version = $3::int and warehouse = $4::bigint and nonce = $5::uuid
returning version, "SHOP".server()`,
	remove: `
delete from "SHOP".stock
 where warehouse = $1::bigint and nonce = $2::uuid and version = $3::int
returning version, "SHOP".server()`,
	rows: `
select nonce::text, warehouse::bigint, version, coalesce(note, ''), coalesce(touched::text, ''), format('%s %s', sku, qty)
  from "SHOP".stock
 where nonce between $1::uuid and $2::uuid`,
	loaded: `select count(*) from "SHOP".stock where nonce is null`,
	detail: func(r *record, _ state) string { return fmt.Sprintf("sku-%s %d", r.nonce, r.number) },
}

// tables lists all that writers write.
var tables = []*table{customers, orders, items, payments, tickets, events, documents, stock}

// cents writes a number of cents as the server writes numeric(12,2).
func cents(n int64) string { return fmt.Sprintf("%d.%02d", n/100, n%100) }

// body is the text of a document, as documents.insert makes it on the server.
func body(n Nonce, number int64) string {
	var b strings.Builder
	for i := int64(1); i <= 100+number%100; i++ {
		b.WriteString(md5hex(fmt.Sprintf("%s:%d", n, i)))
	}
	return b.String()
}

func md5hex(s string) string {
	sum := md5.Sum([]byte(s)) //nolint:gosec // as above
	return hex.EncodeToString(sum[:])
}
