// Package traffic moves the clients from one server to the other: by a pooler
// whose entry is rewritten while its clients wait (pgbouncer), by a command of
// the operator's (hook) or by connection strings that name both hosts
// (multihost).
package traffic

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Driver moves one group of clients. Its methods may be called again after a
// crash: they must lead to the same end.
type Driver interface {
	// Name is what the plan and messages call it.
	Name() string
	// Switch sends the clients to the serving server, after the decision.
	Switch(ctx context.Context, to Target) error
	// Verify proves that a client of this driver now reaches the server that
	// serves.
	Verify(ctx context.Context, to Target) error
}

// Pauser is a Driver that can make its clients wait. Each method may be called
// from another process than the one before, and again after a crash.
type Pauser interface {
	Driver
	// Ready proves, before anything is touched, that the pooler can be reached
	// and rewritten, and that it leads to the server that serves.
	Ready(ctx context.Context, to Target) error
	// Pause makes the clients wait. On an error nothing is left paused.
	// Idempotent.
	Pause(ctx context.Context, to Target) error
	// Resume ends a pause; the clients reach the server they reached before,
	// to.Serving. When it is not known which one serves, with to.Serving empty,
	// the pause ends and nothing else is changed. Idempotent.
	Resume(ctx context.Context, to Target) error
}

// Target is what a driver and a hook are told: the move, the attempt, both
// servers, and which of them serves.
type Target struct {
	Move     string
	Attempt  int64
	Old, New *pg.Server // Old is nil when it is gone for good
	Serving  pg.Side
}

// server returns the server that serves; nil when that is not known.
func (t Target) server() *pg.Server {
	switch t.Serving {
	case pg.Old:
		return t.Old
	case pg.New:
		return t.New
	}
	return nil
}

// Environment is what hooks get: PGCUTOVER_* with no secret in it.
func (t Target) Environment(event, step string) []string {
	env := []string{
		"PGCUTOVER_EVENT=" + event, "PGCUTOVER_STEP=" + step, "PGCUTOVER_MOVE=" + t.Move,
		"PGCUTOVER_ATTEMPT=" + strconv.FormatInt(t.Attempt, 10),
		"PGCUTOVER_SERVING=" + string(t.Serving), "PGCUTOVER_PID=" + strconv.Itoa(os.Getpid()),
	}
	for _, s := range []*pg.Server{t.Old, t.New} {
		if s == nil {
			continue // gone for good
		}
		prefix := "PGCUTOVER_OLD_"
		if s.Side() == pg.New {
			prefix = "PGCUTOVER_NEW_"
		}
		host, port, database := s.Endpoint()
		env = append(env, prefix+"HOST="+host, prefix+"PORT="+strconv.Itoa(port), prefix+"DATABASE="+database)
	}
	return env
}

// Hook is the driver that runs a command of the operator's.
type Hook struct {
	Command []string
	Bound   time.Duration
}

// Name returns "hook" with the program's name.
func (h Hook) Name() string { return "hook " + filepath.Base(h.Command[0]) }

// Switch runs the command with PGCUTOVER_EVENT=switch.
func (h Hook) Switch(ctx context.Context, to Target) error {
	return run(ctx, h.Bound, h.Command, to.Environment("switch", "switch"))
}

// Verify has nothing to ask: the command's exit status was its answer.
func (Hook) Verify(context.Context, Target) error { return nil }

// Multihost is the driver for clients whose connection strings name both hosts
// with target_session_attrs=read-write (JDBC: targetServerType=primary). They
// find the server that takes writes by themselves, since that option looks at
// the read-only default of the database.
// Postgres manual: 34.1.2, target_session_attrs.
type Multihost struct{}

// Name returns "multihost".
func (Multihost) Name() string { return "multihost" }

// Switch has nothing to do: decide and open set the read-only defaults.
func (Multihost) Switch(context.Context, Target) error { return nil }

// readOnlyDefaultSQL asks for what a client gets; for a role that has the tool's
// own setting in this database, which would hide it, for the database's setting.
const readOnlyDefaultSQL = `
select case when exists (
              select 1
                from pg_db_role_setting r
                join pg_roles u on u.oid = r.setrole
                join pg_database d on d.oid = r.setdatabase
               where u.rolname = current_user and d.datname = current_database()
                 and 'default_transaction_read_only=off' = any (r.setconfig))
            then exists (
              select 1
                from pg_db_role_setting r
                join pg_database d on d.oid = r.setdatabase
               where r.setrole = 0 and d.datname = current_database()
                 and 'default_transaction_read_only=on' = any (r.setconfig))
            else s.setting = 'on' end
  from pg_settings s
 where s.name = 'transaction_read_only'`

// Verify opens a session on both servers as a client would, without the tool's
// own settings, and looks at what target_session_attrs looks at.
func (Multihost) Verify(ctx context.Context, to Target) error {
	for _, s := range []*pg.Server{to.Old, to.New} {
		if s == nil {
			continue // gone for good
		}
		conn, err := s.ConnectAsClient(ctx)
		if err != nil {
			return err
		}
		var readOnly bool
		err = conn.QueryRow(ctx, readOnlyDefaultSQL).Scan(&readOnly)
		pg.Close(ctx, conn)
		if err != nil {
			return fmt.Errorf("asking the %s server for its read-only default: %w", s.Side(), err)
		}
		if wants := s.Side() != to.Serving; readOnly != wants {
			return fmt.Errorf("multihost clients would pick the wrong server: transaction_read_only on the %s server is %t for role %q (a role setting may override the database's)",
				s.Side(), readOnly, s.User())
		}
	}
	return nil
}

// Hooks is a directory of executables called before-<step> and after-<step>.
// A missing one is nothing; a failing before hook vetoes.
type Hooks struct {
	Dir   string
	Bound time.Duration
}

// Run runs the executable called event, if there is one.
func (h Hooks) Run(ctx context.Context, event, step string, to Target) error {
	if h.Dir == "" {
		return nil
	}
	path := filepath.Join(h.Dir, event)
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for hook %s: %w", path, err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("hook %s is not executable: chmod +x it, or take it away", path)
	}
	return run(ctx, h.Bound, []string{path}, to.Environment(event, step))
}
