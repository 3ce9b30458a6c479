package preflight

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// installedSQL lists the extensions of the old database. plpgsql is everywhere.
const installedSQL = `
select extname::text as name, extversion as version from pg_extension where extname <> 'plpgsql' order by 1`

type installedRow struct{ Name, Version string }

// availableSQL reads, for the names in $1, what a server could make and what it
// has made. trusted (13 and later) means that CREATE on the database suffices.
const availableSQL = `
with offered as (
  select o.name, array_agg(o.version::text) as versions from pg_available_extension_versions o where o.name = any ($1::text[]) group by o.name
)
select a.name::text as name, coalesce(a.default_version, '') as version, coalesce(a.installed_version, '') as installed,
       v.superuser and not v.trusted as superuser,
       offered.versions
  from pg_available_extensions a
  join offered on offered.name = a.name
  join pg_available_extension_versions v on v.name = a.name and v.version = a.default_version
 where a.name = any ($1::text[])`

// available10SQL is the same before 13.
const available10SQL = `
with offered as (
  select o.name, array_agg(o.version::text) as versions from pg_available_extension_versions o where o.name = any ($1::text[]) group by o.name
)
select a.name::text as name, coalesce(a.default_version, '') as version, coalesce(a.installed_version, '') as installed,
       v.superuser as superuser,
       offered.versions
  from pg_available_extensions a
  join offered on offered.name = a.name
  join pg_available_extension_versions v on v.name = a.name and v.version = a.default_version
 where a.name = any ($1::text[])`

type availableRow struct {
	Name      string
	Version   string
	Installed string // empty: not in this database
	Superuser bool   // only a superuser may make it
	Versions  []string
}

// made is the version that the extension has on new, or that start makes it at:
// the newest that both servers offer, which is that of old where new offers it;
// otherwise, as far as new alone can tell, its default.
func (a availableRow) made(old string) string {
	switch {
	case a.Installed != "":
		return a.Installed
	case slices.Contains(a.Versions, old):
		return old
	}
	return a.Version
}

// checkExtensions compares the extensions of the old database with what the new
// server offers, and in which version.
func checkExtensions(ctx context.Context, p *Pair) ([]Finding, error) {
	installed, err := read[installedRow](ctx, p.Old, "reading extensions", installedSQL)
	if err != nil || len(installed) == 0 {
		return nil, err
	}
	names := make([]string, len(installed))
	for i, e := range installed {
		names[i] = e.Name
	}
	sql := availableSQL
	if p.New.Major() < 13 {
		sql = available10SQL
	}
	rows, err := read[availableRow](ctx, p.New, "reading the extensions it offers", sql, names)
	if err != nil {
		return nil, err
	}
	super, err := readOne[superFacts](ctx, p.New, "reading the role's rights", superSQL)
	if err != nil {
		return nil, err
	}
	offered := make(map[string]availableRow, len(rows))
	for _, r := range rows {
		offered[r.Name] = r
	}
	var found []Finding
	for _, e := range installed {
		if a, ok := offered[e.Name]; ok {
			found = append(found, extensionFindings(e, a, super.Super || super.Provider)...)
			continue
		}
		found = append(found, Finding{
			ID: "extensions.missing", Severity: Blocker, Server: string(pg.New), Object: "extension " + quote(e.Name),
			Seen: fmt.Sprintf("version %s on old, not available on new", e.Version),
			Why:  "The schema cannot be made without it.",
			Fix: fmt.Sprintf("install the package that holds %s for PostgreSQL %d on the new server's host; or, when nothing needs it any more, on old: DROP EXTENSION %s;",
				e.Name, p.New.Major(), quote(e.Name)), FixKind: FixAction,
		})
	}
	return found, nil
}

const superSQL = `
select r.rolsuper as super,
       exists (select 1 from pg_roles p
                where p.rolname in ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser', 'alloydbsuperuser')
                  and pg_has_role(p.oid, 'usage')) as provider
  from pg_roles r
 where r.rolname = current_user`

type superFacts struct{ Super, Provider bool }

func extensionFindings(e installedRow, a availableRow, super bool) []Finding {
	var found []Finding
	if a.Superuser && a.Installed == "" && !super {
		found = append(found, Finding{
			ID: "extensions.superuser", Severity: Blocker, Server: string(pg.New), Object: "extension " + quote(e.Name),
			Seen: "not made on new yet, and only a superuser may make it",
			Why:  "The tool's role on the new server cannot make it.",
			Fix:  "-- as superuser:\nCREATE EXTENSION " + quote(e.Name) + ";", FixKind: FixSQL,
		})
	}
	if version := a.made(e.Version); version != e.Version {
		severity, why := Note, "Functions and types of the extension may behave differently."
		if olderVersion(version, e.Version) {
			severity, why = Warning, "The new server's is older: what the application uses of the newer one is not there."
		}
		found = append(found, Finding{
			ID: "extensions.version", Severity: severity, Server: string(pg.New), Object: "extension " + quote(e.Name),
			Seen: fmt.Sprintf("version %s on old, %s on new", e.Version, version),
			Why:  why,
			Fix:  fmt.Sprintf("read what has changed; where old offers it too: ALTER EXTENSION %s UPDATE;", quote(e.Name)), FixKind: FixAction,
		})
	}
	return found
}

// olderVersion says that version a of an extension comes before b, as far as
// both are numbers with dots between them.
func olderVersion(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.Atoi(as[i])
		y, errY := strconv.Atoi(bs[i])
		switch {
		case errX != nil || errY != nil:
			return false
		case x != y:
			return x < y
		}
	}
	return len(as) < len(bs)
}
