package pgclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// BinVariable names the environment variable that holds the folders to look in
// first, separated like PATH.
const BinVariable = "PGCUTOVER_PG_CLIENT_BIN"

// ErrNotFound says that this machine has no such client program of a major that
// is new enough.
var ErrNotFound = errors.New("no suitable PostgreSQL client program")

// versionBound is how long a program may take to print its version.
const versionBound = 15 * time.Second

// client is a program that was found.
type client struct {
	path  string
	major int
}

// FindClient returns the path and the major of a client program (pg_dump,
// pg_restore, psql, ...) that suits servers up to minMajor. A program in the
// folders of PGCUTOVER_PG_CLIENT_BIN wins when it is new enough. Otherwise it is
// the program with the lowest sufficient major among those in PATH, in the usual
// places of Debian, Red Hat and Homebrew packages, and in the cache folder that
// scripts/prepare-clients fills: the nearer to the server, the fewer the settings
// in a dump that the server does not know. Of two with one major the program of
// PATH or of a package is taken.
//
// The error wraps [ErrNotFound], names what was found and carries the command
// that installs a suitable one as its hint.
func FindClient(ctx context.Context, name string, minMajor int) (path string, version int, err error) {
	chosen, err := survey(ctx, name, chosenPlaces())
	if err != nil {
		return "", 0, err
	}
	if best, ok := lowest(chosen, minMajor); ok {
		return best.path, best.major, nil
	}
	usual, err := survey(ctx, name, usualPlaces())
	if err != nil {
		return "", 0, err
	}
	if best, ok := lowest(usual, minMajor); ok {
		return best.path, best.major, nil
	}
	return "", 0, notFound(name, minMajor, append(chosen, usual...))
}

// chosenPlaces lists the folders that the operator named.
func chosenPlaces() []string { return filepath.SplitList(os.Getenv(BinVariable)) }

// packagePlaces are the folders that packages put client programs into.
var packagePlaces = []string{
	"/usr/lib/postgresql/*/bin",
	"/usr/pgsql-*/bin",
	"/opt/homebrew/opt/postgresql@*/bin",
	"/opt/homebrew/opt/libpq/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/usr/local/opt/libpq/bin",
}

// systemCache is root's cache folder, which everybody may read.
var systemCache = "/var/cache/pgcutover"

// cacheFolders lists the folders that scripts/prepare-clients may have put
// client programs into: the one in PGCUTOVER_CACHE when that is set, else the
// user's cache folder and root's.
func cacheFolders() []string {
	if dir := os.Getenv("PGCUTOVER_CACHE"); dir != "" {
		return []string{dir}
	}
	dirs := []string{systemCache}
	if dir, err := os.UserCacheDir(); err == nil {
		dirs = append([]string{filepath.Join(dir, "pgcutover")}, dirs...)
	}
	return dirs
}

// usualPlaces lists the folders of PATH, then those of packages, then those in
// the cache.
func usualPlaces() []string {
	places := filepath.SplitList(os.Getenv("PATH"))
	patterns := slices.Clone(packagePlaces)
	for _, dir := range cacheFolders() {
		patterns = append(patterns, filepath.Join(dir, "postgresql-client-*", "bin"))
	}
	for _, pattern := range patterns {
		matches, _ := filepath.Glob(pattern) // fails for a malformed pattern only
		places = append(places, matches...)
	}
	return places
}

// survey asks every program of that name in the places for its major. A program
// that does not run, or prints something else, is passed over.
func survey(ctx context.Context, name string, places []string) ([]client, error) {
	var found []client
	var seen []string
	for _, place := range places {
		if place == "" {
			continue // an empty field of PATH means the working folder
		}
		path, err := filepath.Abs(filepath.Join(place, name))
		if err != nil || !program(path) {
			continue
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil || slices.Contains(seen, real) {
			continue
		}
		seen = append(seen, real)
		// Debian's wrapper chooses a major by a cluster's settings; the real
		// programs are among the places of packages.
		if filepath.Base(real) == "pg_wrapper" {
			continue
		}
		major, err := askMajor(ctx, path)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("looking for %s: %w", name, ctx.Err())
		}
		if err == nil {
			found = append(found, client{path: path, major: major})
		}
	}
	return found, nil
}

func program(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// versionLine matches the answer of all client programs to --version:
// pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1).
var versionLine = regexp.MustCompile(`^\S+ \(PostgreSQL\) (\d+)`)

func askMajor(ctx context.Context, path string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, versionBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("running %s --version: %w", path, err)
	}
	match := versionLine.FindStringSubmatch(string(out))
	if match == nil {
		return 0, fmt.Errorf("%s --version printed %q, which is no PostgreSQL version", path, strings.TrimSpace(string(out)))
	}
	return strconv.Atoi(match[1])
}

// lowest returns the client with the lowest major that is at least minMajor;
// of equals the first.
func lowest(clients []client, minMajor int) (client, bool) {
	var best client
	for _, c := range clients {
		if c.major >= minMajor && (best.path == "" || c.major < best.major) {
			best = c
		}
	}
	return best, best.path != ""
}

// notFound makes FindClient's error.
func notFound(name string, minMajor int, found []client) error {
	what := "none was found"
	if len(found) > 0 {
		var list []string
		for _, c := range found {
			list = append(list, fmt.Sprintf("%s (%d)", c.path, c.major))
		}
		what = "found only " + strings.Join(list, ", ")
	}
	err := fmt.Errorf("%w: need %s of PostgreSQL %d or newer, %s", ErrNotFound, name, minMajor, what)
	return hint.With(err, ThisSystem().clientHint(name, minMajor))
}

// clientHint says how to get the client programs of a major.
func (s System) clientHint(name string, major int) string {
	n := strconv.Itoa(major)
	text := "run: " + s.installCommand("postgresql-client-"+n, "postgresql"+n, "postgresql@"+n)
	switch s {
	case Debian:
		text += " (when the distribution has no such package, the PGDG apt repository of the PostgreSQL project has all majors;" +
			" the package postgresql-common brings the script that adds it)"
	case RedHat:
		text += " (from the PGDG yum repository of the PostgreSQL project)"
	}
	return text + "; or set " + BinVariable + " to the folder that holds " + name
}
