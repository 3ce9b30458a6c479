package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// operator are sessions of somebody who is at work on the database while the
// tool wants to cut over.
type operator struct {
	conns []*pgx.Conn
	done  chan error // of the statement that runs on its own
	note  string     // what the open transaction writes
}

// session opens one more session.
func (o *operator) session(r *round) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	conn, err := pgx.Connect(ctx, r.m.source().cluster.URL(r.m.name)+"&application_name=operator")
	if err == nil {
		o.conns = append(o.conns, conn)
	}
	return conn, err
}

func (o *operator) close() {
	for _, conn := range o.conns {
		pg.Close(context.Background(), conn)
	}
	o.conns = nil
}

// A hundred thousand transactions pass, and a vacuum of the table, which must
// not be put off, reads a page each 100 ms.
const (
	slowVacuumSQL = `alter system set autovacuum_vacuum_cost_delay = '100ms'`
	smallLimitSQL = `alter system set autovacuum_vacuum_cost_limit = 1`
	fastVacuumSQL = `alter system reset autovacuum_vacuum_cost_delay`
	usualLimitSQL = `alter system reset autovacuum_vacuum_cost_limit`
	reloadSQL     = `select pg_reload_conf()`
)

const updateHotSQL = `update "SHOP".orders set note = 'loaded' where nonce is null`

const vacuumingSQL = `
select count(*)
  from pg_stat_activity
 where datname = $1
   and query like 'autovacuum: VACUUM %SHOP.orders' || $2`

const cancelVacuumSQL = `
select pg_cancel_backend(pid)
  from pg_stat_activity
 where datname = $1
   and query like 'autovacuum: VACUUM %'`

// ageSQL is how many transactions have passed since rows of the table, or of its
// TOAST table, were frozen last.
const ageSQL = `
select greatest(age(c.relfrozenxid), age(t.relfrozenxid))
  from pg_class c
  left join pg_class t on t.oid = c.reltoastrelid
 where c.oid = to_regclass('"SHOP".orders')`

// A vacuum of our own that finds the table locked says so soon.
const (
	waitSQL   = `set lock_timeout = '2s'`
	freezeSQL = `vacuum (freeze) "SHOP".orders`
)

// wraparoundSQL counts vacuums that do not give way.
const wraparoundSQL = `
select count(*)
  from pg_stat_activity
 where query like 'autovacuum: VACUUM % (to prevent wraparound)'`

// dueSoon is half of the age at which a vacuum against wraparound comes for the
// table; a round takes far fewer transactions than what is left then.
const dueSoon = 50_000

// calm waits until no vacuum against wraparound runs on the server, and makes
// sure that none comes for the table of orders in the next round by itself.
func (s *server) calm(database string) error {
	age, err := one[int64](s, database, ageSQL)
	if err != nil {
		return err
	}
	if age > dueSoon {
		if err := s.freeze(database); err != nil {
			return err
		}
	}
	return until("the vacuums against wraparound on the "+string(s.side)+" server to end", 2*time.Minute, func() (bool, string, error) {
		n, err := one[int](s, "postgres", wraparoundSQL)
		return n == 0, fmt.Sprintf("%d are running", n), err
	})
}

// freeze does the work that a vacuum against wraparound would come for, and
// cancels those that have come.
func (s *server) freeze(database string) error {
	return until("freezing the table of orders on the "+string(s.side)+" server", 2*time.Minute, func() (bool, string, error) {
		if _, err := ask[bool](s, "postgres", cancelVacuumSQL, database); err != nil {
			return false, "", err
		}
		err := s.execute(database, waitSQL, freezeSQL)
		if pg.IsCode(err, pg.LockNotAvailable) {
			return false, err.Error(), nil
		}
		if err != nil {
			return false, "", err
		}
		// Something old may have kept it from freezing.
		age, err := one[int64](s, database, ageSQL)
		return age <= dueSoon, fmt.Sprintf("its age is %d", age), err
	})
}

// autovacuum lets a vacuum of the table of orders begin that takes longer than
// the round.
func (r *round) autovacuum() error {
	return r.vacuum("%", updateHotSQL)
}

// Each subtransaction that writes uses up a transaction's number.
const passTransactionsSQL = `
do $$
begin
  create temporary table numbers (n int);
  for i in 1..100100 loop
    begin
      insert into numbers values (i);
    exception when division_by_zero then null;
    end;
    if i % 1000 = 0 then truncate numbers; end if;
  end loop;
  drop table numbers;
end $$`

// wraparound lets a vacuum begin that Postgres does not cancel for others.
func (r *round) wraparound() error {
	return r.vacuum(" (to prevent wraparound)", passTransactionsSQL, updateHotSQL)
}

// endWraparound ends it, and takes away what brought it: cancelled only, it would
// come again, at any moment of the next rounds.
func (r *round) endWraparound() error {
	s := r.m.source()
	if err := s.hurryVacuums(r.m.name); err != nil {
		return err
	}
	if err := s.freeze(r.m.name); err != nil {
		return err
	}
	return s.calm(r.m.name)
}

// hurryVacuums takes back what slows vacuums down.
func (s *server) hurryVacuums(database string) error {
	// Before 16 a worker does not heed new settings in the middle of a table.
	err := s.execute("postgres", fastVacuumSQL, usualLimitSQL, reloadSQL)
	_, errCancel := ask[bool](s, "postgres", cancelVacuumSQL, database)
	return errors.Join(err, errCancel)
}

func (r *round) vacuum(kind string, cause ...string) error {
	s := r.m.source()
	if err := s.execute("postgres", slowVacuumSQL, smallLimitSQL, reloadSQL); err != nil {
		return err
	}
	// Also when the vacuum does not come.
	r.after(func() error { return s.hurryVacuums(r.m.name) })
	if err := s.execute(r.m.name, cause...); err != nil {
		return err
	}
	return until("autovacuum on the table of orders", 2*time.Minute, func() (bool, string, error) {
		n, err := one[int](s, "postgres", vacuumingSQL, r.m.name, kind)
		return n > 0, "", err
	})
}

const (
	holdSnapshotSQL = `begin isolation level repeatable read; select count(*) from "SHOP".orders`
	createIndexSQL  = `create index concurrently chaos_index on "SHOP".orders (amount, id)`
	dropIndexSQL    = `drop index if exists "SHOP".chaos_index`
	indexingSQL     = `select count(*) from pg_index where indexrelid = to_regclass('"SHOP".chaos_index') and not indisvalid`
)

// createIndex lets CREATE INDEX CONCURRENTLY begin, and keeps it waiting for an
// old snapshot.
func (r *round) createIndex() error {
	r.operator = &operator{done: make(chan error, 1)}
	holder, err := r.operator.session(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	if _, err := holder.PgConn().Exec(ctx, holdSnapshotSQL).ReadAll(); err != nil {
		return fmt.Errorf("holding a snapshot: %w", err)
	}
	builder, err := r.operator.session(r)
	if err != nil {
		return err
	}
	go func() {
		_, err := builder.Exec(context.Background(), createIndexSQL)
		r.operator.done <- err
	}()
	return until("CREATE INDEX CONCURRENTLY to wait", time.Minute, func() (bool, string, error) {
		n, err := one[int](r.m.source(), r.m.name, indexingSQL)
		return n > 0, "", err
	})
}

// dropIndex lets it come to its end and takes the index away.
func (r *round) dropIndex() error {
	defer r.operator.close()
	pg.Close(context.Background(), r.operator.conns[0])
	select {
	case err := <-r.operator.done:
		if err != nil && !pg.Lost(err) {
			return fmt.Errorf("CREATE INDEX CONCURRENTLY: %w", err)
		}
	case <-time.After(askBound):
		return errors.New("CREATE INDEX CONCURRENTLY does not come to its end")
	}
	return r.m.source().execute(r.m.name, dropIndexSQL)
}

const writeOpenSQL = `update "SHOP".stock set note = $1 where warehouse = 1 and nonce is null`

// openTransaction writes to a hot table and stays open. The tool may wait for
// it or give up; it must not leave it behind.
func (r *round) openTransaction() error {
	r.operator = &operator{note: fmt.Sprintf("round %d", r.round)}
	conn, err := r.operator.session(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, writeOpenSQL, r.operator.note)
	return err
}

const openWrittenSQL = `select count(*) from "SHOP".stock where note = $1`

// commitTransaction commits it, and looks for what it wrote.
func (r *round) commitTransaction() error {
	defer r.operator.close()
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	_, err := r.operator.conns[0].Exec(ctx, "commit")
	if err != nil {
		if pg.Lost(err) {
			return nil // ended with its session: nobody was told that it was written
		}
		return fmt.Errorf("committing the open transaction: %w", err)
	}
	r.after(func() error {
		n, err := one[int](r.m.source(), r.m.name, openWrittenSQL, r.operator.note)
		if err == nil && n == 0 {
			err = errors.New("what the open transaction wrote is not on the serving server")
		}
		return err
	})
	return nil
}
