package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/test/bench/arena"
	"github.com/pgcutover/pgcutover/test/bench/load"
)

// bulkSQL is the large transaction; %d is its rows.
const bulkSQL = `
insert into bench.bulk (token, note)
select n, 'a row of the large transaction' from generate_series(1, %d) as n`

// bulk commits the large transaction on old, as the application.
func (s settings) bulk(ctx context.Context, pair *arena.Pair) error {
	return pgserver.Execute(ctx, pair.AppOld(), fmt.Sprintf(bulkSQL, s.Bulk))
}

const bulkCountSQL = `select count(*) from bench.bulk`

// lookUp proves the ledger on the server that serves, and compares that one's
// sequences with old's.
func (s settings) lookUp(ctx context.Context, o *outcome, ledger load.Ledger, pair *arena.Pair, serving string) error {
	conn, err := pgx.Connect(ctx, serving)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	if o.Proof, err = load.Prove(ctx, conn, ledger); err != nil {
		return err
	}
	if o.Bulk != noBulk {
		var there int
		if err := conn.QueryRow(ctx, bulkCountSQL).Scan(&there); err != nil {
			return err
		}
		o.BulkLost = s.Bulk - there
	}
	o.Behind, err = behind(ctx, conn, pair)
	return err
}

const sequenceNamesSQL = `
select format('%I.%I', s.schemaname, s.sequencename)
  from pg_sequences as s
 where s.schemaname = 'bench'`

// nextSQL is what a sequence hands out next; %s is its name. pg_sequences does
// not tell it when nothing was handed out yet.
const nextSQL = `select s.last_value + case when s.is_called then 1 else 0 end from %s as s`

// behind counts the sequences that would hand out values again which old has
// handed out.
func behind(ctx context.Context, serving *pgx.Conn, pair *arena.Pair) (int, error) {
	old, err := pgx.Connect(ctx, pair.OldURL())
	if err != nil {
		return 0, err
	}
	defer pg.Close(ctx, old)
	onOld, err := sequences(ctx, old)
	if err != nil {
		return 0, err
	}
	now, err := sequences(ctx, serving)
	if err != nil {
		return 0, err
	}
	n := 0
	for name, value := range onOld {
		if now[name] < value {
			n++
		}
	}
	return n, nil
}

func sequences(ctx context.Context, conn *pgx.Conn) (map[string]int64, error) {
	rows, err := conn.Query(ctx, sequenceNamesSQL)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("listing the sequences: %w", err)
	}
	next := map[string]int64{}
	batch := &pgx.Batch{}
	for _, name := range names {
		batch.Queue(fmt.Sprintf(nextSQL, name)).QueryRow(func(row pgx.Row) error {
			var value int64
			err := row.Scan(&value)
			next[name] = value
			return err
		})
	}
	if err := conn.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("reading the sequences: %w", err)
	}
	return next, nil
}
