package upgrade

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/warmup"
)

// Rates that estimates assume, of an ordinary server with disks of its own: they
// are said together with the estimate, for who knows better. Bytes are those of
// the tables as they stand on disk.
const (
	copyRate    = 40 << 20 // bytes of tables a second, by two workers of Postgres together
	indexRate   = 20 << 20 // bytes of indexes a second and session
	refreshRate = 10 << 20 // bytes of materialized views a second
	objectRate  = 200.0    // objects of a schema a second
	fenceRate   = 500.0    // fence triggers a second
	analyzeRate = 20.0     // tables a second and session
	carryRate   = 200.0    // tables a second whose statistics are carried over
)

// sizes are what the catalogs say of old; they are as old as the last VACUUM or
// ANALYZE of each table.
type sizes struct {
	tables, objects             int64
	heap, toast, indexes, views int64 // bytes
	unknown                     int64 // tables that were never vacuumed or analyzed
	oldest                      float64
}

// sizesSQL reads sizes from pg_class alone: asking for the files would wait for
// whoever holds a table. Postgres manual: 52.11, pg_class.
const sizesSQL = `
select count(*) filter (where c.relkind in ('r', 'p')),
       count(*) filter (where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f')) + (select count(*) from pg_proc p where p.oid >= 16384),
       coalesce(sum(c.relpages::bigint) filter (where c.relkind = 'r'), 0)::bigint * b.size,
       coalesce(sum(c.relpages::bigint) filter (where c.relkind = 't'), 0)::bigint * b.size,
       coalesce(sum(c.relpages::bigint) filter (where c.relkind = 'i'), 0)::bigint * b.size,
       coalesce(sum(c.relpages::bigint) filter (where c.relkind = 'm'), 0)::bigint * b.size,
       count(*) filter (where c.relkind = 'r' and c.relpages = 0 and (c.reltuples < 0 or current_setting('server_version_num')::int < 140000)),
       coalesce((select extract(epoch from max(clock_timestamp() - a.xact_start)) from pg_stat_activity a where a.backend_xid is not null), 0)::float8
  from pg_class c
 cross join (select current_setting('block_size')::bigint as size) b
 where c.oid >= 16384
 group by b.size`

func (m *Move) sizes(ctx context.Context) (sizes, error) {
	var s sizes
	err := m.Old.Pool().QueryRow(ctx, sizesSQL).Scan(&s.tables, &s.objects, &s.heap, &s.toast, &s.indexes, &s.views, &s.unknown, &s.oldest)
	if errors.Is(err, pgx.ErrNoRows) { // a database without a single object
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading the sizes on the old server: %w", err)
	}
	return s, nil
}

// estimate says of each step how long it will take, as far as that can be said.
func (m *Move) estimate(ctx context.Context, p *Plan) error {
	s, err := m.sizes(ctx)
	if err != nil {
		return err
	}
	jobs := max(float64(m.Options.IndexJobs), 1)
	start := map[string]step.Estimate{
		"prepare":    known(1, "a few statements"),
		"schema":     known(float64(s.objects)/objectRate+float64(s.tables)/fenceRate, fmt.Sprintf("%d objects, %d fence triggers; assumed %g and %g a second", s.objects, s.tables, objectRate, fenceRate)),
		"publish":    unknown(fmt.Sprintf("the slot waits for every transaction that is writing when it is made; the oldest one now is %.0f s old", s.oldest)),
		"subscribe":  known(1, "a few statements"),
		"copy":       s.bytes(s.heap+s.toast, copyRate, "of tables on old"),
		"index":      s.bytes(s.indexes, indexRate*jobs, fmt.Sprintf("of indexes on old, %g jobs", jobs)),
		"statistics": m.carryEstimate(s),
		"catch-up":   unknown("it depends on what is written meanwhile"),
		"refresh":    s.bytes(s.views, refreshRate, "of materialized views on old"),
		"warm":       unknown("it ends at its own bounds: see warm in the config file"),
		"analyze":    known(float64(s.tables)/analyzeRate/max(float64(m.Options.Analyze.Jobs), 1), fmt.Sprintf("%d tables, of which most are small and take one ANALYZE each; assumed %g tables a second and session", s.tables, analyzeRate)),
	}
	turn := map[string]step.Estimate{
		"gates":     known(1, "queries of the catalogs"),
		"ahead":     known(1+float64(s.tables)/fenceRate, fmt.Sprintf("%d fence triggers; assumed %g a second, more where tables are in use", s.tables, fenceRate)),
		"guard":     known(0.1, "one statement"),
		"lease":     known(1, "the gates once more"),
		"pause":     unknown("poolers wait for their clients' transactions; nothing without poolers"),
		"freeze":    unknown(fmt.Sprintf("writers in the middle of a transaction finish first; one attempt waits %s, %d attempts", m.Options.Cutover.LockTimeout, m.Options.Cutover.Attempts)),
		"drain":     known(0.1, "a marker's way through the stream; more when it lags"),
		"reverse":   known(0.1, "one slot, when nobody writes on that server's cluster"),
		"sequences": known(0.1, "one query"),
		"decide":    known(0.1, "a COMMIT"),
		"open":      known(0.1, "a COMMIT"),
		"switch":    known(1, "until the clients' sessions have ended"),
		"follow":    known(5+float64(s.tables)/fenceRate, fmt.Sprintf("%d fence triggers; assumed %g a second", s.tables, fenceRate)),
	}
	remove := map[string]step.Estimate{
		"fence": known(1+float64(s.tables)/fenceRate, fmt.Sprintf("%d fence triggers; assumed %g a second", s.tables, fenceRate)),
	}
	for _, part := range []struct {
		entries []step.Entry
		known   map[string]step.Estimate
	}{{p.Start, start}, {p.Cutover, turn}, {p.Rollback, turn}, {p.Complete, remove}, {p.Abort, remove}} {
		for i, e := range part.entries {
			if found, ok := part.known[e.Name]; ok {
				part.entries[i].Estimate = &found
			}
		}
	}
	return nil
}

// carryEstimate is that of step statistics.
func (m *Move) carryEstimate(s sizes) step.Estimate {
	if !warmup.CanCarry(m.New) || m.Options.NoCarry {
		return known(0, "nothing to do")
	}
	return known(1+float64(s.tables)/carryRate, fmt.Sprintf("%d tables; assumed %g a second, whatever their size", s.tables, carryRate))
}

// bytes is the estimate of what goes by size.
func (s sizes) bytes(n int64, rate float64, of string) step.Estimate {
	how := fmt.Sprintf("%s %s by the catalogs; assumed %s a second", bytes(n), of, bytes(int64(rate)))
	if s.unknown > 0 {
		how += fmt.Sprintf("; %d tables were never analyzed, so that the catalogs do not know them", s.unknown)
	}
	if n == 0 && s.unknown > 0 {
		return unknown(how)
	}
	return known(float64(n)/rate, how)
}

func known(seconds float64, how string) step.Estimate {
	return step.Estimate{Known: true, Seconds: seconds, How: how}
}

func unknown(how string) step.Estimate { return step.Estimate{How: how} }
