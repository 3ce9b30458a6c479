package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// walNowSQL reads where the WAL ends, and when.
const walNowSQL = `select (pg_current_wal_insert_lsn() - '0/0')::bigint as position, clock_timestamp() as at`

type walPosition struct {
	Position int64
	At       time.Time
}

// walSinceSQL reads how much WAL there was since the statistics began (14 and
// later).
const walSinceSQL = `
select wal_bytes::bigint as bytes, extract(epoch from clock_timestamp() - stats_reset)::float8 as seconds
  from pg_stat_wal`

type walAverage struct {
	Bytes   int64
	Seconds float64
}

// copyRate is what the expected time of a copy is reckoned with, in bytes a
// second: an assumption, near what Postgres' own copy did with one table of 512 MB
// that has its primary key on two cores of a virtual machine.
const copyRate = 25 << 20

// leastAverage is the shortest time over which the average of the statistics
// says more than the sample.
const leastAverage = time.Hour

// checkWALRate samples how fast the old server writes WAL. All that it writes
// while tables are copied stays on its disk. How much room the disk has cannot
// be asked by SQL: wal.warn of the configuration stands for it.
func checkWALRate(ctx context.Context, p *Pair) ([]Finding, error) {
	standby, err := readValues[bool](ctx, p.Old, "asking whether it is a standby", recoverySQL)
	if err != nil || standby[0] || p.Settings.WALWarn <= 0 {
		return nil, err
	}
	rate, how, err := walRate(ctx, p.Old, p.Settings.sample())
	if err != nil {
		return nil, err
	}
	size, err := readValues[int64](ctx, p.Old, "reading the size of the database", databaseSizeSQL)
	if err != nil {
		return nil, err
	}
	return walFindings(rate, how, size[0], p.Settings.WALWarn), nil
}

// walRate returns bytes a second, the larger of sample and average, and which.
func walRate(ctx context.Context, s *pg.Server, sample time.Duration) (rate float64, how string, err error) {
	first, err := readOne[walPosition](ctx, s, "reading the position of the WAL", walNowSQL)
	if err != nil {
		return 0, "", err
	}
	pause := time.NewTimer(sample)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return 0, "", context.Cause(ctx)
	case <-pause.C:
	}
	last, err := readOne[walPosition](ctx, s, "reading the position of the WAL", walNowSQL)
	if err != nil {
		return 0, "", err
	}
	rate, how = float64(last.Position-first.Position)/last.At.Sub(first.At).Seconds(), "just now"
	if s.Major() < 14 {
		return rate, how, nil
	}
	since, err := readOne[walAverage](ctx, s, "reading statistics of the WAL", walSinceSQL)
	if err != nil {
		return 0, "", err
	}
	if average := float64(since.Bytes) / since.Seconds; since.Seconds > leastAverage.Seconds() && average > rate {
		rate, how = average, fmt.Sprintf("on the average of %s", (time.Duration(since.Seconds)*time.Second).Round(time.Hour))
	}
	return rate, how, nil
}

// walFindings compares what the copy lets pile up, rate times its expected
// length, with what the old server is meant to have room for.
func walFindings(rate float64, how string, size, budget int64) []Finding {
	length := time.Duration(float64(size) / copyRate * float64(time.Second))
	kept := int64(rate * length.Seconds())
	if kept <= budget {
		return nil
	}
	return []Finding{Finding{
		ID: "space.wal-rate", Severity: Warning, Server: string(pg.Old), Object: "WAL",
		Seen: fmt.Sprintf("%s a second %s; the database has %s, which takes about %s to copy at %s a second: %s of WAL by then, wal.warn is %s",
			bytes(int64(rate)), how, bytes(size), length.Round(time.Second), bytes(copyRate), bytes(kept), bytes(budget)),
		Why: "The slot keeps all WAL from the beginning of the copy: the disk of the old server may become full, and then it stops.",
	}.told("make room for it on old and raise wal.warn, begin at a quieter time, or move fewer tables at a time (tables.include)")}
}

// archiverSQL tells whether WAL is archived, and whether that fails: it is kept
// until it has succeeded.
const archiverSQL = `
select current_setting('archive_mode') <> 'off'
       and last_failed_time is not null
       and (last_archived_time is null or last_failed_time > last_archived_time) as failing,
       coalesce(last_failed_wal, '') as file, failed_count as failed
  from pg_stat_archiver`

type archiverFacts struct {
	Failing bool
	File    string
	Failed  int64
}

// checkArchiver looks for WAL that piles up already.
func checkArchiver(ctx context.Context, p *Pair) ([]Finding, error) {
	return onBoth(p, func(s *pg.Server) ([]Finding, error) {
		have, err := readOne[archiverFacts](ctx, s, "looking at the archiver", archiverSQL)
		if err != nil || !have.Failing {
			return nil, err
		}
		return []Finding{Finding{
			ID: "space.archiver", Severity: Warning, Server: string(s.Side()), Object: "archive_command",
			Seen: fmt.Sprintf("archiving of %s failed, %d failures so far", have.File, have.Failed),
			Why:  "WAL that is not archived is kept, whatever the move does: the disk becomes full, sooner with what the move adds.",
		}.told("mend archive_command or archive_library, or the place that it writes to; the server's log has its error")}, nil
	})
}

// largestSQL is the size of the largest table, in bytes: of the twenty that are
// the largest by the statistics.
const largestSQL = `
select coalesce(max(pg_relation_size(c.oid)), 0)
  from (select oid from pg_class
         where relkind in ('r', 'm') and oid >= 16384 and relpersistence = 'p'
         order by relpages desc
         limit 20) c`

// checkTempFiles looks at the limit of temporary files on new: to build an index
// the server sorts in them.
func checkTempFiles(ctx context.Context, p *Pair) ([]Finding, error) {
	have, err := readSettings(ctx, p.New, "temp_file_limit")
	if err != nil {
		return nil, err
	}
	limit, ok := have["temp_file_limit"]
	if !ok || limit.number() < 0 {
		return nil, nil
	}
	largest, err := readValues[int64](ctx, p.Old, "looking for the largest table", largestSQL)
	if err != nil || largest[0] <= int64(limit.number())<<10 {
		return nil, err
	}
	return []Finding{Finding{
		ID: "space.temp-file-limit", Severity: Warning, Server: string(pg.New), Object: "temp_file_limit",
		Seen: fmt.Sprintf("temp_file_limit is %s, the largest table has %s", bytes(int64(limit.number())<<10), bytes(largest[0])),
		Why:  "Building an index on it sorts in temporary files, and fails with 53400 when they exceed the limit.",
	}.setTo("temp_file_limit", -1, false)}, nil
}
