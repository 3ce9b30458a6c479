package plan

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/upgrade"
)

// TestByHand follows the runbook that is printed before anything has begun, on
// fresh databases, and compares with what the tool does to others.
//
// The cutover is done by a runbook that was printed just before it.
func TestByHand(t *testing.T) {
	eachPair(t, func(t *testing.T, pair pgtest.Pair) {
		mine, tools := newMove(t, pair), newMove(t, pair)
		h := newHand(t, mine, mine.markdown(t))
		h.do(h.book.of("start", "", ""))
		h.close()
		tools.start(t)
		same(t, "after start", mine, tools)

		for _, m := range []*move{mine, tools} {
			pgtest.Exec(t, m.oldURL, meanwhile)
		}
		h = newHand(t, mine, mine.markdown(t))
		h.do(h.book.of("cutover", "", ""))
		h.close()
		tools.turn(t)
		same(t, "after the cutover", mine, tools)

		for _, m := range []*move{mine, tools} {
			pgtest.Exec(t, m.newURL, afterwards)
			m.arrived(t)
			if err := m.Complete(t.Context(), t.Context(), upgrade.RemoveOptions{}); err != nil {
				t.Fatalf("complete by the tool: %v", err)
			}
		}
		same(t, "after complete", mine, tools)
	})
}

// TestAllByHand does everything by what was printed before start: the numbers and
// names that will come are worked out beforehand.
func TestAllByHand(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	mine, tools := newMove(t, pair), newMove(t, pair)
	h := newHand(t, mine, mine.markdown(t))
	for _, part := range []string{"start", "cutover", "rollback"} {
		h.do(h.book.of(part, "", ""))
		h.close()
	}
	tools.start(t)
	tools.turn(t)
	tools.back(t)
	same(t, "after the rollback", mine, tools)
	mine.turn(t) // what was done by hand, the tool goes on from
	mine.back(t)
	if err := mine.Abort(t.Context(), t.Context(), upgrade.RemoveOptions{}); err != nil {
		t.Fatalf("abort by the tool: %v", err)
	}
}

// TestBackAndCompleteByHand turns the writes back after new has been written to,
// and ends a move, each by the runbook that is printed then.
func TestBackAndCompleteByHand(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	mine, tools := newMove(t, pair), newMove(t, pair)
	for _, m := range []*move{mine, tools} {
		m.start(t)
		m.turn(t)
		pgtest.Exec(t, m.newURL, afterwards)
	}
	h := newHand(t, mine, mine.markdown(t))
	h.do(h.book.of("rollback", "", ""))
	h.close()
	tools.back(t)
	same(t, "after the rollback", mine, tools)

	mine.turn(t)
	tools.turn(t)
	h = newHand(t, mine, mine.markdown(t))
	h.do(h.book.of("complete", "", ""))
	h.close()
	if err := tools.Complete(t.Context(), t.Context(), upgrade.RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	same(t, "after complete", mine, tools)
}

// meanwhile is written to old while it is copied, afterwards to new after the
// cutover.
const (
	meanwhile = `
insert into shop.customers (email) values ('late@example.com');
update shop.orders set total = total + 1 where id <= 10;
delete from shop.events where id = 7;
select nextval('shop.numbers')`
	afterwards = `
insert into shop.customers (email) values ('later@example.com');
insert into shop.orders (customer, at) values (2, '2026-02-01')`
)

// arrived waits until old has what was written afterwards: complete ends the
// stream, and does not wait for what is in it.
func (m *move) arrived(t *testing.T) {
	t.Helper()
	err := pg.Wait(t.Context(), "the last rows to arrive on old", 10*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[bool](t, m.oldURL, `select exists (select 1 from shop.customers where email = 'later@example.com')`), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// same compares both servers of two moves, and what the tool says of them.
func same(t *testing.T, when string, mine, tools *move) {
	t.Helper()
	for _, side := range []struct{ name, mine, tools string }{{"old", mine.oldURL, tools.oldURL}, {"new", mine.newURL, tools.newURL}} {
		if diff := pgtest.Diff(catalog(t, tools, side.tools), catalog(t, mine, side.mine)); diff != "" {
			t.Errorf("%s, the catalogs of the %s server differ from what the tool makes:\n%s", when, side.name, diff)
		}
		if want, got := rows(t, tools, side.tools), rows(t, mine, side.mine); want != got {
			t.Errorf("%s, the rows on the %s server differ from the tool's:\n%s", when, side.name, pgtest.Diff(want, got))
		}
	}
	// Streams connect, and sessions of the tool end, a moment later.
	var want, got string
	err := pg.Wait(t.Context(), "both moves to come to rest", 50*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		want, got = verdict(t, tools), verdict(t, mine)
		return want == got, "", nil
	})
	if err != nil {
		t.Errorf("%s, status says\n%s\nwhere the tool has led it says\n%s\n%v", when, got, want, err)
	}
}

var (
	anyMove = regexp.MustCompile(`\bplan[0-9]+\b|pgcutover_plan[0-9]+`)
	// numbers of attempts, OIDs, and times differ.
	numbers = regexp.MustCompile(`[0-9]{5,}|[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.Z]+`)
)

// neutral takes out what differs between two moves.
func neutral(text string) string {
	text = anyMove.ReplaceAllStringFunc(text, func(found string) string {
		if strings.HasPrefix(found, "pgcutover_") {
			return "pgcutover_move"
		}
		return "move"
	})
	return numbers.ReplaceAllString(text, "N")
}

// checkHash is the hash of a function that names the moment at which the server
// was closed.
var checkHash = regexp.MustCompile(`(function: pgcutover\."check".* definition=)[0-9a-fN]+`)

// catalog is a server's catalog without what belongs to other moves.
func catalog(t *testing.T, m *move, url string) string {
	t.Helper()
	var own strings.Builder
	for line := range strings.Lines(pgtest.Catalog(t, url)) {
		found := anyMove.FindString(line)
		if found == "" || strings.HasSuffix(found, m.name) {
			own.WriteString(checkHash.ReplaceAllString(neutral(line), "$1"))
		}
	}
	return own.String()
}

const tablesSQL = `
select format('%I.%I', n.nspname, c.relname),
       format(case c.relkind when 'S' then 'select format(''%%s %%s'', last_value, is_called) from %I.%I'
                             else 'select coalesce(string_agg(x::text, chr(10) order by x::text), '''') from %I.%I x' end, n.nspname, c.relname)
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'm', 'S') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
 order by 1`

// tables whose rows hold what differs.
var notCompared = map[string]string{
	"pgcutover.journal": `select coalesce(string_agg(format('%s %s %s', list, step, event), chr(10) order by list, run, seq), '') from pgcutover.journal`,
	"pgcutover.move":    `select side || format || (before is not null) from pgcutover.move`,
	"pgcutover.probe":   `select ''`,
	// what status compares the schemas with, compressed; only the tool makes it
	"pgcutover.baseline": `select ''`,
	"pgcutover.kept":     `select coalesce(string_agg(key, ',' order by key), '') from pgcutover.kept`,
	// at is the moment of the row.
	"pgcutover.marker_forward":   `select count(*)::text from pgcutover.marker_forward`,
	"pgcutover.decision_forward": `select count(*)::text from pgcutover.decision_forward`,
	"pgcutover.marker_back":      `select count(*)::text from pgcutover.marker_back`,
	"pgcutover.decision_back":    `select count(*)::text from pgcutover.decision_back`,
}

// rows is all that the tables, materialized views and sequences hold.
func rows(t *testing.T, m *move, url string) string {
	t.Helper()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(context.WithoutCancel(ctx), conn)
	found, err := conn.Query(ctx, tablesSQL)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(found, pgx.RowToStructByPos[struct{ Name, SQL string }])
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, table := range tables {
		if sql := notCompared[table.Name]; sql != "" {
			table.SQL = sql
		}
		var text string
		if err := conn.QueryRow(ctx, table.SQL).Scan(&text); err != nil {
			t.Fatalf("%s: %v", table.Name, err)
		}
		for line := range strings.Lines(text) {
			fmt.Fprintf(&out, "%s: %s\n", table.Name, strings.TrimSuffix(neutral(line), "\n"))
		}
	}
	return out.String()
}

// verdict is what status says, without what changes from moment to moment.
func verdict(t *testing.T, m *move) string {
	t.Helper()
	s, err := m.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	connected := ""
	if s.Lag != nil {
		connected = fmt.Sprint(s.Lag.Connected)
	}
	text, err := json.MarshalIndent(map[string]any{
		"phase": s.Phase, "serving": s.Serving, "tables": s.Tables, "ready": s.Ready, "nostats": s.NoStats,
		"sequences": s.Sequences, "tool": s.Tool, "cutover": s.Verdict.CanCutOver, "reasons": s.Verdict.Reasons,
		"next": s.Verdict.Next, "connected": connected,
		"back": s.Verdict.CanGoBack, "warnings": s.Warnings, "staying": s.NotGoingBack,
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`[0-9]+ (bytes|kB)`).ReplaceAllString(neutral(string(text)), "N bytes")
}
