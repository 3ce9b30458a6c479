package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// facts are what the catalogs of the old server say about the archive's
// entries.
type facts struct {
	identity    map[address]bool   // constraints and indexes of the section Identity
	attached    map[string]bool    // tags of partitions' indexes whose attachment belongs there
	unowned     map[address]bool   // schemas whose owner is initdb's choice
	ours        map[address]bool   // triggers and event triggers of the tool
	ourComments map[string]bool    // tags of comments on them
	identities  map[address]key    // what each object is called on any server
	tables      map[address]uint32 // the table that an index or constraint is on
	extensions  map[address]bool   // extensions, and the schemas that MakeExtensions makes for them
}

// excluded reports whether the entry is never restored: the tool's own objects,
// publications and subscriptions, comments on extensions, which belong to the
// extension's owner and are set by CREATE EXTENSION, and the owner of the schema
// public where nobody has chosen it.
func (f facts) excluded(e entry) bool {
	switch e.desc {
	case "PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA", "SUBSCRIPTION", "SUBSCRIPTION TABLE":
		return true
	case "SCHEMA":
		return f.unowned[e.address]
	case "TRIGGER", "EVENT TRIGGER":
		return f.ours[e.address]
	case "COMMENT":
		return strings.HasPrefix(e.rest, "- EXTENSION ") ||
			strings.HasPrefix(e.rest, "- PUBLICATION ") || strings.HasPrefix(e.rest, "- SUBSCRIPTION ") ||
			e.named(f.ourComments)
	}
	return false
}

// serves reports whether the entry belongs to the section Identity.
func (f facts) serves(e entry) bool {
	switch e.desc {
	case "CONSTRAINT", "INDEX":
		return f.identity[e.address]
	case "INDEX ATTACH":
		return e.named(f.attached)
	}
	return false
}

// divide sorts the entries of pg_restore's two sections into the three of ours,
// in the archive's order.
func (f facts) divide(preData, postData []entry) map[Section][]entry {
	sections := map[Section][]entry{}
	add := func(s Section, e entry) {
		if !f.excluded(e) {
			sections[s] = append(sections[s], e)
		}
	}
	for _, e := range preData {
		add(PreData, e)
	}
	for _, e := range postData {
		if f.serves(e) {
			add(Identity, e)
		} else {
			add(PostData, e)
		}
	}
	return sections
}

func readFacts(ctx context.Context, tx pgx.Tx) (facts, error) {
	f := facts{
		identity: map[address]bool{}, attached: map[string]bool{},
		unowned: map[address]bool{}, ours: map[address]bool{}, ourComments: map[string]bool{},
		identities: map[address]key{}, tables: map[address]uint32{}, extensions: map[address]bool{},
	}
	for _, read := range []func(context.Context, pgx.Tx) error{f.readIdentity, f.readAttached, f.readPublic, f.readOurs, f.readExtensions} {
		if err := read(ctx, tx); err != nil {
			return facts{}, err
		}
	}
	items, err := inventory(ctx, tx)
	if err != nil {
		return facts{}, fmt.Errorf("listing the objects: %w", err)
	}
	for _, i := range items {
		if i.Kind == kindSchema && i.Identity == "public" {
			continue // always there: its entry only sets the owner
		}
		f.identities[i.address] = i.key()
		f.tables[i.address] = i.parent
	}
	return f, nil
}

// identitySQL lists primary keys, and the indexes marked as replica identity,
// which are either a constraint's or stand alone. pg_dump writes ALTER TABLE ...
// REPLICA IDENTITY USING INDEX into the entry of the constraint or index, and
// REPLICA IDENTITY FULL and NOTHING into that of the table.
const identitySQL = `
select 'pg_constraint'::regclass::oid, oid
  from pg_constraint
 where contype = 'p'
union
select 'pg_constraint'::regclass::oid, k.oid
  from pg_index i
  join pg_constraint k on k.conindid = i.indexrelid and k.conrelid = i.indrelid and k.contype in ('p', 'u', 'x')
 where i.indisreplident
union
select 'pg_class'::regclass::oid, i.indexrelid
  from pg_index i
 where i.indisreplident
   and not exists (select from pg_constraint k
                    where k.conindid = i.indexrelid and k.conrelid = i.indrelid and k.contype in ('p', 'u', 'x'))`

// readSet puts the addresses that a query returns into a set.
func readSet(ctx context.Context, tx pgx.Tx, what, sql string, set map[address]bool) error {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	var a address
	_, err = pgx.ForEachRow(rows, []any{&a.class, &a.oid}, func() error {
		set[a] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	return nil
}

func (f facts) readIdentity(ctx context.Context, tx pgx.Tx) error {
	return readSet(ctx, tx, "replica identities", identitySQL, f.identity)
}

// attachedSQL lists partitions' indexes that serve as identity and are attached
// to an index of the parent that does too. The attachment of others has to wait
// for the parent's index, which is restored last.
const attachedSQL = `
select n.nspname, c.relname
  from pg_inherits h
  join pg_index child on child.indexrelid = h.inhrelid
  join pg_index parent on parent.indexrelid = h.inhparent
  join pg_class c on c.oid = h.inhrelid
  join pg_namespace n on n.oid = c.relnamespace
 where (child.indisprimary or child.indisreplident)
   and (parent.indisprimary or parent.indisreplident)`

func (f facts) readAttached(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, attachedSQL)
	if err != nil {
		return fmt.Errorf("reading the indexes of partitions: %w", err)
	}
	var schema, name string
	_, err = pgx.ForEachRow(rows, []any{&schema, &name}, func() error {
		f.attached[tag(schema, name)] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the indexes of partitions: %w", err)
	}
	return nil
}

// extensionEntriesSQL lists the extensions, and the schemas that hold one without being
// a part of it.
const extensionEntriesSQL = `
select 'pg_extension'::regclass::oid, oid
  from pg_extension
 where extname <> 'plpgsql'
union
select 'pg_namespace'::regclass::oid, n.oid
  from pg_extension e
  join pg_namespace n on n.oid = e.extnamespace
 where n.nspname not in ('public', 'pg_catalog')
   and not exists (select from pg_depend d
                    where d.classid = 'pg_namespace'::regclass and d.objid = n.oid and d.deptype = 'e')`

func (f facts) readExtensions(ctx context.Context, tx pgx.Tx) error {
	return readSet(ctx, tx, "extensions", extensionEntriesSQL, f.extensions)
}

// withoutExtensions leaves out what MakeExtensions has made.
func (a *Archive) withoutExtensions(entries []entry) []entry {
	return slices.DeleteFunc(slices.Clone(entries), func(e entry) bool {
		return (e.desc == "EXTENSION" || e.desc == "SCHEMA") && a.facts.extensions[e.address]
	})
}

// publicSQL finds the schema public when it belongs to the bootstrap superuser,
// as initdb before 15 left it. Its entry in the archive only sets the owner:
// that of the new server is as good, and only a superuser could change it.
const publicSQL = `
select 'pg_namespace'::regclass::oid, oid
  from pg_namespace
 where nspname = 'public' and nspowner = 10`

func (f facts) readPublic(ctx context.Context, tx pgx.Tx) error {
	return readSet(ctx, tx, "the schema public", publicSQL, f.unowned)
}

// oursSQL lists the triggers and event triggers of the tool, told by their
// function, since the application's names are its own affair, with what a
// comment on each is called in a table of contents. Which names are quoted
// there depends on the keywords that the client knows: so all ways are given.
const oursSQL = `
select 'pg_trigger'::regclass::oid, g.oid, n.nspname::text,
       array[format('TRIGGER %I ON %s', g.tgname, c.relname),
             format('TRIGGER %I ON %I', g.tgname, c.relname),
             format('TRIGGER %I ON "%s"', g.tgname, replace(c.relname, '"', '""'))]
  from pg_trigger g
  join pg_class c on c.oid = g.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_proc p on p.oid = g.tgfoid
  join pg_namespace pn on pn.oid = p.pronamespace
 where not g.tgisinternal and pn.nspname = 'pgcutover'
union all
select 'pg_event_trigger'::regclass::oid, v.oid, '-', array[format('EVENT TRIGGER %I', v.evtname)]
  from pg_event_trigger v
  join pg_proc p on p.oid = v.evtfoid
  join pg_namespace pn on pn.oid = p.pronamespace
 where pn.nspname = 'pgcutover'`

func (f facts) readOurs(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, oursSQL)
	if err != nil {
		return fmt.Errorf("reading the tool's own triggers: %w", err)
	}
	var (
		a        address
		schema   string
		comments []string
	)
	_, err = pgx.ForEachRow(rows, []any{&a.class, &a.oid, &schema, &comments}, func() error {
		f.ours[a] = true
		for _, c := range comments {
			f.ourComments[tag(schema, c)] = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading the tool's own triggers: %w", err)
	}
	return nil
}
