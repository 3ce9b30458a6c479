package pgclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// install writes a program that answers as the real one does.
func install(t *testing.T, dir, name, answer string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\nprintf '%s\\n' \""+answer+"\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// only makes PATH and the places of packages a list of the test's own folders;
// /bin stays for the programs' interpreter, which has no client programs.
func only(t *testing.T, path []string, packages ...string) {
	t.Helper()
	t.Setenv("PATH", strings.Join(path, ":"))
	t.Setenv(BinVariable, "")
	t.Setenv("PGCUTOVER_CACHE", t.TempDir())
	saved := packagePlaces
	packagePlaces = packages
	t.Cleanup(func() { packagePlaces = saved })
}

func answer(name, version string) string { return name + " (PostgreSQL) " + version }

func TestLowestSufficientMajorWins(t *testing.T) {
	root := t.TempDir()
	for major, version := range map[int]string{13: "13.23", 15: "15.18 (Debian 15.18-0+deb12u1)", 17: "17.10", 18: "18beta1"} {
		install(t, filepath.Join(root, "packages", fmt.Sprint(major), "bin"), "pg_dump", answer("pg_dump", version))
	}
	path := install(t, filepath.Join(root, "path"), "pg_dump", answer("pg_dump", "16.2"))
	only(t, []string{filepath.Dir(path), "", filepath.Join(root, "none")}, filepath.Join(root, "packages", "*", "bin"))
	for minMajor, want := range map[int]int{0: 13, 13: 13, 14: 15, 16: 16, 17: 17, 18: 18} {
		got, version, err := FindClient(t.Context(), "pg_dump", minMajor)
		if err != nil || version != want {
			t.Errorf("for %d: %s of %d, %v, want one of %d", minMajor, got, version, err, want)
		}
		if want == 16 && got != path {
			t.Errorf("for %d: %s, want %s", minMajor, got, path)
		}
	}
}

func TestTheChosenFolderWins(t *testing.T) {
	root := t.TempDir()
	usual := install(t, filepath.Join(root, "usual"), "psql", answer("psql", "15.1"))
	chosen := install(t, filepath.Join(root, "chosen"), "psql", answer("psql", "17.1"))
	only(t, []string{filepath.Dir(usual)})
	t.Setenv(BinVariable, filepath.Join(root, "none")+":"+filepath.Dir(chosen))
	for minMajor, want := range map[int]string{15: chosen, 17: chosen} {
		if got, _, err := FindClient(t.Context(), "psql", minMajor); err != nil || got != want {
			t.Errorf("for %d: %s, %v, want %s", minMajor, got, err, want)
		}
	}
	install(t, filepath.Dir(chosen), "psql", answer("psql", "14.1")) // now too old
	if got, version, err := FindClient(t.Context(), "psql", 15); err != nil || got != usual || version != 15 {
		t.Errorf("%s of %d, %v, want %s", got, version, err, usual)
	}
}

// TestTheCacheIsTheLastPlace puts programs where scripts/prepare-clients does.
func TestTheCacheIsTheLastPlace(t *testing.T) {
	root := t.TempDir()
	named, users, system := filepath.Join(root, "named"), filepath.Join(root, "users", "pgcutover"), filepath.Join(root, "system")
	packaged := install(t, filepath.Join(root, "package"), "pg_dump", answer("pg_dump", "15.1"))
	cached := map[string]string{}
	for _, cache := range []string{named, users, system} {
		install(t, filepath.Join(cache, "postgresql-client-15", "bin"), "pg_dump", answer("pg_dump", "15.9"))
		cached[cache] = install(t, filepath.Join(cache, "postgresql-client-18", "bin"), "pg_dump", answer("pg_dump", "18.1"))
	}
	only(t, nil, filepath.Dir(packaged))
	saved := systemCache
	systemCache = system
	t.Cleanup(func() { systemCache = saved })
	t.Setenv("XDG_CACHE_HOME", filepath.Dir(users)) // what os.UserCacheDir reads on Linux
	for _, c := range []struct {
		cache    string // PGCUTOVER_CACHE
		minMajor int
		want     string
	}{
		{named, 15, packaged}, {named, 17, cached[named]}, {"", 17, cached[users]},
	} {
		t.Setenv("PGCUTOVER_CACHE", c.cache)
		if got, _, err := FindClient(t.Context(), "pg_dump", c.minMajor); err != nil || got != c.want {
			t.Errorf("for %d with %q: %s, %v, want %s", c.minMajor, c.cache, got, err, c.want)
		}
	}
	if err := os.RemoveAll(users); err != nil {
		t.Fatal(err)
	}
	if got, _, err := FindClient(t.Context(), "pg_dump", 17); err != nil || got != cached[system] {
		t.Errorf("without a cache of the user's: %s, %v, want %s", got, err, cached[system])
	}
}

// TestNoSuchClient finds what is too old, broken, a wrapper, or no program.
func TestNoSuchClient(t *testing.T) {
	root := t.TempDir()
	old := install(t, filepath.Join(root, "old"), "pg_dump", answer("pg_dump", "13.4"))
	install(t, filepath.Join(root, "other"), "pg_dump", "pg_dump 18.1")
	wrapper := install(t, filepath.Join(root, "share"), "pg_wrapper", answer("pg_dump", "18.1"))
	broken := install(t, filepath.Join(root, "broken"), "pg_dump", "")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	closed := install(t, filepath.Join(root, "closed"), "pg_dump", answer("pg_dump", "18.1"))
	if err := os.Chmod(closed, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(wrapper, filepath.Join(root, "bin", "pg_dump")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "folder", "pg_dump"), 0o755); err != nil {
		t.Fatal(err)
	}
	only(t, nil, filepath.Join(root, "*"))
	path, version, err := FindClient(t.Context(), "pg_dump", 17)
	if !errors.Is(err, ErrNotFound) {
		t.Fatalf("%s of %d, %v, want ErrNotFound", path, version, err)
	}
	want := fmt.Sprintf("need pg_dump of PostgreSQL 17 or newer, found only %s (13)", old)
	if !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error %q, want it to end with %q", err, want)
	}
	if text := hint.Of(err); !strings.Contains(text, BinVariable) {
		t.Errorf("hint %q does not name %s", text, BinVariable)
	}
	only(t, nil)
	if _, _, err := FindClient(t.Context(), "pg_dump", 17); err == nil || !strings.HasSuffix(err.Error(), "none was found") {
		t.Errorf("error %v, want it to say that none was found", err)
	}
}

func TestCancelled(t *testing.T) {
	root := t.TempDir()
	install(t, root, "pg_dump", answer("pg_dump", "17.1"))
	only(t, []string{root})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if path, _, err := FindClient(ctx, "pg_dump", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("%s, %v, want the context's error", path, err)
	}
}

// TestRealClients looks on this very machine, where there may be none.
func TestRealClients(t *testing.T) {
	for _, name := range []string{"pg_dump", "pg_restore", "psql"} {
		path, version, err := FindClient(t.Context(), name, 0)
		if errors.Is(err, ErrNotFound) {
			t.Logf("%v", err)
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		if real, err := filepath.EvalSymlinks(path); err != nil || filepath.Base(real) == "pg_wrapper" {
			t.Errorf("%s is %s, %v, want the program itself", path, real, err)
		}
		again, sameVersion, err := FindClient(t.Context(), name, version)
		if err != nil || again != path || sameVersion != version || version < 9 {
			t.Errorf("for %d: %s of %d, %v, want %s", version, again, sameVersion, err, path)
		}
	}
}

func TestHintsFitTheSystem(t *testing.T) {
	for system, want := range map[System][]string{
		Debian:  {"run: apt-get install -y postgresql-client-17", "PGDG apt repository"},
		RedHat:  {"run: dnf install -y postgresql17", "PGDG yum repository"},
		Mac:     {"run: brew install postgresql@17"},
		Unknown: {"install the package postgresql-client-17"},
	} {
		text := system.clientHint("pg_dump", 17)
		for _, part := range append(want, BinVariable) {
			if !strings.Contains(text, part) {
				t.Errorf("%s: %q lacks %q", system, text, part)
			}
		}
	}
}

func TestSystems(t *testing.T) {
	for text, want := range map[string]System{
		"NAME=x\nID=debian\n":                        Debian,
		"ID=ubuntu\nID_LIKE=debian\n":                Debian,
		"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n":  Debian,
		"ID=\"rocky\"\nID_LIKE=\"rhel centos fedora": RedHat,
		"ID=fedora":                  RedHat,
		"ID=arch\nVARIANT_ID=debian": Unknown,
		"":                           Unknown,
	} {
		if got := parseOSRelease(text); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}
