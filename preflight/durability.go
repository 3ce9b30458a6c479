package preflight

import (
	"context"

	"github.com/pgcutover/pgcutover/internal/pg"
)

const durabilitySQL = `
select name, setting
  from pg_settings
 where name in ('fsync', 'full_page_writes') and setting <> 'on'
 order by name`

type settingRow struct{ Name, Setting string }

// durabilityCheck looks for settings by which a crash of the machine takes back
// what the server has acknowledged: the decision is one such thing.
// Postgres manual: 19.5.1, Write Ahead Log: Settings.
func durabilityCheck(severity Severity) func(context.Context, *Pair) ([]Finding, error) {
	return func(ctx context.Context, p *Pair) ([]Finding, error) {
		return onBoth(p, func(s *pg.Server) ([]Finding, error) {
			rows, err := read[settingRow](ctx, s, "reading durability settings", durabilitySQL)
			var found []Finding
			for _, r := range rows {
				found = append(found, Finding{
					ID: "durability." + r.Name, Severity: severity, Server: string(s.Side()), Object: r.Name,
					Seen: r.Name + " is " + r.Setting,
					Why:  "After a crash of the machine the decision of the cutover, or what was replicated before it, may be gone.",
				}.setTo(r.Name, "on", false))
			}
			return found, err
		})
	}
}

// checkChecksums compares how the two clusters guard their pages. From 18 on
// initdb turns checksums on; before, they had to be asked for.
func checkChecksums(ctx context.Context, p *Pair) ([]Finding, error) {
	older, err := readSettings(ctx, p.Old, "data_checksums")
	if err != nil || older["data_checksums"].Setting != "on" {
		return nil, err
	}
	newer, err := readSettings(ctx, p.New, "data_checksums")
	if err != nil || newer["data_checksums"].Setting == "on" {
		return nil, err
	}
	return []Finding{Finding{
		ID: "checksums.off", Severity: Note, Server: string(pg.New), Object: "data_checksums",
		Seen: "the old cluster has data checksums, the new one has none",
		Why:  "Pages that the disk has damaged are not noticed any more.",
	}.told("with the new server stopped, on its host: pg_checksums --enable (12 and later), or make the cluster anew with initdb --data-checksums")}, nil
}
