package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// sequenceSQL reads a sequence.
const sequenceSQL = `
select format('as %s increment by %s minvalue %s maxvalue %s start with %s cache %s %s',
              format_type(s.seqtypid, null), s.seqincrement, s.seqmin, s.seqmax, s.seqstart, s.seqcache,
              case when s.seqcycle then 'cycle' else 'no cycle' end),
       coalesce((select d.deptype::text
                   from pg_depend d
                  where d.classid = 'pg_class'::regclass and d.objid = s.seqrelid and d.objsubid = 0
                    and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
                    and d.deptype in ('a', 'i')), '')
  from pg_sequence s
 where s.seqrelid = $1::regclass`

// alterSequence gives a sequence its options; its value is the cutover's matter.
func (s *syncing) alterSequence(ctx context.Context, d Difference) ([]string, error) {
	var options, owned string
	if err := s.old.Pool().QueryRow(ctx, sequenceSQL, d.Identity).Scan(&options, &owned); err != nil {
		return nil, err
	}
	out := []string{fmt.Sprintf("alter sequence %s %s", d.Identity, options)}
	if owned != "i" && strings.Contains(d.Old, " owned by ") != strings.Contains(d.New, " owned by ") || ownerOf(d.Old) != ownerOf(d.New) {
		column := "none"
		if d.object.On != "" {
			column = d.object.On
		}
		out = append(out, fmt.Sprintf("alter sequence %s owned by %s", d.Identity, column))
	}
	return out, nil
}

func ownerOf(definition string) string {
	_, owner, _ := strings.Cut(definition, " owned by ")
	return owner
}

// functionSQL prints a function as CREATE OR REPLACE.
const functionSQL = `select pg_get_functiondef($1::regprocedure)`

// replaceFunction makes the function anew, which keeps its owner and privileges.
// What it returns cannot be changed in this way.
func (s *syncing) replaceFunction(ctx context.Context, d Difference) ([]string, error) {
	returns := func(text string) string { before, _, _ := strings.Cut(text, " language "); return before }
	if d.Aspect == Definition && returns(d.Old) != returns(d.New) {
		return nil, byHand("the function returns something else now: drop it on the new server with what depends on it, then run this again")
	}
	var sql string
	if err := s.old.Pool().QueryRow(ctx, functionSQL, d.Identity).Scan(&sql); err != nil {
		return nil, err
	}
	return []string{strings.TrimSpace(sql)}, nil
}

// labelsSQL reads an enum's labels; no row for another type.
const labelsSQL = `
select v.enumlabel::text
  from pg_enum v
 where v.enumtypid = $1::regtype
 order by v.enumsortorder`

// alterType adds and renames labels of an enum, and NOT NULL of a domain.
func (s *syncing) alterType(ctx context.Context, d Difference) (Fix, error) {
	if strings.HasPrefix(d.Old, "enum ") && strings.HasPrefix(d.New, "enum ") {
		old, err := labels(ctx, s.old.Pool(), d.Identity)
		if err != nil {
			return Fix{}, err
		}
		new, err := labels(ctx, s.new.Pool(), d.Identity)
		if err != nil {
			return Fix{}, err
		}
		sql, err := enumStatements(d.Identity, old, new)
		rename := len(old) == len(new)
		return Fix{Statements: sql, Alone: !rename, Contract: rename, Order: orderRename}, err
	}
	base := func(text string) string { return typeOf(text) }
	if !strings.HasPrefix(d.Old, "domain ") || base(d.Old) != base(d.New) {
		return Fix{}, byHand("it has become another type: %s", again)
	}
	var out []string
	switch had, has := strings.Contains(d.New+" ", " not null "), strings.Contains(d.Old+" ", " not null "); {
	case has && !had:
		out = append(out, fmt.Sprintf("alter domain %s set not null", d.Identity))
	case had && !has:
		out = append(out, fmt.Sprintf("alter domain %s drop not null", d.Identity))
	}
	if strings.HasSuffix(d.Old, " default") != strings.HasSuffix(d.New, " default") {
		more, err := s.domainDefault(ctx, d)
		if err != nil {
			return Fix{}, err
		}
		out = append(out, more...)
	}
	return Fix{Statements: out, Order: orderAlter}, nil
}

func labels(ctx context.Context, q querier, typ string) ([]string, error) {
	rows, err := q.Query(ctx, labelsSQL, typ)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// enumStatements turns the labels of new into those of old. Postgres cannot drop
// or move a label, so that those of new are all left, in their order.
func enumStatements(typ string, old, new []string) ([]string, error) {
	if len(old) == len(new) {
		var out []string
		for i := range old {
			if old[i] != new[i] {
				out = append(out, fmt.Sprintf("alter type %s rename value %s to %s", typ, quoteText(new[i]), quoteText(old[i])))
			}
		}
		if len(out) > 1 {
			return nil, byHand("several labels differ: ALTER TYPE %s RENAME VALUE on the new server by hand", typ)
		}
		return out, nil
	}
	var out []string
	at := 0
	for i, label := range old {
		if at < len(new) && new[at] == label {
			at++
			continue
		}
		if slices.Contains(new, label) {
			return nil, byHand("the labels are in another order: they cannot be moved. %s", again)
		}
		where := ""
		switch {
		case at < len(new):
			where = " before " + quoteText(new[at])
		case i > 0:
			where = " after " + quoteText(old[i-1])
		}
		out = append(out, fmt.Sprintf("alter type %s add value if not exists %s%s", typ, quoteText(label), where))
	}
	if at < len(new) {
		return nil, byHand("the new server has the label %s that old has not: labels cannot be dropped. %s", quoteText(new[at]), again)
	}
	return out, nil
}

// domainDefaultSQL reads a domain's default.
const domainDefaultSQL = `select coalesce(typdefault, '') from pg_type where oid = $1::regtype`

func (s *syncing) domainDefault(ctx context.Context, d Difference) ([]string, error) {
	var text string
	if err := s.old.Pool().QueryRow(ctx, domainDefaultSQL, d.Identity).Scan(&text); err != nil {
		return nil, err
	}
	if text == "" {
		return []string{fmt.Sprintf("alter domain %s drop default", d.Identity)}, nil
	}
	return []string{fmt.Sprintf("alter domain %s set default %s", d.Identity, text)}, nil
}

// viewSQL prints a view.
const viewSQL = `
select pg_get_viewdef(c.oid), coalesce(c.reloptions, '{}'),
       array(select quote_ident(a.attname) from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 order by a.attnum)
  from pg_class c
 where c.oid = $1::regclass and c.relkind = 'v'`

// replaceView makes a view anew in place while its columns stay and more come
// behind them; otherwise it is dropped and restored.
func (s *syncing) replaceView(ctx context.Context, d Difference) (Fix, error) {
	read := func(q querier) (text string, options, columns []string, err error) {
		err = q.QueryRow(ctx, viewSQL, d.Identity).Scan(&text, &options, &columns)
		return text, options, columns, err
	}
	text, options, columns, err := read(s.old.Pool())
	if err != nil {
		return Fix{}, err
	}
	_, _, have, err := read(s.new.Pool())
	if err != nil {
		return Fix{}, err
	}
	if len(have) > len(columns) || !slices.Equal(have, columns[:len(have)]) {
		return replaced(d)
	}
	with := ""
	if len(options) > 0 {
		with = " with (" + strings.Join(options, ", ") + ")"
	}
	sql := fmt.Sprintf("create or replace view %s%s as\n%s", d.Identity, with, strings.TrimSuffix(strings.TrimSpace(text), ";"))
	return Fix{Statements: []string{sql}, Order: orderView}, nil
}
