package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// index is a B-tree index over whole columns and all rows.
type index struct {
	OID      uint32
	Name     string
	Unique   bool
	Primary  bool
	Columns  []string // the key's, without INCLUDE
	Types    []string // of those columns; empty for types outside pg_catalog
	Option   int16    // of the first column: 1 descending, 2 NULLS FIRST
	Bytes    int64
	Equality bool // of the default operator class and the columns' collations: = finds the index
}

// indexesSQL lists the indexes of table $1 that can be followed. indoption has
// an element for each column of the key, on every version; indnkeyatts came
// with 11. A size is that of the last count, since asking may wait for a lock.
// Postgres manual: 53.26, pg_index.
const indexesSQL = `
select ic.oid, ic.relname, i.indisunique, i.indisprimary,
       array(select a.attname::text
               from generate_series(0, array_upper(i.indoption, 1)) k
               join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k]
              order by k),
       array(select case when t.typnamespace = 'pg_catalog'::regnamespace then t.typname::text else '' end
               from generate_series(0, array_upper(i.indoption, 1)) k
               join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k]
               join pg_type t on t.oid = a.atttypid
              order by k),
       i.indoption[0], ic.relpages::bigint * current_setting('block_size')::bigint,
       (select bool_and(o.opcdefault and (i.indcollation[k] = a.attcollation)
                        and t.typnamespace = 'pg_catalog'::regnamespace)
               from generate_series(0, array_upper(i.indoption, 1)) k
               join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k]
               join pg_type t on t.oid = a.atttypid
               join pg_opclass o on o.oid = i.indclass[k])
  from pg_index i
  join pg_class ic on ic.oid = i.indexrelid
  join pg_am am on am.oid = ic.relam
 where i.indrelid = $1::oid and am.amname = 'btree'
   and i.indisvalid and i.indisready and i.indislive
   and i.indpred is null and i.indexprs is null
 order by i.indisprimary desc, i.indisunique desc, ic.relname`

func indexesOf(ctx context.Context, conn *pgx.Conn, r *relation) ([]index, error) {
	rows, err := conn.Query(ctx, indexesSQL, r.OID)
	if err != nil {
		return nil, fmt.Errorf("listing indexes: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[index])
	if err != nil {
		return nil, fmt.Errorf("listing indexes: %w", err)
	}
	return found, nil
}

// ages are well-known names of columns that tell when a row was written, best
// first: an updated row is hot even when it was created long ago.
var ages = []string{
	"updated_at", "updated_on", "updated", "last_updated", "update_time", "modified_at", "modified", "last_modified", "modified_on", "changed_at",
	"created_at", "created_on", "created", "create_time", "creation_date", "inserted_at", "inserted", "added_at", "occurred_at",
	"event_time", "logged_at", "recorded_at", "received_at", "timestamp", "ts", "time",
}

// ageRank orders columns by their names; unknown names come last.
func ageRank(column string) int {
	name := strings.ToLower(column)
	if at := slices.Index(ages, name); at >= 0 {
		return at
	}
	// createdAt, updateddate
	short := strings.ReplaceAll(name, "_", "")
	if at := slices.IndexFunc(ages, func(a string) bool { return strings.ReplaceAll(a, "_", "") == short }); at >= 0 {
		return at
	}
	return len(ages)
}

// order is the way along an index from the newest row on.
type order struct {
	method Method
	index  index
	since  string // a literal of the column's type; empty: no lower bound
}

// by is the clause that makes the server follow the index: its direction, with
// nulls where the index has them.
func (o order) by() string {
	column := "t." + pgx.Identifier{o.index.Columns[0]}.Sanitize()
	if o.index.Option == 1 || o.index.Option == 2 { // DESC NULLS LAST, ASC NULLS FIRST
		return column + " desc nulls last"
	}
	return column + " desc nulls first"
}

// errNotRecent says that a partition holds nothing recent.
var errNotRecent = errors.New("nothing recent")

// newest decides how the newest rows are found; nil means by the last blocks.
func (r *reader) newest(ctx context.Context, indexes []index) (*order, error) {
	found, err := r.byAge(ctx, indexes)
	if found != nil || err != nil {
		return found, err
	}
	for _, i := range indexes {
		if !i.Primary || len(i.Columns) != 1 {
			continue
		}
		switch i.Types[0] {
		case "int2", "int4", "int8", "timestamp", "timestamptz":
			return &order{method: ByPrimaryKey, index: i}, nil
		case "uuid":
			ordered, err := r.timeOrdered(ctx, i.Columns[0])
			if ordered || err != nil {
				return &order{method: ByPrimaryKey, index: i}, err
			}
		}
	}
	return nil, nil
}

// future is how far ahead of the server's clock a row may claim to be: time
// zones of timestamp columns differ.
const future = 24 * time.Hour

// byAge looks for an indexed column that tells rows' ages, and whose newest
// value says so.
func (r *reader) byAge(ctx context.Context, indexes []index) (*order, error) {
	var candidates []index
	for _, i := range indexes {
		if slices.Contains([]string{"timestamp", "timestamptz", "date"}, i.Types[0]) {
			candidates = append(candidates, i)
		}
	}
	if column := r.column(r.Table); column != "" {
		candidates = slices.DeleteFunc(candidates, func(i index) bool { return i.Columns[0] != column })
		if len(candidates) == 0 {
			r.warmth.Hint = fmt.Sprintf("warm.columns names %s, which is no timestamp or date with an index", column)
		}
	}
	slices.SortStableFunc(candidates, func(a, b index) int {
		return cmp.Or(cmp.Compare(ageRank(a.Columns[0]), ageRank(b.Columns[0])), cmp.Compare(len(a.Columns), len(b.Columns)))
	})
	for _, i := range candidates {
		age, err := r.age(ctx, i)
		switch {
		case err != nil:
			return nil, err
		case age == nil || *age < -future:
		case *age <= r.options.Recent:
			since, err := r.since(ctx, i.Types[0])
			return &order{method: ByColumn, index: i, since: since}, err
		case r.Partition && ageRank(i.Columns[0]) < len(ages):
			return nil, fmt.Errorf("%w: the newest row by %s is %s old", errNotRecent, i.Columns[0], age.Round(time.Hour))
		}
	}
	return nil, nil
}

// ageSQL returns the age, in seconds, of the newest value of column %[1]s of
// table %[2]s, of type timestamptz; no row's age is null, nor is infinity's.
const ageSQL = `
select case when isfinite(newest) then extract(epoch from now() - newest)::float8 end
  from (select max(%[1]s) as newest from only %[2]s) m`

// ageUTCSQL is the same for timestamp and date, taken as UTC.
const ageUTCSQL = `
select case when isfinite(newest) then extract(epoch from now() - newest::timestamp at time zone 'UTC')::float8 end
  from (select max(%[1]s) as newest from only %[2]s) m`

// age returns how old the newest row is, nil when there is none.
func (r *reader) age(ctx context.Context, i index) (*time.Duration, error) {
	sql := ageUTCSQL
	if i.Types[0] == "timestamptz" {
		sql = ageSQL
	}
	column := pgx.Identifier{i.Columns[0]}.Sanitize()
	var seconds *float64
	if err := r.row(ctx, fmt.Sprintf(sql, column, r.Table), nil, &seconds); err != nil {
		return nil, fmt.Errorf("looking for the newest %s: %w", i.Columns[0], err)
	}
	if seconds == nil {
		return nil, nil
	}
	// A duration holds 292 years.
	const most = float64(200 * 365 * 24 * 3600)
	age := time.Duration(max(min(*seconds, most), -most) * float64(time.Second))
	return &age, nil
}

// sinceSQL returns the literal of the time $1 seconds ago, as timestamptz and
// in UTC, by the server's clock.
const sinceSQL = `
select quote_literal((now() - make_interval(secs => $1))::text),
       quote_literal(((now() - make_interval(secs => $1)) at time zone 'UTC')::text)`

// since returns the lower bound for a column of a type, as a literal: an index
// is followed over it whatever the planner knows.
func (r *reader) since(ctx context.Context, typ string) (string, error) {
	var zoned, utc string
	if err := r.row(ctx, sinceSQL, []any{r.options.Recent.Seconds()}, &zoned, &utc); err != nil {
		return "", fmt.Errorf("asking for the time: %w", err)
	}
	switch typ {
	case "timestamptz":
		return zoned + "::timestamptz", nil
	case "date":
		return utc + "::timestamp::date", nil
	}
	return utc + "::timestamp", nil
}

// lastUUIDSQL returns the highest value of column %[1]s of table %[2]s.
const lastUUIDSQL = `select %[1]s from only %[2]s order by %[1]s desc limit 1`

// timeOrdered reports whether a UUID column holds version 7, whose first 48
// bits are milliseconds since 1970, so that its order is that of time. The
// highest of random values would lie in a far future.
// RFC 9562, section 5.7.
func (r *reader) timeOrdered(ctx context.Context, column string) (bool, error) {
	var last pgtype.UUID
	sql := fmt.Sprintf(lastUUIDSQL, pgx.Identifier{column}.Sanitize(), r.Table)
	err := r.row(ctx, sql, nil, &last)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the highest %s: %w", column, err)
	}
	var milliseconds int64
	for _, b := range last.Bytes[:6] {
		milliseconds = milliseconds<<8 | int64(b)
	}
	return last.Bytes[6]>>4 == 7 && time.UnixMilli(milliseconds).Before(time.Now().Add(future)), nil
}
