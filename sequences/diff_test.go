package sequences_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/sequences"
)

// kinds are sequences of every kind; the same on both servers.
const kinds = `
	create table owned (id serial primary key); create table first (id serial primary key);
	create table ident (id int generated always as identity (increment 5 cache 3) primary key);
	create sequence shared; create table a (id bigint primary key default nextval('shared')); create table b (id bigint primary key default nextval('shared'));
	create sequence unowned; create sequence never; create sequence never_but_set;
	create sequence down increment -2 minvalue -500 maxvalue -1; create table d (id int primary key default nextval('down')); create sequence cyclic minvalue 1 maxvalue 50 cycle; create sequence cached cache 20;
	create sequence small as smallint; create sequence small_end as smallint; create sequence odd start 77 minvalue 70 maxvalue 9000 increment 7;
	create sequence near_end maxvalue 100;
	create schema "We ird"; create sequence "We ird"."S ""q
;--";
	create sequence member; create sequence config_member; alter extension plpgsql add sequence member; alter extension plpgsql add sequence config_member;
	update pg_extension set extconfig = array['config_member'::regclass::oid], extcondition = array[''] where extname = 'plpgsql';`

// used is what happened to them on old.
const used = `
	select nextval(s) from unnest(array['owned_id_seq', 'ident_id_seq', 'shared', 'unowned', 'down', 'cyclic', 'cached', 'small', 'odd', 'member', 'config_member']::regclass[]) s, generate_series(1, 30);
	select setval('never_but_set', 40, false), setval('small_end', 32767), setval('near_end', 95);
	select nextval('"We ird"."S ""q
;--"');`

// setApart makes new differ in every way.
const setApart = `
	drop sequence unowned; drop table a; drop table owned;
	create sequence owned_id_seq; create table owned (id int primary key); create table a (id bigint primary key);
	alter sequence down minvalue -600; alter sequence small as bigint; alter sequence odd minvalue 1 start 1 restart 3 cache 5 increment 1;
	alter sequence cyclic no cycle; alter sequence ident_id_seq increment 1;
	create sequence "only new"; create sequence "other way" increment -1; select setval('cached', 5000);
	insert into b values (70), (6000); insert into d values (-301)`

func compare(t *testing.T, old, fresh side, margin int64) []sequences.Difference {
	t.Helper()
	reachedOld, err := sequences.ReadReached(t.Context(), old.conn, old.version)
	if err != nil {
		t.Fatal(err)
	}
	reachedNew, err := sequences.ReadReached(t.Context(), fresh.conn, fresh.version)
	if err != nil {
		t.Fatal(err)
	}
	plain := func(all []sequences.Reached) (out []sequences.Sequence) {
		for _, r := range all {
			out = append(out, r.Sequence)
		}
		return out
	}
	differences := sequences.Compare(plain(reachedOld), plain(reachedNew))
	sequences.AddRows(differences, reachedOld, reachedNew, margin)
	return differences
}

// TestDiffOfEveryKind sets two servers apart in every way, runs what the diff says,
// and then the plan, and compares again: nothing differs, and new goes on past old.
func TestDiffOfEveryKind(t *testing.T) {
	for _, p := range pairs(t) {
		t.Run(p.String(), func(t *testing.T) {
			old, fresh := open(t, p.Old), open(t, p.New)
			old.exec(t, kinds+used+`create sequence "other way"; select nextval('"other way"');
				insert into ident overriding system value values (999); insert into b values (70); insert into d values (-301); insert into first values (1)`)
			fresh.exec(t, kinds+setApart)
			differences := compare(t, old, fresh, 10)
			checkStatuses(t, differences)
			text := sequences.Text(differences, false)
			t.Log(text)
			for _, want := range []string{
				"\nMISSING on new", "\nBEHIND on new", "\nDEFINED OTHERWISE", "\nROWS BEYOND", "\nONLY on new", `"We ird"."S ""q?;--": old stands at 1 (handed out), new is 1 number behind`,
				"    on new: CREATE SEQUENCE \"public\".\"unowned\" INCREMENT BY 1 ", "    on new: ALTER SEQUENCE \"public\".\"small\" AS smallint ",
				"rows: column public.ident.id has 999 as its greatest number on old", "rows: column public.d.id has -301 as its least number on old",
				"rows: column public.first.id has 1 as its greatest number on old, and the sequence is to hand out 1 next there",
				"rows: column public.b.id has 70 as its greatest number on old, and", "rows: column public.b.id has 6000 as its greatest number on new, and the sequence is to hand out 41 next there",
				"    on old: SELECT pg_catalog.setval(",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("missing %q", want)
				}
			}
			if strings.Contains(text, `"cached"`) || !strings.Contains(sequences.Text(differences, true), `"cached"`) {
				t.Error("what is ahead is named only when asked for")
			}
			for _, d := range differences {
				for _, m := range d.Mend {
					map[pg.Side]side{pg.Old: old, pg.New: fresh}[m.Server].exec(t, m.SQL)
				}
				for _, b := range d.Beyond {
					if b.Mend != "" {
						map[pg.Side]side{pg.Old: old, pg.New: fresh}[b.Server].exec(t, b.Mend)
					}
				}
			}
			changes, problems := sequences.Plan(old.read(t), fresh.read(t), 10)
			if len(problems) > 0 {
				t.Fatalf("problems %+v", problems)
			}
			fresh.apply(t, changes, false)
			for _, d := range compare(t, old, fresh, 10) {
				if d.Differs() && d.Status != sequences.Extra {
					t.Errorf("%s still differs: %s %+v", d.Name, d.Text, d.Beyond)
				}
			}
		})
	}
}

func checkStatuses(t *testing.T, differences []sequences.Difference) {
	t.Helper()
	got := map[string]string{}
	for _, d := range differences {
		got[d.Name] = fmt.Sprintf("%s %d %s", d.Status, d.Steps, strings.Join(d.Definition, ", "))
	}
	for name, want := range map[string]string{
		"unowned": "missing 0 ", "never": "equal 0 ", "never_but_set": "behind 39 ", "down": "behind 30 minimum -600 instead of -500",
		"owned_id_seq": "behind 30 type bigint instead of integer, maximum 9223372036854775807 instead of 2147483647, owned by no column instead of public.owned.id",
		"shared":       "behind 30 ", "cached": "ahead 4960 ", "small": "behind 30 type bigint instead of smallint, maximum 9223372036854775807 instead of 32767",
		"small_end": "behind 32767 ", "near_end": "behind 95 ", "cyclic": "behind 30 NO CYCLE instead of CYCLE",
		"odd":       "behind 41 increment 1 instead of 7, minimum 1 instead of 70, start 1 instead of 77, cache 5 instead of 1",
		"other way": "behind 0 increment -1 instead of 1, the other direction, minimum -9223372036854775808 instead of 1, maximum -1 instead of 9223372036854775807, start -1 instead of 1",
		"only new":  "extra 0 ", "member": "behind 30 ", "config_member": "behind 30 ", "ident_id_seq": "behind 30 increment 1 instead of 5",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	for _, d := range differences {
		if len(d.Mend) == 0 && slices.Contains([]string{"unowned", "down", "small", "odd", "cyclic", "other way", "owned_id_seq", "ident_id_seq"}, d.Name) {
			t.Errorf("%s: nothing mends %s", d.Name, d.Text)
		}
	}
}
