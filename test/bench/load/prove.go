package load

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Proof compares a ledger with the server that serves afterwards.
type Proof struct {
	Looked int `json:"looked_up"` // acknowledged transactions
	// Missing are acknowledged transactions whose row is not there, or is
	// another one's.
	Missing int `json:"lost"`
	// Doubled are transactions that are there twice, and ids that were given to
	// two acknowledged transactions.
	Doubled int `json:"doubled"`
	// Off is by how much the balances of accounts, tellers and branches differ
	// from the sum of the history: 0 when every transaction is there as a whole.
	Off int64 `json:"balance_off"`
}

// Good tells whether all that was acknowledged is there once and whole.
func (p Proof) Good() bool { return p.Missing == 0 && p.Doubled == 0 && p.Off == 0 }

// Add adds up two proofs.
func (p Proof) Add(other Proof) Proof {
	return Proof{Looked: p.Looked + other.Looked, Missing: p.Missing + other.Missing, Doubled: p.Doubled + other.Doubled, Off: p.Off + other.Off}
}

const ordersSQL = `select o.token, o.id from bench.orders as o where o.token > 0`

const historyRowsSQL = `select h.token, h.id from bench.history as h where h.token > 0`

// balancesSQL holds the load's changes against each other; the tables start
// with balances and deltas that are all 0.
const balancesSQL = `
select (abs((select sum(a.abalance) from bench.accounts as a) - h.total)
     + abs((select sum(t.tbalance) from bench.tellers as t) - h.total)
     + abs((select sum(b.bbalance) from bench.branches as b) - h.total))::bigint
  from (select coalesce(sum(x.delta), 0) as total from bench.history as x) as h`

// Prove looks every acknowledged transaction up through conn, which leads to
// the server that serves.
func Prove(ctx context.Context, conn *pgx.Conn, l Ledger) (Proof, error) {
	var p Proof
	for kind, sql := range map[Kind]string{Order: ordersSQL, TPCB: historyRowsSQL} {
		there, err := rows(ctx, conn, sql)
		if err != nil {
			return p, err
		}
		p = p.Add(compare(l, kind, there))
	}
	if err := conn.QueryRow(ctx, balancesSQL).Scan(&p.Off); err != nil {
		return p, fmt.Errorf("comparing the balances: %w", err)
	}
	return p, nil
}

// rows returns the ids under which each token is found.
func rows(ctx context.Context, conn *pgx.Conn, sql string) (map[int64][]int64, error) {
	found, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("reading what was written: %w", err)
	}
	there := map[int64][]int64{}
	var token, id int64
	_, err = pgx.ForEachRow(found, []any{&token, &id}, func() error {
		there[token] = append(there[token], id)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading what was written: %w", err)
	}
	return there, nil
}

func compare(l Ledger, kind Kind, there map[int64][]int64) Proof {
	var p Proof
	given := map[int64]bool{}
	for _, e := range l.Entries {
		if e.Kind != kind {
			continue
		}
		if len(there[e.Token]) > 1 {
			p.Doubled++
		}
		if !e.Acknowledged {
			continue
		}
		p.Looked++
		if given[e.ID] {
			p.Doubled++
		}
		given[e.ID] = true
		if ids := there[e.Token]; len(ids) == 0 || ids[0] != e.ID {
			p.Missing++
		}
	}
	return p
}
