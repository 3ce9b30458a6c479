package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// proof compares the ledger with the server that serves.
type proof struct {
	Looked  int `json:"looked_up"` // rows of acknowledged transactions
	Lost    int `json:"lost"`
	Doubled int `json:"doubled"`
}

// tokensSQL reads what the clients wrote into a table; %s is the table.
const tokensSQL = `select token, count(*) from %s where token > 0 group by token`

// lookBatch is how many tables are asked in one round trip.
const lookBatch = 200

// prove looks for every row that the ledger knows of.
func (l ledger) prove(ctx context.Context, address string) (proof, error) {
	var p proof
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		return p, fmt.Errorf("connecting to the server that serves: %w", err)
	}
	defer pg.Close(ctx, conn)
	written := map[string][]entry{}
	for _, e := range l {
		for _, table := range e.tables {
			written[table] = append(written[table], e)
		}
	}
	for tables := range slices.Chunk(slices.Sorted(maps.Keys(written)), lookBatch) {
		found, err := tokens(ctx, conn, tables)
		if err != nil {
			return p, err
		}
		for _, table := range tables {
			for _, e := range written[table] {
				times := found[table][e.token]
				if e.acked {
					p.Looked++
				}
				switch {
				case times > 1:
					p.Doubled++
				case e.acked && times == 0:
					p.Lost++
				}
			}
		}
	}
	return p, nil
}

func tokens(ctx context.Context, conn *pgx.Conn, tables []string) (map[string]map[int64]int, error) {
	var batch pgx.Batch
	found := map[string]map[int64]int{}
	for _, table := range tables {
		found[table] = map[int64]int{}
		batch.Queue(fmt.Sprintf(tokensSQL, table)).Query(func(rows pgx.Rows) error {
			var token int64
			var n int
			_, err := pgx.ForEachRow(rows, []any{&token, &n}, func() error {
				found[table][token] = n
				return nil
			})
			return err
		})
	}
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, fmt.Errorf("reading what was written: %w", err)
	}
	return found, nil
}
