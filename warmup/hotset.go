package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// HotSetOptions say how a hot set is read. The zero value is ready for use.
type HotSetOptions struct {
	// Sample is how long rates of block accesses are counted, where
	// pg_buffercache cannot be read; 0 means 3 seconds, or none at all for a
	// database below 256 MB, for which it hardly matters what is read first.
	Sample time.Duration
	// Bound is the most time that reading pg_buffercache may take on old, about
	// a microsecond for each buffer; 0 means 20 seconds.
	Bound time.Duration
	// LockTimeout bounds the wait for a table that somebody locks exclusively;
	// 0 means 1 second.
	LockTimeout time.Duration
}

const smallDatabase = 256 << 20

// sample is how long rates are counted.
func (o HotSetOptions) sample(files []*file) time.Duration {
	var blocks int64
	for _, f := range files {
		blocks += f.Blocks
	}
	switch {
	case o.Sample > 0:
		return o.Sample
	case blocks*blockBytes < smallDatabase:
		return 0
	}
	return 3 * time.Second
}

func (o HotSetOptions) withDefaults() HotSetOptions {
	o.Bound = cmp.Or(max(o.Bound, 0), 20*time.Second)
	o.LockTimeout = cmp.Or(max(o.LockTimeout, 0), time.Second)
	return o
}

// HotSource is where a hot set was read.
type HotSource string

// The sources, best first.
const (
	FromBufferCache HotSource = "pg_buffercache"                 // blocks in the cache, used again and again
	FromRates       HotSource = "block rates"                    // pg_statio_*, over a sample
	FromTotals      HotSource = "block counts since their reset" // pg_statio_*
	FromNothing     HotSource = "nothing"                        // no table has been read
)

// HotSet is what production keeps in the cache of old, or how often it reads
// what, where the cache cannot be looked at.
type HotSet struct {
	Source HotSource `json:"source"`
	// Advice is the grant or the extension that gives a better source.
	Advice string        `json:"advice,omitempty"`
	Tables []HotTable    `json:"tables"` // hottest first; tables that nobody reads are left out
	Bytes  int64         `json:"bytes"`  // in the cache and used again; 0 when Source knows none
	Cache  int64         `json:"cache_bytes"`
	At     time.Time     `json:"at"`
	Took   time.Duration `json:"took_ns"`
}

// HotTable is what is hot of one table.
type HotTable struct {
	Table
	Heap    HotPart    `json:"heap"`
	Toast   HotPart    `json:"toast"` // the TOAST table with its index
	Indexes []HotIndex `json:"indexes,omitempty"`
	// Heat is how much it is used: the sum of its buffers' usage counts, or
	// blocks accessed, a second or in all. Comparable within one HotSet.
	Heat float64 `json:"heat"`

	toastBlocks int64 // of the TOAST table, which Toast.Ranges are of

	keys  []string // columns of the key that the marks are of
	marks []rowMark
}

// Bytes are those of the table, with TOAST and indexes, that are hot.
func (t HotTable) Bytes() int64 {
	sum := t.Heap.Hot + t.Toast.Hot
	for _, i := range t.Indexes {
		sum += i.Hot
	}
	return sum
}

// Size is what the table has in all.
func (t HotTable) Size() int64 {
	sum := t.Heap.Size + t.Toast.Size
	for _, i := range t.Indexes {
		sum += i.Size
	}
	return sum
}

// HotPart is a file and what is hot of it.
type HotPart struct {
	Size   int64      `json:"size"`
	Hot    int64      `json:"hot"`  // bytes in the cache and used again; 0 also when Source knows none
	Used   int64      `json:"used"` // bytes in the cache
	Heat   float64    `json:"heat"`
	Ranges []HotRange `json:"-"` // of its blocks; empty when Source knows none
}

// HotIndex is an index and what is hot of it.
type HotIndex struct {
	Name string `json:"name"`
	HotPart
	Scans int64 `json:"scans"` // since the statistics were reset
}

// HotRange is a range of blocks of which some are hot.
type HotRange struct {
	From, To int64 // blocks of the file on old; To is the one after the last
	Hot      int64 // blocks of them
	Used     int64 // blocks of them in the cache, hot or not
	Heat     float64
}

// Find returns what is hot of a table, nil when nobody reads it.
func (h *HotSet) Find(t Table) *HotTable {
	if h == nil {
		return nil
	}
	for i := range h.Tables {
		if h.Tables[i].Table == t {
			return &h.Tables[i]
		}
	}
	return nil
}

// index returns what is hot of an index of the table, nil for one that old has
// not, or that nobody reads.
func (t *HotTable) index(name string) *HotIndex {
	if t == nil {
		return nil
	}
	for i := range t.Indexes {
		if t.Indexes[i].Name == name {
			return &t.Indexes[i]
		}
	}
	return nil
}

// ReadHotSet asks a server, which is old, what its clients use. It looks into
// shared buffers where pg_buffercache is installed and may be read (a member of
// pg_monitor may), once and bounded by o.Bound; else it counts accesses to
// blocks for o.Sample, and when there were none takes what was counted since the
// statistics were reset. Application tables only, all leaves of partitioned
// ones. It writes nothing and takes no lock but ACCESS SHARE.
// Postgres manual: F.25, pg_buffercache, and 27.2, pg_statio_all_tables.
func ReadHotSet(ctx context.Context, from *pg.Server, o HotSetOptions) (HotSet, error) {
	began := time.Now()
	o = o.withDefaults()
	h := HotSet{Tables: []HotTable{}, At: began.UTC()}
	err := h.read(ctx, from, o)
	h.Took = time.Since(began)
	if err != nil {
		return h, fmt.Errorf("reading what the %s server's clients use: %w", from.Side(), err)
	}
	return h, nil
}

func (h *HotSet) read(ctx context.Context, from *pg.Server, o HotSetOptions) error {
	conn, err := from.Connect(ctx, "warm", lookSettings(from, o))
	if err != nil {
		return err
	}
	defer endSession(ctx, conn)
	var files []*file
	err = answered(ctx, from, o.answer(), func(ctx context.Context) (err error) {
		if files, err = filesOf(ctx, conn); err != nil {
			return err
		}
		if err := conn.QueryRow(ctx, cacheSizeSQL).Scan(&h.Cache); err != nil {
			return fmt.Errorf("asking for the size of the cache: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	sample := o.sample(files)
	err = answered(ctx, from, o.answer()+sample, func(ctx context.Context) error {
		found, err := h.fromCache(ctx, conn, files)
		if err == nil && !found {
			err = h.fromCounts(ctx, conn, files, sample)
		}
		return err
	})
	if err != nil {
		return err
	}
	h.collect(files)
	if h.Source == FromBufferCache {
		return h.mark(ctx, from, conn, o.answer())
	}
	return nil
}

// answer is how long an exchange with the server may take, whose statements
// statement_timeout ends after Bound.
func (o HotSetOptions) answer() time.Duration { return o.Bound + 2*time.Minute }

// lookSettings are those of a session that looks into a cache.
func lookSettings(s *pg.Server, o HotSetOptions) map[string]string {
	settings := map[string]string{
		"lock_timeout": milliseconds(o.LockTimeout), "statement_timeout": milliseconds(o.Bound),
		"default_transaction_read_only": "on",
		// Each buffer is compared with all files otherwise, should the planner
		// think that there are few.
		"enable_nestloop": "off",
	}
	if s.Major() >= 11 {
		settings["jit"] = "off" // what cannot do without a nested loop seems so dear that it would be compiled
	}
	return settings
}

// cacheSizeSQL returns the size of shared_buffers in bytes.
const cacheSizeSQL = `
select (select s.setting::bigint from pg_settings s where s.name = 'shared_buffers') * current_setting('block_size')::bigint`

// The kinds of files that a table has.
const (
	heapFile       = "heap"
	toastFile      = "toast"
	toastIndexFile = "toast index"
	indexFile      = "index"
)

// file is a table, its TOAST table, or an index of either.
type file struct {
	Schema, Table string
	Kind          string
	Name          string // of the index, or of the table itself
	OID           uint32
	Blocks        int64
	Scans         int64
	hot           HotPart
}

// filesSQL lists the application tables with what belongs to each. Sizes are
// those of the last count where somebody locks exclusively, since
// pg_relation_size would wait.
const filesSQL = `
with locked as (
    select distinct l.relation
      from pg_locks l
     where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock'
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
)
select n.nspname, t.relname, part.kind, c.relname, c.oid,
       case when locked.relation is not null then c.relpages::bigint
            else coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::bigint end,
       coalesce(pg_stat_get_numscans(c.oid), 0)
  from pg_class t
  join pg_namespace n on n.oid = t.relnamespace
 cross join lateral (
        select t.oid as oid, 'heap' as kind
         union all
        select t.reltoastrelid, 'toast' where t.reltoastrelid <> 0
         union all
        select i.indexrelid, 'toast index' from pg_index i where t.reltoastrelid <> 0 and i.indrelid = t.reltoastrelid
         union all
        select i.indexrelid, 'index' from pg_index i where i.indrelid = t.oid and i.indisvalid
       ) part
  join pg_class c on c.oid = part.oid
  left join locked on locked.relation = c.oid
 where t.relkind in ('r', 'm')
   and t.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and n.nspname not like 'pg\_temp\_%' and n.nspname not like 'pg\_toast\_temp\_%'
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = t.oid and d.deptype = 'e')
 order by n.nspname, t.relname, part.kind, c.relname`

// filesOf lists the files of all application tables.
func filesOf(ctx context.Context, conn *pgx.Conn) ([]*file, error) {
	var files []*file
	err := untilUnlocked(ctx, func() error {
		rows, err := conn.Query(ctx, filesSQL)
		if err != nil {
			return err
		}
		files, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*file, error) {
			var f file
			err := row.Scan(&f.Schema, &f.Table, &f.Kind, &f.Name, &f.OID, &f.Blocks, &f.Scans)
			return &f, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing tables and indexes: %w", err)
	}
	return files, nil
}

// blockBytes is the size of a block; other sizes need a server of one's own
// making, and then only bytes that are told are wrong by a factor.
const blockBytes = 8192

// collect makes tables of files.
func (h *HotSet) collect(files []*file) {
	tables := map[Table]*HotTable{}
	var order []Table
	for _, f := range files {
		name := Table{Schema: f.Schema, Name: f.Table}
		t := tables[name]
		if t == nil {
			t = &HotTable{Table: name}
			tables[name] = t
			order = append(order, name)
		}
		f.hot.Size = f.Blocks * blockBytes
		t.Heat += f.hot.Heat
		h.Bytes += f.hot.Hot
		switch f.Kind {
		case heapFile:
			t.Heap = f.hot
		case toastFile, toastIndexFile:
			t.Toast.Size += f.hot.Size
			t.Toast.Hot += f.hot.Hot
			t.Toast.Used += f.hot.Used
			t.Toast.Heat += f.hot.Heat
			if f.Kind == toastFile {
				t.Toast.Ranges, t.toastBlocks = f.hot.Ranges, f.Blocks
			}
		case indexFile:
			t.Indexes = append(t.Indexes, HotIndex{Name: f.Name, HotPart: f.hot, Scans: f.Scans})
		}
	}
	for _, name := range order {
		if t := tables[name]; t.Heat > 0 {
			slices.SortStableFunc(t.Indexes, func(a, b HotIndex) int { return cmp.Compare(b.Heat, a.Heat) })
			h.Tables = append(h.Tables, *t)
		}
	}
	slices.SortStableFunc(h.Tables, func(a, b HotTable) int { return cmp.Compare(b.Heat, a.Heat) })
	if len(h.Tables) == 0 {
		h.Source = FromNothing
	}
}

// countsSQL returns how many blocks of each of the files $1 have been accessed,
// in the cache or not, since the statistics were reset.
const countsSQL = `
select f.oid, coalesce(pg_stat_get_blocks_fetched(f.oid), 0)
  from unnest($1::oid[]) as f(oid)`

func counts(ctx context.Context, conn *pgx.Conn, files []*file) (map[uint32]int64, error) {
	oids := make([]uint32, len(files))
	for i, f := range files {
		oids[i] = f.OID
	}
	rows, err := conn.Query(ctx, countsSQL, oids)
	if err != nil {
		return nil, fmt.Errorf("asking how many blocks were accessed: %w", err)
	}
	found := make(map[uint32]int64, len(files))
	var oid uint32
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&oid, &n}, func() error { found[oid] = n; return nil }); err != nil {
		return nil, fmt.Errorf("asking how many blocks were accessed: %w", err)
	}
	return found, nil
}

// fromCounts compares how often files are accessed, which everybody may see.
func (h *HotSet) fromCounts(ctx context.Context, conn *pgx.Conn, files []*file, sample time.Duration) error {
	first, err := counts(ctx, conn, files)
	if err != nil {
		return err
	}
	began, last := time.Now(), first
	if sample > 0 {
		if err := pause(ctx, sample); err != nil {
			return err
		}
		if last, err = counts(ctx, conn, files); err != nil {
			return err
		}
	}
	seconds := max(time.Since(began), time.Microsecond).Seconds()
	h.Source = FromTotals
	for _, f := range files {
		f.hot.Heat = max(float64(last[f.OID]-first[f.OID]), 0) / seconds
		if f.hot.Heat > 0 {
			h.Source = FromRates
		}
	}
	if h.Source == FromRates {
		return nil
	}
	for _, f := range files {
		f.hot.Heat = float64(last[f.OID])
	}
	return nil
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d > 0 && pg.Pause(ctx, d) == nil {
		return nil
	}
	return cancelled(ctx)
}

// errNoCache says that a server's cache cannot be looked at, and what mends it.
var errNoCache = errors.New("pg_buffercache cannot be read")
