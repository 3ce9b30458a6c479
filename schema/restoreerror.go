package schema

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// RestoreError says which entry of an archive the new server refused, and why.
type RestoreError struct {
	Entry   string // the entry of the archive: TABLE public orders app
	Message string // the server's message: ERROR:  role "app" does not exist
	Detail  string // the server's DETAIL, HINT and CONTEXT lines, if any
	Command string // the statement that failed
	Err     error  // how pg_restore ended
}

// Error names the object, the server's message and the beginning of the
// statement.
func (e *RestoreError) Error() string {
	var b strings.Builder
	if e.Entry != "" {
		fmt.Fprintf(&b, "%s: ", e.Entry)
	}
	b.WriteString(e.Message)
	if e.Detail != "" {
		fmt.Fprintf(&b, " (%s)", firstWords(e.Detail, 500))
	}
	if e.Command != "" {
		fmt.Fprintf(&b, "; the statement was: %s", firstWords(e.Command, 200))
	}
	return b.String()
}

// Unwrap returns how pg_restore ended.
func (e *RestoreError) Unwrap() error { return e.Err }

// What pg_restore --verbose, from 12 on, prints about a failure. It names the
// entry without its schema.
//
//	pg_restore: while PROCESSING TOC:
//	pg_restore: from TOC entry 215; 1259 16399 TABLE orders app
//	pg_restore: error: could not execute query: ERROR:  role "app" does not exist
//	DETAIL:  ...
//	Command was: ALTER TABLE public.orders OWNER TO app;
//
// With --jobs, workerDied may stand before or after, and other processes may write
// between any two of: "pg_restore: ", "error: ", the rest.
var (
	failedEntry   = regexp.MustCompile(`(?m)from TOC entry ((\d+); .*)$`)
	failedQuery   = regexp.MustCompile(`(?s)could not execute query: (.*)`)
	failedOther   = regexp.MustCompile(`(?s)pg_restore: error: (?:pg_restore: |error: )*(.*)`)
	failedCommand = regexp.MustCompile(`(?s)(.*?)\nCommand was: (.*)`)
	detailLine    = regexp.MustCompile(`(?m)^(?:DETAIL|HINT|CONTEXT|QUERY|WHERE|LINE \d+): `)
	nextMessage   = regexp.MustCompile(`(?m)^pg_restore: `)
)

// workerDied says nothing of why.
const workerDied = "pg_restore: error: a worker process died unexpectedly\n"

// parseRestoreError takes pg_restore's standard error apart, looking the entry up
// in entries. Whatever it cannot tell stays in Message.
func parseRestoreError(stderr string, entries []entry) *RestoreError {
	e := &RestoreError{}
	if m := failedEntry.FindStringSubmatch(stderr); m != nil {
		e.Entry = m[1]
		at := slices.IndexFunc(entries, func(e entry) bool { return strings.HasPrefix(e.line, m[2]+";") })
		if at >= 0 {
			e.Entry = entries[at].String()
		}
	}
	text := strings.TrimSpace(stderr)
	if m := failedQuery.FindStringSubmatch(stderr); m != nil {
		text = m[1]
	} else if m := failedOther.FindStringSubmatch(strings.ReplaceAll(stderr, workerDied, "")); m != nil {
		text = m[1]
	} else if m := failedOther.FindStringSubmatch(stderr); m != nil {
		text = m[1]
	}
	if next := nextMessage.FindStringIndex(text); next != nil && next[0] > 0 {
		text = text[:next[0]]
	}
	if m := failedCommand.FindStringSubmatch(text); m != nil {
		text, e.Command = m[1], strings.TrimSpace(m[2])
	}
	if detail := detailLine.FindStringIndex(text); detail != nil {
		text, e.Detail = text[:detail[0]], strings.TrimSpace(text[detail[0]:])
	}
	e.Message = strings.Join(strings.Fields(text), " ")
	return e
}

// secretCommand matches statements whose options may hold a password.
var secretCommand = regexp.MustCompile(`(?is)^\s*((?:CREATE|ALTER) (?:USER MAPPING|SERVER|SUBSCRIPTION|FOREIGN DATA WRAPPER)\b).*`)

// explain makes the error of a failed pg_restore, with what to do about it.
func (a *Archive) explain(ctx context.Context, new *pg.Server, failed *clientError, entries []entry) error {
	e := parseRestoreError(failed.stderr, entries)
	e.Err = failed.err
	e.Command = secretCommand.ReplaceAllString(e.Command, "$1 ...")
	advice, err := a.advise(ctx, new, e)
	if err != nil {
		return errors.Join(e, err)
	}
	if advice == "" {
		return e
	}
	return hint.With(e, advice)
}

// availableSQL tells whether the server could install the extension.
const availableSQL = `select exists (select from pg_available_extensions where name = $1)`

var createExtension = regexp.MustCompile(`^CREATE EXTENSION (?:IF NOT EXISTS )?("(?:[^"]|"")+"|\S+) `)

// advise finds out what is lacking. pg_restore does not pass SQLSTATEs on: so
// the new server is asked about roles and extensions that the statement names,
// and only for rights and the lock table the message's text gives a clue.
func (a *Archive) advise(ctx context.Context, new *pg.Server, e *RestoreError) (string, error) {
	if m := createExtension.FindStringSubmatch(e.Command); m != nil {
		name := strings.ReplaceAll(strings.Trim(m[1], `"`), `""`, `"`)
		var available bool
		if err := new.Pool().QueryRow(ctx, availableSQL, name).Scan(&available); err != nil {
			return "", fmt.Errorf("looking for the extension: %w", err)
		}
		if !available {
			return fmt.Sprintf("install the extension %s on the new server's host (its package for PostgreSQL %d), then run the command again", name, new.Major()), nil
		}
	}
	missing, err := missingOn(ctx, new, a.roles)
	if err != nil {
		return "", err
	}
	var lines []string
	for _, r := range missing {
		if mentions(e.Command, r.Name) || mentions(e.Message, r.Name) {
			lines = append(lines, r.Create())
		}
	}
	if len(lines) > 0 {
		return "create the missing role on the new server, and give it a password:\n" + strings.Join(lines, "\n"), nil
	}
	switch {
	case strings.Contains(e.Message, "permission denied"), strings.Contains(e.Message, "must be owner of"),
		strings.Contains(e.Message, "must be superuser"), strings.Contains(e.Message, "must be able to SET ROLE"),
		strings.Contains(e.Message, "must be member of role"):
		return fmt.Sprintf("role %q on the new server lacks a right: let it be a member of every role that owns objects (GRANT ... TO %s), or connect as a superuser",
			new.User(), pgx.Identifier{new.User()}.Sanitize()), nil
	case strings.HasPrefix(e.Entry, "INDEX ATTACH ") && strings.Contains(e.Message, "cannot attach index"):
		return "PostgreSQL cannot attach the indexes of an exclusion constraint on a partitioned table: on the old server drop it there and give each partition one of its own; pgcutover check prints the statements", nil
	case strings.Contains(e.Message, "security label provider"):
		return "the labels need their provider on the new server too: add its library to shared_preload_libraries (or session_preload_libraries) there, or remove the labels on the old server", nil
	case strings.Contains(e.Message, "default_tablespace"):
		return "create the tablespace on the new server: CREATE TABLESPACE ... LOCATION ...", nil
	case strings.Contains(e.Message, "out of shared memory"):
		return "raise max_locks_per_transaction on the new server and restart it, then run the command again", nil
	}
	return "", nil
}

// mentions reports whether the text names the role, quoted or plain.
func mentions(text, role string) bool {
	if strings.Contains(text, pgx.Identifier{role}.Sanitize()) || strings.Contains(text, `"`+role+`"`) {
		return true
	}
	plain := regexp.MustCompile(`(^|[^A-Za-z0-9_$"])` + regexp.QuoteMeta(role) + `($|[^A-Za-z0-9_$"])`)
	return plain.MatchString(text)
}
