package preflight

import (
	"context"
	"fmt"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// librariesSQL lists the libraries of functions in C that belong to no extension.
const librariesSQL = `
select p.probin as file, array_agg(format('%I.%I', n.nspname, p.proname) order by n.nspname, p.proname) as names
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  join pg_language l on l.oid = p.prolang
 where l.lanname = 'c' and p.oid >= 16384 and p.probin is not null
   and not exists (select 1 from pg_depend d
                    where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
 group by p.probin
 order by p.probin`

// dictionariesSQL lists the files that text search dictionaries of the
// application name in their options, with the endings that Postgres gives them.
// Postgres manual: 12.6, Dictionaries.
const dictionariesSQL = `
select '$sharedir/tsearch_data/' || m[2] || case lower(m[1])
         when 'stopwords' then '.stop' when 'afffile' then '.affix' when 'synonyms' then '.syn' when 'rules' then '.rules'
         else case t.tmplname when 'thesaurus' then '.ths' else '.dict' end end as file,
       array_agg(format('%I.%I', n.nspname, d.dictname) order by n.nspname, d.dictname) as names
  from pg_ts_dict d
  join pg_ts_template t on t.oid = d.dicttemplate
  join pg_namespace n on n.oid = d.dictnamespace
 cross join lateral regexp_matches(d.dictinitoption, '(\w+)\s*=\s*''([^'']+)''', 'g') m
 where d.oid >= 16384 and lower(m[1]) in ('stopwords', 'afffile', 'dictfile', 'synonyms', 'rules')
   and not exists (select 1 from pg_depend e
                    where e.classid = 'pg_ts_dict'::regclass and e.objid = d.oid and e.deptype = 'e')
 group by 1
 order by 1`

type fileRow struct {
	File  string
	Names []string
}

// mayLookSQL tells whether the role may look for files of the server.
const mayLookSQL = `
select has_function_privilege('pg_stat_file(text, boolean)', 'execute') and has_function_privilege('pg_config()', 'execute')`

// absentSQL returns those of the files in $1 that the server has not. They begin
// with $libdir, $sharedir, or are paths or names in the first of these.
const absentSQL = `
select f.file
  from unnest($1::text[]) f(file)
 cross join lateral (
   select case when f.file like '$libdir/%' then (select setting from pg_config() where name = 'PKGLIBDIR') || substr(f.file, 8)
               when f.file like '$sharedir/%' then (select setting from pg_config() where name = 'SHAREDIR') || substr(f.file, 10)
               when f.file like '/%' then f.file
               else (select setting from pg_config() where name = 'PKGLIBDIR') || '/' || f.file end as path
 ) p
 where pg_stat_file(p.path, true) is null and pg_stat_file(p.path || '.so', true) is null
   and pg_stat_file(p.path || '.dylib', true) is null and pg_stat_file(p.path || '.dll', true) is null
 order by 1`

// checkFiles finds libraries and dictionaries that stand in files, which no dump
// carries: without them what is made of them cannot be restored (measured 15 to
// 18).
func checkFiles(ctx context.Context, p *Pair) ([]Finding, error) {
	libraries, err := read[fileRow](ctx, p.Old, "reading functions in C", librariesSQL)
	if err != nil {
		return nil, err
	}
	dictionaries, err := read[fileRow](ctx, p.Old, "reading text search dictionaries", dictionariesSQL)
	if err != nil || len(libraries)+len(dictionaries) == 0 {
		return nil, err
	}
	found, err := fileFindings(ctx, p, libraries, Finding{
		ID: "libraries.missing", Why: "A function in C is made of a library, which no dump carries: without it the restore fails.",
		Fix: fmt.Sprintf("install what brings the library for PostgreSQL %d on the new server's host, or drop the functions on old: ", p.New.Major()),
	})
	if err != nil {
		return nil, err
	}
	more, err := fileFindings(ctx, p, dictionaries, Finding{
		ID: "text-search.file", Why: "The dictionary is made of a file on the server's disk, which no dump carries: without it the restore fails.",
		Fix: "copy the file from the old server's host (pg_config --sharedir), or drop the dictionaries on old: ",
	})
	return append(found, more...), err
}

func fileFindings(ctx context.Context, p *Pair, rows []fileRow, f Finding) ([]Finding, error) {
	may, err := readValues[bool](ctx, p.New, "reading the role's rights", mayLookSQL)
	if err != nil {
		return nil, err
	}
	files := make([]string, len(rows))
	for i, r := range rows {
		files[i] = r.File
	}
	absent := map[string]bool{}
	f.Severity, f.Server, f.FixKind = Warning, string(pg.New), FixAction
	seen := "the tool's role may not look whether it is there"
	if may[0] {
		missing, err := readValues[string](ctx, p.New, "looking for files", absentSQL, files)
		if err != nil {
			return nil, err
		}
		for _, file := range missing {
			absent[file] = true
		}
		f.Severity, seen = Blocker, "it is not there"
	}
	var found []Finding
	for _, r := range rows {
		if may[0] && !absent[r.File] {
			continue
		}
		each := f
		each.Object, each.Seen = "file "+r.File, fmt.Sprintf("%s; used by %s", seen, list(r.Names))
		each.Fix += strings.Join(r.Names, ", ")
		found = append(found, each)
	}
	return found, nil
}

// labelsSQL lists the security labels by provider.
const labelsSQL = `
select provider as file, array_agg(objtype || ' ' || objname order by 1) as names
  from pg_seclabels
 where objtype not in ('database', 'role', 'tablespace')
 group by provider
 order by provider`

// checkLabels lists the providers of security labels, which a server loads as
// libraries; nothing tells whether the new one has. Postgres manual: SECURITY LABEL.
func checkLabels(ctx context.Context, p *Pair) ([]Finding, error) {
	rows, err := read[fileRow](ctx, p.Old, "reading security labels", labelsSQL)
	var found []Finding
	for _, r := range rows {
		found = append(found, Finding{
			ID: "security-labels.provider", Severity: Warning, Server: string(pg.New), Object: "label provider " + quote(r.File),
			Seen: fmt.Sprintf("%s on old: %s", plural(len(r.Names), "label"), list(r.Names)),
			Why:  "A server that has not loaded the provider's library refuses its labels, and the restore fails.",
			Fix:  "load the library that brings it on new (shared_preload_libraries), or remove the labels on old: SECURITY LABEL FOR ... ON ... IS NULL", FixKind: FixAction,
		})
	}
	return found, err
}
