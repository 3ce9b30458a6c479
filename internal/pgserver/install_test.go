package pgserver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgclient"
)

// mayInstall tells whether Install would install anything here.
func mayInstall() bool { return os.Geteuid() == 0 && pgclient.ThisSystem() == pgclient.Debian }

// useFakeApt puts an apt-get into PATH that logs its calls and exits with the
// code; the log is returned.
func useFakeApt(t *testing.T, code int) (calls string) {
	t.Helper()
	dir := openFolder(t)
	calls = filepath.Join(dir, "calls")
	script := fmt.Sprintf("#!/bin/sh\necho \"$DEBIAN_FRONTEND $*\" >> '%s'\necho 'E: no mirror' >&2\nexit %d\n", calls, code)
	if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	return calls
}

func TestInstallPackages(t *testing.T) {
	calls := useFakeApt(t, 0)
	err := installPackages(t.Context(), func(string) {}, []string{"postgresql-client", "npm"})
	if !mayInstall() {
		if err == nil || hint.Of(err) == "" {
			t.Errorf("error %v, want one that names the packages, with a hint", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	want := "noninteractive update\n" +
		"noninteractive -o DPkg::Lock::Timeout=300 install -y --no-install-recommends --no-upgrade postgresql-client npm\n"
	check(t, "the calls", string(text), want)
}

func TestInstallFails(t *testing.T) {
	useFakeApt(t, 100)
	err := installPackages(t.Context(), func(string) {}, []string{"postgresql-client"})
	if err == nil || mayInstall() && !strings.Contains(err.Error(), "E: no mirror") {
		t.Errorf("error %v, want apt-get's own words", err)
	}
	if !strings.Contains(hint.Of(err), "run: ") {
		t.Errorf("hint %q names no command", hint.Of(err))
	}
}

func TestInstallNeedsAPackageManager(t *testing.T) {
	t.Setenv("PATH", openFolder(t))
	err := installPackages(t.Context(), func(string) {}, []string{"postgresql-client", "npm"})
	if err == nil || !strings.Contains(err.Error(), "this machine lacks postgresql-client and npm") {
		t.Errorf("error %v, want one that names what is missing", err)
	}
}

// TestMissingNpm asks for a major that must be fetched and one that is there.
func TestMissingNpm(t *testing.T) {
	useFakeNpm(t, `["N.22.0-beta.1"]`, fakeServer("N.22"))
	if missing, err := missingPackages(t.Context(), []int{fakeMajor}); err != nil || slices.Contains(missing, "npm") {
		t.Errorf("missing %q, %v, though npm is there", missing, err)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", openFolder(t))
	if missing, err := missingPackages(t.Context(), []int{fakeMajor}); err != nil || !slices.Contains(missing, "npm") {
		t.Errorf("missing %q, %v, want npm among it", missing, err)
	}
	t.Setenv("PATH", path)
	if _, err := Find(t.Context(), fakeMajor, nil); err != nil {
		t.Fatal(err)
	}
	// Without npm, but with what the server, a shell script, calls.
	tools := openFolder(t)
	for _, tool := range []string{"cat", "dirname"} {
		real, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(tools, tool)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", tools)
	if missing, err := missingPackages(t.Context(), []int{fakeMajor}); err != nil || slices.Contains(missing, "npm") {
		t.Errorf("missing %q, %v, though the server is there", missing, err)
	}
}

// TestInstallNothing runs the whole of it where nothing is missing.
func TestInstallNothing(t *testing.T) {
	if _, _, err := pgclient.FindClient(t.Context(), "pg_dump", 0); err != nil {
		t.Logf("this machine has no pg_dump: %v", err)
		return
	}
	useFakeNpm(t, `["N.22.0-beta.1"]`, fakeServer("N.22"))
	if err := Install(t.Context(), func(line string) { t.Errorf("told %q", line) }, fakeMajor); err != nil {
		t.Error(err)
	}
}
