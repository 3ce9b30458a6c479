package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// hostile is a load that deadlocks with itself: two groups of clients touch the
// same rows of the same tables in opposite order, in one transaction.
type hostile struct {
	bootOptions
	Tables, Rows int
	Clients      int
	Rate         int  // transactions per second; 0 for as many as go
	Locking      bool // some transactions also LOCK TABLE, before or after their first write
	Turns        int  // cutovers and rollbacks, by turns
	Quiet        time.Duration
	Deadlocked   bool // the first turn comes when clients have deadlocked, however long that takes
}

// deadlockBound is how long the clients are given to deadlock.
const deadlockBound = 2 * time.Minute

// touchSQL waits for other clients that touch the same row.
const touchSQL = `update %s set note = 'touched by %d' where id = %d`

// thinkSQL is what the application does between its statements.
const thinkSQL = `select pg_sleep(0.002)`

// lockEvery is how many transactions there are for one that locks a table.
const lockEvery = 30

// modes are those of LOCK TABLE that an application may use.
var modes = []string{"share row exclusive", "exclusive", "row exclusive"}

// opposite makes transactions whose order depends on the client's group.
func (h hostile) opposite(token int64, client int, random *rand.Rand) (statements, names []string) {
	first, second := random.IntN(h.Tables), random.IntN(h.Tables-1)
	if second >= first {
		second++
	}
	if (client%2 == 0) != (first < second) {
		first, second = second, first
	}
	a, b := fmt.Sprintf("%s.t_%d", busy, first+1), fmt.Sprintf("%s.t_%d", busy, second+1)
	touch := func(table string) string { return fmt.Sprintf(touchSQL, table, client, 1+random.IntN(h.Rows)) }
	insert := func(table string) string { return fmt.Sprintf(insertSQL, table, token, client) }
	names = []string{a, b}
	if h.Locking && random.IntN(lockEvery) == 0 {
		lock := "lock table " + a + " in " + modes[random.IntN(len(modes))] + " mode"
		if random.IntN(2) == 0 { // before it has written anything
			return []string{lock, thinkSQL, insert(a), touch(b), insert(b)}, names
		}
		return []string{insert(b), touch(b), thinkSQL, lock, touch(a), insert(a)}, names
	}
	return []string{touch(a), thinkSQL, touch(b), insert(a), insert(b)}, names
}

// rowsSQL fills the tables with the rows that are fought over.
const rowsSQL = `
do $$
begin
  for n in 1 .. %[2]d loop
    execute format('insert into %[1]s.%%I (token, client, note) select 0, 0, ''fought over'' from generate_series(1, %[3]d)', 't_' || n);
  end loop;
end $$`

func (h hostile) run(ctx context.Context, say func(string, ...any)) (o outcome, err error) {
	name := "hostile"
	if h.Locking {
		name = "hostile-lock"
	}
	o = outcome{
		Case: name, Pair: fmt.Sprintf("%d:%d", h.Old, h.New), Tables: h.Tables, InScope: h.Tables, Sequences: h.Tables, Locks: h.Locks,
	}
	w, err := boot(ctx, h.bootOptions, say)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	if err := errors.Join(w.fill(ctx, h.Tables, 0), pgserver.Execute(ctx, asApp(w.old), fmt.Sprintf(rowsSQL, busy, h.Tables, h.Rows))); err != nil {
		return o, err
	}
	t := &times{say: say}
	move, err := w.open(ctx, t)
	if err != nil {
		return o, err
	}
	defer move.Close()
	if err := o.started(t, func() error { return start(ctx, move) }); err != nil {
		return o, err
	}
	writing, err := w.write(ctx, load{clients: h.Clients, rate: h.Rate, script: h.opposite})
	if err != nil {
		return o, err
	}
	began := time.Now()
	wait(ctx, h.Quiet)
	if h.Deadlocked {
		err = w.deadlocked(ctx)
	}
	until := time.Now()
	for n := 0; err == nil && n < h.Turns; n++ {
		if err = o.there(ctx, t, move, n%2 == 0); err == nil {
			wait(ctx, 2*settle)
		}
	}
	ledger, stopped := writing.end()
	o.measure(ledger, began, until)
	if err := errors.Join(err, stopped); err != nil {
		return o, err
	}
	o.Deadlocks, err = w.blame()
	if err != nil {
		return o, err
	}
	o.Proof, err = ledger.prove(ctx, w.serving(h.Turns%2 == 1))
	return o, err
}

// deadlocked waits for the first deadlock.
func (w *world) deadlocked(ctx context.Context) error {
	return pg.Wait(ctx, "clients to deadlock", 100*time.Millisecond, deadlockBound, nil, func(context.Context) (bool, string, error) {
		b, err := w.blame()
		return err == nil && b.All > 0, "", err
	})
}

// blamed counts the deadlocks in the logs of both servers.
type blamed struct {
	All  int      `json:"all"`
	Ours []string `json:"with_the_tool"` // those in which somebody else than the clients took part
}

// participant is the line of a deadlock's DETAIL that shows what a process runs.
var participant = regexp.MustCompile(`(?m)^\tProcess \d+: (.*)$`)

// blame reads the logs. Every statement of a client begins with BEGIN, since it
// sends its transaction as one message.
func (w *world) blame() (*blamed, error) {
	b := &blamed{Ours: []string{}}
	for _, path := range []string{w.old.LogPath(), w.new.LogPath()} {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		for _, deadlock := range strings.Split(string(text), "deadlock detected")[1:] {
			b.All++
			for _, found := range participant.FindAllStringSubmatch(deadlock, -1) {
				if !strings.HasPrefix(found[1], "begin; ") {
					b.Ours = append(b.Ours, deadlock[:min(len(deadlock), 1500)])
					break
				}
			}
		}
	}
	return b, nil
}
