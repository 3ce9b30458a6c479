package sequences_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/sequences"
)

// transactionsSQL counts the transactions that gave the sequences their files.
const transactionsSQL = `select count(distinct c.xmin::text) from pg_class c where relkind = 'S' and relname like $1`

// changes set all sequences of s forward by some.
func changes(t *testing.T, s side, by int64) []sequences.Change {
	t.Helper()
	var all []sequences.Change
	for _, n := range s.read(t) {
		all = append(all, sequences.Change{Ref: n.Ref, Old: n, New: n, Value: n.LastValue + by, Why: "test"})
	}
	return all
}

// stand looks whether every sequence is where it was to be set to.
func stand(t *testing.T, s side, all []sequences.Change) {
	t.Helper()
	now := s.read(t)
	for i, c := range all {
		if now[i].Ref != c.Ref || now[i].LastValue != c.Value || now[i].IsCalled {
			t.Fatalf("%s stands at %+v, want %d", c.Ident(), now[i].Value, c.Value)
		}
	}
}

// Owned ones are restarted and the others set, all of them in one transaction.
func TestApplyMixedRights(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		mover := side{url: role(t, s, major, "seq_mixed"), version: s.version}
		s.exec(t, `create schema app; grant usage, create on schema app to seq_mixed;
			do $$ begin for i in 1 .. 30 loop
				execute format('create sequence app.mine%s; alter sequence app.mine%1$s owner to seq_mixed', i);
				execute format('create sequence app.other%s; grant select, update on sequence app.other%1$s to seq_mixed', i);
				execute format('create sequence app.kept%s; alter sequence app.kept%1$s owner to seq_mixed; revoke update on sequence app.kept%1$s from seq_mixed', i);
			end loop; end $$`)
		mover.conn = connect(t, mover.url)
		for _, fast := range []bool{false, true} {
			files := pgtest.Value[int64](t, s.url, `select sum(relfilenode::bigint) from pg_class where relname like 'mine%' and relkind = 'S'`)
			all := changes(t, mover, 100)
			mustMake(t, mover.apply(t, all, fast), 90)
			stand(t, mover, all)
			mustMake(t, mover.apply(t, all, fast), 0)
			if n := pgtest.Value[int64](t, s.url, transactionsSQL, "kept%"); n != 1 {
				t.Errorf("fast %t: %d transactions", fast, n)
			}
			restarted := files != pgtest.Value[int64](t, s.url, `select sum(relfilenode::bigint) from pg_class where relname like 'mine%' and relkind = 'S'`)
			if restarted == fast {
				t.Errorf("fast %t: restarted %t", fast, restarted)
			}
		}
		// A right that was taken away after the plan: named, and it is said how to mend it.
		all := changes(t, mover, 100)
		s.exec(t, `revoke update on sequence app.other7 from seq_mixed`)
		var others []sequences.Change
		for _, c := range all {
			if strings.HasPrefix(c.Name, "other") {
				others = append(others, c)
			}
		}
		_, err := sequences.Apply(t.Context(), mover.conn, others, sequences.Options{Fast: true})
		if err == nil || !strings.Contains(err.Error(), `may not set sequence "app"."other7"`) || !strings.Contains(hint.Of(err), `GRANT UPDATE ON SEQUENCE "app"."other7"`) {
			t.Errorf("%v, %s", err, hint.Of(err))
		}
	})
}

// Somebody's open transaction is named as the reason, and nothing is half done.
func TestApplyWhileLocked(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `create sequence a; create sequence b; create sequence c`)
		all := changes(t, s, 50)
		tx, err := s.client.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `alter sequence b increment 1`); err != nil {
			t.Fatal(err)
		}
		if _, err := s.conn.Exec(t.Context(), `set lock_timeout = '50ms'`); err != nil {
			t.Fatal(err)
		}
		for _, fast := range []bool{false, true} {
			made, err := sequences.Apply(t.Context(), s.conn, all, sequences.Options{Fast: fast})
			if !pg.IsCode(err, pg.LockNotAvailable) || !strings.Contains(err.Error(), `sequence "public"."b"`) || hint.Of(err) == "" {
				t.Errorf("fast %t: %v", fast, err)
			}
			if !fast && len(made) != 0 {
				t.Errorf("made %v", made)
			}
			if a := pgtest.Value[int64](t, s.url, `select last_value from a`); !fast && a != 1 {
				t.Errorf("a stands at %d, although the transaction failed", a)
			}
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.apply(t, all, true)
		stand(t, s, all)
	})
}

// A lock table with room for a few makes more transactions, no errors.
func TestTinyLockTable(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	for _, major := range []int{pair.Old, pair.New} {
		c := pgtest.Cluster(t, pgserver.Options{Major: major, Settings: map[string]string{"max_connections": "12", "max_wal_senders": "2", "max_locks_per_transaction": "10"}})
		s := side{url: c.URL("postgres"), version: major * 10000}
		s.conn, s.client = connect(t, s.url), connectWith(t, s.url, "public")
		const n = 1500
		for i := 0; i < n; i += 50 {
			s.exec(t, fmt.Sprintf(`do $$ begin for i in %d .. %d loop execute 'create sequence s' || i; end loop; end $$`, i, i+49))
		}
		for _, fast := range []bool{false, true} {
			all := changes(t, s, 100)
			mustMake(t, s.apply(t, all, fast), n)
			stand(t, s, all)
			if parts := pgtest.Value[int64](t, s.url, transactionsSQL, "s%"); parts < 10 {
				t.Errorf("%d transactions although there is room for 120 locks", parts)
			}
		}
		s.exec(t, `select nextval('s7')`)
		var refs []sequences.Ref
		for _, one := range s.read(t) {
			refs = append(refs, one.Ref)
		}
		if values, err := sequences.ReadValues(t.Context(), s.conn, s.version, refs); err != nil || len(values) != n {
			t.Errorf("%d values, %v", len(values), err)
		}
		if values, err := sequences.ReadCalled(t.Context(), s.conn, s.version, refs); err != nil || len(values) == 0 {
			t.Errorf("%d values, %v", len(values), err)
		}
		o := source(t, s)
		o.PerSession = 500
		r := readers(t, o, refs, 3)
		if values, err := r.ReadCalled(t.Context()); err != nil || len(values) == 0 {
			t.Errorf("%d values, %v", len(values), err)
		}
	}
}
