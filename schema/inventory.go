package schema

import (
	"context"
	_ "embed"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

//go:embed inventory.sql
var inventorySQL string

// Kinds that the package treats in a way of their own; the other kinds are
// whatever pg_identify_object calls them.
const (
	kindSchema       = "schema"
	kindExtension    = "extension"
	kindTable        = "table"
	kindSequence     = "sequence"
	kindColumn       = "column"
	kindIndex        = "index"
	kindType         = "type"
	kindTrigger      = "trigger"
	kindEventTrigger = "event trigger"
	kindRule         = "rule"
	kindPolicy       = "policy"
	kindStatistics   = "statistics object"
	kindPublication  = "publication"
	kindSubscription = "subscription"
	kindConstraint   = "table constraint"
	kindDefaults     = "default privileges"
	kindView         = "view"
	kindMatview      = "materialized view"
)

// address is an object's place in the catalogs of one database.
type address struct{ class, oid uint32 }

// item is one object of the inventory.
type item struct {
	address
	parent   uint32 // the table that it is a part of; 0: of none
	Kind     string
	Identity string
	implied  bool // comes and goes with another object
}

func (i item) key() key       { return key{i.Kind, i.Identity} }
func (i item) object() Object { return Object{Kind: i.Kind, Identity: i.Identity} }

// querier is a pool, a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// inventory reads all objects of the application.
func inventory(ctx context.Context, q querier) ([]item, error) {
	rows, err := q.Query(ctx, inventorySQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (item, error) {
		var i item
		err := row.Scan(&i.class, &i.oid, &i.parent, &i.Kind, &i.Identity, &i.implied)
		return i, err
	})
}

// Inventory lists every object of the application in the database of s, by kind
// and identity: what [Remove] accepts as proof that an object on the new server
// came from the old one. Parts that come and go with another object (the index
// of a constraint) are included.
func Inventory(ctx context.Context, s *pg.Server) ([]Object, error) {
	items, err := inventory(ctx, s.Pool())
	if err != nil {
		return nil, fmt.Errorf("listing the objects on the %s server: %w", s.Side(), s.Redacted(err))
	}
	out := make([]Object, 0, len(items))
	for _, i := range items {
		out = append(out, i.object())
	}
	return out, nil
}

const largeObjectsSQL = `select count(*) from pg_largeobject_metadata`

// Empty lists what stands in the way of a move into the database of s: its
// tables, views, functions, types and so on, publications and subscriptions,
// and large objects as one entry. It is empty for a database as CREATE DATABASE
// makes it: the schema public, extensions (providers install theirs) and what
// the tool itself makes do not count. Parts of a table are not listed beside it.
func Empty(ctx context.Context, s *pg.Server) ([]Object, error) {
	items, err := inventory(ctx, s.Pool())
	if err != nil {
		return nil, fmt.Errorf("listing the objects on the %s server: %w", s.Side(), s.Redacted(err))
	}
	var out []Object
	for _, i := range items {
		public := i.Kind == kindSchema && i.Identity == "public"
		if i.implied || i.parent != 0 || i.Kind == kindExtension || public {
			continue
		}
		out = append(out, i.object())
	}
	var large int64
	if err := s.Pool().QueryRow(ctx, largeObjectsSQL).Scan(&large); err != nil {
		return nil, fmt.Errorf("counting large objects on the %s server: %w", s.Side(), s.Redacted(err))
	}
	if large > 0 {
		out = append(out, Object{Kind: "large objects", Identity: fmt.Sprint(large)})
	}
	return out, nil
}

// neverMoved reports whether objects of the kind are not restored even when the
// old server has them.
func neverMoved(kind string) bool {
	return slices.Contains([]string{kindPublication, kindSubscription, kindColumn}, kind)
}
