package sequences_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/sequences"
)

func TestReadDefinitionsAndPositions(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `
			create schema pgcutover; create sequence pgcutover.ours; create temp sequence temporary;
			create schema "We ird"; create sequence "We ird"."S ""q" as smallint increment -3 minvalue -90 maxvalue 5 start -2 cache 4 cycle;
			create sequence unused; create sequence used; create sequence reset start 5;
			create sequence restarted; create sequence cached cache 20;
			create table "T t" ("C c" serial, i int generated always as identity, b bigserial);
			select nextval('used'), nextval('reset'), nextval('cached');
			select setval('reset', 7, false); alter sequence restarted restart with 9;`)
		got := map[string]sequences.Sequence{}
		var names []string
		for _, one := range s.read(t) {
			got[one.Name] = one
			names = append(names, one.Schema+"."+one.Name)
		}
		if want := "We ird.S \"q public.T t_C c_seq public.T t_b_seq public.T t_i_seq public.cached public.reset public.restarted public.unused public.used"; strings.Join(names, " ") != want {
			t.Errorf("read %q, want %q", names, want)
		}
		for name, want := range map[string]struct {
			last   int64
			called bool
		}{"unused": {1, false}, "used": {1, true}, "reset": {7, false}, "restarted": {9, false}, "cached": {20, true}, `S "q`: {-2, false}} {
			if one := got[name]; one.LastValue != want.last || one.IsCalled != want.called || !one.Readable || !one.Alterable || !one.Settable {
				t.Errorf("%s: %+v, want %+v and all rights", name, one, want)
			}
		}
		odd := got[`S "q`]
		odd.Role = ""
		if want := (sequences.Sequence{
			Value: sequences.Value{Ref: sequences.Ref{Schema: "We ird", Name: `S "q`}, LastValue: -2},
			Type:  "smallint", Start: -2, Increment: -3, Min: -90, Max: 5, Cache: 4, Cycle: true,
			Readable: true, Alterable: true, Settable: true,
		}); odd != want {
			t.Errorf("read %+v, want %+v", odd, want)
		}
		if one := got["T t_C c_seq"]; one.OwnedBy != `public."T t"."C c"` || one.Identity {
			t.Errorf("serial: owned by %q, identity %t", one.OwnedBy, one.Identity)
		}
		if one := got["T t_i_seq"]; one.OwnedBy != `public."T t".i` || !one.Identity || one.Type != "integer" {
			t.Errorf("identity: %+v", one)
		}
		readValuesAgree(t, s)
	})
}

// readValuesAgree compares ReadValues with Read, in another order.
func readValuesAgree(t *testing.T, s side) {
	t.Helper()
	all := s.read(t)
	var refs []sequences.Ref
	for i := range all {
		refs = append(refs, all[len(all)-1-i].Ref)
	}
	values, err := sequences.ReadValues(t.Context(), s.conn, s.version, refs)
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range values {
		if want := all[len(all)-1-i].Value; v != want {
			t.Errorf("value %+v, want %+v", v, want)
		}
	}
	if len(values) != len(all) {
		t.Errorf("%d values of %d sequences", len(values), len(all))
	}
	gone := sequences.Ref{Schema: "public", Name: "go\"ne"}
	_, err = sequences.ReadValues(t.Context(), s.conn, s.version, append(refs, gone))
	if err == nil || !strings.Contains(err.Error(), `sequence "public"."go""ne" is not there`) {
		t.Errorf("a missing sequence gave %v", err)
	}
}

func TestReadMarksExtensions(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		// No extension at hand has a sequence; making one a member is the same.
		s.exec(t, `create extension if not exists plpgsql; create sequence member; alter extension plpgsql add sequence member`)
		if got := s.readOne(t, "member"); got.Extension != "plpgsql" {
			t.Errorf("extension %q, want plpgsql", got.Extension)
		}
	})
}

// role makes a role for the test and returns the URL of s for it.
func role(t *testing.T, s side, major int, name string) string {
	t.Helper()
	s.exec(t, fmt.Sprintf(`create role %q login`, name))
	t.Cleanup(func() {
		pgtest.Exec(t, s.url, fmt.Sprintf(`drop owned by %[1]q; drop role %[1]q`, name))
	})
	config, err := pgx.ParseConfig(s.url)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("postgres://%s@%s:%d/%s?sslmode=disable", name, config.Host, config.Port, config.Database)
}

func TestRightsToRead(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `create schema "App"; create sequence "App"."s ""1"; create sequence "App".b; select nextval('"App".b');
			create sequence "App".member; alter extension plpgsql add sequence "App".member`)
		reader := side{url: role(t, s, major, "seq_reader"), version: s.version}
		reader.conn = connect(t, reader.url)

		all, err := sequences.Read(t.Context(), reader.conn, reader.version)
		var hidden *sequences.UnreadableError
		if !errors.As(err, &hidden) || len(hidden.Sequences) != 2 || len(all) != 3 || all[0].Readable {
			t.Fatalf("read %+v, error %v", all, err)
		}
		if want := `role "seq_reader" may not read sequence "App"."b" and 1 more`; !strings.Contains(err.Error(), want) {
			t.Errorf("error %q, want %q", err, want)
		}
		// USAGE alone would make nulls of positions that are not called yet.
		s.exec(t, `grant usage on schema "App" to seq_reader; grant usage, update on all sequences in schema "App" to seq_reader; grant select on sequence "App".b to seq_reader`)
		_, err = sequences.Read(t.Context(), reader.conn, reader.version)
		if !errors.As(err, &hidden) || len(hidden.Sequences) != 1 || hidden.Sequences[0].Name != `s "1` {
			t.Fatalf("error %v", err)
		}
		_, err = sequences.ReadValues(t.Context(), reader.conn, reader.version, []sequences.Ref{{Schema: "App", Name: "b"}, {Schema: "App", Name: `s "1`}})
		var again *sequences.UnreadableError
		if !errors.As(err, &again) || len(again.Sequences) != 1 || again.Sequences[0].Name != `s "1` {
			t.Fatalf("reading values: %v", err)
		}
		// The hint is what mends it, literally.
		advice := hint.Of(err)
		_, grants, found := strings.Cut(advice, "sequences: ")
		if !found || !strings.Contains(grants, `GRANT SELECT ON SEQUENCE "App"."s ""1" TO "seq_reader";`) {
			t.Fatalf("hint %q", advice)
		}
		s.exec(t, grants)
		all, err = sequences.Read(t.Context(), reader.conn, reader.version)
		if err != nil {
			t.Fatal(err)
		}
		// The member of an extension is marked, and no reason to fail.
		if all[0].Alterable || !all[0].Settable || all[1].Name != "member" || all[1].Readable || all[1].Extension != "plpgsql" {
			t.Errorf("read %+v", all)
		}
	})
}

// changeTo is the change that sets public.name on s to value.
func changeTo(t testing.TB, s side, name string, value int64) sequences.Change {
	n := s.readOne(t, name)
	return sequences.Change{Ref: n.Ref, Old: n, New: n, Value: value, Why: "test"}
}

func TestRightsToApply(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `create sequence a maxvalue 1000; create sequence b; create sequence c; create role seq_owner`)
		t.Cleanup(func() { pgtest.Exec(t, s.url, `drop owned by seq_owner; drop role seq_owner`) })
		mover := side{url: role(t, s, major, "seq_mover"), version: s.version}
		s.exec(t, `grant select on all sequences in schema public to seq_mover;
			grant usage, create on schema public to seq_owner; alter sequence a owner to seq_owner; grant seq_owner to seq_mover;
			revoke update on sequence a from seq_owner; grant update on sequence b to seq_mover`)
		mover.conn = connect(t, mover.url)
		a, b, c := changeTo(t, s, "a", 100), changeTo(t, s, "b", 200), changeTo(t, s, "c", 300)

		// c may be neither altered nor set: named, and nothing was changed.
		made, err := sequences.Apply(t.Context(), mover.conn, []sequences.Change{a, b, c}, sequences.Options{})
		if err == nil || !strings.Contains(err.Error(), `role "seq_mover" may not set sequence "public"."c"`) ||
			!strings.Contains(hint.Of(err), `GRANT UPDATE ON SEQUENCE "public"."c" TO "seq_mover";`) || len(made) != 0 {
			t.Fatalf("made %+v, error %v, hint %q", made, err, hint.Of(err))
		}
		if got := s.readOne(t, "a"); got.LastValue != 1 {
			t.Errorf("a stands at %d in spite of the error", got.LastValue)
		}
		// a through ownership (of a role it is a member of), b through UPDATE.
		for _, fast := range []bool{false, true} {
			a.Value, b.Value = a.Value+1, b.Value+1
			if made := mover.apply(t, []sequences.Change{a, b}, fast); len(made) != 2 {
				t.Errorf("fast %t: made %+v", fast, made)
			}
			for _, want := range []sequences.Change{a, b} {
				if got := s.readOne(t, want.Name); got.LastValue != want.Value || got.IsCalled {
					t.Errorf("fast %t: %s stands at %+v, want %d", fast, want.Name, got.Value, want.Value)
				}
			}
		}
		// Its end can only be said with setval, which the owner gave away.
		a.Value, a.Exhausted = 1000, true
		_, err = sequences.Apply(t.Context(), mover.conn, []sequences.Change{a}, sequences.Options{})
		if err == nil || !strings.Contains(hint.Of(err), `GRANT UPDATE ON SEQUENCE "public"."a"`) {
			t.Errorf("error %v, hint %q", err, hint.Of(err))
		}
		gone := changeTo(t, s, "b", 900)
		gone.Name = "gone"
		_, err = sequences.Apply(t.Context(), mover.conn, []sequences.Change{gone}, sequences.Options{})
		if err == nil || !strings.Contains(err.Error(), `sequence "public"."gone" is not there`) {
			t.Errorf("error %v", err)
		}
	})
}

// TestApplyLooksAgain lets another session take numbers past the value after
// the plan was made: the sequence must not be moved back.
func TestApplyLooksAgain(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `create sequence a; create sequence d increment -1`)
		other := connect(t, s.url)
		for _, fast := range []bool{false, true} {
			up, down := changeTo(t, s, "a", s.readOne(t, "a").LastValue+50), changeTo(t, s, "d", s.readOne(t, "d").LastValue-50)
			if _, err := other.Exec(t.Context(), `select nextval('public.a'), nextval('public.d') from generate_series(1, 60)`); err != nil {
				t.Fatal(err)
			}
			was := [2]int64{s.readOne(t, "a").LastValue, s.readOne(t, "d").LastValue}
			if made := s.apply(t, []sequences.Change{up, down}, fast); len(made) != 0 {
				t.Errorf("fast %t: made %+v", fast, made)
			}
			if is := [2]int64{s.readOne(t, "a").LastValue, s.readOne(t, "d").LastValue}; is != was {
				t.Errorf("fast %t: stand at %d, stood at %d", fast, is, was)
			}
		}
	})
}

// waitersSQL counts sessions that wait for a lock on public.a.
const waitersSQL = `select count(*) > 0 from pg_catalog.pg_locks where relation = 'public.a'::regclass and not granted`

// TestApplyLocks: an open transaction that has used the sequence goes on while
// Apply waits for it, and Apply then sees where it went.
func TestApplyLocks(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		s.exec(t, `create sequence a`)
		change := changeTo(t, s, "a", 50)
		other, watcher := connect(t, s.url), connect(t, s.url)
		tx, err := other.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		takeNumbers(t, tx, 10)
		type result struct {
			made []sequences.Change
			err  error
		}
		done := make(chan result, 1)
		go func() {
			made, err := sequences.Apply(t.Context(), s.conn, []sequences.Change{change}, sequences.Options{})
			done <- result{made, err}
		}()
		err = pg.Wait(t.Context(), "Apply to wait for the lock", 5*time.Millisecond, time.Minute, nil, func(ctx context.Context) (bool, string, error) {
			var waits bool
			err := watcher.QueryRow(ctx, waitersSQL).Scan(&waits)
			return waits, "", err
		})
		if err != nil {
			t.Error(err)
		}
		takeNumbers(t, tx, 60)
		if err := tx.Commit(t.Context()); err != nil {
			t.Error(err)
		}
		r := <-done
		if r.err != nil || len(r.made) != 0 {
			t.Errorf("made %+v, error %v", r.made, r.err)
		}
		if got := s.readOne(t, "a"); got.LastValue != 70 || !got.IsCalled {
			t.Errorf("stands at %+v, want 70", got.Value)
		}
	})
}

func takeNumbers(t *testing.T, tx pgx.Tx, n int) {
	t.Helper()
	if _, err := tx.Exec(t.Context(), `select nextval('public.a') from generate_series(1, $1::int)`, n); err != nil {
		t.Error(err)
	}
}

// many is how many sequences TestManySequences makes.
const many = 10000

// TestManySequences works on servers whose lock table is small: 10,000
// sequences in one transaction overflow it.
func TestManySequences(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	var old, fresh side
	for _, s := range []struct {
		side  *side
		major int
	}{{&old, pair.Old}, {&fresh, pair.New}} {
		c := pgtest.Cluster(t, pgserver.Options{Major: s.major, Settings: map[string]string{"max_connections": "20", "max_wal_senders": "2", "max_locks_per_transaction": "64"}})
		*s.side = side{url: c.URL("postgres"), version: s.major * 10000}
		s.side.conn, s.side.client = connect(t, s.side.url), connectWith(t, s.side.url, "public")
		for i := 0; i < many; i += 1000 {
			s.side.exec(t, fmt.Sprintf(`do $$ begin for i in %d .. %d loop execute 'create sequence s' || i; end loop; end $$`, i, i+999))
		}
	}
	for i := 0; i < many; i += 2000 { // half of each thousand used, half never
		old.exec(t, fmt.Sprintf(`select count(setval('s' || i, i + 1)) from generate_series(%d, %d) i`, i, i+999))
	}
	took := func(what string, bound time.Duration, run func()) {
		t.Helper()
		begin := time.Now()
		run()
		d := time.Since(begin)
		t.Logf("%s: %d sequences: %s in %s", pair, many, what, d.Round(time.Millisecond))
		if d > bound {
			t.Errorf("%s took %s, want less than %s", what, d, bound)
		}
	}
	var (
		onOld, onNew []sequences.Sequence
		changes      []sequences.Change
		problems     []sequences.Problem
	)
	took("Read old", 30*time.Second, func() { onOld = old.read(t) })
	took("Read new", 30*time.Second, func() { onNew = fresh.read(t) })
	took("Plan", 10*time.Second, func() { changes, problems = sequences.Plan(onOld, onNew, 100) })
	if len(changes) != many || len(problems) != 0 {
		t.Fatalf("%d changes, problems %+v", len(changes), problems)
	}
	some := changes[:3000]
	took("Apply to 3000", 60*time.Second, func() { mustMake(t, fresh.apply(t, some, false), len(some)) })
	took("Apply to 3000 again", 60*time.Second, func() { mustMake(t, fresh.apply(t, some, false), 0) })
	for i := range changes {
		changes[i].Value++
	}
	took("Apply fast", 60*time.Second, func() { mustMake(t, fresh.apply(t, changes, true), many) })
	refs := make([]sequences.Ref, many)
	for i, s := range onOld {
		refs[i] = s.Ref
	}
	for name, s := range map[string]side{"old": old, "new": fresh} {
		took("ReadValues "+name, 30*time.Second, func() {
			values, err := sequences.ReadValues(t.Context(), s.conn, s.version, refs)
			if err != nil || len(values) != many {
				t.Fatalf("%d values, error %v", len(values), err)
			}
		})
	}
	for i, n := range fresh.read(t) {
		if n.LastValue != changes[i].Value {
			t.Fatalf("%s stands at %d, want %d", n.Ident(), n.LastValue, changes[i].Value)
		}
	}
}

func mustMake(t *testing.T, made []sequences.Change, want int) {
	t.Helper()
	if len(made) != want {
		t.Fatalf("%d changes made, want %d", len(made), want)
	}
}
