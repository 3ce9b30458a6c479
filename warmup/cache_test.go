package warmup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestWarm(t *testing.T) {
	onEachMajor(t, map[string]string{"shared_buffers": "64MB"}, []subtest{
		{"recent rows by a column", testByColumn},
		{"highest primary keys", testByPrimaryKey},
		{"last blocks", testLastBlocks},
		{"which way", testWays},
		{"all kinds of tables", testWarmAllKinds},
		{"locked table", testWarmLocked},
		{"budget", testBudget},
		{"time", testWarmTime},
		{"pg_prewarm", testPrewarm},
		{"owner without superuser", testWarmOwner},
	})
}

// buffered returns how many blocks of each relation of the test's database are
// in shared buffers: tables and indexes by name, TOAST tables as "toast of".
func buffered(t *testing.T, url string) map[string]int {
	t.Helper()
	lines := column[string](t, url, `
		select coalesce('toast of ' || o.relname, c.relname) || '=' || count(distinct b.relblocknumber)
		  from pg_buffercache b
		  join pg_class c on b.relfilenode = pg_relation_filenode(c.oid)
		   and b.reldatabase = (select oid from pg_database where datname = current_database())
		  left join pg_class o on o.reltoastrelid = c.oid
		 where b.relforknumber = 0 and c.oid >= 16384
		 group by c.relname, o.relname`)
	found := map[string]int{}
	for _, line := range lines {
		name, count, _ := strings.Cut(line, "=")
		n, err := strconv.Atoi(count)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = n
	}
	return found
}

// bufferedBlocks returns the blocks of a table that are in shared buffers.
func bufferedBlocks(t *testing.T, url, table string) map[int64]bool {
	t.Helper()
	found := map[int64]bool{}
	for _, block := range column[int64](t, url, fmt.Sprintf(`select relblocknumber from pg_buffercache
		where relfilenode = pg_relation_filenode('%s') and relforknumber = 0`, table)) {
		found[block] = true
	}
	return found
}

// restart empties the server's cache.
func restart(t *testing.T, c *pgserver.Cluster) {
	t.Helper()
	if err := c.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func warmthOf(t *testing.T, r WarmReport, name string) TableWarmth {
	t.Helper()
	at := slices.IndexFunc(r.Tables, func(w TableWarmth) bool { return w.Name == name })
	if at < 0 {
		t.Fatalf("%s is not in the report", name)
	}
	return r.Tables[at]
}

// orders is 20000 rows, one a minute, of which the newest are all over the
// file; one in ten has a document out of line.
const orders = `
create table orders (id bigint primary key, number int unique, customer int, created_at timestamptz not null,
                     due_at timestamptz, t text, document text);
alter table orders alter document set storage external;
insert into orders
select g, 20001 - g, g % 700, now() - (20000 - g) * interval '1 min', now() + interval '30 days', repeat('x', 200),
       case when g % 10 = 0 then repeat(md5(g::text), 200) end
  from generate_series(1, 20000) g
 order by ORDER;
create index on orders (created_at);
create index on orders (customer);
create index on orders (due_at);
create extension pg_buffercache;`

// ordersBy returns orders whose rows lie in the file in the given order.
func ordersBy(expression string) string { return strings.Replace(orders, "ORDER", expression, 1) }

func testByColumn(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, ordersBy("g % 5, g")) // five runs, each in order of time
	restart(t, c)
	if before := buffered(t, url); before["orders"] != 0 || before["toast of orders"] != 0 {
		t.Fatalf("the cache is not cold: %v", before)
	}
	began := time.Now()
	report, err := Warm(t.Context(), open(t, url), WarmOptions{Recent: 1000 * time.Minute})
	took := time.Since(began)
	if err != nil {
		t.Fatal(err)
	}
	after, blocks := buffered(t, url), bufferedBlocks(t, url, "orders")
	w := warmthOf(t, report, "orders")
	if w.Method != ByColumn || w.Column != "created_at" || w.Rows < 980 || w.Rows > 1001 || len(report.Warnings) != 0 || w.Took > took {
		t.Errorf("%+v, %q", w, report.Warnings)
	}
	// Every block of a recent row is there, and few others: the tables has
	// about 640 blocks, the recent rows lie in a twentieth of them.
	recent := column[int64](t, url, "select distinct (ctid::text::point)[0]::bigint from orders where id > 20000 - "+fmt.Sprint(w.Rows))
	for _, block := range recent {
		if !blocks[block] {
			t.Errorf("block %d, with recent rows, is not in the cache", block)
		}
	}
	if len(recent) < 20 || len(blocks) > len(recent)+5+lookedRows/10 {
		t.Errorf("%d blocks are in the cache, %d hold recent rows", len(blocks), len(recent))
	}
	// 100 documents of 6400 bytes, in four chunks or so of a block each.
	if n := after["toast of orders"]; n < 80 || n > 150 {
		t.Errorf("%d blocks of documents are in the cache", n)
	}
	for _, index := range []string{"orders_pkey", "orders_number_key", "orders_created_at_idx", "orders_customer_idx"} {
		if after[index] < 3 {
			t.Errorf("%d blocks of %s are in the cache", after[index], index)
		}
	}
	real := int64(after["orders"]+after["toast of orders"]) * 8192
	if w.Bytes < real/2 || w.Bytes > real*2 || report.Bytes != w.Bytes {
		t.Errorf("%d bytes were reported, %d are in the cache", w.Bytes, real)
	}
	var how []string
	for _, i := range w.Indexes {
		rows := "all"
		if i.Rows != w.Rows {
			rows = fmt.Sprint(i.Rows)
		}
		how = append(how, fmt.Sprintf("%s %s %s", i.Name, i.How, rows))
	}
	want := []string{
		"orders_created_at_idx followed all", "orders_pkey looked up all", "orders_number_key looked up all",
		"orders_customer_idx looked up 500", "orders_due_at_idx looked up 500",
	}
	slices.Sort(how)
	slices.Sort(want)
	if !slices.Equal(how, want) {
		t.Errorf("indexes %q, want %q", how, want)
	}
	noSessions(t, url)
}

func testByPrimaryKey(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, ordersBy("g % 5, g"), "drop index orders_created_at_idx")
	restart(t, c)
	report, err := Warm(t.Context(), open(t, url), WarmOptions{Rows: 1000})
	if err != nil {
		t.Fatal(err)
	}
	blocks := bufferedBlocks(t, url, "orders")
	w := warmthOf(t, report, "orders")
	if w.Method != ByPrimaryKey || w.Column != "id" || w.Rows != 1000 {
		t.Errorf("%+v", w)
	}
	for _, block := range column[int64](t, url, "select distinct (ctid::text::point)[0]::bigint from orders where id > 19000") {
		if !blocks[block] {
			t.Errorf("block %d, with the highest keys, is not in the cache", block)
		}
	}
	if n := buffered(t, url)["toast of orders"]; n < 80 || n > 150 {
		t.Errorf("%d blocks of documents are in the cache", n)
	}
}

func testLastBlocks(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	// 48 MB: more than a quarter of shared_buffers, so that a sequential scan
	// would go through a ring.
	pgtest.Exec(t, url, "create table log (line int, document text, pad text)", "alter table log alter document set storage external",
		`insert into log select g, case when g % 1000 = 0 then repeat(md5(g::text), 200) end, repeat('x', 280) from generate_series(1, 150000) g`,
		"create extension pg_buffercache")
	total := pgtest.Value[int64](t, url, "select pg_relation_size('log') / 8192")
	restart(t, c)
	const budget = 16 << 20
	report, err := Warm(t.Context(), open(t, url), WarmOptions{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	blocks := bufferedBlocks(t, url, "log")
	w := warmthOf(t, report, "log")
	if w.Method != LastBlocks || w.Rows < 40000 || w.Bytes < budget*9/10 || w.Bytes > budget*11/10 || len(report.Warnings) != 0 {
		t.Errorf("%+v, %q", w, report.Warnings)
	}
	if len(blocks) < 1800 || len(blocks) > 2200 {
		t.Errorf("%d of %d blocks are in the cache", len(blocks), total)
	}
	for block := total - 1; block > total-1800; block-- {
		if !blocks[block] {
			t.Errorf("block %d of %d is not in the cache", block, total)
			break
		}
	}
	if n := buffered(t, url)["toast of log"]; n < 35 || n > 60 {
		t.Errorf("%d blocks of documents are in the cache", n)
	}
}

// ways are tables by the way their newest rows are to be found.
const ways = `
create table updated (id int primary key, created_at timestamptz, updated_at timestamp, "select" int);
insert into updated select g, now(), now() at time zone 'UTC' - g * interval '1 min', g from generate_series(1, 3000) g;
create index on updated (created_at);
create index on updated (updated_at desc nulls last, id);
create table bookings (id serial primary key, starts_at timestamptz, until timestamptz);
insert into bookings (starts_at, until) select now() + interval '3 months', 'infinity' from generate_series(1, 50);
create index on bookings (starts_at);
create index on bookings (until);
create table days (day date, n int);
insert into days select current_date - g, g from generate_series(0, 50) g;
create index on days (day);
create table products (id smallint primary key, created_at timestamptz);
insert into products select g, now() - interval '2 years' from generate_series(1, 50) g;
create index on products (created_at);
create table tenants (tenant int, id int, primary key (tenant, id));
insert into tenants select g % 5, g from generate_series(1, 50) g;
create table v4 (id uuid primary key);
insert into v4 select md5(g::text)::uuid from generate_series(1, 50) g;
create table v7 (id uuid primary key);
insert into v7 select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint - g), 12, '0') || '7000' || '8000' || lpad(to_hex(g), 12, '0'))::uuid
  from generate_series(1, 50) g;
create table partial (id text primary key, created_at timestamptz);
insert into partial select g, now() from generate_series(1, 50) g;
create index on partial (created_at) where id > '3';
create table "Odd ""Table""" ("The ID" bigint primary key, "Created At" timestamp, t int, x int);
insert into "Odd ""Table""" select g, now(), g, g from generate_series(1, 50) g;
create index on "Odd ""Table""" ("Created At");
create table measurements (at timestamptz, created_at timestamptz not null, n int) partition by range (created_at);
create table measurements_old partition of measurements for values from ('2001-01-01') to ('2002-01-01');
create table measurements_new partition of measurements for values from ('2002-01-01') to ('2101-01-01');
create index on measurements_old (created_at);
create index on measurements_new (created_at);
insert into measurements select now(), '2001-06-01', g from generate_series(1, 50) g;
insert into measurements select now(), now(), g from generate_series(1, 50) g;
create domain stamp as timestamptz;
create table domains (id text primary key, created_at stamp);
insert into domains select g, now() from generate_series(1, 50) g;
create index on domains (created_at);
create type mood as enum ('well', 'ill');
create table enums (id int primary key, mood mood unique);
insert into enums values (1, 'well'), (2, 'ill');
create table nothing (id int primary key);`

func testWays(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, ways)
	report, err := Warm(t.Context(), open(t, url), WarmOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range report.Tables {
		rows := fmt.Sprint(w.Rows)
		if w.Name == "updated" && w.Rows > 1430 && w.Rows <= 1440 {
			rows = "a day's"
		}
		got = append(got, fmt.Sprintf("%s: %s %s %s", w.Name, w.Method, w.Column, rows))
	}
	want := []string{
		`Odd "Table": recent by column Created At 50`,
		"bookings: primary key id 50",
		"days: recent by column day 2",
		"domains: last blocks  50",
		"enums: primary key id 2",
		"measurements_new: recent by column created_at 50",
		"measurements_old: not read  0",
		"partial: last blocks  50",
		"products: primary key id 50",
		"tenants: last blocks  50",
		"updated: recent by column updated_at a day's",
		"v4: last blocks  50",
		"v7: primary key id 50",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(report.Warnings) != 0 {
		t.Errorf("warnings %q", report.Warnings)
	}
	if old := warmthOf(t, report, "measurements_old"); !strings.Contains(old.Skipped, "created_at") {
		t.Errorf("%+v", old)
	}
}

func testWarmAllKinds(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop, fmt.Sprintf("alter database %s set default_transaction_read_only = on", pgtest.Value[string](t, url, "select current_database()")))
	var progress []WarmProgress
	report, err := Warm(t.Context(), open(t, url), WarmOptions{Progress: func(p WarmProgress) { progress = append(progress, p) }})
	if err != nil || len(report.Warnings) != 0 {
		t.Fatalf("%v, %q", err, report.Warnings)
	}
	var got []string
	for _, w := range report.Tables {
		got = append(got, fmt.Sprintf("%s.%s %d", w.Schema, w.Name, w.Rows))
	}
	want := []string{
		"SHOP.Order Items 500", "public.child 200", "public.events_1 1000", "public.events_2a 1000", "public.events_2b 1000",
		"public.items 3000", "public.no_columns 1", "public.scratch 10", "public.totals 10", "public.uncounted 1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	last := progress[len(progress)-1]
	if len(progress) != len(want) || last.Done != len(want) || last.Total != len(want) || last.Bytes == 0 || last.Bytes > report.Bytes {
		t.Errorf("%d times progress, last %+v", len(progress), last)
	}
}

func testWarmLocked(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop)
	s := open(t, url)
	lock(t, url, "lock table items in access exclusive mode")
	began := time.Now()
	report, err := Warm(t.Context(), s, WarmOptions{})
	if err != nil || time.Since(began) > 30*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	if items := warmthOf(t, report, "items"); items.Method != NotRead || items.Skipped == "" || len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], `"public"."items"`) {
		t.Errorf("%+v, %q", items, report.Warnings)
	}
	if totals := warmthOf(t, report, "totals"); totals.Rows != 10 {
		t.Errorf("%+v", totals)
	}

	// Locked after the look at the locks: while another table is read.
	var pid int32
	report, err = Warm(t.Context(), s, WarmOptions{Jobs: 1, LockTimeout: 200 * time.Millisecond, Progress: func(p WarmProgress) {
		if p.Done == 1 {
			pid, _ = lock(t, url, "lock table child in access exclusive mode")
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if child := warmthOf(t, report, "child"); child.Method != NotRead || !strings.Contains(child.Skipped, fmt.Sprintf("session %d", pid)) {
		t.Errorf("%+v", child)
	}
}

func testBudget(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, ordersBy("g"), "create table small as select generate_series(1, 100) as n",
		"create table wide (id int primary key, document text); alter table wide alter document set storage external;"+
			"insert into wide select g, repeat(md5(g::text), 1000) from generate_series(1, 300) g")
	restart(t, c)
	const budget = 1 << 20
	report, err := Warm(t.Context(), open(t, url), WarmOptions{Budget: budget})
	if err != nil {
		t.Fatal(err)
	}
	after := buffered(t, url)
	var blocks int
	for _, table := range []string{"orders", "toast of orders", "small", "wide", "toast of wide"} {
		blocks += after[table]
	}
	if report.Budget != budget || report.Bytes > budget*12/10 || blocks > budget/8192*13/10 || blocks < budget/8192/2 {
		t.Errorf("%d bytes reported, %d blocks in the cache", report.Bytes, blocks)
	}
	small, wide := warmthOf(t, report, "small"), warmthOf(t, report, "wide")
	if small.Rows != 100 || wide.Rows < 5 || wide.Rows > 30 {
		t.Errorf("%+v %+v", small, wide)
	}
	// By default three quarters of shared_buffers.
	if report, err = Warm(t.Context(), open(t, url), WarmOptions{}); err != nil || report.Budget != 48<<20 {
		t.Errorf("budget %d, %v", report.Budget, err)
	}
	// Of which databases that are moved together have a part each.
	if report, err = Warm(t.Context(), open(t, url), WarmOptions{Beside: 3}); err != nil || report.Budget != 16<<20 {
		t.Errorf("budget %d, %v", report.Budget, err)
	}
	// Never as much as there are buffers.
	if report, err = Warm(t.Context(), open(t, url), WarmOptions{Budget: 1 << 40, Total: time.Nanosecond}); err != nil || report.Budget != 56<<20 {
		t.Errorf("budget %d, %v", report.Budget, err)
	}
	// Too little for everybody.
	if report, err = Warm(t.Context(), open(t, url), WarmOptions{Budget: 100}); err != nil || report.Rows != 0 || len(report.Warnings) != 1 {
		t.Errorf("%+v, %v", report, err)
	}
	// Enough for two: the tables that are used most.
	pgtest.Exec(t, url, "do $$ begin for n in 1 .. 50 loop perform count(*) from small; perform count(*) from orders; end loop; end $$")
	waitForCollector(t, url)
	report, err = Warm(t.Context(), open(t, url), WarmOptions{Budget: 2 * 8192})
	if err != nil || warmthOf(t, report, "wide").Method != NotRead || warmthOf(t, report, "small").Rows != 100 || warmthOf(t, report, "orders").Rows == 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

func testWarmTime(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop)
	s := open(t, url)
	report, err := Warm(t.Context(), s, WarmOptions{Total: time.Nanosecond})
	if err != nil || report.Rows != 0 || len(report.Warnings) != 1 || !strings.Contains(report.Warnings[0], "time for all tables") {
		t.Errorf("%+v, %v", report, err)
	}
	report, err = Warm(t.Context(), s, WarmOptions{PerTable: time.Millisecond, Rows: 1 << 40})
	if err != nil {
		t.Errorf("%+v, %v", report, err)
	}
}

func testPrewarm(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, ordersBy("g"), `create schema "Ext"`, `create extension pg_prewarm schema "Ext"`)
	restart(t, c)
	report, err := Warm(t.Context(), open(t, url), WarmOptions{Recent: 100 * time.Minute})
	if err != nil || len(report.Warnings) != 0 {
		t.Fatalf("%v, %q", err, report.Warnings)
	}
	after := buffered(t, url)
	for _, index := range []string{"orders_customer_idx", "orders_due_at_idx"} {
		want := pgtest.Value[int](t, url, "select pg_relation_size($1::text::regclass)::int / 8192", index)
		if after[index] != want {
			t.Errorf("%d of %d blocks of %s are in the cache", after[index], want, index)
		}
		w := warmthOf(t, report, "orders")
		at := slices.IndexFunc(w.Indexes, func(i IndexWarmth) bool { return i.Name == index })
		if at < 0 || w.Indexes[at].How != Prewarmed || w.Indexes[at].Bytes != int64(want)*8192 {
			t.Errorf("%+v", w.Indexes)
		}
	}
}

func testWarmOwner(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, shop, "create extension pg_prewarm", "drop role if exists warm_reader; create role warm_reader login",
		"alter table items owner to warm_reader")
	t.Cleanup(func() { pgtest.Exec(t, url, "drop owned by warm_reader cascade", "drop role warm_reader") })
	report, err := Warm(t.Context(), open(t, pgtest.WithUser(t, url, "warm_reader", "")), WarmOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if items := warmthOf(t, report, "items"); items.Bytes == 0 || items.Warning != "" || items.Indexes[len(items.Indexes)-1].How != Prewarmed {
		t.Errorf("%+v", items)
	}
	if child := warmthOf(t, report, "child"); child.Method != NotRead || !strings.Contains(child.Skipped, "permission denied") {
		t.Errorf("%+v", child)
	}
	if len(report.Warnings) != len(report.Tables)-1 {
		t.Errorf("warnings %q", report.Warnings)
	}
}
