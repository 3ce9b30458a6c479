package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Fingerprint describes the schema of the application on s, object by object,
// ordered by kind and identity. What is compared for each kind:
//
//	table             kind of table, logged or not, what it inherits from or is a
//	                  partition of, replica identity, row security
//	column            of tables, views and composite types: type, collation,
//	                  NOT NULL, identity, generated, whether there is a default
//	index             table, columns, method, uniqueness, whether it is partial
//	constraint        columns, what it references and how, deferrable, validated
//	trigger           events, function, whether and when it fires
//	sequence          type, bounds, increment, cache, cycle, the column that owns it
//	function          kind, result, language, volatility, whose rights it runs with
//	type              labels of an enum, base of a domain, subtype of a range
//	extension         its schema, not its version
//	everything else   that it exists
//
// Texts that Postgres prints differently from major to major (bodies of views
// and functions, expressions of defaults, checks and indexes) are left out, and
// so are owners, rights and comments, invalid indexes (pg_dump leaves them out
// too), and what partitions have from their parents beside indexes. All is read
// in one transaction of s, in about a dozen queries.
func Fingerprint(ctx context.Context, s *pg.Server) ([]Object, error) {
	for attempt := 1; ; attempt++ {
		objects, err := readFingerprint(ctx, s)
		switch {
		case err == nil:
			return objects, nil
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

func readFingerprint(ctx context.Context, s *pg.Server) ([]Object, error) {
	tx, err := s.Pool().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction: %w", err)
	}
	defer rollback(ctx, tx)
	return fingerprint(ctx, tx, s.Major())
}

func fingerprint(ctx context.Context, q querier, major int) ([]Object, error) {
	var all []Object
	for _, part := range []struct {
		what string
		sql  string
	}{
		{"tables and views", relationsSQL},
		{"columns", columnsQuery(major)},
		{"indexes", indexesQuery(major)},
		{"constraints", constraintsQuery(major)},
		{"triggers", triggersQuery(major)},
		{"sequences", sequencesSQL},
		{"functions", functionsQuery(major)},
		{"types", typesSQL},
		{"extensions", extensionsSQL},
	} {
		rows, err := q.Query(ctx, part.sql)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", part.what, err)
		}
		objects, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Object, error) {
			var o Object
			err := row.Scan(&o.Kind, &o.Identity, &o.Section, &o.Definition)
			return o, err
		})
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", part.what, err)
		}
		all = append(all, objects...)
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
	sortObjects(all)
	return all, nil
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
	kindRule:                    PostData,
	kindPolicy:                  PostData,
	kindStatistics:              PostData,
	kindEventTrigger:            PostData,
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
		if !present[o.key()] && o.Section.among(sections) {
			out = append(out, o)
		}
	}
	return out, nil
}
