package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// plain says which moves have no pooler: each fourth. What the tool does
// without one is a path of its own.
func (w *world) plain() bool { return w.moves%4 == 0 }

// startPooler starts the move's pooler, which leads to the old server. It
// reaches the servers directly, as clients do.
func (m *move) startPooler() (err error) {
	m.pooler, err = pgbouncer.Start(context.Background(), pgbouncer.Options{Databases: map[string]pgbouncer.Endpoint{
		m.name: {Host: pgserver.Loopback, Port: m.w.old.cluster.Port(), Database: m.name, User: appRole},
	}})
	if err == nil {
		m.w.t.Cleanup(func() {
			if err := m.pooler.Stop(); err != nil {
				m.w.t.Error(err)
			}
		})
	}
	return err
}

const poolerEntry = `  - pgbouncer:
      admin_url: %q
      database: %s
      config: %q
      old: { host: %s, port: %d }
      new: { host: %s, port: %d }
`

// entry is the pooler in the config file.
func (m *move) entry() string {
	if m.pooler == nil {
		return ""
	}
	return fmt.Sprintf(poolerEntry, m.pooler.AdminURL(), m.name, m.pooler.ConfigFile(),
		pgserver.Loopback, m.w.old.cluster.Port(), pgserver.Loopback, m.w.new.cluster.Port())
}

// poolerState is what the pooler says of the move's database.
type poolerState struct {
	paused bool
	port   int
}

// console runs a command in the pooler's admin console.
func (m *move) console(command string) ([]*pgconn.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	config, err := pgconn.ParseConfig(strings.TrimSuffix(m.pooler.AdminURL(), "&default_query_exec_mode=simple_protocol"))
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connecting to the pooler's console: %w", err)
	}
	results, err := conn.Exec(ctx, command).ReadAll()
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return nil, fmt.Errorf("%s in the pooler's console: %w", command, err)
	}
	return results, nil
}

// askPooler asks the pooler whether it makes its clients wait, and where it
// leads them.
func (m *move) askPooler() (s poolerState, err error) {
	results, err := m.console("SHOW DATABASES")
	if err != nil {
		return s, err
	}
	for _, row := range results[0].Rows {
		value := func(name string) string {
			i := slices.IndexFunc(results[0].FieldDescriptions, func(f pgconn.FieldDescription) bool { return f.Name == name })
			if i < 0 {
				return ""
			}
			return string(row[i])
		}
		if value("name") != m.name {
			continue
		}
		if s.port, err = strconv.Atoi(value("port")); err != nil {
			return s, fmt.Errorf("the pooler's port of the database: %w", err)
		}
		s.paused = value("paused") != "0"
		return s, nil
	}
	return s, fmt.Errorf("the pooler has no database %s", m.name)
}

// leads proves that the pooler's clients do not wait and reach the server that
// serves.
func (m *move) leads(serving pg.Side) error {
	if m.pooler == nil {
		return nil
	}
	s, err := m.askPooler()
	if err != nil {
		return err
	}
	if s.paused {
		return errors.New("the pooler is still paused")
	}
	if want := m.w.at(serving).cluster.Port(); s.port != want {
		return fmt.Errorf("the pooler leads to port %d, the %s server serves on %d", s.port, serving, want)
	}
	return nil
}

// unpaused waits for the end of the pause, without anybody's help.
func (r *round) unpaused(since time.Time) error {
	if r.m.pooler == nil {
		return nil
	}
	return until("the pooler's pause to end", max(time.Until(since.Add(serveBound())), time.Millisecond), func() (bool, string, error) {
		s, err := r.m.askPooler()
		return err == nil && !s.paused, fmt.Sprint(s, err), nil
	})
}

// killPooler ends the pooler as a crash of it would.
func (r *round) killPooler() error {
	if r.m.pooler == nil {
		return errMissed
	}
	return r.m.pooler.Kill()
}

func (r *round) restartPooler() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return r.m.pooler.Restart(ctx)
}

// watchdogs are the processes that watch over the pauses of the move's pooler.
// Where there is no /proc none are found.
func (m *move) watchdogs() []int {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(text), "\x00")
		if len(args) < 4 || args[1] != "watchdog" || !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, m.dir+"/") }) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (m *move) killWatchdogs() error {
	var errs []error
	for _, pid := range m.watchdogs() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("killing the watchdog: %w", err))
		}
	}
	return errors.Join(errs...)
}

// watchdogsGone waits until none is left: their tools have ended.
func (m *move) watchdogsGone() error {
	return until("the watchdogs of tools that have ended to end", time.Minute, func() (bool, string, error) {
		left := m.watchdogs()
		return len(left) == 0, fmt.Sprint("processes ", left), nil
	})
}

// killBoth kills the tool and whoever watches over it.
func (r *round) killBoth() error {
	return errors.Join(r.m.killWatchdogs(), r.tool.signal(syscall.SIGKILL), r.m.killWatchdogs())
}
