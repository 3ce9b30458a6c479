package schemas

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
)

// relation is a table, a partition or a materialized view that holds rows.
type relation struct{ Schema, Name, Kind string }

func (r relation) name() string { return pgx.Identifier{r.Schema, r.Name}.Sanitize() }

// relationsSQL lists what holds rows of the application's: not the tables of
// extensions, and no materialized view that is empty because nobody filled it.
const relationsSQL = `
select n.nspname as schema, c.relname as name, c.relkind::text as kind
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'm') and c.relispopulated
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')
   and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1, 2`

// sessionSettings make both servers print values alike.
const sessionSettings = `
set timezone = 'UTC';
set datestyle = 'ISO, YMD';
set intervalstyle = 'postgres';
set bytea_output = 'hex';
set extra_float_digits = 3;
set xmloption = 'content';
set lc_monetary = 'C';
set row_security = off;
set search_path = pg_catalog`

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	if _, err := conn.Exec(t.Context(), sessionSettings); err != nil {
		t.Fatal(err)
	}
	return conn
}

// row is the hash of a row's text.
type row [sha256.Size]byte

// contents hashes every row of every table, sorted.
func contents(t *testing.T, url string) map[relation][]row {
	t.Helper()
	conn := connect(t, url)
	rows, err := conn.Query(t.Context(), relationsSQL)
	if err != nil {
		t.Fatal(err)
	}
	relations, err := pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
	if err != nil {
		t.Fatal(err)
	}
	out := map[relation][]row{}
	for _, r := range relations {
		out[r] = hashed(t, conn, r)
	}
	return out
}

// columnsSQL lists a relation's columns by their names: pg_dump writes the columns
// that a child has from its parents first, so that their order may change.
const columnsSQL = `
select coalesce(string_agg(format('%I', attname), ', ' order by attname), '')
  from pg_attribute
 where attrelid = format('%I.%I', $1::text, $2::text)::regclass and attnum > 0 and not attisdropped`

func hashed(t *testing.T, conn *pgx.Conn, r relation) []row {
	t.Helper()
	var columns string
	if err := conn.QueryRow(t.Context(), columnsSQL, r.Schema, r.Name).Scan(&columns); err != nil {
		t.Fatalf("reading the columns of %s: %v", r.name(), err)
	}
	rows, err := conn.Query(t.Context(), "select row("+columns+")::text from only "+r.name())
	if err != nil {
		t.Fatal(err)
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
		var text string
		err := r.Scan(&text)
		return sha256.Sum256([]byte(text)), err
	})
	if err != nil {
		t.Fatalf("reading %s: %v", r.name(), err)
	}
	slices.SortFunc(out, compareRows)
	return out
}

func compareRows(a, b row) int { return slices.Compare(a[:], b[:]) }

// compareContents reports tables that do not have the same rows on both sides.
func compareContents(t *testing.T, old, new map[relation][]row) {
	t.Helper()
	n := 0
	for r, want := range old {
		got, ok := new[r]
		switch {
		case !ok:
			t.Errorf("the new server has no %s", r.name())
		case !slices.Equal(want, got):
			t.Errorf("%s: %d rows on old, %d on new, and they are not the same", r.name(), len(want), len(got))
		}
		n += len(want)
	}
	for r := range new {
		if _, ok := old[r]; !ok {
			t.Errorf("the new server has %s, which the old one has not", r.name())
		}
	}
	t.Logf("%d tables, %d rows", len(old), n)
	if n == 0 {
		t.Error("there was nothing to compare")
	}
}

// sequence is how far a sequence has come, and where it goes.
type sequence struct {
	Schema, Name string
	Increment    int64
	next         int64 // not before this number
}

// sequencesSQL lists the application's sequences.
const sequencesSQL = `
select schemaname, sequencename, increment_by
  from pg_sequences
 where schemaname <> 'pgcutover'
 order by 1, 2`

func sequenceValues(t *testing.T, url string) []sequence {
	t.Helper()
	conn := connect(t, url)
	rows, err := conn.Query(t.Context(), sequencesSQL)
	if err != nil {
		t.Fatal(err)
	}
	var out []sequence
	var s sequence
	_, err = pgx.ForEachRow(rows, []any{&s.Schema, &s.Name, &s.Increment}, func() error {
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		s := &out[i]
		var called bool
		err := conn.QueryRow(t.Context(), "select last_value, is_called from "+pgx.Identifier{s.Schema, s.Name}.Sanitize()).Scan(&s.next, &called)
		if err != nil {
			t.Fatal(err)
		}
		if called {
			s.next += s.Increment
		}
	}
	return out
}

// compareSequences checks that no sequence on new gives a number that it has
// given on old.
func compareSequences(t *testing.T, old, new []sequence) {
	t.Helper()
	var problems []string
	for _, was := range old {
		i := slices.IndexFunc(new, func(s sequence) bool { return s.Schema == was.Schema && s.Name == was.Name })
		switch {
		case i < 0:
			problems = append(problems, was.Name+" is missing")
		case was.Increment > 0 && new[i].next < was.next, was.Increment < 0 && new[i].next > was.next:
			problems = append(problems, fmt.Sprintf("%s would give %d on old and gives %d on new", was.Name, was.next, new[i].next))
		}
	}
	if len(problems) > 0 || len(old) == 0 || len(old) != len(new) {
		t.Errorf("%d sequences on old, %d on new: %v", len(old), len(new), problems)
	}
}
