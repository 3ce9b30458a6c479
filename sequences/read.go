package sequences

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// UnreadableError says that the role may not read some sequences. Its hint
// holds the GRANT statements that mend it.
type UnreadableError struct {
	Role      string
	Sequences []Ref
}

func (e *UnreadableError) Error() string {
	more := ""
	if n := len(e.Sequences) - 1; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("role %q may not read sequence %s%s", e.Role, e.Sequences[0].Ident(), more)
}

// Grants returns the statements that let Role read the sequences, each one
// once: by sequence while they are few, by schema when they are many.
func (e *UnreadableError) Grants() []string {
	const few = 20
	to := pgx.Identifier{e.Role}.Sanitize()
	var grants []string
	for _, s := range e.Sequences {
		lines := grantRead(s, e.Role)
		if len(e.Sequences) > few {
			lines[1] = fmt.Sprintf("GRANT SELECT ON ALL SEQUENCES IN SCHEMA %s TO %s;", pgx.Identifier{s.Schema}.Sanitize(), to)
		}
		for _, l := range lines {
			if !slices.Contains(grants, l) {
				grants = append(grants, l)
			}
		}
	}
	return grants
}

func unreadable(role string, refs []Ref) error {
	e := &UnreadableError{Role: role, Sequences: refs}
	return hint.With(e, "run as the owner of the sequences: "+strings.Join(e.Grants(), " "))
}

// Read returns all sequences of the database with their positions, ordered by
// schema and name: every sequence outside pg_catalog, information_schema, the
// schema pgcutover and the schemas of temporary objects. Members of extensions
// are included and marked. version is the server's server_version_num.
//
// Sequences that the role may not read make it fail with an *UnreadableError;
// the definitions are returned nevertheless, with Readable false. A member of
// an extension that cannot be read is no error: Plan says what to do about it.
//
// It is one query on 18 and later, where a function returns the position of a
// sequence, and on earlier servers one query and one pipeline of
// "select last_value, is_called" for each 1,000 sequences. The positions are
// not of one instant: nextval knows no snapshots.
func Read(ctx context.Context, q Querier, version int) ([]Sequence, error) {
	var (
		all []Sequence
		err error
	)
	if version >= 180000 {
		all, err = readSequences18(ctx, q)
	} else {
		all, err = readSequences10(ctx, q)
	}
	if err != nil {
		return nil, fmt.Errorf("reading sequences: %w", err)
	}
	var hidden []Ref
	role := ""
	for _, s := range all {
		if !s.Readable && s.Extension == "" {
			hidden, role = append(hidden, s.Ref), s.Role
		}
	}
	if len(hidden) > 0 {
		return all, fmt.Errorf("reading sequences: %w", unreadable(role, hidden))
	}
	return all, nil
}

// sequences18SQL reads definitions and positions of all sequences at once.
// pg_get_sequence_data (18) returns nulls where pg_sequences would, but for a
// sequence that was not called yet it returns its last_value.
const sequences18SQL = `
select n.nspname, c.relname,
       coalesce(d.last_value, 0), coalesce(d.is_called, false), d.last_value is not null,
       format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
       coalesce(o.owned_by, ''), coalesce(o.identity, false), coalesce(x.extname, ''),
       current_user,
       has_sequence_privilege(c.oid, 'SELECT') and has_schema_privilege(n.oid, 'USAGE'),
       pg_has_role(c.relowner, 'USAGE') and has_schema_privilege(n.oid, 'USAGE'),
       has_sequence_privilege(c.oid, 'UPDATE')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_sequence s on s.seqrelid = c.oid
  cross join lateral pg_get_sequence_data(c.oid) d
  left join lateral (
       select format('%I.%I.%I', tn.nspname, t.relname, a.attname) as owned_by, p.deptype = 'i' as identity
         from pg_depend p
         join pg_class t on t.oid = p.refobjid
         join pg_namespace tn on tn.oid = t.relnamespace
         join pg_attribute a on a.attrelid = t.oid and a.attnum = p.refobjsubid
        where p.classid = 'pg_class'::regclass and p.objid = c.oid and p.objsubid = 0
          and p.refclassid = 'pg_class'::regclass and p.refobjsubid > 0 and p.deptype in ('a', 'i')
        limit 1) o on true
  left join lateral (
       select e.extname
         from pg_depend p
         join pg_extension e on e.oid = p.refobjid
        where p.classid = 'pg_class'::regclass and p.objid = c.oid
          and p.refclassid = 'pg_extension'::regclass and p.deptype = 'e'
        limit 1) x on true
 where c.relkind = 'S' and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
   and n.nspname !~ '^pg_(toast_)?temp_'
 order by n.nspname, c.relname`

func readSequences18(ctx context.Context, q Querier) ([]Sequence, error) {
	rows, err := q.Query(ctx, sequences18SQL)
	if err != nil {
		return nil, err
	}
	all, err := pgx.CollectRows(rows, scanSequence)
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Readable && !r.known {
			return nil, vanished(r.Ref)
		}
	}
	return plain(all), nil
}

// sequences10SQL reads the definitions of all sequences on servers 10 to 17.
// The positions follow, sequence by sequence: pg_sequence_last_value() and the
// view pg_sequences made of it return null for every sequence that was not
// called yet, whatever number it stands at.
const sequences10SQL = `
select n.nspname, c.relname,
       0::bigint, false, false,
       format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, s.seqcycle,
       coalesce(o.owned_by, ''), coalesce(o.identity, false), coalesce(x.extname, ''),
       current_user,
       has_sequence_privilege(c.oid, 'SELECT') and has_schema_privilege(n.oid, 'USAGE'),
       pg_has_role(c.relowner, 'USAGE') and has_schema_privilege(n.oid, 'USAGE'),
       has_sequence_privilege(c.oid, 'UPDATE')
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_sequence s on s.seqrelid = c.oid
  left join lateral (
       select format('%I.%I.%I', tn.nspname, t.relname, a.attname) as owned_by, p.deptype = 'i' as identity
         from pg_depend p
         join pg_class t on t.oid = p.refobjid
         join pg_namespace tn on tn.oid = t.relnamespace
         join pg_attribute a on a.attrelid = t.oid and a.attnum = p.refobjsubid
        where p.classid = 'pg_class'::regclass and p.objid = c.oid and p.objsubid = 0
          and p.refclassid = 'pg_class'::regclass and p.refobjsubid > 0 and p.deptype in ('a', 'i')
        limit 1) o on true
  left join lateral (
       select e.extname
         from pg_depend p
         join pg_extension e on e.oid = p.refobjid
        where p.classid = 'pg_class'::regclass and p.objid = c.oid
          and p.refclassid = 'pg_extension'::regclass and p.deptype = 'e'
        limit 1) x on true
 where c.relkind = 'S' and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema', 'pgcutover')
   and n.nspname !~ '^pg_(toast_)?temp_'
 order by n.nspname, c.relname`

func readSequences10(ctx context.Context, q Querier) ([]Sequence, error) {
	rows, err := q.Query(ctx, sequences10SQL)
	if err != nil {
		return nil, err
	}
	scanned, err := pgx.CollectRows(rows, scanSequence)
	if err != nil {
		return nil, err
	}
	all := plain(scanned)
	var readable []Ref
	for _, s := range all {
		if s.Readable {
			readable = append(readable, s.Ref)
		}
	}
	values, err := readDirectly(ctx, q, readable)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Readable {
			all[i].Value, values = values[0], values[1:]
		}
	}
	return all, nil
}

// scanned is a row of the queries above; known says whether the row had the
// sequence's position.
type scanned struct {
	Sequence
	known bool
}

func scanSequence(row pgx.CollectableRow) (scanned, error) {
	var s scanned
	err := row.Scan(&s.Schema, &s.Name, &s.LastValue, &s.IsCalled, &s.known,
		&s.Type, &s.Start, &s.Increment, &s.Min, &s.Max, &s.Cache, &s.Cycle,
		&s.OwnedBy, &s.Identity, &s.Extension,
		&s.Role, &s.Readable, &s.Alterable, &s.Settable)
	return s, err
}

func plain(rows []scanned) []Sequence {
	all := make([]Sequence, len(rows))
	for i, r := range rows {
		all[i] = r.Sequence
	}
	return all
}

func vanished(r Ref) error {
	return hint.With(fmt.Errorf("sequence %s is not there", r.Ident()),
		"it was dropped or renamed meanwhile, or it is missing on this server; look with: pgcutover sequences diff")
}
