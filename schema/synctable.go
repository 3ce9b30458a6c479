package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// renamedTable returns what the table was called at start, when it has another
// name on old now and new has it by the former one.
func (s *syncing) renamedTable(d Difference) string {
	if s.baseline == nil || d.object.oid == 0 {
		return ""
	}
	for name, known := range s.baseline.Tables {
		if known.OID == d.object.oid && name != d.Identity && s.onNewOnly(name) {
			return name
		}
	}
	return ""
}

func (s *syncing) onNewOnly(table string) bool {
	return slices.ContainsFunc(s.all, func(d Difference) bool {
		return d.What == Extra && d.Kind == kindTable && d.Identity == table
	})
}

// renameTable gives a table on new the name and schema that it has on old.
func renameTable(from, to string) (Fix, error) {
	was, is := names(from), names(to)
	var out []string
	if was[0] != is[0] {
		out = append(out, fmt.Sprintf("alter table %s set schema %s", from, schemaOf(to)))
		from = schemaOf(to) + strings.TrimPrefix(from, schemaOf(from))
	}
	if was[1] != is[1] {
		out = append(out, fmt.Sprintf("alter table %s rename to %s", from, strings.TrimPrefix(to, schemaOf(to)+".")))
	}
	return Fix{Statements: out, Order: orderRename}, nil
}

// dropTable drops a table that came from old and is gone there. One that somebody
// made on new is theirs.
func (s *syncing) dropTable(_ context.Context, d Difference) (Fix, error) {
	known, found := s.baseline.table(d.Identity)
	if !found {
		return Fix{}, byHand("it did not come from old: drop it on the new server by hand, or make it on old")
	}
	for _, other := range s.all {
		if other.What == Absent && other.Kind == kindTable && other.object.oid == known.OID {
			return Fix{Advice: "it was renamed on old, see table " + other.Identity}, nil
		}
	}
	return Fix{Drop: []string{"drop table " + d.Identity}, Order: orderDrop}, nil
}

// tableSQL reads what ALTER TABLE can set.
const tableSQL = `
select c.relreplident::text, c.relrowsecurity, c.relforcerowsecurity, c.relispartition, c.relpersistence::text,
       coalesce(c.reloptions, '{}'), coalesce(pg_get_expr(c.relpartbound, c.oid), ''),
       coalesce((select quote_ident(x.relname)
                   from pg_index i
                   join pg_class x on x.oid = i.indexrelid
                  where i.indrelid = c.oid and i.indisreplident), ''),
       coalesce((select format('%I.%I', n.nspname, p.relname)
                   from pg_inherits h
                   join pg_class p on p.oid = h.inhparent
                   join pg_namespace n on n.oid = p.relnamespace
                  where h.inhrelid = c.oid
                  order by h.inhseqno
                  limit 1), ''),
       coalesce(pg_get_partkeydef(c.oid), ''),
       (select count(*) from pg_inherits h where h.inhrelid = c.oid)
  from pg_class c
 where c.oid = $1::regclass`

// tableFacts are what ALTER TABLE can set.
type tableFacts struct {
	identity, persistence         string
	security, forced, partition   bool
	options                       []string
	bound, index, parent, partkey string
	parents                       int
}

func readTable(ctx context.Context, q querier, table string) (tableFacts, error) {
	var f tableFacts
	err := q.QueryRow(ctx, tableSQL, table).Scan(&f.identity, &f.security, &f.forced, &f.partition, &f.persistence,
		&f.options, &f.bound, &f.index, &f.parent, &f.partkey, &f.parents)
	return f, err
}

// alterTable changes what is not a column, an index or a constraint.
func (s *syncing) alterTable(ctx context.Context, d Difference) ([]string, error) {
	old, err := readTable(ctx, s.old.Pool(), d.Identity)
	if err != nil {
		return nil, err
	}
	new, err := readTable(ctx, s.new.Pool(), d.Identity)
	if err != nil {
		return nil, err
	}
	switch {
	case old.persistence != new.persistence:
		return nil, byHand("LOGGED or UNLOGGED decides whether the table's rows are in the stream: %s", again)
	case old.partkey != new.partkey && (old.partkey == "" || new.partkey == ""):
		return nil, byHand("a partitioned table and an ordinary one are two tables: %s", again)
	case old.parents > 1 || new.parents > 1 || old.parents+new.parents > 0 && old.partition != new.partition && old.parents == new.parents:
		return nil, byHand("ALTER TABLE %s INHERIT or NO INHERIT on the new server by hand, as it was done on old", d.Identity)
	}
	alter := "alter table " + d.Identity + " "
	out := attachment(d.Identity, old, new)
	if old.identity != new.identity || old.index != new.index {
		out = append(out, alter+"replica identity "+map[string]string{"d": "default", "f": "full", "n": "nothing", "i": "using index " + old.index}[old.identity])
	}
	if old.security != new.security {
		out = append(out, alter+map[bool]string{true: "enable", false: "disable"}[old.security]+" row level security")
	}
	if old.forced != new.forced {
		out = append(out, alter+map[bool]string{true: "force", false: "no force"}[old.forced]+" row level security")
	}
	out = append(out, storageParameters(alter, old.options, new.options)...)
	if len(out) == 0 {
		return nil, byHand("bring the table in line on the new server by hand: its tablespace, access method or partition key differ")
	}
	return out, nil
}

// attachment makes a table the partition, or child, that it is on old.
func attachment(table string, old, new tableFacts) []string {
	if old.parent == new.parent && old.bound == new.bound {
		return nil
	}
	var out []string
	switch {
	case new.parent != "" && new.partition:
		out = append(out, fmt.Sprintf("alter table %s detach partition %s", new.parent, table))
	case new.parent != "":
		out = append(out, fmt.Sprintf("alter table %s no inherit %s", table, new.parent))
	}
	switch {
	case old.parent != "" && old.partition:
		out = append(out, fmt.Sprintf("alter table %s attach partition %s %s", old.parent, table, old.bound))
	case old.parent != "":
		out = append(out, fmt.Sprintf("alter table %s inherit %s", table, old.parent))
	}
	return out
}

func storageParameters(alter string, want, have []string) []string {
	var out, reset []string
	set := map[string]bool{}
	for _, o := range want {
		name, value, _ := strings.Cut(o, "=")
		set[name] = true
		if !slices.Contains(have, o) {
			out = append(out, fmt.Sprintf("%sset (%s = %s)", alter, name, quoteText(value)))
		}
	}
	for _, o := range have {
		if name, _, _ := strings.Cut(o, "="); !set[name] {
			reset = append(reset, name)
		}
	}
	if len(reset) > 0 {
		out = append(out, alter+"reset ("+strings.Join(reset, ", ")+")")
	}
	return out
}

// constraintSQL reads a constraint of a table.
const constraintSQL = `
select pg_get_constraintdef(k.oid)
  from pg_constraint k
 where k.conrelid = $1::regclass and k.conname = $2`

// domainConstraintSQL reads a constraint of a domain.
const domainConstraintSQL = `
select pg_get_constraintdef(k.oid)
  from pg_constraint k
 where k.contypid = $1::regtype and k.conname = $2`

// addConstraint adds a check: pg_dump has those of a table in the table.
func (s *syncing) addConstraint(ctx context.Context, d Difference) ([]string, error) {
	sql, alter := constraintSQL, "table"
	if d.Kind != kindConstraint {
		sql, alter = domainConstraintSQL, "domain"
	}
	var definition string
	if err := s.old.Pool().QueryRow(ctx, sql, d.object.On, unquoted(d.name())).Scan(&definition); err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("alter %s %s add constraint %s %s", alter, d.object.On, d.name(), definition)}, nil
}

// replacedConstraint drops a constraint and adds it anew.
func (s *syncing) replacedConstraint(ctx context.Context, d Difference) (Fix, error) {
	if strings.HasPrefix(d.object.Definition, "primary key") {
		return Fix{}, byHand("the primary key is what the stream finds rows by: change it on the new server by hand while the subscription is disabled, or: %s", again)
	}
	drop, err := dropStatement(d)
	if err != nil {
		return Fix{}, err
	}
	if !strings.HasPrefix(d.object.Definition, "check") {
		return Fix{Drop: drop, Whole: true, Order: orderDrop}, nil
	}
	add, err := s.addConstraint(ctx, d)
	return Fix{Drop: drop, Statements: add, Order: orderDrop, Late: true}, err
}
