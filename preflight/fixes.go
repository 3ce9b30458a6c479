package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// told says in words what mends the finding.
func (f Finding) told(fix string) Finding {
	f.Fix, f.FixKind = fix, FixAction
	return f
}

// mended says what statements mend the finding at once.
func (f Finding) mended(sql string) Finding {
	f.Fix, f.FixKind = sql, FixSQL
	return f
}

// setTo mends the finding by a setting of the server: restart says whether the
// server reads it only when it starts.
func (f Finding) setTo(name string, value any, restart bool) Finding {
	f.Fix, f.FixKind = setting(name, value, restart), FixSQL
	if restart {
		f.FixKind = FixRestart
	}
	return f
}

// databaseSetting is the statement that gives a setting to those who connect to
// a database.
func databaseSetting(s *pg.Server, name, value string) string {
	return fmt.Sprintf("ALTER DATABASE %s SET %s = %s;", quote(s.Database()), name, value)
}

// settingsSQL reads the settings named in $1 as this session has them, in the
// units of the catalog. Settings that the server does not have, or does not show
// to this role, are missing.
const settingsSQL = `
select name::text as name, setting, coalesce(unit, '') as unit, source::text as source, coalesce(boot_val, '') as boot
  from pg_settings
 where name = any ($1::text[])
 order by name`

type settingFacts struct {
	Name, Setting, Unit, Source, Boot string
}

// readSettings returns settings by their names, as the tool's sessions see them:
// not for those that the tool itself sets.
func readSettings(ctx context.Context, s *pg.Server, names ...string) (map[string]settingFacts, error) {
	rows, err := read[settingFacts](ctx, s, "reading settings", settingsSQL, names)
	if err != nil {
		return nil, err
	}
	out := map[string]settingFacts{}
	for _, r := range rows {
		out[r.Name] = r
	}
	return out, nil
}
