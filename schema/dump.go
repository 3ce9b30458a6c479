package schema

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Archive is the schema of the old database as pg_dump wrote it, in a private
// temporary folder. Its methods may be called one at a time.
type Archive struct {
	dir      string
	lock     *os.File // held as long as the folder is in use
	path     string
	tools    tools
	sections map[Section][]entry
	facts    facts
	roles    []Role   // that the database needs
	objects  []Object // the old database's fingerprint at that moment
	redact   func(error) error
}

// lockWait is how long pg_dump waits for its locks (ACCESS SHARE on every
// table), in milliseconds: a waiting ALTER TABLE may hold them up.
const lockWait = "60000"

// Dump writes an archive of the schema of old into a new folder (mode 0700) in
// dir, or in the usual place of temporary files when dir is empty. The caller
// closes the archive, which removes the folder; folders that killed processes of
// this user have left there go too. Nothing on old changes; pg_dump
// holds ACCESS SHARE on every table meanwhile. The work ends with ctx.
// https://www.postgresql.org/docs/current/app-pgdump.html
func Dump(ctx context.Context, old *pg.Server, dir string) (*Archive, error) {
	programs, err := findTools(ctx, old)
	if err != nil {
		return nil, err
	}
	folder, lock, err := makeFolder(dir)
	if err != nil {
		return nil, err
	}
	a := &Archive{dir: folder, lock: lock, path: filepath.Join(folder, "schema.dump"), tools: programs, redact: old.Redacted}
	if err := a.write(ctx, old); err != nil {
		//nolint:errcheck // the dump's failure counts; what is left is a folder of the system's temporary files
		a.Close()
		return nil, fmt.Errorf("dumping the schema of the old server (%s): %w", old.Address(), old.Redacted(err))
	}
	return a, nil
}

// Close removes the archive's files. It may be called more than once.
func (a *Archive) Close() error {
	err := os.RemoveAll(a.dir)
	if a.lock != nil {
		err = errors.Join(err, a.lock.Close())
		a.lock = nil
	}
	if err != nil {
		return fmt.Errorf("removing the schema's temporary folder: %w", err)
	}
	return nil
}

// exportSQL lets pg_dump see exactly what this transaction sees, so that the
// archive and the facts about its entries agree.
// https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-SNAPSHOT-SYNCHRONIZATION
const exportSQL = `select pg_export_snapshot()`

func (a *Archive) write(ctx context.Context, old *pg.Server) error {
	conn, err := old.Connect(ctx, "dump", pg.LongRunning())
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("beginning a transaction: %w", err)
	}
	defer rollback(ctx, tx)
	var snapshot string
	if err := tx.QueryRow(ctx, exportSQL).Scan(&snapshot); err != nil {
		return fmt.Errorf("exporting a snapshot: %w", err)
	}
	if err := a.dump(ctx, old, snapshot); err != nil {
		return err
	}
	if a.facts, err = readFacts(ctx, tx); err != nil {
		return err
	}
	if a.roles, err = rolesOf(ctx, tx); err != nil {
		return err
	}
	if a.objects, err = fingerprint(ctx, tx, old.Major()); err != nil {
		return fmt.Errorf("reading the schema: %w", err)
	}
	return a.readSections(ctx)
}

// Fingerprint returns the fingerprint of the old database in the transaction of
// the dump.
func (a *Archive) Fingerprint() []Object { return a.objects }

// dump runs pg_dump.
func (a *Archive) dump(ctx context.Context, old *pg.Server, snapshot string) error {
	// pg_dump keeps the mode of a file that is there.
	file, err := os.OpenFile(a.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making the archive: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("making the archive: %w", err)
	}
	env, dbname := connection(old, "dump")
	args := []string{
		"--format=custom", "--schema-only", "--no-publications", "--no-subscriptions", "--exclude-schema=pgcutover",
		"--no-password", "--lock-wait-timeout=" + lockWait, "--snapshot=" + snapshot, "--file=" + a.path, dbname,
	}
	if a.tools.major >= 18 {
		args = append(args, "--no-statistics")
	}
	if _, err := (invocation{path: a.tools.dump, args: args, env: env}).run(ctx); err != nil {
		return hint.With(err, "the role needs SELECT on every table of the database (on 14 and later: GRANT pg_read_all_data TO ...); "+
			"\"out of shared memory\" means that max_locks_per_transaction on the old server is too low for the number of tables")
	}
	return nil
}

// readSections has pg_restore list the archive, by section, and divides the
// entries anew.
func (a *Archive) readSections(ctx context.Context) error {
	pre, err := a.list(ctx, "pre-data")
	if err != nil {
		return err
	}
	post, err := a.list(ctx, "post-data")
	if err != nil {
		return err
	}
	a.sections = a.facts.divide(pre, post)
	return nil
}

func (a *Archive) list(ctx context.Context, section string) ([]entry, error) {
	out, err := invocation{path: a.tools.restore, args: []string{"--list", "--section=" + section, a.path}}.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the archive: %w", err)
	}
	return parseTOC(out)
}

// Entries returns the lines of the table of contents that the section restores,
// in order: what a plan can show.
func (a *Archive) Entries(section Section) []string {
	var out []string
	for _, e := range a.sections[section] {
		out = append(out, e.String())
	}
	return out
}

// redacted takes the passwords of both servers out of an error.
func (a *Archive) redacted(err error, new *pg.Server) error {
	return new.Redacted(a.redact(err))
}

// firstWords shortens a statement for a message.
func firstWords(sql string, most int) string {
	sql = strings.Join(strings.Fields(sql), " ")
	if len(sql) <= most {
		return sql
	}
	return strings.ToValidUTF8(sql[:most], "") + " ..."
}

// Objects lists what the archive restores, by kind and identity: what [Remove]
// takes for its own later.
func (a *Archive) Objects() []Object {
	out := make([]Object, 0, len(a.facts.identities))
	for _, k := range a.facts.identities {
		out = append(out, Object{Kind: k.kind, Identity: k.identity})
	}
	sortObjects(out)
	return out
}
