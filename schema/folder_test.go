package schema

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// holdFolder is set in the process of its own that TestStaleFoldersGo kills.
const holdFolder = "PGCUTOVER_TEST_HOLD_FOLDER"

// What a killed process left goes; what a living one uses, and what is not the
// tool's, stays.
func TestStaleFoldersGo(t *testing.T) {
	if dir := os.Getenv(holdFolder); dir != "" {
		folder, _, err := makeFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "ready"), []byte(folder), 0o600); err != nil {
			t.Fatal(err)
		}
		select {} // until it is killed
	}
	dir := t.TempDir()
	holder := exec.Command(os.Args[0], "-test.run=^TestStaleFoldersGo$")
	holder.Env = append(os.Environ(), holdFolder+"="+dir)
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	folder := waitForFile(t, filepath.Join(dir, "ready"))
	old := time.Now().Add(-2 * time.Hour)
	age := func(path string) {
		t.Helper()
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	age(folder)
	other, unlocked, fresh := filepath.Join(dir, "other"), filepath.Join(dir, folderPrefix+"unlocked"), filepath.Join(dir, folderPrefix+"fresh")
	for _, path := range []string{other, unlocked, fresh} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	age(other)
	age(unlocked)
	exists := func(path string, want bool) {
		t.Helper()
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", path, err, want)
		}
	}
	removeStale(dir)
	exists(folder, true)
	exists(other, true)
	exists(fresh, true)
	exists(unlocked, false)

	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Wait(); err == nil {
		t.Error("the killed process ended well")
	}
	mine, lock, err := makeFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	exists(folder, false)
	exists(mine, true)
}

func waitForFile(t *testing.T, path string) string {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for time.Now().Before(deadline) {
		if text, err := os.ReadFile(path); err == nil && len(text) > 0 {
			return string(text)
		}
		<-ticker.C
	}
	t.Fatal("the holder did not make its folder")
	return ""
}
