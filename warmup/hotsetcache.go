package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// bufferCacheSQL returns where pg_buffercache is installed; no row without it.
const bufferCacheSQL = `
select quote_ident(n.nspname)
  from pg_extension e
  join pg_namespace n on n.oid = e.extnamespace
 where e.extname = 'pg_buffercache'`

// cacheOf returns the name of the view that shows the cache, or errNoCache with
// the advice that would help.
func cacheOf(ctx context.Context, conn *pgx.Conn) (view, advice string, err error) {
	var schema string
	err = conn.QueryRow(ctx, bufferCacheSQL).Scan(&schema)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", "create extension pg_buffercache;", errNoCache
	}
	if err != nil {
		return "", "", fmt.Errorf("looking for pg_buffercache: %w", err)
	}
	return schema + ".pg_buffercache", fmt.Sprintf("grant pg_monitor to %s;", pgx.Identifier{conn.Config().User}.Sanitize()), nil
}

// cachedSQL counts the blocks of the files $1 that are in the cache, by ranges
// of so many blocks as $2 says; those that were accessed, and accessed more than
// once, since the clock hand came by, and their usage counts. %s is the view.
// Postgres manual: F.25, pg_buffercache.
const cachedSQL = `
select f.oid, b.relblocknumber / f.width, count(*), count(*) filter (where b.usagecount > 0),
       count(*) filter (where b.usagecount > 1), coalesce(sum(b.usagecount), 0)::bigint
  from %s b
  join (select p.oid, p.width, pg_relation_filenode(p.oid) as node,
               coalesce(nullif(c.reltablespace, 0), d.dattablespace) as space, d.oid as database
          from unnest($1::oid[], $2::bigint[]) as p(oid, width)
          join pg_class c on c.oid = p.oid
          join pg_database d on d.datname = current_database()) f
    on f.node = b.relfilenode and f.space = b.reltablespace and f.database = b.reldatabase
 where b.relforknumber = 0
 group by 1, 2`

// cached is a range of a file that has blocks in the cache.
type cached struct {
	OID   uint32
	At    int64 // the range's number
	All   int64 // blocks in the cache, also those that would be the next to go
	Any   int64 // of them those used
	Again int64 // of them those used more than once
	Usage int64
}

// widths are the widths of the ranges in which the cache is looked at: a
// hundredth of each file.
func widths(files []*file) (oids []uint32, wide []int64) {
	for _, f := range files {
		oids = append(oids, f.OID)
		wide = append(wide, width(f.Blocks))
	}
	return oids, wide
}

func width(blocks int64) int64 { return max((blocks+99)/100, 4) }

// lookIntoCache returns the ranges of the files that have blocks in the cache;
// errNoCache, with the advice, when the role may not look.
func lookIntoCache(ctx context.Context, conn *pgx.Conn, files []*file) (found []cached, advice string, err error) {
	view, advice, err := cacheOf(ctx, conn)
	if err != nil {
		return nil, advice, err
	}
	oids, wide := widths(files)
	rows, err := conn.Query(ctx, fmt.Sprintf(cachedSQL, view), oids, wide)
	if err == nil {
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[cached])
	}
	switch {
	case err == nil:
		return found, "", nil
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return nil, advice, errNoCache
	case pg.IsCode(err, pg.QueryCanceled) && ctx.Err() == nil:
		return nil, "looking at its whole cache took too long", errNoCache
	}
	return nil, "", fmt.Errorf("reading pg_buffercache: %w", err)
}

// fromCache takes what is in the cache and used again for hot; false when the
// cache cannot be looked at.
func (h *HotSet) fromCache(ctx context.Context, conn *pgx.Conn, files []*file) (bool, error) {
	found, advice, err := lookIntoCache(ctx, conn, files)
	if errors.Is(err, errNoCache) {
		h.Advice = advice
		return false, nil
	}
	if err != nil || len(found) == 0 {
		return false, err // an empty cache tells nothing
	}
	h.Source = FromBufferCache
	byOID := make(map[uint32]*file, len(files))
	for _, f := range files {
		byOID[f.OID] = f
	}
	// A server that has just been started has used hardly anything twice.
	var all, again int64
	for _, c := range found {
		all += c.Any
		again += c.Again
	}
	for _, c := range found {
		f, hot := byOID[c.OID], c.Again
		// A page of an index leads to many rows: one use is enough.
		if again < all/10 || f != nil && f.Kind == indexFile {
			hot = c.Any
		}
		if f == nil || c.Any == 0 {
			continue
		}
		wide := width(f.Blocks)
		f.Blocks = max(f.Blocks, c.At*wide+1) // it has grown meanwhile, or was locked
		f.hot.Hot += hot * blockBytes
		f.hot.Used += c.Any * blockBytes
		f.hot.Heat += float64(c.Usage)
		f.hot.Ranges = append(f.hot.Ranges, HotRange{
			From: c.At * wide, To: (c.At + 1) * wide, Hot: hot, Used: c.Any, Heat: float64(c.Usage),
		})
	}
	for _, f := range files {
		for i := range f.hot.Ranges {
			f.hot.Ranges[i].To = min(f.hot.Ranges[i].To, f.Blocks)
		}
		slices.SortFunc(f.hot.Ranges, func(a, b HotRange) int { return cmp.Compare(a.From, b.From) })
	}
	return true, nil
}
