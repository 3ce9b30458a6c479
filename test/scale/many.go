package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
)

// many is a cutover of very many tables and sequences, with live writers.
type many struct {
	bootOptions
	InScope, OutOfScope int // tables, each with a sequence
	Clients, Rate       int
	Back                bool // a rollback and a cutover again
}

// insertSQL writes a row with the token.
const insertSQL = `insert into %s (token, client, note) values (%d, %d, 'a row of the load')`

// anywhere writes into two tables in scope, any two.
func anywhere(tables int) script {
	return func(token int64, client int, random *rand.Rand) (statements, names []string) {
		first := random.IntN(tables)
		for _, n := range []int{first, (first + 1 + random.IntN(max(tables-1, 1))) % tables} {
			name := fmt.Sprintf("%s.t_%d", busy, n+1)
			names = append(names, name)
			statements = append(statements, fmt.Sprintf(insertSQL, name, token, client))
		}
		return statements, names
	}
}

func (m many) run(ctx context.Context, say func(string, ...any)) (o outcome, err error) {
	o = outcome{
		Case: "many", Pair: fmt.Sprintf("%d:%d", m.Old, m.New), Tables: m.InScope + m.OutOfScope, InScope: m.InScope,
		Sequences: m.InScope + m.OutOfScope, Locks: m.Locks,
	}
	w, err := boot(ctx, m.bootOptions, say)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	if err := w.fill(ctx, m.InScope, m.OutOfScope); err != nil {
		return o, err
	}
	t := &times{say: say}
	move, err := w.open(ctx, t, busy+".*")
	if err != nil {
		return o, err
	}
	defer move.Close()
	if err := o.started(t, func() error { return start(ctx, move) }); err != nil {
		return o, err
	}
	ledger, err := w.under(ctx, load{clients: m.Clients, rate: m.Rate, script: anywhere(m.InScope)}, &o, say, func() error {
		err := o.there(ctx, t, move, true)
		if err == nil && m.Back {
			wait(ctx, settle)
			err = o.there(ctx, t, move, false)
		}
		wait(ctx, settle)
		return err
	})
	if err != nil {
		return o, err
	}
	o.Proof, err = ledger.prove(ctx, w.serving(!m.Back))
	return o, err
}
