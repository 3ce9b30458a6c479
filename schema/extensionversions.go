package schema

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// newestCommon returns the newest version that is in both lists, or an empty
// string.
func newestCommon(a, b []string) string {
	newest := ""
	for _, v := range a {
		if versionLike.MatchString(v) && slices.Contains(b, v) && (newest == "" || compareVersions(v, newest) > 0) {
			newest = v
		}
	}
	return newest
}

// versionLike leaves out names that some extensions use for their scripts:
// unpackaged, ANY, next.
var versionLike = regexp.MustCompile(`^[0-9]`)

var versionParts = regexp.MustCompile(`[0-9]+|[A-Za-z]+`)

// compareVersions orders versions: to Postgres they are mere names. Numbers are
// compared as such, so that 1.10 is newer than 1.9; a word, as in 3.4.0beta1, is
// older than its absence.
func compareVersions(a, b string) int {
	x, y := versionParts.FindAllString(a, -1), versionParts.FindAllString(b, -1)
	for i := range max(len(x), len(y)) {
		switch {
		case i >= len(x):
			return -afterEnd(y[i])
		case i >= len(y):
			return afterEnd(x[i])
		}
		if c := compareParts(x[i], y[i]); c != 0 {
			return c
		}
	}
	return 0
}

// afterEnd compares a version that goes on with part with one that has ended.
func afterEnd(part string) int {
	if _, err := strconv.Atoi(part); err != nil {
		return -1
	}
	return 1
}

func compareParts(a, b string) int {
	n, errA := strconv.Atoi(a)
	m, errB := strconv.Atoi(b)
	switch {
	case errA == nil && errB == nil:
		return cmp.Compare(n, m)
	case errA == nil:
		return 1
	case errB == nil:
		return -1
	}
	return cmp.Compare(a, b)
}

// configurationSQL lists the tables that extensions mark as configuration of the
// user's own, with the condition that tells his rows from the extension's.
// https://www.postgresql.org/docs/current/extend-extensions.html#EXTEND-EXTENSIONS-CONFIG-TABLES
const configurationSQL = `
select e.extname::text, format('%I.%I', n.nspname, c.relname), coalesce(x.condition, ''),
       has_table_privilege(c.oid, 'select') and has_schema_privilege(n.oid, 'usage')
  from pg_extension e
 cross join lateral unnest(e.extconfig, e.extcondition) x (relation, condition)
  join pg_class c on c.oid = x.relation
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p')
 order by 1, 2`

type configuration struct {
	extension, table, condition string
	readable                    bool
}

// countBound is how many rows of a configuration table are counted.
const countBound = 10000

// configured lists the configuration tables of old that have rows: they are
// members of an extension, so that neither the archive nor a publication of the
// tool holds their rows.
func configured(ctx context.Context, old *pg.Server) ([]Notice, error) {
	rows, err := old.Pool().Query(ctx, configurationSQL)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of extensions: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (configuration, error) {
		var c configuration
		err := row.Scan(&c.extension, &c.table, &c.condition, &c.readable)
		return c, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the configuration of extensions: %w", err)
	}
	var out []Notice
	for _, c := range tables {
		n := Notice{
			Object: "extension " + quoteName(c.extension),
			Fix:    fmt.Sprintf("after the cutover: pg_dump --data-only --table=%s <old> | psql <new>", shellQuote(c.table)),
		}
		if !c.readable {
			n.Seen = fmt.Sprintf("its table %s may hold rows of yours, which are not carried over; the tool's role may not read it", c.table)
			out = append(out, n)
			continue
		}
		var count int
		sql := fmt.Sprintf("select count(*) from (select from %s %s limit %d) x", c.table, c.condition, countBound)
		if err := old.Pool().QueryRow(ctx, sql).Scan(&count); err != nil {
			return nil, fmt.Errorf("counting the rows of %s, a table of extension %s: %w", c.table, c.extension, err)
		}
		if count == 0 {
			continue
		}
		n.Seen = fmt.Sprintf("%d rows of yours in its table %s are not carried over", count, c.table)
		if count == countBound {
			n.Seen = "at least " + n.Seen
		}
		out = append(out, n)
	}
	return out, nil
}
