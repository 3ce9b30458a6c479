package schema

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// remaining leaves out the entries whose object the new server has already. An
// object is matched by kind and identity; the few that have no address in the
// table of contents by what it calls them. The other entries without an address
// (ACL, COMMENT, SEQUENCE OWNED BY, INDEX ATTACH, ROW SECURITY and so on) alter
// an object and can be restored any number of times, and so can DEFAULT.
func (a *Archive) remaining(ctx context.Context, new *pg.Server, entries []entry) ([]entry, error) {
	items, err := inventory(ctx, new.Pool())
	if err != nil {
		return nil, fmt.Errorf("listing what is there already: %w", err)
	}
	present := make(map[key]bool, len(items))
	for _, i := range items {
		present[i.key()] = true
	}
	done, err := readDone(ctx, new)
	if err != nil {
		return nil, err
	}
	var out []entry
	for _, e := range entries {
		k, known := a.facts.identities[e.address]
		if known && present[k] || e.named(done[e.desc]) {
			continue
		}
		out = append(out, e)
	}
	return out, nil
}

// doneSQL lists what the entries without an address in the catalogs would make:
// partitions that are attached, types that are declared, user mappings.
const doneSQL = `
select 'TABLE ATTACH', n.nspname::text, c.relname::text
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relispartition and c.relkind in ('r', 'p', 'f')
union all
select 'SHELL TYPE', n.nspname, t.typname
  from pg_type t
  join pg_namespace n on n.oid = t.typnamespace
 where t.typtype in ('b', 'p', 'r')
union all
select 'USER MAPPING', '-', format('USER MAPPING %s SERVER %s', usename, srvname)
  from pg_user_mappings`

// readDone returns those tags by type of entry.
func readDone(ctx context.Context, new *pg.Server) (map[string]map[string]bool, error) {
	done := map[string]map[string]bool{}
	rows, err := new.Pool().Query(ctx, doneSQL)
	if err != nil {
		return nil, fmt.Errorf("listing what is there already: %w", err)
	}
	var desc, schema, name string
	_, err = pgx.ForEachRow(rows, []any{&desc, &schema, &name}, func() error {
		if done[desc] == nil {
			done[desc] = map[string]bool{}
		}
		done[desc][tag(schema, name)] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing what is there already: %w", err)
	}
	return done, nil
}

// independent divides the entries of PostData: indexes and constraints need
// only tables and each other, whose order pg_restore --jobs keeps. Their
// statements are one transaction each, so that an entry is there as a whole or
// not at all. Nothing is parallel when functions are restored this late (they
// need a constraint, and an index may need them); indexes on materialized views
// that are restored this late stay with them.
func (f facts) independent(entries []entry) (parallel, rest []entry) {
	late := map[uint32]bool{}
	for _, e := range entries {
		switch e.desc {
		case "FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR", "TYPE", "DOMAIN":
			return nil, entries
		case "MATERIALIZED VIEW", "TABLE", "VIEW":
			late[e.oid] = true
		}
	}
	for _, e := range entries {
		switch e.desc {
		case "INDEX", "CONSTRAINT", "FK CONSTRAINT", "CHECK CONSTRAINT", "INDEX ATTACH":
			if !late[f.tables[e.address]] {
				parallel = append(parallel, e)
				continue
			}
		}
		rest = append(rest, e)
	}
	return parallel, rest
}
