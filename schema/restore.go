package schema

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// RestoreOptions change how a section is restored. The zero value restores it
// in one transaction.
type RestoreOptions struct {
	// Resume leaves out what the new server has already, by kind and identity:
	// for going on after a crash, when it is known that an earlier call made it.
	// Without it, anything in the way is an error.
	Resume bool
	// Jobs above 1 builds the indexes and constraints of PostData in that many
	// sessions at once, each in a transaction of its own; everything else
	// follows in one transaction. A failure then leaves what was built, and
	// Resume goes on from there.
	Jobs int
	// NoTablespaces puts everything into the new database's default tablespace.
	// Otherwise every tablespace that the schema uses has to exist.
	NoTablespaces bool
	// Progress, which may be nil, is told what is being restored.
	Progress func(string)
}

// Restore runs pg_restore for one section of the archive. Restoring begins with
// ending sessions that an earlier, killed run left on the new server.
//
// The section is restored in one transaction, all or nothing, and stops at the
// first error, unless o.Jobs says otherwise or the section has more objects
// than the new server's lock table can hold (max_locks_per_transaction): then it
// is restored in several transactions, each of them all or nothing, and a
// failure leaves what the earlier ones made, for Resume or [Remove].
//
// An error of the server is a *RestoreError, which names the object.
// https://www.postgresql.org/docs/current/app-pgrestore.html
func (a *Archive) Restore(ctx context.Context, new *pg.Server, section Section, o RestoreOptions) error {
	if err := a.restore(ctx, new, section, o); err != nil {
		return fmt.Errorf("restoring the %s section of the schema into the new server (%s): %w", section, new.Address(), a.redacted(err, new))
	}
	return nil
}

func (a *Archive) restore(ctx context.Context, new *pg.Server, section Section, o RestoreOptions) error {
	if err := a.tools.suits(new); err != nil {
		return err
	}
	if err := endStale(ctx, new); err != nil {
		return err
	}
	entries := a.sections[section]
	if o.Resume {
		var err error
		if entries, err = a.remaining(ctx, new, entries); err != nil {
			return err
		}
	}
	if section == PreData {
		var err error
		if entries, err = a.schemasFirst(ctx, new, entries, o); err != nil {
			return err
		}
	}
	if o.Jobs > 1 && section == PostData {
		parallel, rest := a.facts.independent(entries)
		if len(parallel) > 0 {
			if err := a.run(ctx, new, parallel, o, "--jobs="+strconv.Itoa(o.Jobs)); err != nil {
				return err
			}
		}
		entries = rest
	}
	capacity, err := lockCapacity(ctx, new)
	if err != nil {
		return err
	}
	for _, chunk := range chunks(entries, capacity/2) {
		if err := a.run(ctx, new, chunk, o, "--single-transaction"); err != nil {
			return err
		}
	}
	return nil
}

const (
	restorePurpose = "restore"
	staleBound     = 30 * time.Second
)

// staleSQL ends the sessions of pg_restore that a killed run left behind; they
// are told by their application_name, which holds the move's name. Since only
// one tool works on a move at a time, none of them has an owner.
const staleSQL = `
select count(pg_terminate_backend(pid))
  from pg_stat_activity
 where datname = current_database() and application_name = $1 and pid <> pg_backend_pid()`

// endStale waits until no session of an earlier run is left: its transaction
// would hold locks, or commit after this one has begun.
func endStale(ctx context.Context, new *pg.Server) error {
	return pg.Wait(ctx, "an earlier restore to end", 50*time.Millisecond, staleBound, nil,
		func(ctx context.Context) (bool, string, error) {
			var n int
			err := new.Pool().QueryRow(ctx, staleSQL, new.ApplicationName(restorePurpose)).Scan(&n)
			return n == 0, fmt.Sprintf("%d sessions left", n), err
		})
}

// run has pg_restore restore the entries.
func (a *Archive) run(ctx context.Context, new *pg.Server, entries []entry, o RestoreOptions, mode string) error {
	if len(entries) == 0 {
		return nil
	}
	choice, err := a.writeList(entries)
	if err != nil {
		return err
	}
	defer os.Remove(choice)
	env, dbname := connection(new, restorePurpose)
	restore := invocation{
		path: a.tools.restore,
		// Only --verbose makes it say which entry failed.
		args: []string{"--verbose", "--exit-on-error", "--no-password", mode, "--use-list=" + choice, dbname, a.path},
		env:  env,
		line: func(line string) bool { return progressLine(line, o.Progress) },
	}
	if o.NoTablespaces {
		restore.args = append([]string{"--no-tablespaces"}, restore.args...)
	}
	_, err = restore.run(ctx)
	if err == nil {
		return nil
	}
	var failed *clientError
	if errors.As(err, &failed) && !errCancelled(err) {
		return a.explain(ctx, new, failed, entries)
	}
	return err
}

// writeList writes the file for --use-list.
func (a *Archive) writeList(entries []entry) (string, error) {
	file, err := os.CreateTemp(a.dir, "list-") // mode 0600
	if err != nil {
		return "", fmt.Errorf("writing the list of entries: %w", err)
	}
	var text strings.Builder
	for _, e := range entries {
		text.WriteString(e.line + "\n")
	}
	_, err = file.WriteString(text.String())
	if err := errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("writing the list of entries: %w", err)
	}
	return file.Name(), nil
}

// progressLine passes on what pg_restore --verbose says it does, and tells that
// apart from the lines of an error.
func progressLine(line string, progress func(string)) bool {
	text, ok := strings.CutPrefix(line, "pg_restore: ")
	if !ok {
		return false
	}
	for ok { // two processes may begin their lines at the same moment
		text, ok = strings.CutPrefix(text, "pg_restore: ")
	}
	for _, begin := range []string{"error: ", "fatal: ", "warning: ", "detail: ", "hint: ", "while ", "from TOC entry "} {
		if strings.HasPrefix(text, begin) {
			return false
		}
	}
	if progress != nil && (strings.HasPrefix(text, "creating ") || strings.HasPrefix(text, "launching item ")) {
		progress(text)
	}
	return true
}

// lockCapacitySQL is how many locks all transactions of the server together are
// sure to have room for.
// https://www.postgresql.org/docs/current/runtime-config-locks.html
const lockCapacitySQL = `
select current_setting('max_locks_per_transaction')::int
       * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)`

func lockCapacity(ctx context.Context, s *pg.Server) (int, error) {
	var n int
	if err := s.Pool().QueryRow(ctx, lockCapacitySQL).Scan(&n); err != nil {
		return 0, fmt.Errorf("reading the size of the lock table: %w", err)
	}
	return n, nil
}

// locks estimates how many locks restoring the entry takes: a table's are its
// own, its type's, those of its TOAST table and of that one's index.
func (e entry) locks() int {
	switch e.desc {
	case "TABLE", "MATERIALIZED VIEW", "FK CONSTRAINT":
		return 6
	case "ACL", "COMMENT", "DEFAULT ACL":
		return 1
	default:
		return 3
	}
}

// chunks divides the entries, in order, so that each part needs at most that
// many locks: one part for all but the largest schemas.
func chunks(entries []entry, locks int) [][]entry {
	var out [][]entry
	begin, sum := 0, 0
	for i, e := range entries {
		if sum += e.locks(); sum > locks && i > begin {
			out = append(out, entries[begin:i])
			begin, sum = i, e.locks()
		}
	}
	if begin < len(entries) {
		out = append(out, entries[begin:])
	}
	return out
}
