package workload

import (
	"fmt"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// damage is one way to break a promise and what the proof must say of it.
type damage struct {
	name string
	do   func(t *testing.T, url string, l *Ledger)
	want Proof // the counts that are compared
}

// counts is what a proof found wrong.
func counts(p Proof) string {
	return fmt.Sprintf("lost %d, duplicated %d, content %d, phantoms %d, torn %d, loaded %d, stale %d, values %d, behind %v, split %d",
		p.Lost, p.Duplicated, p.WrongContent, p.Phantoms, p.Torn, p.LoadedMissing, p.Stale,
		p.SequenceValuesDuplicated, p.SequencesBehind, p.SplitBrains)
}

// own returns a live row of the run in a table, updated at least once.
func own(t *testing.T, l *Ledger, tb *table) *record {
	t.Helper()
	for _, r := range l.records {
		if r.table == tb && r.state.present && r.state.version > 0 {
			return r
		}
	}
	t.Fatalf("the run has no updated row in %s", tb.name)
	return nil
}

// onRow makes a damage by one statement with the nonce of an own row for $1.
func onRow(tb *table, sql string) func(*testing.T, string, *Ledger) {
	return func(t *testing.T, url string, l *Ledger) {
		t.Helper()
		tag, err := connect(t, url).Exec(t.Context(), sql, own(t, l, tb).nonce.String())
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatalf("damaging a row: %s, %v", tag, err)
		}
	}
}

func damages() []damage {
	return []damage{
		{"row lost", onRow(payments, `delete from "SHOP".payments where nonce = $1::uuid`), Proof{Lost: 1}},
		{"row lost from a partition", onRow(events, `delete from "SHOP".events where nonce = $1::uuid`), Proof{Lost: 1}},
		{"update lost", onRow(tickets, `update "SHOP".tickets set version = version - 1 where nonce = $1::uuid`), Proof{Lost: 1}},
		{"update applied twice", onRow(stock, `update "SHOP".stock set version = version + 1 where nonce = $1::uuid`), Proof{Duplicated: 1}},
		{"update nobody acknowledged", onRow(customers, `
			update "SHOP".customers set version = version + 1, touched = md5('x')::uuid where nonce = $1::uuid`), Proof{Phantoms: 1}},
		{"row doubled", onRow(payments, `
			insert into "SHOP".payments (id, order_no, amount, note, version, touched, nonce)
			select -1, order_no, amount, note, version, touched, nonce from "SHOP".payments where nonce = $1::uuid`), Proof{Duplicated: 1}},
		{"column truncated to null", onRow(documents, `update "SHOP".documents set attrs = '{}' where nonce = $1::uuid`), Proof{WrongContent: 1}},
		{"large value changed", onRow(documents, `update "SHOP".documents set body = 'x' || substr(body, 2) where nonce = $1::uuid`), Proof{WrongContent: 1}},
		{"note changed", onRow(orders, `update "SHOP".orders set note = note || ' ' where nonce = $1::uuid`), Proof{WrongContent: 1}},
		{"deleted row back", resurrect, Proof{Lost: 1}},
		{"refused insert happened", func(t *testing.T, url string, l *Ledger) {
			refused := l.nonce(1, 1<<40)
			_, err := connect(t, url).Exec(t.Context(), tickets.insert, refused.String(), "x", 1)
			if err != nil {
				t.Fatal(err)
			}
		}, Proof{Phantoms: 1}},
		{"loaded row lost", func(t *testing.T, url string, _ *Ledger) {
			pgtest.Exec(t, url, `delete from "SHOP".stock where ctid = (select min(ctid::text)::tid from "SHOP".stock where nonce is null)`)
		}, Proof{LoadedMissing: 1}},
		{"sequence forgotten", func(t *testing.T, url string, _ *Ledger) {
			pgtest.Exec(t, url, `select setval('"SHOP".payment_numbers', 1, false)`)
		}, Proof{SequencesBehind: []string{`"SHOP".payment_numbers`}}},
		{"descending sequence one short", func(t *testing.T, url string, l *Ledger) {
			pgtest.Exec(t, url, `select setval('"SHOP".ticket_numbers', last_value + 1) from "SHOP".ticket_numbers`)
		}, Proof{SequencesBehind: []string{`"SHOP".ticket_numbers`}}},
	}
}

func resurrect(t *testing.T, url string, l *Ledger) {
	t.Helper()
	for _, r := range l.records {
		if r.table.sequence != nil && r.table.with != "" && !r.state.present {
			if _, err := connect(t, url).Exec(t.Context(), r.table.with, r.nonce.String(), "x", r.number, r.id); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("the run deleted no row")
}

// TestProofFindsDamage breaks each promise by hand, one run for each, and wants
// the proof to say exactly that.
func TestProofFindsDamage(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		for _, d := range damages() {
			t.Run(d.name, func(t *testing.T) {
				url := newShop(t, major, 20)
				w := start(t, Options{URL: url, Rate: 2000, Seed: 1})
				more(t, w, 350)
				stop(t, w)
				if err := prove(t, url, w.Ledger()).Err(); err != nil {
					t.Fatal("before the damage:", err)
				}
				d.do(t, url, w.Ledger())
				p := prove(t, url, w.Ledger())
				if counts(p) != counts(d.want) {
					t.Errorf("the proof found\n%s, want\n%s\n%v", counts(p), counts(d.want), p.Details)
				}
				if p.Err() == nil {
					t.Error("Err is nil")
				}
			})
		}
	})
}

// TestProofFindsReusedValues sets sequences back while writers draw from them.
func TestProofFindsReusedValues(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		url := newShop(t, major, 20)
		w := start(t, Options{URL: url, Rate: 1000})
		more(t, w, 200)
		pgtest.Exec(t, url, `select setval('"SHOP".ticket_numbers', -1, false)`)
		more(t, w, 200)
		stop(t, w)
		p := prove(t, url, w.Ledger())
		if p.SequenceValuesDuplicated < 2 {
			t.Errorf("%d values handed out twice, want several: %v", p.SequenceValuesDuplicated, p.Details)
		}
		if w.Ledger().Stats().Errors[uniqueViolation] == 0 {
			t.Error("no insert hit a value that was taken")
		}
		p.SequenceValuesDuplicated, p.SequencesBehind = 0, nil
		if err := p.Err(); err != nil {
			t.Error("besides the sequence:", err)
		}
	})
}

// TestProofResolvesDoubt makes transactions of unknown outcome that are there,
// are not there, and are there by half.
func TestProofResolvesDoubt(t *testing.T) {
	major := pgtest.Majors(t)[0]
	url := newShop(t, major, 20)
	l, err := newLedger()
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientConfig(Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.readBaseline(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	w := newWriter(0, Options{}.withDefaults(), l, config, nil)
	w.conn = connect(t, url)
	doubt := func(there, absent int) *transaction {
		tx := &transaction{began: time.Now()}
		for range there {
			if _, err := w.insert(t.Context(), tx, tickets, nil); err != nil {
				t.Fatal(err)
			}
		}
		for range absent {
			w.inserting(tx, tickets)
		}
		l.doubt(tx, time.Now(), "connection")
		return tx
	}
	applied := doubt(2, 0)
	doubt(0, 3)
	updated := &transaction{began: time.Now()}
	r, err := w.insert(t.Context(), updated, payments, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.acknowledge(updated, time.Now())
	lost := &transaction{began: time.Now()}
	if err := w.update(t.Context(), lost, r); err != nil {
		t.Fatal(err)
	}
	l.doubt(lost, time.Now(), "connection")
	l.close()

	p := prove(t, url, l)
	if p.Err() != nil || p.Unknown != 6 || p.UnknownApplied != 3 || p.Acknowledged != 1 {
		t.Errorf("%d unknown, %d applied, %d acknowledged, %v; want 6, 3, 1, nil", p.Unknown, p.UnknownApplied, p.Acknowledged, p.Err())
	}
	if p.SequenceValuesChecked != 3 {
		t.Errorf("%d values checked, want the 3 of transactions that turned out to be committed", p.SequenceValuesChecked)
	}
	pgtest.Exec(t, url, fmt.Sprintf(`insert into "SHOP".tickets (topic, nonce, note, version)
		select topic, nonce, note, version from "SHOP".tickets where nonce = '%s'`, applied.changes[0].nonce))
	if p := prove(t, url, l); counts(p) != counts(Proof{Duplicated: 1, Torn: 1}) {
		t.Errorf("a row in doubt doubled: %s", counts(p))
	}
	pgtest.Exec(t, url, fmt.Sprintf(`delete from "SHOP".tickets where nonce = '%s'`, applied.changes[0].nonce))
	if p := prove(t, url, l); counts(p) != counts(Proof{Torn: 1}) {
		t.Errorf("half of a transaction in doubt: %s", counts(p))
	}
}
