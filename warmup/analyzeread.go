package warmup

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// TableStatistics is how a table's planner statistics stand.
type TableStatistics struct {
	Table
	Kind  Kind  `json:"kind"`
	Bytes int64 `json:"bytes"` // of the main fork, with what is below a partitioned table
	// Last is the last ANALYZE that the server remembers, by its clock; nil for
	// none. It forgets in a crash, and before 14 never knew of partitioned
	// tables.
	Last *time.Time `json:"last_analyze,omitempty"`
	// Auto tells that this one was autovacuum's.
	Auto bool `json:"auto,omitempty"`
	// Carried tells that there are statistics and the server, of 18 or later,
	// remembers no ANALYZE: they were carried over from another server, or it has
	// forgotten.
	Carried bool `json:"carried,omitempty"`
	// Undated tells the same of an older server, to which nothing can be carried:
	// it has forgotten, or, before 15, not heard of it yet.
	Undated bool `json:"undated,omitempty"`
	// Changed is how many rows were inserted, updated and deleted since the last
	// ANALYZE; of a partitioned table, in all partitions since theirs.
	Changed int64 `json:"rows_changed"`
	// Lacks is what is missing of the statistics of a table that has rows, as in
	// [Hole]; empty when nothing is.
	Lacks string `json:"lacks,omitempty"`
}

// Age is how long ago the last ANALYZE was, at a moment of the server's clock.
func (t TableStatistics) Age(now time.Time) (age time.Duration, known bool) {
	if t.Last == nil {
		return 0, false
	}
	return max(now.Sub(*t.Last), 0), true
}

// ReadStatistics tells of every application table how old its statistics are and
// whether any are missing, ordered by name. Ten thousand tables take about a
// second. It changes nothing.
func ReadStatistics(ctx context.Context, s *pg.Server) ([]TableStatistics, error) {
	conn, err := openMissing(ctx, s)
	if err != nil {
		return nil, err
	}
	defer endSession(ctx, conn)
	found, err := survey(ctx, conn, s.Version(), false)
	if err != nil {
		return nil, fmt.Errorf("reading the age of statistics on the %s server: %w", s.Side(), err)
	}
	all := make([]TableStatistics, 0, len(found.all))
	for _, r := range found.all {
		t := TableStatistics{
			Table: r.Table, Kind: r.Kind, Bytes: r.Bytes, Last: r.last(), Changed: r.Changed, Lacks: found.lacks[r.OID],
		}
		t.Auto = t.Last != nil && t.Last == r.ByVacuum
		undated := t.Last == nil && (r.Own || r.Inherited) && (r.Kind != PartitionedTable || s.Version() >= 140000)
		t.Carried, t.Undated = undated && CanCarry(s), undated && !CanCarry(s)
		if r.Kind == PartitionedTable {
			t.Bytes = r.tree(found.known)
			for _, oid := range r.descendants(found.known) {
				if child := found.known[oid]; child != nil {
					t.Changed += child.Changed
				}
			}
		}
		all = append(all, t)
	}
	return all, nil
}
