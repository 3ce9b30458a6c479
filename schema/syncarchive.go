package schema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Part is when an object of a [Choice] is restored.
type Part int

// The parts of a choice, in order. Columns are changed between the first two, and
// new tables are copied before the last.
const (
	Tables Part = iota // schemas, types, functions, sequences, tables, their identity indexes
	Views              // views, and the place of partitions, which may need changed columns
	Rest               // the other indexes and constraints, triggers, rules, policies
)

// Choice is what an archive has of the objects that fixes restore whole.
type Choice struct {
	archive *Archive
	entries map[Part][]entry
}

// wanted are the objects to restore: by what every server calls them, and by the
// names that lines of a table of contents without an address begin with.
type wanted struct {
	keys map[key]bool
	late map[key]bool               // of tables that are there: they look at their rows
	tags map[string]map[string]bool // by type of entry
	oids map[uint32]bool            // tables, on the old server
}

// defaultsOfSQL lists the defaults of tables.
const defaultsOfSQL = `
select d.oid
  from pg_attrdef d
  join pg_class c on c.oid = d.adrelid
  join pg_namespace n on n.oid = c.relnamespace
 where format('%I.%I', n.nspname, c.relname) = any ($1)`

// Choose picks from the archive what the fixes restore whole.
func (a *Archive) Choose(ctx context.Context, old *pg.Server, fixes []Fix) (*Choice, error) {
	w := wanted{keys: map[key]bool{}, late: map[key]bool{}, tags: map[string]map[string]bool{}, oids: map[uint32]bool{}}
	var tables []string
	for _, f := range fixes {
		if !f.Whole {
			continue
		}
		for _, d := range append([]Difference{f.Difference}, f.Difference.Parts...) {
			w.want(d)
			if d.Kind == kindTable {
				tables = append(tables, d.Identity)
			}
			if f.Difference.Kind == kindConstraint {
				w.late[d.key()] = true
			}
		}
	}
	defaults, err := defaultsOf(ctx, old, tables)
	if err != nil {
		return nil, err
	}
	c := &Choice{archive: a, entries: map[Part][]entry{}}
	for _, section := range Sections() {
		for _, e := range a.sections[section] {
			if w.has(e, a.facts, defaults) {
				part := w.partOf(e, section, a.facts)
				c.entries[part] = append(c.entries[part], e)
			}
		}
	}
	return c, nil
}

func (w wanted) want(d Difference) {
	w.keys[d.key()] = true
	add := func(desc string) {
		parts := names(d.Identity)
		if len(parts) < 2 {
			return
		}
		if w.tags[desc] == nil {
			w.tags[desc] = map[string]bool{}
		}
		w.tags[desc][tag(parts[0], parts[1])] = true
	}
	switch d.Kind {
	case kindTable:
		add("TABLE ATTACH")
		if d.What == Absent {
			w.oids[d.object.oid] = true
		}
	case kindIndex:
		add("INDEX ATTACH")
	case kindConstraint:
		w.keys[key{kindIndex, schemaOf(d.object.On) + "." + d.name()}] = true
		parts := names(d.object.On)
		if w.tags["INDEX ATTACH"] == nil {
			w.tags["INDEX ATTACH"] = map[string]bool{}
		}
		w.tags["INDEX ATTACH"][tag(parts[0], unquoted(d.name()))] = true
	case kindSequence:
		add("SEQUENCE OWNED BY")
	}
}

func (w wanted) has(e entry, f facts, defaults map[uint32]bool) bool {
	switch e.desc {
	case "TABLE ATTACH", "INDEX ATTACH", "SEQUENCE OWNED BY":
		return e.named(w.tags[e.desc])
	case "DEFAULT":
		return defaults[e.oid]
	case "ROW SECURITY":
		return w.oids[e.oid]
	case "ACL", "COMMENT", "SECURITY LABEL", "DEFAULT ACL":
		return false // made from the catalogs, see aspectStatements
	}
	k, known := f.identities[e.address]
	return known && w.keys[k]
}

func (w wanted) partOf(e entry, section Section, f facts) Part {
	switch {
	case section == PostData || w.late[f.identities[e.address]]:
		return Rest
	case slices.Contains([]string{"VIEW", "MATERIALIZED VIEW", "TABLE ATTACH", "INDEX ATTACH"}, e.desc):
		return Views
	}
	return Tables
}

func defaultsOf(ctx context.Context, old *pg.Server, tables []string) (map[uint32]bool, error) {
	if len(tables) == 0 {
		return nil, nil
	}
	rows, err := old.Pool().Query(ctx, defaultsOfSQL, tables)
	if err != nil {
		return nil, fmt.Errorf("reading the defaults of new tables: %w", err)
	}
	out := map[uint32]bool{}
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&oid}, func() error {
		out[oid] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the defaults of new tables: %w", err)
	}
	return out, nil
}

// Script returns what Restore runs for a part, as SQL; empty when there is
// nothing.
func (c *Choice) Script(ctx context.Context, part Part) (string, error) {
	if len(c.entries[part]) == 0 {
		return "", nil
	}
	text, err := c.archive.script(ctx, c.entries[part])
	if err != nil {
		return "", fmt.Errorf("writing what is to be restored as SQL: %w", err)
	}
	return text, nil
}

// Restore restores a part into the new server, in one transaction. What is there
// already is left out, so that it may be called again.
func (c *Choice) Restore(ctx context.Context, new *pg.Server, part Part, progress func(string)) error {
	entries, err := c.archive.remaining(ctx, new, c.entries[part])
	if err == nil {
		err = endStale(ctx, new)
	}
	if err == nil {
		err = c.archive.run(ctx, new, entries, RestoreOptions{Progress: progress}, "--single-transaction")
	}
	if err != nil {
		return fmt.Errorf("restoring new objects into the new server (%s): %w", new.Address(), c.archive.redacted(err, new))
	}
	return nil
}
