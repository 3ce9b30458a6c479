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
	found := localeFindings(older, newer)
	versions, err := onBoth(p, func(s *pg.Server) ([]Finding, error) { return collationVersions(ctx, s) })
	return append(found, versions...), err
}

// databaseCollation15SQL compares the version of the database's own collation
// with the one that the operating system has now.
const databaseCollation15SQL = `
select coalesce(datcollversion, '') as recorded, coalesce(pg_database_collation_actual_version(oid), '') as actual
  from pg_database
 where datname = current_database()`

// collationVersionsSQL does so for the other collations, as far as an index
// relies on them.
const collationVersionsSQL = `
select format('%I.%I', n.nspname, c.collname) as name, c.collversion as recorded, pg_collation_actual_version(c.oid) as actual
  from pg_collation c
  join pg_namespace n on n.oid = c.collnamespace
 where c.collversion <> pg_collation_actual_version(c.oid)
   and exists (select 1 from pg_index i where i.indrelid >= 16384 and c.oid = any (i.indcollation))
 order by 1`

type databaseVersion struct{ Recorded, Actual string }

type collationVersion struct{ Name, Recorded, Actual string }

// collationVersions looks for collations that have changed under a server: text
// indexes made before are in another order than the one that is looked for.
// Postgres manual: ALTER COLLATION, Notes; ALTER DATABASE.
func collationVersions(ctx context.Context, s *pg.Server) ([]Finding, error) {
	f := Finding{
		ID: "locale.version", Severity: Warning, Server: string(s.Side()),
		Why: "Text sorts otherwise than when the indexes were made: rows may not be found, and unique indexes may have let the same value in twice, which stops the copy.",
	}
	var found []Finding
	if s.Major() >= 15 {
		have, err := readOne[databaseVersion](ctx, s, "reading the version of the collation", databaseCollation15SQL)
		if err != nil {
			return nil, err
		}
		if have.Recorded != "" && have.Recorded != have.Actual {
			f.Object = "database " + quote(s.Database())
			f.Seen = fmt.Sprintf("made with version %s of its collation, the server has %s", have.Recorded, have.Actual)
			found = append(found, f.mended(fmt.Sprintf("REINDEX DATABASE %s;\nALTER DATABASE %s REFRESH COLLATION VERSION;", quote(s.Database()), quote(s.Database()))))
		}
	}
	rows, err := read[collationVersion](ctx, s, "reading versions of collations", collationVersionsSQL)
	for _, r := range rows {
		f.Object = "collation " + r.Name
		f.Seen = fmt.Sprintf("version %s is recorded, the server has %s, and indexes use it", r.Recorded, r.Actual)
		found = append(found, f.mended(fmt.Sprintf("REINDEX DATABASE %s;\nALTER COLLATION %s REFRESH VERSION;", quote(s.Database()), r.Name)))
	}
	return found, err
}

func localeFindings(older, newer localeFacts) []Finding {
	var found []Finding
	if older.Encoding != newer.Encoding {
		found = append(found, Finding{
			ID: "locale.encoding", Severity: Blocker, Server: string(pg.New), Object: "database",
			Seen: fmt.Sprintf("encoding %s on old, %s on new", older.Encoding, newer.Encoding),
			Why:  "Text is converted on the way: the stream stops at the first character that the new encoding does not have.",
		}.told(fmt.Sprintf("make the new database anew: CREATE DATABASE ... TEMPLATE template0 ENCODING %s;", literal(older.Encoding))))
	}
	if older.order() != newer.order() {
		found = append(found, Finding{
			ID: "locale.collation", Severity: Warning, Server: string(pg.New), Object: "database",
			Seen: fmt.Sprintf("%s on old, %s on new", older, newer),
			Why:  "Text sorts in another order: ORDER BY, range partitions and CHECK constraints on text may behave differently.",
		}.told("make the new database anew: "+createDatabase(older)))
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
