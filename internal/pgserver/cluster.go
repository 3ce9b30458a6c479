package pgserver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options say what kind of cluster [Start] makes.
type Options struct {
	// Major is the PostgreSQL major, 10 to 18.
	Major int
	// Dir is the folder for data and log. Empty means a temporary folder that
	// Close removes. A folder whose data a cluster of the same major left is
	// started again, with these options; one from Dir is never removed.
	Dir string
	// Name is the cluster_name and part of a temporary folder's name.
	Name string
	// Settings are server settings, on top of and instead of the defaults:
	// wal_level logical, generous replication limits, 64 MB of shared buffers.
	Settings map[string]string
	// Durable keeps fsync on. Without it a crash of the machine can lose data;
	// a crash of the server cannot.
	Durable bool
	// Password, when set, is the password of the superuser postgres, and TCP
	// connections of every role need one. Otherwise every role is trusted.
	Password string
	// HBA are lines of pg_hba.conf that come before the cluster's own.
	HBA []string
	// Port is the TCP port; zero means a free one.
	Port int
	// Progress, which may be nil, is told about the slow parts.
	Progress func(string)
}

const (
	dataFolder = "data"
	logFile    = "server.log"
	superuser  = "postgres"

	initdbBound = 3 * time.Minute
	startBound  = 90 * time.Second
	stopBound   = time.Minute
	crashBound  = 30 * time.Second
)

// Cluster is one PostgreSQL server with its data, listening on the loopback
// interface. Its methods may be called from several goroutines.
type Cluster struct {
	options  Options
	binaries Binaries
	who      *syscall.Credential // nil: the server runs as this process's user
	dir      string
	scratch  *scratch // nil: the folder is the caller's
	port     *Port

	mu     sync.Mutex // serialises starting and stopping
	server *process   // the last one started; nil before the first
	gone   bool       // closed
}

// Start finds binaries of the major, makes a cluster with UTF8 encoding, locale
// C and the superuser postgres, starts it and waits until it accepts
// connections. It takes at most a few minutes besides the fetching of binaries.
// The caller closes the cluster.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	binaries, err := Find(ctx, o.Major, o.Progress)
	if err != nil {
		return nil, err
	}
	who, err := serverUser()
	if err != nil {
		return nil, err
	}
	c := &Cluster{options: o, binaries: binaries, who: who}
	if err := c.boot(ctx); err != nil {
		err = fmt.Errorf("starting a PostgreSQL %d cluster: %w", o.Major, err)
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// boot does Start's work; what it made so far is in c for Close.
func (c *Cluster) boot(ctx context.Context) error {
	if err := c.makeDir(ctx); err != nil {
		return err
	}
	if err := c.initialize(ctx); err != nil {
		return err
	}
	if err := c.choosePort(); err != nil {
		return err
	}
	return c.launchSomewhere(ctx)
}

// launchSomewhere starts the server for the first time, on another port when
// someone who does not reserve ports took the first one.
func (c *Cluster) launchSomewhere(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for attempt := 1; ; attempt++ {
		err := c.launch(ctx)
		taken := errors.Is(err, errExited) && !c.port.free()
		if err == nil || !taken || c.options.Port != 0 || attempt == 5 {
			return err
		}
		if err := c.choosePort(); err != nil {
			return err
		}
	}
}

// choosePort reserves the port, another one than before, and writes it into the
// settings.
func (c *Cluster) choosePort() error {
	if c.port != nil {
		c.port.Release()
	}
	var port *Port
	var err error
	if c.options.Port != 0 {
		port, err = reserve(c.options.Port)
	} else {
		port, err = ReservePort()
	}
	if err != nil {
		return fmt.Errorf("reserving a port: %w", err)
	}
	c.port = port
	if err := c.writeConfig(); err != nil {
		return fmt.Errorf("writing the settings: %w", err)
	}
	return nil
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// makeDir makes the cluster's folder and, in it, the data folder, which belongs
// to the user who runs the server.
func (c *Cluster) makeDir(ctx context.Context) error {
	if c.options.Dir == "" {
		name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(c.options.Name), "-"), "-")
		name = strings.TrimLeft(name[:min(len(name), 20)]+"-"+strconv.Itoa(c.options.Major), "-")
		s, err := newScratch(ctx, c.who, name)
		if err != nil {
			return err
		}
		c.scratch, c.dir = s, s.dir
	} else {
		dir, err := filepath.Abs(c.options.Dir)
		if err != nil {
			return err
		}
		if err := makeDirs(dir); err != nil {
			return fmt.Errorf("making the cluster's folder: %w", err)
		}
		if c.dir, err = filepath.EvalSymlinks(dir); err != nil {
			return fmt.Errorf("resolving the cluster's folder: %w", err)
		}
		if !reachable(ctx, c.who, c.dir) {
			return fmt.Errorf("the user with id %d, who runs the server, cannot reach the folder %s: choose one outside of closed folders", c.who.Uid, c.dir)
		}
	}
	if err := os.Mkdir(c.DataDir(), 0o700); err != nil && !os.IsExist(err) {
		return fmt.Errorf("making the data folder: %w", err)
	}
	if err := c.own(c.DataDir()); err != nil {
		return fmt.Errorf("giving the data folder to the user who runs the server: %w", err)
	}
	return nil
}

// initialize runs initdb unless the folder has data of the same major already.
func (c *Cluster) initialize(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(c.DataDir(), "PG_VERSION"))
	switch {
	case errors.Is(err, os.ErrNotExist):
		err = c.initdb(ctx)
	case err == nil && strings.TrimSpace(string(text)) != strconv.Itoa(c.options.Major):
		err = fmt.Errorf("%s holds a cluster of PostgreSQL %s, not %d", c.DataDir(), strings.TrimSpace(string(text)), c.options.Major)
	}
	if err != nil {
		return err
	}
	if err := c.includeConfig(); err != nil {
		return fmt.Errorf("writing postgresql.conf: %w", err)
	}
	if err := c.writeAccess(); err != nil {
		return fmt.Errorf("writing pg_hba.conf: %w", err)
	}
	return nil
}

func (c *Cluster) initdb(ctx context.Context) error {
	args := []string{
		"--pgdata=" + c.DataDir(), "--username=" + superuser,
		"--encoding=UTF8", "--no-locale", "--auth=trust",
	}
	if !c.options.Durable {
		args = append(args, "--no-sync")
	}
	if c.options.Password != "" {
		// A file, since other users can read command lines.
		path := filepath.Join(c.dir, ".password")
		if err := os.WriteFile(path, []byte(c.options.Password+"\n"), 0o600); err != nil {
			return fmt.Errorf("writing the password for initdb: %w", err)
		}
		defer os.Remove(path)
		if err := c.own(path); err != nil {
			return fmt.Errorf("writing the password for initdb: %w", err)
		}
		method := "scram-sha-256"
		if strings.EqualFold(c.options.Settings["password_encryption"], "md5") {
			method = "md5"
		}
		args = append(args, "--pwfile="+path, "--auth-host="+method)
	}
	_, err := command{
		path: c.binaries.Initdb, args: args,
		env: serverEnviron(), user: c.who, bound: initdbBound,
	}.run(ctx)
	return err
}

// URL returns the connection string of the superuser postgres for a database,
// with the password when the cluster has one.
func (c *Cluster) URL(database string) string {
	u := url.URL{
		Scheme:   "postgres",
		User:     url.User(superuser),
		Host:     c.port.Addr(),
		Path:     "/" + database,
		RawQuery: "sslmode=disable",
	}
	if c.options.Password != "" {
		u.User = url.UserPassword(superuser, c.options.Password)
	}
	return u.String()
}

// Addr returns the server's host:port.
func (c *Cluster) Addr() string { return c.port.Addr() }

// Port returns the server's TCP port, the same for the cluster's whole life.
func (c *Cluster) Port() int { return c.port.Number }

// Major returns the PostgreSQL major.
func (c *Cluster) Major() int { return c.binaries.Major }

// Version returns the PostgreSQL version, such as 15.18.
func (c *Cluster) Version() string { return c.binaries.Version }

// Dir returns the cluster's folder.
func (c *Cluster) Dir() string { return c.dir }

// DataDir returns the server's data folder, inside Dir.
func (c *Cluster) DataDir() string { return filepath.Join(c.dir, dataFolder) }

// BinDir returns the folder with the server programs.
func (c *Cluster) BinDir() string { return c.binaries.Dir }

// LogPath returns the file that all of the cluster's servers log to.
func (c *Cluster) LogPath() string { return filepath.Join(c.dir, logFile) }

// LogTail returns the last n lines of the log; empty when it cannot be read.
func (c *Cluster) LogTail(n int) string {
	text, err := os.ReadFile(c.LogPath())
	if err != nil {
		return ""
	}
	return tail(string(text), n)
}
