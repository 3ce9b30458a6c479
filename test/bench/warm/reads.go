package main

import (
	"context"
	"crypto/md5" //nolint:gosec // the same as PostgreSQL's md5()
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// kind is one of the application's queries.
type kind struct {
	name   string
	weight int // of 100
	sql    string
	arg    func(s shop, order int64) any
}

func orderID(_ shop, order int64) any { return order }

// kinds are read by the number of an order.
var kinds = []kind{
	{"order", 30, `
select id, customer_id, status, note, created_at
  from shop.orders where id = $1`, orderID},
	{"token", 10, `
select id, customer_id, status, note, created_at
  from shop.orders where token = $1::text::uuid`, func(_ shop, order int64) any {
		sum := md5.Sum([]byte(strconv.FormatInt(order, 10))) //nolint:gosec // the same as PostgreSQL's md5()
		return hex.EncodeToString(sum[:])
	}},
	{"items", 25, `
select i.id, i.quantity, p.name
  from shop.items as i join shop.products as p on p.id = i.product_id
 where i.order_id = $1`, orderID},
	{"customer", 15, `
select o.id, o.status, o.created_at
  from shop.customers as c
 cross join lateral (select id, status, created_at
                       from shop.orders
                      where customer_id = c.id
                      order by created_at desc limit 5) as o
 where c.email = $1`, func(s shop, order int64) any { return email(s.customer(order)) }},
	{"events", 15, `
select id, kind, at from shop.events where order_id = $1`, orderID},
	{"document", 5, `
select body from shop.documents where order_id = $1`, func(_ shop, order int64) any {
		return max(order/perDocument*perDocument, perDocument)
	}},
}

// read is one query.
type read struct {
	kind  int
	order int64
}

// reads are n queries of recent orders mostly: ages are exponential with the
// mean skew. The same seed gives the same ones.
func reads(s shop, n int, skew float64, seed uint64) []read {
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // has to repeat
	all := make([]read, n)
	for i := range all {
		age := int64(random.ExpFloat64() * skew * float64(s.orders))
		all[i] = read{kind: pick(random.IntN(100)), order: max(s.orders-age, 1)}
	}
	return all
}

func pick(percent int) int {
	for i, k := range kinds {
		if percent -= k.weight; percent < 0 {
			return i
		}
	}
	return 0
}

// application names the sessions of the queries.
const application = "bench-warm"

// open opens sessions with the queries prepared.
func open(ctx context.Context, url string, clients int) ([]*pgx.Conn, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] = application
	var all []*pgx.Conn
	for range clients {
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return all, err
		}
		all = append(all, conn)
		for _, k := range kinds {
			if _, err := conn.Prepare(ctx, k.name, k.sql); err != nil {
				return all, err
			}
		}
	}
	return all, nil
}

// served is how long the queries took, in the order in which they were due.
type served struct {
	latency []time.Duration
	empty   int // queries that found nothing
}

// serve asks the queries: each at its time, rate of them a second, or with a
// rate of 0 one after the other as fast as it goes. A latency counts from the
// time at which the query was due, so that queueing counts.
func serve(ctx context.Context, url string, s shop, all []read, rate, clients int) (served, error) {
	conns, err := open(ctx, url, clients)
	defer func() {
		for _, conn := range conns {
			pg.Close(ctx, conn)
		}
	}()
	if err != nil {
		return served{}, fmt.Errorf("opening the clients' sessions: %w", err)
	}
	result := served{latency: make([]time.Duration, len(all))}
	var next, empty atomic.Int64
	began := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for _, conn := range conns {
		group.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return nil
				}
				due := time.Now()
				if rate > 0 {
					due = began.Add(time.Duration(i) * time.Second / time.Duration(rate))
					if err := pg.Pause(ctx, time.Until(due)); err != nil {
						return err
					}
				}
				found, err := ask(ctx, conn, s, all[i])
				if err != nil {
					return err
				}
				if !found {
					empty.Add(1)
				}
				result.latency[i] = time.Since(due)
			}
		})
	}
	err = group.Wait()
	result.empty = int(empty.Load())
	return result, err
}

func ask(ctx context.Context, conn *pgx.Conn, s shop, r read) (bool, error) {
	k := kinds[r.kind]
	rows, err := conn.Query(ctx, k.name, k.arg(s, r.order))
	if err != nil {
		return false, fmt.Errorf("asking for %s: %w", k.name, err)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return false, fmt.Errorf("asking for %s: %w", k.name, err)
	}
	return rows.CommandTag().RowsAffected() > 0, nil
}

// sorted returns the latencies in ascending order.
func (s served) sorted(first int) []time.Duration {
	return slices.Sorted(slices.Values(s.latency[:min(first, len(s.latency))]))
}
