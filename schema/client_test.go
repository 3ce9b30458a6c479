package schema

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// fakeTools makes a pg_dump and a pg_restore of that major that run the script.
func fakeTools(t *testing.T, major, script string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"pg_dump", "pg_restore"} {
		text := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '" + name + " (PostgreSQL) " + major + "'; exit; fi\n" + script + "\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(pgclient.BinVariable, dir)
}

// The password goes by the environment and is taken out of whatever the program
// prints.
func TestPasswordIsNeitherArgumentNorMessage(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		fakeTools(t, "18.0", `echo "arguments: $*" >&2; echo "password: $PGPASSWORD" >&2; exit 1`)
		old := open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "postgres", "hunt'er 2"))
		_, err := Dump(t.Context(), old, t.TempDir())
		if err == nil {
			t.Fatal("the dump succeeded")
		}
		arguments, password, found := strings.Cut(err.Error(), "password: ")
		if !found || !strings.Contains(arguments, "--schema-only") || strings.Contains(arguments, "xxxxx") || strings.TrimSpace(password) != "xxxxx" {
			t.Errorf("got %v", err)
		}
	})
}

// A wrapper's children end too, those that do not listen included.
func TestCancelEndsTheProcessGroup(t *testing.T) {
	for _, trap := range []string{"", "trap '' TERM; "} {
		dir := t.TempDir()
		pidFile := filepath.Join(dir, "pid")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		gone := errors.New("gone")
		stuck := invocation{
			path: "/bin/sh", args: []string{"-c", trap + `sleep 300 & echo $! > ` + pidFile + `; echo started >&2; wait`},
			line: func(string) bool { cancel(gone); return true }, grace: 300 * time.Millisecond,
		}
		if _, err := stuck.run(ctx); !errors.Is(err, gone) {
			t.Errorf("got %v, want the context's cause", err)
		}
		text, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		err = pg.Wait(t.Context(), "the child to end", 20*time.Millisecond, time.Minute, nil,
			func(context.Context) (bool, string, error) { return !alive(pid), "", nil })
		if err != nil {
			t.Error(err)
		}
	}
}

// alive reports whether the process runs; one that has ended and waits for its
// parent to notice does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// pg_restore of 17 and later sends a setting that earlier servers refuse.
func TestToolsSuitTheNewServer(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		for _, c := range []struct {
			major int
			want  bool
		}{{15, true}, {16, true}, {17, p.new.Major() >= 17}, {18, p.new.Major() >= 17}} {
			if err := (tools{major: c.major}).suits(p.new); (err == nil) != c.want {
				t.Errorf("client %d for server %d: %v", c.major, p.new.Major(), err)
			}
		}
	})
}

func TestParseTOC(t *testing.T) {
	const text = `;
; Archive created at 2026-11-21 21:25:50 UTC
;
9; 2615 17570 SCHEMA - Ext postgres
241; 1259 18703 TABLE public events 2021 a postgres
3898; 0 0 TABLE ATTACH public events 2021 a postgres
3969; 0 0 INDEX ATTACH a b c d e
4137; 0 18615 ROW SECURITY public t postgres
4152; 0 0 COMMENT - EXTENSION citext 
4170; 0 4294967295 NEW KIND public t postgres
`
	entries, err := parseTOC(text)
	if err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{address{2615, 17570}, "9; 2615 17570 SCHEMA - Ext postgres", "SCHEMA", "- Ext postgres"},
		{address{1259, 18703}, "241; 1259 18703 TABLE public events 2021 a postgres", "TABLE", "public events 2021 a postgres"},
		{address{0, 0}, "3898; 0 0 TABLE ATTACH public events 2021 a postgres", "TABLE ATTACH", "public events 2021 a postgres"},
		{address{0, 0}, "3969; 0 0 INDEX ATTACH a b c d e", "INDEX ATTACH", "a b c d e"},
		{address{0, 18615}, "4137; 0 18615 ROW SECURITY public t postgres", "ROW SECURITY", "public t postgres"},
		{address{0, 0}, "4152; 0 0 COMMENT - EXTENSION citext ", "COMMENT", "- EXTENSION citext "},
		{address{0, 4294967295}, "4170; 0 4294967295 NEW KIND public t postgres", "NEW", "KIND public t postgres"},
	}
	if !slices.Equal(entries, want) {
		t.Errorf("got %q", entries)
	}
	if !entries[3].named(map[string]bool{"a b c": true}) || entries[3].named(map[string]bool{"a b c d e f": true, "b": true, "a b ": true}) {
		t.Error("names in entries are cut at the wrong places")
	}
	for _, bad := range []string{"x", "1; 2 TABLE", "1; 99999999999 2 TABLE a b c"} {
		if _, err := parseTOC(bad); err == nil {
			t.Errorf("%q was taken for a line", bad)
		}
	}
}

func FuzzParseTOC(f *testing.F) {
	f.Add("9; 2615 17570 SCHEMA - Ext postgres\n")
	f.Add("; comment\r\n4152; 0 0 COMMENT - EXTENSION citext \n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := parseTOC(text)
		if err != nil {
			return
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.line+" ", e.String()) && !strings.HasSuffix(e.line, e.String()) {
				t.Errorf("%q became %q", e.line, e)
			}
		}
	})
}

func TestParseRestoreError(t *testing.T) {
	entries := []entry{{address{1259, 5}, `215; 1259 5 TABLE public orders app`, "TABLE", "public orders app"}}
	const worker = "pg_restore: error: a worker process died unexpectedly\n"
	const failure = `pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 215; 1259 5 TABLE orders app
pg_restore: error: could not execute query: ERROR:  role "app" does not exist
LINE 2: x
        ^
DETAIL:  Some
more.
Command was: ALTER TABLE public.orders
OWNER TO app;


`
	for name, text := range map[string]string{
		"alone": failure, "worker before": worker + failure, "worker after": failure + worker,
		"another process between": strings.NewReplacer("error: could", "error: pg_restore: finished item 3\ncould",
			"pg_restore: from", "pg_restore: pg_restore: from").Replace(failure) + worker,
	} {
		e := parseRestoreError(text, entries)
		want := RestoreError{
			Entry: "TABLE public orders app", Message: `ERROR: role "app" does not exist`,
			Detail: "LINE 2: x\n        ^\nDETAIL:  Some\nmore.", Command: "ALTER TABLE public.orders\nOWNER TO app;",
		}
		if *e != want {
			t.Errorf("%s: got %+v", name, *e)
		}
	}
	e := parseRestoreError("pg_restore: error: connection to server at \"127.0.0.1\" failed: FATAL:  no\n", nil)
	if e.Entry != "" || e.Message != `connection to server at "127.0.0.1" failed: FATAL: no` {
		t.Errorf("got %+v", e)
	}
	if e := parseRestoreError(worker+"pg_restore: error: pg_restore: could not fork\n", nil); e.Message != "could not fork" {
		t.Errorf("got %+v", e)
	}
	if e := parseRestoreError(worker, nil); e.Message != "a worker process died unexpectedly" {
		t.Errorf("got %+v", e)
	}
	if e := parseRestoreError("Segmentation fault", nil); e.Message != "Segmentation fault" {
		t.Errorf("got %+v", e)
	}
}

// What is no progress belongs to an error, however it begins.
func TestProgressLine(t *testing.T) {
	for line, want := range map[string]bool{
		"pg_restore: creating TABLE x":                            true,
		"pg_restore: pg_restore: launching item 3 INDEX x":        true,
		"pg_restore: from TOC entry 1; 2 3 TABLE x y":             false,
		"pg_restore: pg_restore: from TOC entry 1; 2 3 TABLE x y": false,
		"pg_restore: pg_restore: pg_restore: error: could not":    false,
		"from TOC entry 1; 2 3 TABLE x y":                         false,
		"DETAIL:  pg_restore: ":                                   false,
		"pg_restore: error: pg_restore: finished item 4 INDEX x":  false,
	} {
		var told []string
		if got := progressLine(line, func(text string) { told = append(told, text) }); got != want || len(told) > 0 != want {
			t.Errorf("%q: %t, told %q", line, got, told)
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		text, role string
		want       bool
	}{
		{"ALTER TABLE a OWNER TO app;", "app", true},
		{"ALTER TABLE a OWNER TO application;", "app", false},
		{`ALTER TABLE "app x" OWNER TO b;`, "app", false},
		{`ALTER TABLE a OWNER TO "o""dd";`, `o"dd`, true},
		{`ERROR: role "o"dd" does not exist`, `o"dd`, true},
	} {
		if got := mentions(c.text, c.role); got != c.want {
			t.Errorf("names(%q, %q) = %t", c.text, c.role, got)
		}
	}
}

func TestChunks(t *testing.T) {
	table := entry{desc: "TABLE"} // 6 locks
	for _, c := range []struct{ entries, locks, want int }{{0, 10, 0}, {1, 1, 1}, {10, 60, 1}, {10, 59, 2}, {10, 12, 5}} {
		parts := chunks(slices.Repeat([]entry{table}, c.entries), c.locks)
		total := 0
		for _, part := range parts {
			total += len(part)
		}
		if len(parts) != c.want || total != c.entries {
			t.Errorf("%d entries at %d locks: %d parts, %d entries", c.entries, c.locks, len(parts), total)
		}
	}
}
