package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// The collation of a database: one complete query for each shape of
// pg_database. provider is c (libc), i (ICU) or b (built in).
const (
	locale10SQL = `
select pg_encoding_to_char(encoding)::text as encoding, datcollate::text as collate, datctype::text as ctype,
       'c' as provider, '' as locale
  from pg_database
 where datname = current_database()`

	locale15SQL = `
select pg_encoding_to_char(encoding)::text as encoding, datcollate::text as collate, datctype::text as ctype,
       datlocprovider::text as provider, coalesce(daticulocale, '') as locale
  from pg_database
 where datname = current_database()`

	locale17SQL = `
select pg_encoding_to_char(encoding)::text as encoding, datcollate::text as collate, datctype::text as ctype,
       datlocprovider::text as provider, coalesce(datlocale, '') as locale
  from pg_database
 where datname = current_database()`
)

type localeFacts struct {
	Encoding, Collate, Ctype, Provider, Locale string
}

// order is what decides how text is sorted, in a form that can be compared:
// libc accepts several spellings of one codeset, and POSIX is another name of C.
func (l localeFacts) order() string {
	if l.Provider == "c" {
		name := strings.ToLower(strings.ReplaceAll(l.Collate, "-", ""))
		if name == "posix" {
			name = "c"
		}
		return "libc " + name
	}
	return l.Provider + " " + l.Locale
}

func (l localeFacts) String() string {
	provider := map[string]string{"c": "libc", "i": "icu", "b": "builtin"}[l.Provider]
	if l.Locale != "" {
		return fmt.Sprintf("%s %s (lc_collate %s)", provider, l.Locale, l.Collate)
	}
	return provider + " " + l.Collate
}

func readLocale(ctx context.Context, s *pg.Server) (localeFacts, error) {
	sql := locale10SQL
	switch {
	case s.Major() >= 17:
		sql = locale17SQL
	case s.Major() >= 15:
		sql = locale15SQL
	}
	return readOne[localeFacts](ctx, s, "reading encoding and collation", sql)
}

// checkLocale compares what the two databases were made with: it cannot be
// changed afterwards. Postgres manual: 23, Localization.
func checkLocale(ctx context.Context, p *Pair) ([]Finding, error) {
	older, err := readLocale(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	newer, err := readLocale(ctx, p.New)
	if err != nil {
		return nil, err
	}
	return localeFindings(older, newer), nil
}

func localeFindings(older, newer localeFacts) []Finding {
	var found []Finding
	if older.Encoding != newer.Encoding {
		found = append(found, Finding{
			ID: "locale.encoding", Severity: Blocker, Server: string(pg.New), Object: "database",
			Seen: fmt.Sprintf("encoding %s on old, %s on new", older.Encoding, newer.Encoding),
			Why:  "Rows are carried over as they are: text of one encoding may be invalid or mean something else in the other.",
			Fix:  fmt.Sprintf("make the new database anew: CREATE DATABASE ... TEMPLATE template0 ENCODING %s;", literal(older.Encoding)),
		})
	}
	if older.order() != newer.order() {
		found = append(found, Finding{
			ID: "locale.collation", Severity: Warning, Server: string(pg.New), Object: "database",
			Seen: fmt.Sprintf("%s on old, %s on new", older, newer),
			Why:  "Text sorts in another order: ORDER BY, range partitions and CHECK constraints on text may behave differently.",
			Fix:  "make the new database anew: " + createDatabase(older),
		})
	}
	return found
}

// createDatabase is the statement that makes a database that sorts like l.
func createDatabase(l localeFacts) string {
	base := fmt.Sprintf("CREATE DATABASE ... TEMPLATE template0 ENCODING %s LC_COLLATE %s LC_CTYPE %s",
		literal(l.Encoding), literal(l.Collate), literal(l.Ctype))
	switch l.Provider {
	case "i":
		return base + " LOCALE_PROVIDER icu ICU_LOCALE " + literal(l.Locale) + ";"
	case "b":
		return base + " LOCALE_PROVIDER builtin BUILTIN_LOCALE " + literal(l.Locale) + ";"
	}
	return base + "; (on 15 and later with LOCALE_PROVIDER libc)"
}
