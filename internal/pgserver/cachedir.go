package pgserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// CacheVariable names the environment variable that sets the cache folder.
const CacheVariable = "PGCUTOVER_CACHE"

// systemCache serves root when the wanted cache folder is closed to the user
// who runs the servers, as everything under a 0700 /root is.
const systemCache = "/var/cache/pgcutover"

// CacheDir returns the folder that fetched server binaries are kept in, and
// makes it: $PGCUTOVER_CACHE, else pgcutover in the user's cache folder
// ([os.UserCacheDir]). Under root, when the user who runs the servers cannot
// reach that folder, it is /var/cache/pgcutover.
func CacheDir(ctx context.Context) (string, error) {
	who, err := serverUser()
	if err != nil {
		return "", err
	}
	dir, err := wantedCache()
	if err == nil && who != nil && !reachable(ctx, who, nearestExisting(dir)) {
		err = fmt.Errorf("the user who runs the servers cannot reach %s", dir)
	}
	if err != nil {
		if who == nil {
			return "", hint.With(err, "set "+CacheVariable+" to a folder that you may write to")
		}
		dir = systemCache
	}
	if err := makeDirs(dir); err != nil {
		return "", hint.With(fmt.Errorf("making the cache folder: %w", err),
			"set "+CacheVariable+" to a folder that you may write to")
	}
	if !reachable(ctx, who, dir) {
		return "", hint.With(fmt.Errorf("the user who runs the servers cannot reach the cache folder %s", dir),
			"set "+CacheVariable+" to a folder that everybody may read")
	}
	return dir, nil
}

func wantedCache() (string, error) {
	if dir := os.Getenv(CacheVariable); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", errors.Join(errors.New("finding the user's cache folder"), err)
	}
	return filepath.Join(dir, "pgcutover"), nil
}
