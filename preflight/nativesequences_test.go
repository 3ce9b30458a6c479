package preflight

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// A subscription that sets sequences on new, as 19 would write it down, stops a
// cutover until it is disabled.
func TestSequenceSync(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	pgtest.Exec(t, p.newURL, `create sequence "S q"`, `create sequence other`,
		`create subscription theirs connection 'dbname=x' publication p with (connect = false)`,
		`insert into pg_subscription_rel (srsubid, srrelid, srsubstate, srsublsn)
			select s.oid, c.oid, case c.relname when 'other' then 'i' else 'r' end, '0/1' from pg_subscription s, pg_class c
			 where s.subname = 'theirs' and c.relname in ('S q', 'other')`)
	none(t, gate(t, "neighbours", p.Pair))
	pgtest.Exec(t, p.newURL, `alter subscription theirs enable`)
	found := check(t, "neighbours", p.Pair)
	if f := only(t, found, "neighbours.sequence-sync", `"theirs"`); f.Severity != Warning || f.Server != "new" || f.Seen != `enabled, sets public."S q", public.other; 1 of them now` {
		t.Errorf("got %+v", f)
	}
	if f := only(t, found, "neighbours.subscription", `"theirs"`); !strings.Contains(f.Seen, "writes 0 tables") {
		t.Errorf("a sequence counts as a table: %+v", f)
	}
	f := only(t, gate(t, "neighbours", p.Pair), "neighbours.sequence-sync", `"theirs"`)
	if f.Severity != Blocker {
		t.Errorf("got %+v", f)
	}
	mend(t, p.newURL, f)
	none(t, gate(t, "neighbours", p.Pair))
}

// The column of 19 is in a table of its name, which is found before the catalog.
func TestPublishedSequences(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	none(t, check(t, "neighbours", p.Pair))
	pgtest.Exec(t, p.oldURL, `create schema nineteen`, `create table nineteen.pg_publication (pubname name, puballtables bool, puballsequences bool)`,
		`insert into nineteen.pg_publication values ('sequences', false, true), ('Both', true, true), ('tables', true, false), ('pgcutover_shop', false, true)`)
	conn, err := pgx.Connect(t.Context(), p.oldURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}()
	if _, err := conn.Exec(t.Context(), `set search_path = nineteen, pg_catalog`); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), publishedSequencesSQL, streamName("shop"))
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || !slices.Equal(names, []string{"Both", "sequences"}) {
		t.Fatalf("got %v, %v", names, err)
	}
	if f := only(t, publishedFindings(pg.Old, names), "neighbours.published-sequences", ""); f.Severity != Note || f.Server != "old" {
		t.Errorf("got %+v", f)
	}
	none(t, publishedFindings(pg.Old, nil))
	// Nothing before 19 has the column.
	if _, err := readValues[string](t.Context(), p.Old, "trying", publishedSequencesSQL, ""); err == nil || !strings.Contains(err.Error(), "puballsequences") {
		t.Errorf("the query ran on %d: %v", p.Old.Major(), err)
	}
	if found, err := publishedSequences(t.Context(), p.Old); err != nil || len(found) > 0 {
		t.Errorf("got %+v, %v", found, err)
	}
}
