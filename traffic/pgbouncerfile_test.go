package traffic

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/pgbouncer"
)

// What this package reads out of a file is what PgBouncer does with it.
func TestReadsWhatPgBouncerReads(t *testing.T) {
	p, err := pgbouncer.Start(t.Context(), pgbouncer.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop() //nolint:errcheck // a scratch pooler
	c, err := openConsole(t.Context(), p.AdminURL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	rapid.Check(t, func(t *rapid.T) {
		before, line, after := drawFile(t, nil)
		text := before + line + after
		if rapid.Bool().Draw(t, "rewritten") {
			text = must2(rewrite(text, "shop", drawEndpoint(t)))
		}
		if err := os.WriteFile(p.ConfigFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.query(context.Background(), "RELOAD"); err != nil {
			t.Fatal(err)
		}
		rows, err := c.query(context.Background(), "SHOW DATABASES")
		if err != nil {
			t.Fatal(err)
		}
		file := must1(readIni([]byte(text)))
		seen := map[string]bool{}
		for _, r := range rows {
			e, ok := file.find(r["name"])
			if r["name"] == adminDatabase {
				continue
			}
			want, err := e.endpoint()
			if is := (PoolerEndpoint{Host: r["host"], Port: number(r["port"]), Database: r["database"]}); !ok || err != nil || is != want {
				t.Fatalf("%q\nPgBouncer reads %s as %+v, this package as %+v, %v", text, r["name"], is, want, err)
			}
			seen[r["name"]] = true
		}
		for _, e := range file.entries {
			if !seen[e.name] {
				t.Fatalf("%q\nPgBouncer does not know %s", text, e.name)
			}
		}
	})
}

func must2(text string, err error) string {
	if err != nil {
		panic(err)
	}
	return text
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// put replaces the file at path.
func put(t *testing.T, path, before, after string) error {
	t.Helper()
	s, err := stage(t.Context(), path, []byte(before), []byte(after))
	if err != nil {
		return err
	}
	return s.replace()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	return string(text)
}

// Owner, group and mode stay, symbolic links are followed, nothing else is left
// in the folder.
func TestReplacingKeepsTheFileWhatItIs(t *testing.T) {
	dir, links := t.TempDir(), t.TempDir()
	path, link, relative := filepath.Join(dir, "databases.ini"), filepath.Join(links, "databases.ini"), filepath.Join(links, "again.ini")
	check(t, os.WriteFile(path, []byte("one"), 0o600))
	check(t, os.Chmod(path, 0o640))
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 12345, 54321
		check(t, os.Chown(path, uid, gid))
	}
	check(t, os.Symlink(path, link))
	check(t, os.Symlink("databases.ini", relative))
	check(t, put(t, relative, "one", "two"))
	info, err := os.Lstat(path)
	check(t, err)
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != uid || int(stat.Gid) != gid || info.Mode() != 0o640 || content(t, path) != "two" {
		t.Errorf("%v %+v %q", info.Mode(), stat, content(t, path))
	}
	for _, l := range []string{link, relative} {
		if info, err := os.Lstat(l); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s is no link any more: %v, %v", l, info, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
}

func TestReplacingRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "databases.ini")
	if err := put(t, path, "", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := put(t, dir, "", "x"); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a folder: %v", err)
	}
	check(t, os.WriteFile(path, []byte("theirs"), 0o600))
	if err := put(t, path, "mine", "x"); !errors.Is(err, errFileChanged) || content(t, path) != "theirs" {
		t.Errorf("%v, %q", err, content(t, path))
	}
	// What a killed tool left is no hindrance, whatever its mode.
	left := filepath.Join(dir, ".databases.ini.pgcutover")
	check(t, os.WriteFile(left, []byte("half of a much longer text"), 0o600))
	check(t, put(t, path, "theirs", "new"))
	if content(t, path) != "new" {
		t.Errorf("%q", content(t, path))
	}
	// Nobody is led astray by a link in its place.
	check(t, os.Symlink("/etc/passwd", left))
	if err := put(t, path, "new", "x"); err == nil {
		t.Error("a link was followed")
	}
}

// Two tools and an editor at the same file: no change of anybody's is lost that
// was there when the tool looked.
func TestReplacingAtTheSameTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "databases.ini")
	check(t, os.WriteFile(path, []byte("0"), 0o600))
	const workers, each = 4, 40
	var wg sync.WaitGroup
	errs := make(chan error, workers*each)
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				before, err := os.ReadFile(path)
				if err != nil {
					errs <- err
					return
				}
				n, err := strconv.Atoi(string(before))
				if err != nil {
					errs <- err
					return
				}
				s, err := stage(context.Background(), path, before, []byte(strconv.Itoa(n+1)))
				if err == nil {
					err = s.replace()
				}
				switch {
				case err == nil:
					done++
				case !errors.Is(err, errFileChanged):
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if got := content(t, path); got != strconv.Itoa(workers*each) {
		t.Errorf("%s of %d changes are there", got, workers*each)
	}
}

// An edit between the reading and the renaming is taken in.
func TestWriteEntriesBesideAnEditor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "databases.ini")
	check(t, os.WriteFile(path, []byte("shop = host=old port=1\nz = host=0\n"), 0o600))
	d := NewPgBouncer(PgBouncerOptions{Databases: []string{"shop"}, File: path})
	stop, edited, first := make(chan struct{}), make(chan int), make(chan struct{})
	go func() { // changes another entry, as long as it can
		n := 0
		defer func() { edited <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return
			}
			next := strings.Replace(string(text), "z = host="+strconv.Itoa(n), "z = host="+strconv.Itoa(n+1), 1)
			s, err := stage(context.Background(), path, text, []byte(next))
			if err == nil && s.replace() == nil {
				if n++; n == 1 {
					close(first)
				}
			}
		}
	}()
	<-first
	for round := range 50 {
		to := PoolerEndpoint{Host: "h" + strconv.Itoa(round), Port: 5432, Database: "shop"}
		if _, err := d.writeEntries(t.Context(), to); err != nil && !errors.Is(err, errFileChanged) {
			t.Error(err)
		}
	}
	close(stop)
	n := <-edited
	file := must1(readIni([]byte(content(t, path))))
	other, _ := file.find("z")
	if e, err := other.endpoint(); err != nil || e.Host != strconv.Itoa(n) || n == 0 {
		t.Errorf("of %d edits the last one is lost: %+v, %v", n, e, err)
	}
}

func TestMissingEntries(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pgbouncer.ini")
	for text, want := range map[string]string{
		"[databases]\n* = host=old\n":                   "the entry * in line 2 stands for it",
		"[databases]\n\n%include /etc/databases.ini \n": "it includes /etc/databases.ini (line 3)",
		"[pgbouncer]\nshop = 1\n":                       "there is no entry shop",
	} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		d := NewPgBouncer(PgBouncerOptions{Databases: []string{"shop"}, File: path})
		if _, _, err := d.edited(PoolerEndpoint{Host: "new", Port: 1, Database: "x"}); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, errNoEntry) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
