package sequences_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/sequences"
)

// TestReached looks how far rows use sequences of every kind, and raises them.
func TestReached(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `
			create table serial (id serial primary key); insert into serial values (500), (70);
			create table empty (id bigserial primary key);
			create table ident (id int generated always as identity primary key);
			insert into ident overriding system value values (40);
			create sequence shared; create table a (id bigint primary key default nextval('shared'));
			create table b (x int, "Odd id" int default nextval('shared'), unique ("Odd id", x));
			insert into a values (5); insert into b values (1, 90);
			create sequence down increment -1; create table d (id int primary key default nextval('down')); insert into d values (-33);
			create table ahead (id serial primary key); insert into ahead values (3); select setval('ahead_id_seq', 9000);
			create table negative (id serial primary key); insert into negative values (-4);
			create table parent (id serial primary key); create table heir (primary key (id)) inherits (parent); insert into heir values (777);
			create table mother (id serial primary key); create table son () inherits (mother); insert into son values (888);
			create table second (x int, id serial, primary key (x, id)); insert into second values (1, 50);
			create table part (x int, id serial, name text); create unique index on part (id) where name is null; insert into part values (1, 50);
			create table text (id text primary key default nextval('serial_id_seq') || 'x');
			create sequence alone; create table round (id serial primary key); alter sequence round_id_seq cycle;
			create table sentinel (id serial primary key); insert into sentinel values (2147483647);
			create table near (id serial primary key); insert into near values (2147483600);`)
		if major >= 11 {
			s.exec(t, `create table parted (id bigserial, at int, primary key (id, at)) partition by range (at);
				create table parted_1 partition of parted for values from (0) to (10) partition by range (at);
				create table parted_1_1 partition of parted_1 for values from (0) to (5); insert into parted values (66, 1)`)
		}
		reached, err := sequences.ReadReached(t.Context(), s.conn, s.version)
		if err != nil {
			t.Fatal(err)
		}
		changes, left := sequences.PlanPast(reached, 100)
		if _, err := sequences.Apply(t.Context(), s.conn, changes, sequences.Options{}); err != nil {
			t.Fatal(err)
		}
		var named []string
		for _, p := range left {
			named = append(named, p.Name+": "+p.Text)
		}
		want := []string{
			"alone: no column has it as its default",
			`mother_id_seq: no index begins with column id of public.mother`,
			"near_id_seq: a row has 2147483600, which leaves no margin before the end of the sequence, 2147483647",
			`part_id_seq: no index begins with column id of public.part`,
			"round_id_seq: it begins again at its end, so that the greatest value says nothing",
			`second_id_seq: no index begins with column id of public.second`,
			"sentinel_id_seq: a row has 2147483647, which leaves no margin before the end of the sequence, 2147483647",
			"serial_id_seq: column id of public.text is no integer",
		}
		if !slices.Equal(named, want) {
			t.Errorf("left as they are:\n%s\nwant:\n%s", strings.Join(named, "\n"), strings.Join(want, "\n"))
		}
		next := map[string]int64{
			"empty_id_seq": 1, "ident_id_seq": 141, "shared": 191, "down": -134, "ahead_id_seq": 9001, "negative_id_seq": 1,
			"serial_id_seq": 601, "parent_id_seq": 878, "mother_id_seq": 1, "sentinel_id_seq": 1,
		}
		if major >= 11 {
			next["parted_id_seq"] = 167
		}
		// A second time nothing is left to do.
		reached, err = sequences.ReadReached(t.Context(), s.conn, s.version)
		if err != nil {
			t.Fatal(err)
		}
		again, _ := sequences.PlanPast(reached, 100)
		for _, c := range again {
			if !c.Kept {
				t.Errorf("%s is to be set again: %+v", c.Name, c)
			}
		}
		for name, value := range next {
			var got int64
			if err := s.conn.QueryRow(t.Context(), `select nextval($1::text::regclass)`, "public."+name).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != value {
				t.Errorf("%s gives %d, want %d", name, got, value)
			}
		}
	})
}

// TestReachedNamesWhatItMayNotSee reads as a role that lacks a right on each table, and
// while somebody holds the lock of one: each is named, the rest is read, and nobody
// is waited for.
func TestReachedNamesWhatItMayNotSee(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		reader := side{url: role(t, s, major, "reached_reader"), version: s.version}
		s.exec(t, `create table fine (id serial primary key); insert into fine values (500);
			create table also_fine (id serial primary key, secret text); insert into also_fine values (600);
			create table hidden (id serial primary key); create table veiled (id serial primary key); alter table veiled enable row level security;
			create table held (id serial primary key); create schema closed; create table closed.off (id serial primary key);
			grant select on fine, veiled, held, closed.off to reached_reader; grant select (id) on also_fine to reached_reader;
			grant select on all sequences in schema public to reached_reader`)
		reader.conn = connect(t, reader.url)
		holder := connect(t, s.url)
		tx, err := holder.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), `lock table public.held`); err != nil {
			t.Fatal(err)
		}
		reached, err := sequences.ReadReached(t.Context(), reader.conn, reader.version)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
		got := map[string]string{}
		for _, r := range reached {
			got[r.Name] = r.Unknown
			if r.Furthest != nil {
				got[r.Name] += r.Column
			}
			if r.Unlooked != (r.Unknown != "" && r.Readable) {
				t.Errorf("%s: %t %q", r.Name, r.Unlooked, r.Unknown)
			}
		}
		for name, want := range map[string]string{
			"fine_id_seq": "public.fine.id", "also_fine_id_seq": "public.also_fine.id",
			"hidden_id_seq": `role "reached_reader" may not read column id of public.hidden`,
			"veiled_id_seq": `row security hides rows of public.veiled from role "reached_reader"`,
			"held_id_seq":   "column id of public.held: somebody holds a lock on the table",
			"off_id_seq":    `role "reached_reader" may not read it`,
		} {
			if got[name] != want {
				t.Errorf("%s: %q, want %q", name, got[name], want)
			}
		}
	})
}
