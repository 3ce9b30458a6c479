package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// offeredLibrariesSQL tells which of the libraries in $1 belong to extensions
// whose files are on the server.
const offeredLibrariesSQL = `select name::text from pg_available_extensions where name = any ($1::text[])`

// checkServerLibraries compares what the servers load into every session, apart
// from libraries that extensions of this database need, which checkPreload
// names. A role that may not see the setting (it needs pg_read_all_settings) gets
// no answer.
func checkServerLibraries(ctx context.Context, p *Pair) ([]Finding, error) {
	older, err := readSettings(ctx, p.Old, "shared_preload_libraries")
	if err != nil {
		return nil, err
	}
	newer, err := readSettings(ctx, p.New, "shared_preload_libraries")
	if err != nil {
		return nil, err
	}
	have, here := newer["shared_preload_libraries"]
	if !here {
		return nil, nil
	}
	installed, err := read[installedRow](ctx, p.Old, "reading extensions", installedSQL)
	if err != nil {
		return nil, err
	}
	loaded := nameList(have.Setting)
	var missing []string
	for _, name := range nameList(older["shared_preload_libraries"].Setting) {
		told := needsPreload[name] && slices.ContainsFunc(installed, func(e installedRow) bool { return e.Name == name })
		if !told && !slices.Contains(loaded, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil, nil
	}
	offered, err := readValues[string](ctx, p.New, "looking for libraries", offeredLibrariesSQL, missing)
	if err != nil {
		return nil, err
	}
	return []Finding{libraryFinding(loaded, missing, offered)}, nil
}

func libraryFinding(loaded, missing, offered []string) Finding {
	f := Finding{
		ID: "preload.missing", Severity: Warning, Server: string(pg.New), Object: "shared_preload_libraries",
		Seen: fmt.Sprintf("old loads %s, new does not", list(missing)),
		Why:  "What a library does for every session (a background worker, statistics, checks of passwords or statements) is missing after the cutover.",
	}
	all := slices.Concat(loaded, missing)
	for i, name := range all {
		all[i] = literal(name)
	}
	for _, name := range missing {
		if !slices.Contains(offered, name) {
			return f.told(fmt.Sprintf("see that %s is on the new server's host (it does not start with a library that is not there), then: ALTER SYSTEM SET shared_preload_libraries = %s; and restart it",
				name, strings.Join(all, ", ")))
		}
	}
	return f.setTo("shared_preload_libraries", strings.Join(all, ", "), true)
}

// nameList takes a setting that is a list of names apart, without the paths and
// file types that libraries may have.
func nameList(setting string) []string {
	var out []string
	for name := range strings.SplitSeq(setting, ",") {
		name = strings.Trim(strings.TrimSpace(name), `"`)
		if i := strings.LastIndex(name, "/"); i >= 0 {
			name = name[i+1:]
		}
		if name = strings.TrimSuffix(name, ".so"); name != "" {
			out = append(out, name)
		}
	}
	return out
}
