package warmup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// pace holds readers back so that all together keep to a rate.
type pace struct {
	rate int64 // bytes a second; 0 means no bound

	mu   sync.Mutex
	next time.Time // when all that was read so far is paid for
}

// spend waits until bytes that were read are within the rate.
func (p *pace) spend(ctx context.Context, bytes int64) error {
	if p.rate == 0 || bytes <= 0 {
		return nil
	}
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(math.Min(float64(bytes)/float64(p.rate), 3600) * float64(time.Second)))
	wait := p.next.Sub(now)
	p.mu.Unlock()
	return pause(ctx, wait)
}

// most is how many blocks are read at once: about a tenth of a second's.
func (p *pace) most() int64 {
	if p.rate == 0 {
		return chunkBlocks
	}
	return min(max(p.rate/10/blockBytes, 4), chunkBlocks)
}

// paid books what a portion of reading took: read are bytes from outside the
// cache. No transaction is open.
func (r *reader) paid(ctx context.Context, read int64) error {
	r.warmth.Read += read
	if r.bounded {
		r.room.Add(-read)
	}
	return r.pace.spend(ctx, read)
}

// missesSQL returns how many blocks of the files $1 this session has read from
// outside the cache, since it last told the statistics. It tells them between
// transactions only, so that a difference within one is exact.
// Postgres manual: 27.2.3, functions for the current transaction.
const missesSQL = `
select coalesce(sum(pg_stat_get_xact_blocks_fetched(f.oid) - pg_stat_get_xact_blocks_hit(f.oid)), 0)::bigint
  from unnest($1::oid[]) as f(oid)`

func (r *reader) misses(ctx context.Context, tx pgx.Tx) (int64, error) {
	var n int64
	if err := tx.QueryRow(ctx, missesSQL, r.oids).Scan(&n); err != nil {
		return 0, fmt.Errorf("asking what was read: %w", err)
	}
	return n, nil
}

// counted runs f in a transaction of its own, short so that nobody who alters
// the table has to wait for long, and books what it read.
func (r *reader) counted(ctx context.Context, f func(context.Context, pgx.Tx) error) error {
	var read int64
	err := r.answered(ctx, func(ctx context.Context) error {
		tx, err := r.conn.Begin(ctx)
		if err != nil {
			return err
		}
		defer rollback(ctx, tx)
		before, err := r.misses(ctx, tx)
		if err != nil {
			return err
		}
		if err := f(ctx, tx); err != nil {
			return err
		}
		after, err := r.misses(ctx, tx)
		read = max(after-before, 0) * r.blockSize
		return err
	})
	if err != nil {
		return err
	}
	return r.paid(ctx, read)
}

// blocksSQL reads blocks $2 to $3 of the file $1 into the cache, no further than
// the file goes. The function's name is %s, with its schema.
const blocksSQL = `
select coalesce(%s($1::oid::regclass, 'buffer', 'main', $2::bigint, least($3::bigint, size.blocks - 1)), 0)::bigint
  from (select pg_relation_size($1::oid::regclass) / current_setting('block_size')::bigint as blocks) size
 where size.blocks > $2::bigint`

// prewarmBlocks reads a range of blocks of a file by pg_prewarm, from its end,
// and returns how many it were.
func (r *reader) prewarmBlocks(ctx context.Context, oid uint32, from, to int64) (int64, error) {
	var sum int64
	for end := to; end > from && !r.over(); {
		begin := max(from, end-r.pace.most())
		n, err := r.prewarmOnce(ctx, oid, begin, end)
		if err != nil {
			return sum, err
		}
		sum += n
		r.warmth.Bytes += n * r.blockSize
		end = begin
	}
	return sum, nil
}

// prewarmOnce reads some blocks of a file, and books what it read. The three
// statements are sent together, which makes them one transaction: thousands of small
// files would take five round trips each.
// Postgres manual: 55.2.3, pipelining.
func (r *reader) prewarmOnce(ctx context.Context, oid uint32, begin, end int64) (n int64, err error) {
	var before, after int64
	var batch pgx.Batch
	batch.Queue(missesSQL, r.oids).QueryRow(func(row pgx.Row) error { return row.Scan(&before) })
	batch.Queue(fmt.Sprintf(blocksSQL, r.prewarm), oid, begin, end-1).QueryRow(func(row pgx.Row) error {
		err := row.Scan(&n)
		if errors.Is(err, pgx.ErrNoRows) { // the file was cut off meanwhile
			return nil
		}
		return err
	})
	batch.Queue(missesSQL, r.oids).QueryRow(func(row pgx.Row) error { return row.Scan(&after) })
	err = r.answered(ctx, func(ctx context.Context) error { return r.conn.SendBatch(ctx, &batch).Close() })
	if err != nil {
		return 0, err
	}
	return n, r.paid(ctx, max(after-before, 0)*r.blockSize)
}

// over reports that there is no time, or no room, for more.
func (r *reader) over() bool {
	return time.Now().After(r.deadline) || r.bounded && r.room.Load() < r.blockSize
}

// fileOf returns the files of a kind.
func (r *reader) fileOf(kind string) []*file {
	return slices.DeleteFunc(slices.Clone(r.files[r.Table]), func(f *file) bool { return f.Kind != kind })
}

// prewarmRows reads the end of the table's file as far as the newest rows go, if
// they lie there, by block: a quarter of the cost of reading rows through an
// index. False when they lie elsewhere.
func (r *reader) prewarmRows(ctx context.Context, way *order) (bool, error) {
	blocks := r.Bytes / r.blockSize
	from := max(0, blocks-(r.limit-r.warmth.Bytes)/r.blockSize)
	if way != nil {
		begin, found, err := r.tail(ctx, *way, blocks)
		if err != nil || !found {
			return false, err
		}
		// What is used of it in all is not known to be younger than what is
		// configured: then its share is read.
		if r.hot == nil || r.known() {
			from = max(from, begin)
		}
	}
	if _, err := r.prewarmRange(ctx, from, blocks); err != nil {
		return false, err
	}
	return true, nil
}

// prewarmRange reads a range of the table's blocks that were not read before,
// from its end, and returns how many it were.
func (r *reader) prewarmRange(ctx context.Context, from, to int64) (int64, error) {
	var sum int64
	for end := to; end > from; {
		for end > from && r.seen[end-1] {
			end--
		}
		begin := end
		for begin > from && !r.seen[begin-1] && (end-begin+1)*r.blockSize <= r.limit-r.warmth.Bytes {
			begin--
		}
		if begin == end {
			break
		}
		n, err := r.readBlocks(ctx, begin, end)
		if err != nil {
			return sum, err
		}
		sum += n
		if n < end-begin && r.over() {
			break // some are left, for when there is time or room again
		}
		for b := begin; b < end; b++ {
			r.seen[b] = true
		}
		end = begin
	}
	return sum, nil
}

// sampled is how many of the newest rows show where the newest rows are.
const sampled = 100

// tailSQL returns the blocks of rows: %[1]s is the table, %[2]s the condition,
// %[3]s the order.
const tailSQL = `select (t.ctid::text::point)[0]::bigint from only %[1]s t %[2]s order by %[3]s limit %[4]d`

// tail looks where rows of the newest and of the oldest that are wanted lie, and
// returns the first block that has any, if all but a tenth of the newest rows
// lie in the last twentieth of the file, or after that block.
func (r *reader) tail(ctx context.Context, way order, blocks int64) (from int64, found bool, err error) {
	column := "t." + pgx.Identifier{way.index.Columns[0]}.Sanitize()
	where, ascending := "", column
	if way.since != "" {
		where = fmt.Sprintf("where %s >= %s", column, way.since)
		if way.index.Option == 1 || way.index.Option == 2 {
			ascending += " nulls first"
		}
	}
	newest, err := r.sample(ctx, where, way.by())
	if err != nil || len(newest) == 0 {
		return 0, false, err
	}
	late := blocks - max(blocks/20, 32)
	if way.since != "" {
		oldest, err := r.sample(ctx, where, ascending)
		if err != nil || len(oldest) == 0 {
			return 0, false, err
		}
		slices.Sort(oldest)
		from = oldest[len(oldest)/10] // a few stray ones do not matter
		late = max(late, from)
	}
	slices.Sort(newest)
	return from, newest[len(newest)/10] >= late, nil
}

func (r *reader) sample(ctx context.Context, where, order string) ([]int64, error) {
	var blocks []int64
	sql := fmt.Sprintf(tailSQL, r.Table, where, order, sampled)
	_, direct, err := r.explained(ctx, sql)
	if err != nil || !direct {
		return nil, err
	}
	err = r.counted(ctx, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql)
		if err != nil {
			return err
		}
		blocks, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking where the newest rows are: %w", err)
	}
	return blocks, nil
}
