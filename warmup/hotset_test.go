package warmup

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// Old and new are two databases of one server here: its cache is told apart by
// database.
func TestHotSet(t *testing.T) {
	onEachMajor(t, map[string]string{"shared_buffers": "64MB"}, []subtest{
		{"by the cache, and warmed by it", testHotSet},
		{"by counts", testHotCounts},
		{"in another order", testMoved},
		{"budget, rate, locks", testUnderLoad},
		{"rounds", testRounds},
		{"who may only read", testReader},
		{"partitions and configured columns", testColumns},
		{"more is hot than there is room for", testOverfull},
		{"what is kept counts", testKept},
	})
}

// sales is 60000 rows, 16 MB or so, in the order of their keys, and a table that
// nobody reads.
const sales = `
create table sales (id bigint primary key, customer int, at timestamptz, pad text);
insert into sales select g, g * 7 % 1000, now() - interval '3 years', repeat('x', 220) from generate_series(1, 60000) g order by ORDER;
create index sales_customer on sales (customer);
create table idle as select g as id, repeat('x', 220) as pad from generate_series(1, 20000) g;
create table notes (id int primary key, document text);
alter table notes alter document set storage external;
insert into notes select g, repeat(md5(g::text), 200) from generate_series(1, 500) g`

func salesBy(order string) string { return strings.Replace(sales, "ORDER", order, 1) }

// twoDatabases makes old with sales, and new with what a copy brings there.
func twoDatabases(t *testing.T, c *pgserver.Cluster, extensions ...string) (old, new string) {
	t.Helper()
	old, new = pgtest.Database(t, c), pgtest.Database(t, c)
	pgtest.Exec(t, old, append([]string{salesBy("g")}, extensions...)...)
	empty := strings.NewReplacer("insert into sales select", "insert into sales select * from (select", "order by ORDER", ") s where false",
		"insert into notes select", "insert into notes select * from (select", "generate_series(1, 500) g", "generate_series(1, 500) g) n where false",
		"generate_series(1, 20000) g", "generate_series(1, 0) g").Replace(sales)
	pgtest.Exec(t, new, append([]string{empty}, extensions...)...)
	for _, table := range []string{"sales", "idle", "notes"} {
		copyTable(t, old, new, table)
	}
	return old, new
}

// copyTable copies a table the way a subscription does.
func copyTable(t *testing.T, from, to, table string) {
	t.Helper()
	source, err := pgx.Connect(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close(t.Context())
	target, err := pgx.Connect(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close(t.Context())
	var rows bytes.Buffer
	if _, err := source.PgConn().CopyTo(t.Context(), &rows, "copy "+table+" to stdout"); err != nil {
		t.Fatal(err)
	}
	if _, err := target.PgConn().CopyFrom(t.Context(), &rows, "copy "+table+" from stdin"); err != nil {
		t.Fatal(err)
	}
}

// use reads what production reads: a tenth of sales, in the middle, and some
// notes, several times.
func use(t *testing.T, url string) {
	t.Helper()
	pgtest.Exec(t, url, `set enable_seqscan = off; set enable_bitmapscan = off;
		do $$ begin for n in 1 .. 4 loop
			perform count(pad) from sales where id between 30000 and 36000;
			perform sum(length(document || '')) from notes where id between 100 and 120;
		end loop; end $$`)
}

func findHot(t *testing.T, h HotSet, name string) HotTable {
	t.Helper()
	found := h.Find(Table{"public", name})
	if found == nil {
		t.Fatalf("%s is not in the hot set: %+v", name, h)
	}
	return *found
}

func readHot(t *testing.T, url string, o HotSetOptions) HotSet {
	t.Helper()
	h, err := ReadHotSet(t.Context(), open(t, url), o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func testHotSet(t *testing.T, c *pgserver.Cluster) {
	old, new := twoDatabases(t, c, "create extension pg_buffercache")
	restart(t, c)
	use(t, old)
	hot := readHot(t, old, HotSetOptions{})
	used := findHot(t, hot, "sales")
	if hot.Source != FromBufferCache || hot.Advice != "" || hot.Find(Table{"public", "idle"}) != nil {
		t.Errorf("%+v", hot)
	}
	tenth := used.Heap.Size / 10
	if used.Heap.Hot < tenth*9/10 || used.Heap.Hot > tenth*12/10 || len(used.marks) < 20 {
		t.Errorf("%d of %d bytes are hot, %d marks", used.Heap.Hot, used.Heap.Size, len(used.marks))
	}
	if i := used.index("sales_pkey"); i == nil || i.Hot < i.Size/20 || i.Hot > i.Size/4 {
		t.Errorf("%+v", i)
	}
	if notes := findHot(t, hot, "notes"); notes.Toast.Hot < 10*8192 || notes.Toast.Hot > 40*8192 {
		t.Errorf("%+v", notes)
	}
	for _, prewarm := range []bool{false, true} {
		t.Run(fmt.Sprintf("prewarm=%t", prewarm), func(t *testing.T) {
			restart(t, c)
			if prewarm {
				pgtest.Exec(t, new, "create extension pg_prewarm")
			}
			warmBy(t, new, hot, prewarm)
		})
	}
}

func warmBy(t *testing.T, new string, hot HotSet, prewarm bool) {
	s := open(t, new)
	cold, err := ReadWarmth(t.Context(), s, hot)
	if err != nil || !cold.Known || cold.Fraction() > 0.1 {
		t.Errorf("before: %s, %v", cold, err)
	}
	snapshot := "select txid_snapshot_xmax(txid_current_snapshot())"
	next := pgtest.Value[int64](t, new, snapshot)
	report, err := Warm(t.Context(), s, WarmOptions{Hot: &hot, Jobs: 1})
	if err != nil || len(report.Warnings) != 0 {
		t.Fatalf("%v, %q", err, report.Warnings)
	}
	if now := pgtest.Value[int64](t, new, snapshot); now != next {
		t.Errorf("transaction %d came after %d: something was written", now, next)
	}
	w := warmthOf(t, report, "sales")
	if report.Prewarm != prewarm || w.Ranges == 0 || w.Moved {
		t.Errorf("%+v", w)
	}
	blocks := bufferedBlocks(t, new, "sales")
	wanted := column[int64](t, new, "select distinct (ctid::text::point)[0]::bigint from sales where id between 30000 and 36000")
	there := 0
	for _, b := range wanted {
		if blocks[b] {
			there++
		}
	}
	if there < len(wanted)*9/10 {
		t.Errorf("%d of %d hot blocks are in the cache", there, len(wanted))
	}
	// A quarter more are the newest rows, those of the highest keys.
	if len(blocks) > len(wanted)*2 {
		t.Errorf("%d blocks are in the cache, %d are hot", len(blocks), len(wanted))
	}
	if n := buffered(t, new)["idle"]; n != 0 {
		t.Errorf("%d blocks of a table are in the cache that nobody reads", n)
	}
	if real := int64(len(blocks)) * 8192; w.Read < real/2 || w.Read > real*3 {
		t.Errorf("%d bytes were read, %d of the table are there", w.Read, real)
	}
	warm, err := ReadWarmth(t.Context(), s, hot)
	if err != nil {
		t.Fatal(err)
	}
	least := 0.5 // without pg_prewarm indexes are warm where the newest rows lead
	if prewarm {
		least = 0.8
	}
	if inside, _ := warm.Of(w.Table); inside.Fraction() < least || inside.Hot > report.Bytes*2 {
		t.Errorf("afterwards: %+v, %s", inside, warm)
	}
	// What is there costs nothing.
	again, err := Warm(t.Context(), s, WarmOptions{Hot: &hot})
	if err != nil || again.Read > report.Read/10 {
		t.Errorf("%d bytes were read again, %d at first; %v", again.Read, report.Read, err)
	}
	noSessions(t, new)
}

func testHotCounts(t *testing.T, c *pgserver.Cluster) {
	old := pgtest.Database(t, c)
	pgtest.Exec(t, old, salesBy("g"), "create extension pg_buffercache", "drop role if exists hot_reader; create role hot_reader login")
	pgtest.Exec(t, old, "select pg_stat_reset()") // of what that session has counted to its end
	t.Cleanup(func() { pgtest.Exec(t, old, "drop owned by hot_reader cascade", "drop role hot_reader") })
	asReader := pgtest.WithUser(t, old, "hot_reader", "")
	use(t, old)
	waitForCollector(t, old)
	hot := readHot(t, asReader, HotSetOptions{Sample: time.Millisecond})
	if !strings.Contains(hot.Advice, `grant pg_monitor to "hot_reader"`) || hot.Bytes != 0 {
		t.Errorf("%+v", hot)
	}
	if hot.Tables[0].Name != "sales" || hot.Tables[0].index("sales_pkey").Heat == 0 || hot.Find(Table{"public", "idle"}) != nil && hot.Source == FromTotals && hot.Find(Table{"public", "idle"}).Heat > hot.Tables[0].Heat/2 {
		t.Errorf("%+v", hot.Tables)
	}
	// Rates, as soon as the server has told of the accesses of a moment ago.
	ctx, stop := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	defer reading.Wait()
	defer stop()
	reading.Go(func() {
		for ctx.Err() == nil {
			use(t, old)
		}
	})
	for try := 1; hot.Source != FromRates; try++ {
		if hot = readHot(t, asReader, HotSetOptions{Sample: 2 * time.Second}); try > 10 {
			t.Fatalf("%+v", hot)
		}
	}
	if hot.Tables[0].Name != "sales" || hot.Tables[0].Heat <= 0 {
		t.Errorf("%+v", hot.Tables)
	}
	stop() // what is counted in a moment between two looks may be of one table alone
	reading.Wait()
	waitForCollector(t, old)
	pgtest.Exec(t, old, "grant pg_monitor to hot_reader")
	if hot = readHot(t, asReader, HotSetOptions{}); hot.Source != FromBufferCache || hot.Bytes == 0 || len(findHot(t, hot, "sales").marks) != 0 {
		t.Errorf("%+v", hot)
	}
	pgtest.Exec(t, old, "drop extension pg_buffercache")
	if hot = readHot(t, asReader, HotSetOptions{Sample: time.Millisecond}); !strings.Contains(hot.Advice, "create extension pg_buffercache") {
		t.Errorf("%+v", hot)
	}
	// What is used is warmed, though nobody knows how much of it.
	report, err := Warm(t.Context(), open(t, old), WarmOptions{Hot: &hot})
	if err != nil || warmthOf(t, report, "sales").Bytes == 0 {
		t.Errorf("%+v, %v", report, err)
	}
	if w, err := ReadWarmth(t.Context(), open(t, old), hot); err != nil || w.Known || w.Advice == "" {
		t.Errorf("%+v, %v", w, err)
	}
	if w := EstimateWarmth(hot, report); !w.Estimated || w.Warm == 0 || w.Warm > w.Hot {
		t.Errorf("%+v", w)
	}
}

func testMoved(t *testing.T, c *pgserver.Cluster) {
	old, new := pgtest.Database(t, c), pgtest.Database(t, c)
	pgtest.Exec(t, old, salesBy("g"), "create extension pg_buffercache")
	pgtest.Exec(t, new, salesBy("hashint4(g)"), "create extension pg_prewarm")
	restart(t, c)
	use(t, old)
	hot := readHot(t, old, HotSetOptions{})
	report, err := Warm(t.Context(), open(t, new), WarmOptions{Hot: &hot})
	if err != nil {
		t.Fatal(err)
	}
	if w := warmthOf(t, report, "sales"); !w.Moved || w.Ranges != 0 || w.Method != ByPrimaryKey || w.Blocks {
		t.Errorf("%+v", w)
	}
}

func testUnderLoad(t *testing.T, c *pgserver.Cluster) {
	old, new := twoDatabases(t, c, "create extension pg_buffercache", "create extension pg_prewarm")
	pgtest.Exec(t, new, "create table doomed (id int primary key)", "insert into doomed select generate_series(1, 1000)")
	restart(t, c)
	use(t, old)
	hot := readHot(t, old, HotSetOptions{})
	hot.Tables = append(hot.Tables, HotTable{Table: Table{"public", "doomed"}, Heat: 1, Heap: HotPart{Size: 8192 * 5, Hot: 8192 * 5, Heat: 1}})
	const budget, rate = 1 << 20, 1 << 20
	done := make(chan struct{})
	var beside sync.WaitGroup
	writer, err := pgx.Connect(t.Context(), new)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close(t.Context())
	altered, written := 0, 0
	beside.Go(func() {
		reads := false // it is not to be found locked before it is read
		for {
			select {
			case <-done:
				return
			default:
			}
			if !reads {
				if err := writer.QueryRow(t.Context(), readsSQL).Scan(&reads); err != nil {
					t.Error(err)
					return
				}
				continue
			}
			_, err := writer.Exec(t.Context(), fmt.Sprintf("set lock_timeout = '10s'; alter table sales alter customer set default %d", altered))
			if err != nil {
				t.Errorf("altering a table that is being read: %v", err)
				return
			}
			altered++
			if _, err := writer.Exec(t.Context(), "update sales set customer = 1 where id = 5"); err != nil {
				t.Errorf("writing into a table that is being read: %v", err)
				return
			}
			written++
		}
	})
	began := time.Now()
	var order []string
	// By queries: they hold their locks to the end of a transaction.
	report, err := Warm(t.Context(), open(t, new), WarmOptions{Hot: &hot, Budget: budget, Rate: rate, Jobs: 1, NoPrewarm: true, Progress: func(p WarmProgress) {
		if order = append(order, p.Table.Name); p.Table.Name == "sales" {
			pgtest.Exec(t, new, "drop table doomed")
		}
	}})
	took := time.Since(began)
	close(done)
	beside.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if altered == 0 || written == 0 {
		t.Error("nobody wrote")
	}
	// Whoever comes last is still within the budget, by a portion.
	if report.Bytes > budget*5/4 || report.Read == 0 {
		t.Errorf("%d bytes, %d read, with a budget of %d", report.Bytes, report.Read, budget)
	}
	if least := time.Duration(report.Read) * time.Second / rate; took < least-time.Duration(pg256)*time.Second/rate {
		t.Errorf("%d bytes were read in %s", report.Read, took)
	}
	if at := slices.Index(order, "sales"); at != 0 {
		t.Errorf("order %q", order)
	}
	if w := warmthOf(t, report, "doomed"); w.Method != NotRead || w.Skipped == "" {
		t.Errorf("%+v", w)
	}
}

// readsSQL tells whether blocks are being read.
const readsSQL = `
select exists (select 1 from pg_stat_activity
                where application_name = 'pgcutover/shop/warm' and datname = current_database() and (query like '%pg_column_size%' or query like 'fetch %'))`

// pg256 is a portion of bytes that is paid for later.
const pg256 = 256 * 8192

func testRounds(t *testing.T, c *pgserver.Cluster) {
	old, new := twoDatabases(t, c, "create extension pg_buffercache", "create extension pg_prewarm")
	restart(t, c)
	use(t, old)
	var rounds []Round
	var n atomic.Int64
	options := RoundOptions{Every: 100 * time.Millisecond, Done: func(r Round) {
		rounds = append(rounds, r)
		n.Add(1)
	}}
	options.Until = func(context.Context) (bool, error) { return n.Load() >= 2, nil }
	err := KeepWarm(t.Context(), open(t, old), open(t, new), options)
	if err != nil || len(rounds) < 2 {
		t.Fatalf("%d rounds, %v", len(rounds), err)
	}
	first, second := rounds[0], rounds[1]
	if first.Report.Read == 0 || second.Report.Read > first.Report.Read/5 || second.Warmth.Fraction() < 0.7 || !strings.HasPrefix(second.Line(), "round 2: ") {
		t.Errorf("%s\n%s", first.Line(), second.Line())
	}
	pgtest.Exec(t, old, "drop extension pg_buffercache")
	bare, err := WarmByOld(t.Context(), open(t, old), open(t, new), HotSetOptions{Sample: time.Millisecond}, WarmOptions{NoPrewarm: true})
	if err != nil || len(bare.Advice()) != 1 || !strings.Contains(bare.Advice()[0], "create extension pg_buffercache; and the same on new") || !bare.Warmth.Known {
		t.Errorf("%q, %v", bare.Advice(), err)
	}
	// Old is gone: new is kept warm all the same.
	s := open(t, old)
	s.Close()
	pgtest.Exec(t, c.URL("postgres"), fmt.Sprintf("alter database %s allow_connections false", s.Database()))
	r, err := WarmByOld(t.Context(), s, open(t, new), HotSetOptions{}, WarmOptions{})
	if err != nil || len(r.Problems) != 1 || r.Report.Bytes == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	pgtest.Exec(t, c.URL("postgres"), fmt.Sprintf("alter database %s allow_connections true", s.Database()))
	ctx, stop := context.WithCancelCause(t.Context())
	stop(context.Canceled)
	if err := KeepWarm(ctx, open(t, old), open(t, new), options); err == nil {
		t.Error("it goes on after its end")
	}
}

// A role that may read tables and nothing else warms them and, by queries, their
// indexes.
func testReader(t *testing.T, c *pgserver.Cluster) {
	old, new := twoDatabases(t, c, "create extension pg_buffercache")
	pgtest.Exec(t, new, "create extension pg_prewarm", "drop role if exists sales_reader; create role sales_reader login",
		"grant select on all tables in schema public to sales_reader")
	t.Cleanup(func() { pgtest.Exec(t, new, "drop owned by sales_reader cascade", "drop role sales_reader") })
	restart(t, c)
	use(t, old)
	hot := readHot(t, old, HotSetOptions{})
	s := open(t, pgtest.WithUser(t, new, "sales_reader", ""))
	report, err := Warm(t.Context(), s, WarmOptions{Hot: &hot})
	if err != nil || len(report.Warnings) != 0 {
		t.Fatalf("%v, %q", err, report.Warnings)
	}
	if w := warmthOf(t, report, "sales"); w.Ranges == 0 || w.Bytes < 1<<20 {
		t.Errorf("%+v", w)
	}
	if w, err := ReadWarmth(t.Context(), s, hot); err != nil || w.Known || !strings.Contains(w.Advice, `grant pg_monitor to "sales_reader"`) {
		t.Errorf("%+v, %v", w, err)
	}
}

// logs is a partitioned table whose leaves have hot rows of their own, and a
// table whose age is in a column that nobody would guess.
const logs = `
create table logs (id bigint, booked timestamptz not null, pad text) partition by range (booked);
create table logs_old partition of logs for values from ('2001-01-01') to ('2002-01-01');
create table logs_new partition of logs for values from ('2002-01-01') to ('2101-01-01');
create index on logs_old (booked);
create index on logs_new (booked);
insert into logs select g, '2001-01-01'::timestamptz + g * interval '1 min', repeat('x', 220) from generate_series(1, 20000) g;
insert into logs select g, now() - (20000 - g) * interval '1 min', repeat('x', 220) from generate_series(1, 20000) g;
create table bookings (id text primary key, updated_at timestamptz, booked timestamptz, pad text);
insert into bookings select g, now(), now() - g * interval '1 min', repeat('x', 220) from generate_series(1, 5000) g;
create index on bookings (updated_at);
create index on bookings (booked);
create table unindexed (id int primary key, booked timestamptz);
insert into unindexed select g, now() from generate_series(1, 100) g;`

func testColumns(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, logs, "create extension pg_buffercache")
	restart(t, c)
	pgtest.Exec(t, url, `set enable_seqscan = off; set enable_bitmapscan = off;
		do $$ begin for n in 1 .. 4 loop perform count(pad) from logs_new where booked > now() - interval '1 day'; end loop; end $$`)
	hot := readHot(t, url, HotSetOptions{})
	if hot.Find(Table{"public", "logs_old"}) != nil || hot.Find(Table{"public", "logs"}) != nil || findHot(t, hot, "logs_new").Heap.Hot == 0 {
		t.Errorf("%+v", hot.Tables)
	}
	report, err := Warm(t.Context(), open(t, url), WarmOptions{Hot: &hot})
	if err != nil || warmthOf(t, report, "logs_new").Method != ByColumn {
		t.Errorf("%+v, %v", report, err)
	}
	if w := warmthOf(t, report, "logs_old"); w.Method != NotRead || !strings.Contains(w.Skipped, "nobody reads it on old") || len(report.Warnings) != 0 {
		t.Errorf("%+v, %q", w, report.Warnings)
	}
	columns := map[string]string{"public.bookings": "booked", "public.unindexed": "booked"}
	report, err = Warm(t.Context(), open(t, url), WarmOptions{Columns: columns})
	if err != nil {
		t.Fatal(err)
	}
	if w := warmthOf(t, report, "bookings"); w.Column != "booked" || w.Rows < 1400 || w.Rows > 1441 {
		t.Errorf("%+v", w)
	}
	if len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], `"public"."unindexed": warm.columns names booked`) {
		t.Errorf("%q", report.Warnings)
	}
}
