package preflight

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// clientSettings are what changes the meaning or the looks of what clients send
// and get, with what a difference leads to. The text formats do not matter to
// replication itself: workers on both sides set their own (measured, 10 to 18,
// with DateStyle, IntervalStyle, TimeZone, bytea_output and extra_float_digits).
var clientSettings = map[string]string{
	"TimeZone":                      "Times without a zone are read, and times with one are written, in another zone.",
	"DateStyle":                     "Dates are written in another form, and 01/02/2024 is read as another day.",
	"IntervalStyle":                 "Intervals are written in another form, and negative ones may be read as others.",
	"bytea_output":                  "Clients that read bytea as text get another form.",
	"extra_float_digits":            "Floating-point numbers are written with other digits.",
	"xmloption":                     "XML is read by other rules.",
	"xmlbinary":                     "Binary data in XML is written in another form.",
	"lc_monetary":                   "Money is read and written in another form.",
	"lc_numeric":                    "to_char and to_number use other signs.",
	"lc_time":                       "Names of days and months are written in another language.",
	"standard_conforming_strings":   "A backslash in a string means something else, which can open a door to SQL injection.",
	"backslash_quote":               `Strings with \' are taken by one server and refused by the other.`,
	"default_transaction_isolation": "Transactions see other rows, or fail with serialization errors that there were none of.",
	"synchronous_commit":            "What is acknowledged is as durable as on old no more, or commits wait longer.",
	"search_path":                   "Names without a schema mean other tables, or none.",
	"row_security":                  "Queries on tables with row-level security fail where they were filtered, or the other way round.",
	"transform_null_equals":         "x = NULL means something else.",
	"array_nulls":                   "NULL in an array is read as another value.",
	"default_text_search_config":    "Text search without a configuration uses another language.",
	"default_table_access_method":   "Tables made from now on are stored by another method.",
}

// smallerSettings are what makes statements end or run differently, with the
// same results.
var smallerSettings = map[string]string{
	"statement_timeout":                   "Statements that old let run are ended on new, or the other way round.",
	"lock_timeout":                        "Statements that wait for a lock are ended on one server only.",
	"idle_in_transaction_session_timeout": "Sessions that are idle in a transaction are ended on one server only.",
	"idle_session_timeout":                "Idle sessions are ended on one server only: connection pools may be surprised.",
	"transaction_timeout":                 "Long transactions are ended on one server only.",
	"work_mem":                            "Sorts and hashes have another share of memory: the same queries may take longer, or more memory.",
	"effective_cache_size":                "The planner reckons with another cache, and may choose other plans.",
	"random_page_cost":                    "The planner reckons with other disks, and may choose other plans.",
	"default_statistics_target":           "ANALYZE looks at another number of values, and plans may be others.",
	"max_parallel_workers_per_gather":     "Queries run with another number of workers, and take another time.",
	"jit":                                 "Expensive queries are compiled on one server only, and take another time.",
	"lc_messages":                         "Error messages come in another language.",
}

// clientSettingsSQL reads the settings named in $1 as a client gets them, with
// where they come from.
const clientSettingsSQL = `
select name::text as name, setting, coalesce(unit, '') as unit, source::text as source, coalesce(boot_val, '') as boot
  from pg_settings
 where name = any ($1::text[])`

// readAsClient returns settings as a session gets them that asks for none.
func readAsClient(ctx context.Context, s *pg.Server, names []string) (map[string]settingFacts, error) {
	conn, err := s.ConnectAsClient(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, conn)
	rows, err := conn.Query(ctx, clientSettingsSQL, names)
	if err != nil {
		return nil, fmt.Errorf("reading clients' settings on the %s server: %w", s.Side(), s.Redacted(err))
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[settingFacts])
	if err != nil {
		return nil, fmt.Errorf("reading clients' settings on the %s server: %w", s.Side(), s.Redacted(err))
	}
	out := map[string]settingFacts{}
	for _, r := range found {
		out[r.Name] = r
	}
	return out, nil
}

// typesInUseSQL tells whether a table has a column of XML or money.
const typesInUseSQL = `
select coalesce(bool_or(a.atttypid in ('xml'::regtype, 'xml[]'::regtype)), false) as xml,
       coalesce(bool_or(a.atttypid in ('money'::regtype, 'money[]'::regtype)), false) as money
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and c.oid >= 16384 and a.attnum > 0 and not a.attisdropped
   and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
   and a.atttypid in ('xml'::regtype, 'xml[]'::regtype, 'money'::regtype, 'money[]'::regtype)`

type typesInUse struct{ XML, Money bool }

// checkFormats compares the settings that clients of the two databases get, as
// far as they come from the servers: those of roles and of the old database are
// carried over.
func checkFormats(ctx context.Context, p *Pair) ([]Finding, error) {
	names := slices.Concat(slices.Collect(maps.Keys(clientSettings)), slices.Collect(maps.Keys(smallerSettings)))
	older, err := readAsClient(ctx, p.Old, names)
	if err != nil {
		return nil, err
	}
	newer, err := readAsClient(ctx, p.New, names)
	if err != nil {
		return nil, err
	}
	types, err := readOne[typesInUse](ctx, p.Old, "looking for columns of XML and money", typesInUseSQL)
	if err != nil {
		return nil, err
	}
	return formatFindings(p.New, older, newer, types), nil
}

func formatFindings(newServer *pg.Server, older, newer map[string]settingFacts, types typesInUse) []Finding {
	var found []Finding
	if have := newer["xmloption"]; types.XML && strings.EqualFold(have.Setting, "document") {
		found = append(found, Finding{
			ID: "settings.xmloption", Severity: Blocker, Server: string(pg.New), Object: "xmloption",
			Seen: "xmloption is document on new, and there are columns of type xml",
			Why:  "A value that is no whole document, such as a fragment, is refused there: the copy or the stream stops at its row.",
		}.mended(databaseSetting(newServer, "xmloption", "content")))
	}
	for _, name := range slices.Sorted(maps.Keys(older)) {
		o, n := older[name], newer[name]
		if n.Name == "" || !differs(o, n) || (name == "xmloption" && len(found) > 0) {
			continue
		}
		f := Finding{
			ID: "settings.differ", Severity: Warning, Server: string(pg.New), Object: name,
			Seen: fmt.Sprintf("%s is %s on old, %s on new", name, shown(o), shown(n)),
			Why:  clientSettings[name],
		}
		if f.Why == "" {
			f.Severity, f.Why = Note, smallerSettings[name]
		}
		if name == "lc_monetary" && types.Money {
			f.ID, f.Severity = "settings.money", Blocker
			f.Why = "Columns of type money travel as text in the form of lc_monetary, and are read on new by another one: amounts may be refused, or become others."
		}
		found = append(found, f.mended(databaseSetting(newServer, name, asWritten(o))))
	}
	return found
}

// differs tells whether a setting is another one by somebody's will: two majors'
// own defaults do not count, nor does what is set on roles or the old database.
func differs(older, newer settingFacts) bool {
	ofRole := func(s settingFacts) bool { return s.Source == "user" || s.Source == "database user" }
	if ofRole(older) || ofRole(newer) || older.Source == "database" || older.Source == "global" {
		return false
	}
	if older.Setting == older.Boot && newer.Setting == newer.Boot {
		return false
	}
	return canonical(older) != canonical(newer)
}

// canonical is a setting's value in a form that can be compared.
func canonical(s settingFacts) string {
	value := strings.ToLower(s.Setting)
	if !strings.HasPrefix(s.Name, "lc_") {
		return value
	}
	switch value = strings.ReplaceAll(value, "-", ""); value {
	case "posix", "c.utf8":
		return "c" // the categories compared here are the same in all three
	}
	return value
}

func shown(s settingFacts) string {
	if s.Setting == "" {
		return "empty"
	}
	return s.withUnit()
}

// withUnit is the value as it can be set: some settings count in pages of 8 kB.
func (s settingFacts) withUnit() string {
	if s.Unit == "8kB" {
		return fmt.Sprintf("%.0fkB", s.number()*8)
	}
	return s.Setting + s.Unit
}

// asWritten is the value as it stands behind SET. Lists of names are given back
// by the catalog in the form in which they are written.
func asWritten(s settingFacts) string {
	if s.Name == "search_path" && s.Setting != "" {
		return s.Setting
	}
	return literal(s.withUnit())
}
