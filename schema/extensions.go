package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Extension is one that the move makes on new.
type Extension struct {
	Name    string `json:"name"`
	Old     string `json:"old"`               // its version on old
	Version string `json:"version,omitempty"` // to be made; empty: new's default, since nothing is common
	Default string `json:"default"`           // new's default
	Schema  string `json:"schema"`

	owner     string // of the schema
	part      bool   // the schema is a part of the extension, which makes it
	needs     []string
	available bool
	there     bool // new has it already
}

// ExtensionsReport says what became of the extensions.
type ExtensionsReport struct {
	Made    []Extension `json:"made"`
	Notices []Notice    `json:"notices"`
}

// MakeExtensions makes on new the extensions that old has and new lacks, each in
// the schema that it has on old and at the newest version that both servers
// offer (pg_available_extension_versions): the archive's own CREATE EXTENSION IF
// NOT EXISTS, which names no version and would take new's default, then finds it
// there. Without a common version it is new's default, which is listed; so are
// versions that are older than that, extensions that new has already in another
// version, and rows in tables that an extension marks as its configuration
// (pg_extension_config_dump), which are not carried over: copied before the
// cutover, scheduled jobs among them would run on both servers.
//
// It belongs after [MakeRoles] and before the section PreData, which then is
// restored with Resume. It may be called again.
// https://www.postgresql.org/docs/current/sql-createextension.html
func MakeExtensions(ctx context.Context, old, new *pg.Server, progress func(string)) (ExtensionsReport, error) {
	report := ExtensionsReport{Made: []Extension{}, Notices: []Notice{}}
	todo, notices, err := planExtensions(ctx, old, new)
	if err != nil {
		return report, fmt.Errorf("comparing extensions: %w", new.Redacted(old.Redacted(err)))
	}
	report.Notices = append(report.Notices, notices...)
	if len(todo) == 0 {
		return report, nil
	}
	conn, err := new.Connect(ctx, "extensions", pg.LongRunning())
	if err != nil {
		return report, err
	}
	defer pg.Close(ctx, conn)
	for _, e := range todo {
		if progress != nil && !e.there {
			progress("making extension " + e.Name)
		}
		if err := e.make(ctx, conn, new); err != nil {
			return report, fmt.Errorf("making extension %s on the new server (%s): %w", quoteName(e.Name), new.Address(), new.Redacted(err))
		}
		if !e.there {
			report.Made = append(report.Made, e)
		}
	}
	return report, nil
}

// ExtensionStatements are the statements of MakeExtensions as of now, for a plan.
func ExtensionStatements(ctx context.Context, old, new *pg.Server) ([]string, error) {
	todo, _, err := planExtensions(ctx, old, new)
	if err != nil {
		return nil, fmt.Errorf("comparing extensions: %w", new.Redacted(old.Redacted(err)))
	}
	var out []string
	for _, e := range todo {
		out = append(out, e.statements()...)
	}
	return out, nil
}

// statements makes the extension, and first its schema with the owner that it
// has on old: the archive's entry would find the schema there and do nothing.
func (e Extension) statements() []string {
	create := "create extension " + quoteName(e.Name)
	var out []string
	if e.ownSchema() {
		out = append(out, fmt.Sprintf("create schema if not exists %s authorization %s", quoteName(e.Schema), quoteName(e.owner)))
	}
	if e.there {
		return out
	}
	if !e.part {
		create += " with schema " + quoteName(e.Schema)
	}
	if e.Version != "" {
		create += " version " + quoteLiteral(e.Version)
	}
	return append(out, create)
}

// ownSchema tells whether the schema is one that the archive would make.
func (e Extension) ownSchema() bool {
	return !e.part && e.Schema != "public" && e.Schema != "pg_catalog"
}

func (e Extension) make(ctx context.Context, conn *pgx.Conn, new *pg.Server) error {
	if !e.available && !e.there {
		return hint.With(fmt.Errorf("extension %s (version %s on old) is not available there", quoteName(e.Name), e.Old),
			fmt.Sprintf("install the extension %s on the new server's host (its package for PostgreSQL %d), then run the command again", e.Name, new.Major()))
	}
	statements := e.statements()
	if len(statements) == 0 {
		return nil
	}
	err := inTransaction(ctx, conn, func(tx pgx.Tx) error { return execute(ctx, tx, statements) })
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		return hint.With(err, fmt.Sprintf("as a superuser on new: %s;", statements[len(statements)-1]))
	}
	return err
}

// installedSQL lists the extensions of a database, with their schema and the
// extensions that each needs. plpgsql is everywhere.
const installedSQL = `
select e.extname::text, e.extversion, n.nspname::text, pg_get_userbyid(n.nspowner)::text,
       exists (select from pg_depend d
                where d.classid = 'pg_namespace'::regclass and d.objid = n.oid and d.deptype = 'e'),
       coalesce((select array_agg(r.extname::text)
                   from pg_depend d
                   join pg_extension r on r.oid = d.refobjid
                  where d.classid = 'pg_extension'::regclass and d.objid = e.oid and d.refclassid = 'pg_extension'::regclass), '{}')
  from pg_extension e
  join pg_namespace n on n.oid = e.extnamespace
 where e.extname <> 'plpgsql'
 order by e.extname`

func installed(ctx context.Context, q querier) ([]Extension, error) {
	rows, err := q.Query(ctx, installedSQL)
	if err != nil {
		return nil, fmt.Errorf("reading extensions: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Extension, error) {
		var e Extension
		err := row.Scan(&e.Name, &e.Old, &e.Schema, &e.owner, &e.part, &e.needs)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading extensions: %w", err)
	}
	return list, nil
}

// offeredSQL lists the versions in which a server can make extensions, and which
// one it would choose.
const offeredSQL = `
select v.name::text, v.version, v.version = a.default_version
  from pg_available_extension_versions v
  join pg_available_extensions a on a.name = v.name
 where v.name = any($1)`

// offer is what a server offers of one extension.
type offer struct {
	versions []string
	standard string
}

func offered(ctx context.Context, s *pg.Server, names []string) (map[string]offer, error) {
	rows, err := s.Pool().Query(ctx, offeredSQL, names)
	if err != nil {
		return nil, fmt.Errorf("reading the extensions that the %s server offers: %w", s.Side(), err)
	}
	out := map[string]offer{}
	var (
		name, version string
		standard      bool
	)
	_, err = pgx.ForEachRow(rows, []any{&name, &version, &standard}, func() error {
		o := out[name]
		o.versions = append(o.versions, version)
		if standard {
			o.standard = version
		}
		out[name] = o
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the extensions that the %s server offers: %w", s.Side(), err)
	}
	return out, nil
}

// planExtensions returns the extensions of old, those that others need first,
// with what is to become of each on new.
func planExtensions(ctx context.Context, old, new *pg.Server) ([]Extension, []Notice, error) {
	was, err := installed(ctx, old.Pool())
	if err != nil || len(was) == 0 {
		return nil, nil, err
	}
	is, err := installed(ctx, new.Pool())
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for _, e := range was {
		names = append(names, e.Name)
	}
	notices, err := configured(ctx, old)
	if err != nil {
		return nil, nil, err
	}
	onOld, err := offered(ctx, old, names)
	var broken *pgconn.PgError
	switch {
	case errors.As(err, &broken) && !fatal(broken):
		// One extension's file that the server cannot read, of whichever
		// extension, keeps it from listing any.
		notices = append(notices, Notice{Object: "extensions", Seen: "the old server cannot list what it offers (" + broken.Message + "): the versions in use there count"})
	case err != nil:
		return nil, nil, err
	}
	onNew, err := offered(ctx, new, names)
	if err != nil {
		return nil, nil, err
	}
	var todo []Extension
	for _, e := range neededFirst(was) {
		if at := slices.IndexFunc(is, func(x Extension) bool { return x.Name == e.Name }); at >= 0 {
			if is[at].Old != e.Old {
				notices = append(notices, Notice{Object: "extension " + quoteName(e.Name), Seen: fmt.Sprintf("version %s on old, %s on new, where it existed: left as it is", e.Old, is[at].Old)})
			}
			e.there = true
			todo = append(todo, e)
			continue
		}
		theirs := onNew[e.Name]
		e.available, e.Default = len(theirs.versions) > 0, theirs.standard
		e.Version = newestCommon(append(onOld[e.Name].versions, e.Old), theirs.versions)
		todo = append(todo, e)
		notices = append(notices, e.notices()...)
	}
	return todo, notices, nil
}

// notices says what a person should know of the choice.
func (e Extension) notices() []Notice {
	object := "extension " + quoteName(e.Name)
	switch {
	case !e.available:
		return nil // making it fails
	case e.Version == "":
		return []Notice{{Object: object, Seen: fmt.Sprintf("version %s on old; new offers none that old has: made at new's default, %s", e.Old, e.Default)}}
	case e.Version != e.Default:
		return []Notice{{
			Object: object, Fix: "after pgcutover complete: alter extension " + quoteName(e.Name) + " update;",
			Seen: fmt.Sprintf("version %s on old; made at %s, the newest that both servers have; new's default is %s", e.Old, e.Version, e.Default),
		}}
	}
	return nil
}

// neededFirst orders extensions so that each comes after those that it needs.
func neededFirst(list []Extension) []Extension {
	waiting := map[string]Extension{}
	for _, e := range list {
		waiting[e.Name] = e
	}
	var ordered []Extension
	var place func(string)
	place = func(name string) {
		e, found := waiting[name]
		if !found {
			return
		}
		delete(waiting, name)
		for _, n := range e.needs {
			place(n)
		}
		ordered = append(ordered, e)
	}
	for _, e := range list {
		place(e.Name)
	}
	return ordered
}
