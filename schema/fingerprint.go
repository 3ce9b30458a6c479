package schema

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Fingerprint describes the schema of the application on s, object by object,
// ordered by kind and identity. The definition of each kind is told in words that
// mean the same on every major:
//
//	table             kind of table, logged or not, what it inherits from or is a
//	                  partition of, replica identity, row security, storage parameters
//	column            of tables, views and composite types: type, collation,
//	                  NOT NULL, identity, generated, whether there is a default
//	index             table, columns, method, uniqueness, whether it is partial
//	constraint        columns, what it references and how, deferrable, validated
//	trigger           events, columns, function, arguments, whether and when it fires
//	sequence          type, bounds, increment, cache, cycle, the column that owns it
//	function          kind, result, language, volatility, whose rights it runs with,
//	                  settings, costs, body
//	type              labels of an enum, base of a domain, subtype of a range
//	extension         its schema, not its version
//	policy            command, roles, permissive or not
//	everything else   that it exists
//
// What Postgres prints of views, defaults, checks, index expressions, partition
// bounds, conditions of triggers and so on is the aspect [Expression]; its text
// depends on the major. Owner, privileges, comment and the settings of columns are
// aspects too: a server may begin with others than the one that they come from. See
// [Baseline] for how these are compared all the same.
//
// Left out are invalid indexes (pg_dump leaves them out too), security labels, and
// what partitions have from their parents beside indexes. All is read in one
// transaction of s, in about twenty queries. Of a relation that somebody alters
// they wait for the lock, and end with a *LockedError when it is not to be had.
func Fingerprint(ctx context.Context, s *pg.Server) ([]Object, error) {
	return FingerprintWithin(ctx, s, 0)
}

// FingerprintWithin is Fingerprint for who would rather look again later: none of
// its queries waits for a lock any longer. Zero is the patience of s.Pool().
func FingerprintWithin(ctx context.Context, s *pg.Server, patience time.Duration) ([]Object, error) {
	for attempt := 1; ; attempt++ {
		objects, err := readFingerprint(ctx, s, patience)
		switch {
		case err == nil:
			return objects, nil
		case pg.IsCode(err, pg.LockNotAvailable):
			return nil, &LockedError{Side: s.Side(), By: Locked(ctx, s), err: s.Redacted(err)}
		case pg.IsCode(err, internalError) && attempt < fingerprintAttempts:
			// An object was dropped between the query and the function that
			// describes it ("cache lookup failed").
		default:
			return nil, fmt.Errorf("reading the schema of the %s server: %w", s.Side(), s.Redacted(err))
		}
	}
}

const (
	internalError       = "XX000" // SQLSTATE
	fingerprintAttempts = 3
)

func readFingerprint(ctx context.Context, s *pg.Server, patience time.Duration) ([]Object, error) {
	tx, err := s.Pool().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	defer rollback(ctx, tx)
	if patience > 0 {
		if _, err := tx.Exec(ctx, fmt.Sprintf("set local lock_timeout = %d", patience.Milliseconds())); err != nil {
			return nil, fmt.Errorf("bounding the wait for locks: %w", err)
		}
	}
	return fingerprint(ctx, tx, s.Major())
}

func fingerprint(ctx context.Context, q querier, major int) ([]Object, error) {
	var all []Object
	for _, part := range []struct {
		what string
		sql  string
		args []any
	}{
		{"tables and views", relationsSQL, nil},
		{"columns", columnsQuery(major), nil},
		{"indexes", indexesQuery(major), nil},
		{"constraints", constraintsQuery(major), nil},
		{"triggers", triggersQuery(major), nil},
		{"sequences", sequencesSQL, nil},
		{"functions", functionsQuery(major), nil},
		{"types", typesSQL, nil},
		{"extensions", extensionsSQL, nil},
		{"rules", rulesSQL, nil},
		{"policies", policiesSQL, nil},
		{"statistics objects", statisticsSQL, nil},
		{"event triggers", eventTriggersSQL, nil},
		{"default privileges", defaultPrivilegesSQL, []any{since17}},
	} {
		rows, err := q.Query(ctx, part.sql, part.args...)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", part.what, err)
		}
		objects, err := pgx.CollectRows(rows, scanObject)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", part.what, err)
		}
		all = append(all, objects...)
	}
	if err := readFiles(ctx, q, all); err != nil {
		return nil, err
	}
	items, err := inventory(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("reading the other objects: %w", err)
	}
	for _, i := range items {
		if section, ok := existenceOnly[i.Kind]; ok && !i.implied {
			all = append(all, Object{Kind: i.Kind, Identity: i.Identity, Section: section})
		}
	}
	more, err := readAspects(ctx, q, major)
	if err != nil {
		return nil, err
	}
	withAspects(all, items, more)
	sortObjects(all)
	return all, nil
}

// filesSQL tells tables apart whatever they are called.
const filesSQL = `
select format('%I.%I', n.nspname, c.relname), c.oid, c.relnatts::int, c.relfilenode::bigint,
       coalesce((select jsonb_object_agg(quote_ident(a.attname), a.attnum)
                   from pg_attribute a
                  where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped), '{}')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p')
   and n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'pgcutover')`

// readFiles adds to the tables by what they and their columns are known when they
// get another name.
func readFiles(ctx context.Context, q querier, objects []Object) error {
	at := map[string]int{}
	for i, o := range objects {
		if o.Kind == kindTable {
			at[o.Identity] = i
		}
	}
	rows, err := q.Query(ctx, filesSQL)
	if err != nil {
		return fmt.Errorf("reading tables: %w", err)
	}
	var (
		identity string
		oid      uint32
		columns  int
		file     int64
		numbers  map[string]int16
	)
	_, err = pgx.ForEachRow(rows, []any{&identity, &oid, &columns, &file, &numbers}, func() error {
		if i, found := at[identity]; found {
			objects[i].oid, objects[i].columns, objects[i].file, objects[i].numbers = oid, columns, file, numbers
		}
		numbers = nil // the next row's map is another one
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading tables: %w", err)
	}
	return nil
}

func scanObject(row pgx.CollectableRow) (Object, error) {
	var (
		o          Object
		expression string
	)
	err := row.Scan(&o.Kind, &o.Identity, &o.Section, &o.Definition, &expression, &o.On, &o.Parent)
	o.describe(Expression, expression)
	return o, err
}

// existenceOnly are the kinds of which only the existence is compared, with the
// section that restores them.
var existenceOnly = map[string]Section{
	kindSchema:                  PreData,
	"operator":                  PreData,
	"operator class":            PreData,
	"operator family":           PreData,
	"cast":                      PreData,
	"collation":                 PreData,
	"conversion":                PreData,
	"text search configuration": PreData,
	"text search dictionary":    PreData,
	"text search parser":        PreData,
	"text search template":      PreData,
	"foreign-data wrapper":      PreData,
	"server":                    PreData,
	"user mapping":              PreData,
	"language":                  PreData,
	"transform":                 PreData,
	"access method":             PreData,
}

// Missing lists the objects of the old database that the new one does not have,
// of the given sections, or of all when none is given: what a restore has still
// to bring, and after all sections nothing. Only existence counts, see [Diff]
// for the rest. The rare function of PreData whose body needs a primary key is
// made with PostData only, and listed until then.
func Missing(ctx context.Context, old, new *pg.Server, sections ...Section) ([]Object, error) {
	want, err := Fingerprint(ctx, old)
	if err != nil {
		return nil, err
	}
	have, err := Fingerprint(ctx, new)
	if err != nil {
		return nil, err
	}
	present := keysOf(have)
	var out []Object
	for _, o := range want {
		if !present[o.key()] && o.Section.among(sections) && o.Kind != kindDefaults {
			out = append(out, o)
		}
	}
	return out, nil
}
