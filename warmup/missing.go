package warmup

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// probeBound is how long one table is searched for a row.
const probeBound = 2 * time.Second

// Hole is a table that has rows and lacks planner statistics.
type Hole struct {
	Table
	// Lacks says what there is none of, such as "statistics" or "extended
	// statistics \"public\".\"pairs\"".
	Lacks string `json:"lacks"`
	Bytes int64  `json:"bytes"` // of the main fork, with what is below a parent
}

// String names the table and what it lacks.
func (h Hole) String() string { return fmt.Sprintf("%s (no %s)", h.Table, h.Lacks) }

// What a table may lack.
const (
	lacksAll  = "statistics"
	lacksTree = "statistics over the whole tree"
	lacksExt  = "extended statistics "
)

// Holes returns the application tables that have rows and lack planner
// statistics, ordered by name, each once. A partitioned table, like every parent
// of an inheritance tree, is one of them when a descendant has rows and
// statistics over the whole tree were never gathered; so is a table with an
// object of CREATE STATISTICS for which no ANALYZE has gathered anything, and one
// with statistics of some of its columns only: those that an ANALYZE of the whole
// table would add.
//
// The proof of statistics is a row in pg_stats, which a table's owner sees,
// whether an ANALYZE has put it there or it was carried over from another
// server. pg_class.reltuples is none: CREATE INDEX and VACUUM set it, too (before
// 18 also the index build that follows a copy). Only for a table whose columns
// this role may not read, or that row security hides, the server's memory of
// an ANALYZE counts instead (pg_stat_all_tables.last_analyze); it is lost when
// the server crashes, and before 14 not kept for partitioned tables: then the
// table counts as one without statistics.
//
// An empty table is fine, also one that has statistics from when it had rows. A
// table is known to have rows when it was counted, else it is looked into; one
// that is locked or cannot be read counts as having rows when it has blocks. Tables whose columns all have a statistics target
// of 0 are fine, as are foreign tables.
func Holes(ctx context.Context, s *pg.Server) ([]Hole, error) {
	conn, err := openMissing(ctx, s)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	found, err := survey(ctx, conn, s.Version(), false)
	for look := 1; err == nil && s.Version() < 150000 && found.hearsay() && look < collectorLooks; look++ {
		if err = pause(ctx, collectorLag); err == nil {
			found, err = survey(ctx, conn, s.Version(), false)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("looking for tables without statistics on the %s server: %w", s.Side(), err)
	}
	return found.holes(), nil
}

// collectorLag is more than the half second for which the statistics collector
// of servers before 15 may keep to itself what an ANALYZE reported.
// Postgres source: PGSTAT_STAT_INTERVAL in postmaster/pgstat.c. On a busy machine
// it takes longer: there are more looks than the second.
const (
	collectorLag   = time.Second
	collectorLooks = 4
)

// hearsay tells that there is a hole which only rests on what the server remembers.
func (i inventory) hearsay() bool {
	return slices.ContainsFunc(i.all, func(r *relation) bool {
		return i.lacks[r.OID] != "" && !r.Readable && !r.Analyzed
	})
}

// WithoutStatistics returns the tables that [Holes] names.
func WithoutStatistics(ctx context.Context, s *pg.Server) ([]Table, error) {
	holes, err := Holes(ctx, s)
	if err != nil {
		return nil, err
	}
	tables := make([]Table, 0, len(holes))
	for _, h := range holes {
		tables = append(tables, h.Table)
	}
	return tables, nil
}

// openMissing opens a session that reads the catalogs. Freshly filled catalogs
// have no statistics themselves, and with ten thousand tables a nested loop over
// pg_stats, which the planner then takes, would take minutes.
func openMissing(ctx context.Context, s *pg.Server) (*pgx.Conn, error) {
	settings := map[string]string{
		"lock_timeout":                  "1s",
		"statement_timeout":             milliseconds(surveyBound),
		"default_transaction_read_only": "on",
		"enable_nestloop":               "off",
		"row_security":                  "off", // hidden rows are to be an error, not none
	}
	if s.Major() >= 11 {
		settings["jit"] = "off" // what cannot do without a nested loop seems so dear that it would be compiled
	}
	conn, err := s.Connect(ctx, "statistics", settings)
	if err != nil {
		return nil, fmt.Errorf("opening a session to look for tables without statistics: %w", err)
	}
	return conn, nil
}

// surveyBound is how long one look at the catalogs may take, and surveyAnswer all of
// them, without those into tables.
const (
	surveyBound  = 2 * time.Minute
	surveyAnswer = 5 * surveyBound
)

// inventory is what a look at all tables found.
type inventory struct {
	all   []*relation
	known map[uint32]*relation
	lacks map[uint32]string // what tables with rows have none of
	bare  map[uint32]bare
}

func (i inventory) holes() []Hole {
	holes := []Hole{}
	for _, r := range i.all {
		if what := i.lacks[r.OID]; what != "" {
			holes = append(holes, Hole{r.Table, what, r.tree(i.known)})
		}
	}
	return holes
}

// survey looks at all application tables; foreign ones, if they are asked for,
// are listed and never have holes.
func survey(ctx context.Context, conn *pgx.Conn, version int, foreign bool) (inventory, error) {
	return surveyRows(ctx, conn, version, foreign, false)
}

// surveyRows is survey; assume spares the look into tables: what has blocks and
// was not counted is taken to have rows.
func surveyRows(ctx context.Context, conn *pgx.Conn, version int, foreign, assume bool) (inventory, error) {
	all, err := allRelations(ctx, conn, foreign)
	if err != nil {
		return inventory{}, err
	}
	found := inventory{all: all, known: byOID(all), lacks: map[uint32]string{}}
	rows := rowFinder{conn: conn, assume: assume, known: map[uint32]bool{}, looked: map[uint32]bool{}}
	if err := rows.find(ctx, all); err != nil {
		return inventory{}, err
	}
	objects, err := extendedObjects(ctx, conn, version)
	if err != nil {
		return inventory{}, err
	}
	if found.bare, err = bareColumns(ctx, conn, all); err != nil {
		return inventory{}, err
	}
	gaps := found.gaps(objects, version)
	if err := rows.confirm(ctx, found.known, gaps); err != nil {
		return inventory{}, err
	}
	for _, g := range gaps {
		if found.lacks[g.oid] == "" && slices.ContainsFunc(g.of, rows.has) {
			found.lacks[g.oid] = g.what
		}
	}
	return found, nil
}

// gap is what there is no statistics of: a hole as soon as one of some relations
// has a row.
type gap struct {
	oid  uint32
	what string
	of   []uint32
	// mends tells that an ANALYZE that finds no row takes the gap away, since it
	// counts them. The statistics of rows that are gone stay, and prove no row.
	mends bool
}

// gaps lists those of all tables, the worst of each first.
func (i inventory) gaps(objects []extendedObject, version int) []gap {
	var found []gap
	for _, r := range i.all {
		found = append(found, i.gapsOf(r, version)...)
		found = append(found, i.bareGaps(r)...)
	}
	for _, o := range objects {
		r := i.known[o.Relation]
		if r == nil || r.Kind == ForeignTable || !o.missing(r, version) {
			continue
		}
		of := []uint32{r.OID}
		if r.Kind == PartitionedTable || r.Inherited && !o.Tree && version >= 150000 {
			of = append(of, r.descendants(i.known)...)
		}
		found = append(found, gap{oid: r.OID, what: lacksExt + o.Name, of: of})
	}
	return found
}

// gapsOf are those of one table, without extended statistics.
func (i inventory) gapsOf(r *relation, version int) []gap {
	var found []gap
	switch {
	case r.Kind == ForeignTable || !r.Countable || !r.Readable && r.Analyzed:
		return nil
	case r.Kind == PartitionedTable && !r.Readable && version < 140000:
		return nil // there the server remembers no ANALYZE of it: nobody could ever prove one
	case r.Kind != PartitionedTable && !r.Own:
		found = append(found, gap{oid: r.OID, what: lacksAll, of: []uint32{r.OID}, mends: true})
	}
	if r.Inherited {
		return found
	}
	what := lacksTree
	if r.Kind == PartitionedTable {
		what = lacksAll
	}
	if below := r.descendants(i.known); len(below) > 0 {
		found = append(found, gap{oid: r.OID, what: what, of: below})
	}
	return found
}

// rowFinder finds out which tables have rows.
type rowFinder struct {
	conn   *pgx.Conn
	assume bool // that there are rows, where one would have to look
	known  map[uint32]bool
	looked map[uint32]bool // not only reckoned
}

func (f *rowFinder) has(oid uint32) bool { return f.known[oid] }

// find decides about all tables. Tables without a block and tables that were
// counted, by an ANALYZE or by the statistics collector, are not read. A count of
// 0 is only believed after an ANALYZE, since before 14 it also means "never
// counted", and as long as so few rows have come that autovacuum would not mind.
func (f *rowFinder) find(ctx context.Context, all []*relation) error {
	var unknown []*relation
	for _, r := range all {
		switch {
		case r.Kind == PartitionedTable || r.Kind == ForeignTable || r.Bytes == 0 || !r.Populated:
		case r.Own || r.Tuples > 0 || r.Locked:
			f.known[r.OID] = true
		case r.Analyzed && r.Tuples == 0 && float64(r.Live) <= r.Threshold:
		case r.Live > 0:
			f.known[r.OID] = true
		default:
			unknown = append(unknown, r)
		}
	}
	return f.lookAt(ctx, unknown)
}

// confirm looks into the tables whose rows make a hole of a gap and are only
// reckoned: there may be none left, and then no ANALYZE would ever close it. Of
// most trees one look is enough.
func (f *rowFinder) confirm(ctx context.Context, known map[uint32]*relation, gaps []gap) error {
	sure := func(oid uint32) bool { return f.known[oid] && f.looked[oid] }
	for _, first := range []bool{true, false} {
		var some []*relation
		for _, g := range gaps {
			if g.mends || slices.ContainsFunc(g.of, sure) {
				continue
			}
			for _, oid := range g.of {
				if f.known[oid] && known[oid] != nil && !known[oid].Locked {
					some = append(some, known[oid])
					if first {
						break
					}
				}
			}
		}
		slices.SortFunc(some, func(a, b *relation) int { return cmp.Compare(a.OID, b.OID) })
		if err := f.lookAt(ctx, slices.Compact(some)); err != nil {
			return err
		}
	}
	return nil
}

// lookAt looks into tables, many at once.
func (f *rowFinder) lookAt(ctx context.Context, tables []*relation) error {
	if f.assume {
		for _, r := range tables {
			f.known[r.OID] = true
		}
		return nil
	}
	for some := range slices.Chunk(tables, probedTogether) {
		if err := f.lookTogether(ctx, some); err != nil {
			return err
		}
		for _, r := range some {
			f.looked[r.OID] = true
		}
	}
	return nil
}

// probedTogether is how many tables one statement looks into: each of them is
// locked meanwhile, with ACCESS SHARE.
const probedTogether = 100

// firstRowsSQL is one part of a UNION ALL: the table's OID, if it has a row.
const firstRowsSQL = `select %d::oid where exists (select 1 from only %s)`

// lookTogether looks into several tables at once. If that cannot be done, be it
// for one of them, they are looked into one after the other.
func (f *rowFinder) lookTogether(ctx context.Context, some []*relation) error {
	parts := make([]string, 0, len(some))
	for _, r := range some {
		parts = append(parts, fmt.Sprintf(firstRowsSQL, r.OID, r.Table))
	}
	var oids []uint32
	err := f.bounded(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, strings.Join(parts, "\nunion all\n"))
		if err != nil {
			return err
		}
		oids, err = pgx.CollectRows(rows, pgx.RowTo[uint32])
		return err
	})
	if err == nil {
		for _, r := range some {
			f.known[r.OID] = slices.Contains(oids, r.OID)
		}
		return nil
	}
	if ctx.Err() != nil || pg.Lost(err) {
		return fmt.Errorf("looking for rows: %w", err)
	}
	for _, r := range some {
		if f.known[r.OID], err = f.look(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// bounded runs f in a transaction whose statements end after probeBound.
func (f *rowFinder) bounded(ctx context.Context, do func(pgx.Tx) error) error {
	tx, err := f.conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	if _, err := tx.Exec(ctx, "set local statement_timeout = "+milliseconds(probeBound)); err != nil {
		return err
	}
	return do(tx)
}

// firstRowSQL is followed by nothing; %s is the table. A table of many blocks
// and no row takes long: the caller bounds it.
const firstRowSQL = `select exists (select 1 from only %s)`

// look searches the table for a row. What cannot be searched counts as having
// one: it is better named than overlooked.
func (f *rowFinder) look(ctx context.Context, r *relation) (bool, error) {
	var has bool
	err := f.bounded(ctx, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, fmt.Sprintf(firstRowSQL, r.Table)).Scan(&has)
	})
	switch {
	case pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName):
		return false, nil // dropped meanwhile
	case pg.IsCode(err, pg.QueryCanceled, pg.LockNotAvailable, pg.InsufficientPrivilege):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("looking for a row in %s: %w", r.Table, err)
	}
	return has, nil
}

// rollback ends a transaction that only read, or failed.
func rollback(ctx context.Context, tx pgx.Tx) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeBound)
	defer cancel()
	//nolint:errcheck // nothing was written; a session that is gone has rolled back
	tx.Rollback(end)
}
