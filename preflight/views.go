package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// systemUsesSQL lists what the application's views take from the system: its
// catalogs and views, and its functions. pg_depend does not keep that, for these
// objects are never dropped; the stored query does.
const systemUsesSQL = `
select n.nspname::text as schema, c.relname::text as view, c.oid, u.kind, u.name
  from pg_rewrite w
  join pg_class c on c.oid = w.ev_class and c.relkind in ('v', 'm')
  join pg_namespace n on n.oid = c.relnamespace
 cross join lateral (
   select distinct 'relation' as kind, s.relname::text as name
     from unnest((string_to_array(w.ev_action::text, ':relid '))[2:]) m(rest)
     join pg_class s on s.oid = substring(m.rest from '^\d+')::oid and s.oid < 16384 and s.relnamespace = 'pg_catalog'::regnamespace
   union
   select 'function', p.proname::text
     from unnest((string_to_array(w.ev_action::text, ':funcid '))[2:]) m(rest)
     join pg_proc p on p.oid = substring(m.rest from '^\d+')::oid and p.oid < 16384
 ) u
 where c.oid >= 16384 and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1, 2, 4, 5`

type systemUse struct {
	Schema, View string
	Oid          uint32
	Kind, Name   string
}

// systemColumnsSQL lists the columns of the system relations in $1, and the names
// of those of its functions that are in $2.
const systemColumnsSQL = `
select 'relation' as kind, c.relname::text as name, a.attname::text as column
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and not a.attisdropped
 where c.relnamespace = 'pg_catalog'::regnamespace and c.relname = any ($1::text[])
union
select 'function', p.proname::text, ''
  from pg_proc p
 where p.pronamespace in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) and p.proname = any ($2::text[])`

type systemColumn struct{ Kind, Name, Column string }

// viewTextSQL reads the text of the views in $1.
const viewTextSQL = `
select v.oid, pg_get_viewdef(v.oid) as text from unnest($1::oid[]) v(oid)`

type viewText struct {
	Oid  uint32
	Text string
}

// checkViews finds views over what the new major has taken out of its catalogs:
// pg_restore cannot make them.
func checkViews(ctx context.Context, p *Pair) ([]Finding, error) {
	uses, err := read[systemUse](ctx, p.Old, "reading what views take from the system", systemUsesSQL)
	if err != nil || len(uses) == 0 || p.Old.Major() == p.New.Major() {
		return nil, err
	}
	gone, err := goneFromSystem(ctx, p, uses)
	if err != nil || len(gone) == 0 {
		return nil, err
	}
	var views []uint32
	for _, u := range uses {
		if _, ok := gone[u.Kind+" "+u.Name]; ok && !slices.Contains(views, u.Oid) {
			views = append(views, u.Oid)
		}
	}
	texts, err := read[viewText](ctx, p.Old, "reading views", viewTextSQL, views)
	if err != nil {
		return nil, err
	}
	words := make(map[uint32][]word, len(texts))
	for _, t := range texts {
		words[t.Oid] = split(t.Text)
	}
	missing := map[string][]string{}
	var order []string
	for _, u := range uses {
		for _, what := range gone[u.Kind+" "+u.Name] {
			name := quote(u.Schema) + "." + quote(u.View)
			column := what[strings.LastIndexByte(what, '.')+1:]
			if u.Kind == "relation" && what != u.Name && !slices.ContainsFunc(words[u.Oid], func(w word) bool { return w.name && w.text == column }) {
				continue
			}
			if missing[name] == nil {
				order = append(order, name)
			}
			missing[name] = append(missing[name], what)
		}
	}
	var found []Finding
	for _, name := range order {
		found = append(found, Finding{
			ID: "objects.view", Severity: Blocker, Server: string(pg.Old), Object: "view " + name,
			Seen: fmt.Sprintf("uses %s, which PostgreSQL %d has not", list(missing[name]), p.New.Major()),
			Why:  "The new server cannot make the view, nor what is made of it.",
			Fix:  "change the view so that it does without, or drop it on old and make it anew on new after start", FixKind: FixAction,
		})
	}
	return found, nil
}

// goneFromSystem returns, by kind and name, what new lacks of it: the function
// or relation itself, or columns as relation.column.
func goneFromSystem(ctx context.Context, p *Pair, uses []systemUse) (map[string][]string, error) {
	var relations, functions []string
	for _, u := range uses {
		if u.Kind == "relation" {
			relations = append(relations, u.Name)
		} else {
			functions = append(functions, u.Name)
		}
	}
	was, err := read[systemColumn](ctx, p.Old, "reading system columns", systemColumnsSQL, relations, functions)
	if err != nil {
		return nil, err
	}
	is, err := read[systemColumn](ctx, p.New, "reading system columns", systemColumnsSQL, relations, functions)
	there := map[systemColumn]bool{}
	for _, c := range is {
		there[c] = true
		there[systemColumn{Kind: c.Kind, Name: c.Name}] = true
	}
	gone := map[string][]string{}
	for _, c := range was {
		key := c.Kind + " " + c.Name
		switch {
		case !there[systemColumn{Kind: c.Kind, Name: c.Name}]:
			gone[key] = []string{c.Name}
		case !there[c]:
			gone[key] = append(gone[key], c.Name+"."+c.Column)
		}
	}
	return gone, err
}
