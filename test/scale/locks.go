package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/upgrade"
)

// locks is a database with more tables than the lock table has room for.
type locks struct {
	bootOptions
	InScope, OutOfScope int
	Clients, Rate       int
}

// roomyLocks is max_locks_per_transaction for start: pg_dump locks every table at
// once, whoever runs it. The cutover does with the small lock table.
const roomyLocks = 1024

// triggersSQL counts what an undone cutover may not leave.
const triggersSQL = `
select count(*)
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
 where t.tgname like 'pgcutover\_%\_fence' and c.relnamespace <> 'pgcutover'::regnamespace`

// lockAllSQL locks every table of the application in one transaction.
const lockAllSQL = `
do $$
declare
  t regclass;
begin
  for t in select c.oid from pg_class c where c.relkind = 'r' and c.relnamespace::regnamespace::text in ('busy', 'idle') loop
    execute format('lock table %s in access share mode', t);
  end loop;
end $$`

// tooSmall proves that the lock table has not room for all tables.
func (w *world) tooSmall(ctx context.Context) error {
	err := pgserver.Execute(ctx, w.old.URL(database), lockAllSQL)
	if pg.IsCode(err, outOfSharedMemory) {
		return nil
	}
	return fmt.Errorf("locking all tables at once should overflow the lock table: %w", cmp.Or(err, errRoom))
}

const outOfSharedMemory = "53200"

var errRoom = errors.New("it has room for them")

func (l locks) run(ctx context.Context, say func(string, ...any)) (o outcome, err error) {
	o = outcome{
		Case: "locks", Pair: fmt.Sprintf("%d:%d", l.Old, l.New), Tables: l.InScope + l.OutOfScope, InScope: l.InScope,
		Sequences: l.InScope + l.OutOfScope, Locks: l.Locks,
	}
	roomy := l.bootOptions
	roomy.Locks = roomyLocks
	w, err := boot(ctx, roomy, say)
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, w.close(ctx)) }()
	if err := w.fill(ctx, l.InScope, l.OutOfScope); err != nil {
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
	if err := w.restart(ctx, fmt.Sprintf("alter system set max_locks_per_transaction = %d", l.Locks)); err != nil {
		return o, err
	}
	if err := w.tooSmall(ctx); err != nil {
		return o, err
	}
	ledger, err := w.under(ctx, load{clients: l.Clients, rate: l.Rate, script: anywhere(l.InScope)}, &o, say, func() error {
		err := l.turns(ctx, w, t, move, &o)
		wait(ctx, settle)
		return err
	})
	if err != nil {
		return o, err
	}
	if o.Proof, err = ledger.prove(ctx, w.serving(false)); err != nil {
		return o, err
	}
	r := turned{What: "abort", began: time.Now()}
	t.take()
	err = move.Abort(ctx, ctx, upgrade.RemoveOptions{})
	r.TookMS, r.Steps = milliseconds(time.Since(r.began)), t.take()
	o.Turns = append(o.Turns, r)
	return o, err
}

// turns is an undone cutover, one that is done, and the way back.
func (l locks) turns(ctx context.Context, w *world, t *times, move *upgrade.Move, o *outcome) error {
	c, err := move.NewCutover(ctx)
	if err != nil {
		return err
	}
	if err := o.turn(undone(ctx, "decide", t, c)); err != nil {
		return err
	}
	left, err := value[int](ctx, w.old.URL(database), triggersSQL)
	if err != nil {
		return err
	}
	if left > 0 {
		o.problem("the undone cutover left %d triggers", left)
	}
	for _, forward := range []bool{true, false} {
		wait(ctx, settle)
		if err := o.there(ctx, t, move, forward); err != nil {
			return err
		}
	}
	return nil
}
