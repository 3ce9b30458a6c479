package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// installedSQL lists the extensions of the old database. plpgsql is everywhere.
const installedSQL = `
select extname::text as name, extversion as version from pg_extension where extname <> 'plpgsql' order by 1`

type installedRow struct{ Name, Version string }

// availableSQL reads, for the names in $1, what a server could make and what it
// has made. trusted (13 and later) means that CREATE on the database suffices.
const availableSQL = `
select a.name::text as name, coalesce(a.default_version, '') as version, coalesce(a.installed_version, '') as installed,
       v.superuser and not v.trusted as superuser
  from pg_available_extensions a
  join pg_available_extension_versions v on v.name = a.name and v.version = a.default_version
 where a.name = any ($1::text[])`

// available10SQL is the same before 13.
const available10SQL = `
select a.name::text as name, coalesce(a.default_version, '') as version, coalesce(a.installed_version, '') as installed,
       v.superuser as superuser
  from pg_available_extensions a
  join pg_available_extension_versions v on v.name = a.name and v.version = a.default_version
 where a.name = any ($1::text[])`

type availableRow struct {
	Name      string
	Version   string
	Installed string // empty: not in this database
	Superuser bool   // only a superuser may make it
}

// checkExtensions compares the extensions of the old database with what the new
// server offers. Without a version CREATE EXTENSION takes the default one.
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
			Fix:  fmt.Sprintf("install the package that holds %s for PostgreSQL %d on the new server's host", e.Name, p.New.Major()),
		})
	}
	return found, nil
}

const superSQL = `
select r.rolsuper as super,
       exists (select 1 from pg_roles p
                where p.rolname in ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'alloydbsuperuser')
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
			Fix:  "as superuser on new: CREATE EXTENSION " + quote(e.Name) + ";",
		})
	}
	version := a.Installed
	if version == "" {
		version = a.Version
	}
	if version != e.Version {
		found = append(found, Finding{
			ID: "extensions.version", Severity: Note, Server: string(pg.New), Object: "extension " + quote(e.Name),
			Seen: fmt.Sprintf("version %s on old, %s on new", e.Version, version),
			Why:  "Functions and types of the extension may behave differently.",
		})
	}
	return found
}
