package warmup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// PlanIndex is an index of a table that a plan reads.
type PlanIndex struct {
	Table Table  `json:"table"`
	Name  string `json:"name"`
	// Definition is what stands behind USING, with unique before it.
	Definition string `json:"definition"`
	Valid      bool   `json:"valid"`
}

// plannerSettings are those that decide about plans.
// Postgres manual: 19.7, Query Planning.
var plannerSettings = []string{
	"constraint_exclusion", "cpu_index_tuple_cost", "cpu_operator_cost", "cpu_tuple_cost", "cursor_tuple_fraction",
	"default_statistics_target", "effective_cache_size", "from_collapse_limit", "geqo", "geqo_threshold", "hash_mem_multiplier",
	"join_collapse_limit", "max_parallel_workers", "max_parallel_workers_per_gather", "min_parallel_index_scan_size",
	"min_parallel_table_scan_size", "parallel_setup_cost", "parallel_tuple_cost", "random_page_cost", "seq_page_cost", "work_mem",
	"enable_bitmapscan", "enable_hashagg", "enable_hashjoin", "enable_indexonlyscan", "enable_indexscan", "enable_material",
	"enable_memoize", "enable_mergejoin", "enable_nestloop", "enable_partition_pruning", "enable_partitionwise_aggregate",
	"enable_partitionwise_join", "enable_seqscan", "enable_sort",
}

// plannerSettingsSQL reads what a session of this role has.
const plannerSettingsSQL = `
select s.name, current_setting(s.name)
  from pg_settings s
 where s.name = any($1::text[])`

// planIndexesSQL lists the indexes of some tables.
const planIndexesSQL = `
select n.nspname::text, t.relname::text, i.relname::text, pg_get_indexdef(x.indexrelid), x.indisvalid
  from pg_index x
  join pg_class i on i.oid = x.indexrelid
  join pg_class t on t.oid = x.indrelid
  join pg_namespace n on n.oid = t.relnamespace
  join unnest($1::text[], $2::text[]) wanted(schema, name) on wanted.schema = n.nspname and wanted.name = t.relname
 order by 1, 2, 3`

// surroundings reads what is needed to explain differences.
func (p *PlanSet) surroundings(ctx context.Context, e *explainer) error {
	var tables []Table
	for _, s := range p.Statements {
		if s.Plan != nil {
			tables = append(tables, s.Plan.Root.tables()...)
		}
	}
	var err error
	if p.Indexes, err = readIndexes(ctx, e.conn, tables); err != nil {
		return fmt.Errorf("reading indexes of the %s server: %w", e.server.Side(), err)
	}
	if p.Settings, err = readPlannerSettings(ctx, e.conn); err != nil {
		return fmt.Errorf("reading planner settings of the %s server: %w", e.server.Side(), err)
	}
	return nil
}

func readPlannerSettings(ctx context.Context, conn *pgx.Conn) (map[string]string, error) {
	rows, err := conn.Query(ctx, plannerSettingsSQL, plannerSettings)
	if err != nil {
		return nil, err
	}
	var name, value string
	settings := map[string]string{}
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		settings[name] = value
		return nil
	})
	return settings, err
}

func readIndexes(ctx context.Context, conn *pgx.Conn, tables []Table) ([]PlanIndex, error) {
	schemas, names := []string{}, []string{}
	seen := map[Table]bool{}
	for _, t := range tables {
		if !seen[t] {
			seen[t] = true
			schemas, names = append(schemas, t.Schema), append(names, t.Name)
		}
	}
	rows, err := conn.Query(ctx, planIndexesSQL, schemas, names)
	if err != nil {
		return nil, err
	}
	indexes := []PlanIndex{}
	var one PlanIndex
	_, err = pgx.ForEachRow(rows, []any{&one.Table.Schema, &one.Table.Name, &one.Name, &one.Definition, &one.Valid}, func() error {
		index := one
		index.Definition = behindUsing(one.Definition)
		indexes = append(indexes, index)
		return nil
	})
	return indexes, err
}

// behindUsing takes the names from CREATE UNIQUE INDEX name ON table USING btree (id).
func behindUsing(definition string) string {
	list := tokens(definition)
	unique := ""
	for i, t := range list {
		switch {
		case t.is("unique"):
			unique = "unique "
		case t.is("using"):
			return unique + strings.TrimSpace(textOf(list[i+1:]))
		}
	}
	return definition
}

// indexBook answers questions about the indexes of one server.
type indexBook map[Table][]PlanIndex

func bookOf(indexes []PlanIndex) indexBook {
	book := indexBook{}
	for _, i := range indexes {
		book[i.Table] = append(book[i.Table], i)
	}
	return book
}

func (b indexBook) named(t Table, name string) (PlanIndex, bool) {
	for _, i := range b[t] {
		if i.Name == name {
			return i, true
		}
	}
	return PlanIndex{}, false
}

// has tells whether there is a usable index of that name or that definition.
func (b indexBook) has(wanted PlanIndex) bool {
	return slices.ContainsFunc(b[wanted.Table], func(i PlanIndex) bool {
		return i.Valid && (i.Name == wanted.Name || i.Definition == wanted.Definition)
	})
}

// nameOf is what an index of the other server is called in this book: its own
// name, unless only another one has its definition.
func (b indexBook) nameOf(t Table, name string, other indexBook) string {
	if _, ok := b.named(t, name); ok {
		return name
	}
	theirs, ok := other.named(t, name)
	if !ok {
		return name
	}
	for _, i := range b[t] {
		if _, both := other.named(t, i.Name); i.Definition == theirs.Definition && !both {
			return i.Name
		}
	}
	return name
}

// SettingDifference is a planner setting that the servers do not share.
type SettingDifference struct {
	Name string `json:"name"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

// settingDifferences compares the settings that both have.
func settingDifferences(before, after map[string]string) []SettingDifference {
	all := []SettingDifference{}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		if now, ok := after[name]; ok && now != before[name] {
			all = append(all, SettingDifference{name, before[name], now})
		}
	}
	return all
}

// costUnits are the settings that costs are counted in.
var costUnits = []string{"seq_page_cost", "random_page_cost", "cpu_tuple_cost", "cpu_index_tuple_cost", "cpu_operator_cost"}

// unitsWarning tells that the servers' costs cannot be compared; empty when they can.
func unitsWarning(different []SettingDifference) string {
	var names []string
	for _, d := range different {
		if slices.Contains(costUnits, d.Name) {
			names = append(names, d.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return "the servers do not count costs in the same units, so that dearer and cheaper mean little: " + strings.Join(names, ", ") + " differ"
}
