package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/workload"
)

// move is a shop on the old server, its copy on the new one, and a config file
// for the tool. Rounds follow each other on one move as far as that goes.
type move struct {
	w         *world
	name, dir string
	serving   pg.Side            // by the newest round
	names     map[pg.Side]string // what ledgers call the servers
	rounds    int
	pooler    *pgbouncer.Pooler // nil: none
	past      []*clients        // of earlier rounds
	tools     []*tool           // of this round
}

// maxPause bounds the pause shorter than the default does, so that a round in
// which everything hangs stays within the ten seconds that it is allowed.
const config = `name: %s
old: { url: "%s", peer_url: "%s" }
new: { url: "%s", peer_url: "%s" }
copy: { jobs: 2 }
warm: { jobs: 1, before_cutover: 0s }
analyze: { jobs: 1 }
cutover: { max_pause: 5s, lock_timeout: 300ms, attempts: 6 }
traffic:
  - multihost: {}
%shooks: { dir: ./hooks }
`

// shopRows is the size of the shop: enough for a vacuum with a delay at each
// page to take longer than a round.
const shopRows = 3000

// newMove makes both databases, the shop and the config file, and runs start.
func (w *world) newMove() (*move, error) {
	w.moves++
	m := &move{w: w, name: fmt.Sprintf("chaos%d", w.moves), serving: pg.Old, names: map[pg.Side]string{}}
	var err error
	if m.dir, err = os.MkdirTemp(w.t.TempDir(), m.name); err != nil {
		return m, err
	}
	for _, s := range []*server{w.old, w.new} {
		if err := s.execute("postgres", fmt.Sprintf("create database %s owner %s template template0", m.name, appRole)); err != nil {
			return m, err
		}
	}
	if err := m.fill(); err != nil {
		return m, err
	}
	if !w.plain() {
		if err := m.startPooler(); err != nil {
			return m, err
		}
	}
	text := fmt.Sprintf(config, m.name, m.toolURL(w.old), m.peerURL(w.old), m.toolURL(w.new), m.peerURL(w.new), m.entry())
	if err := os.WriteFile(filepath.Join(m.dir, "pgcutover.yaml"), []byte(text), 0o600); err != nil {
		return m, err
	}
	if err := os.Mkdir(filepath.Join(m.dir, "hooks"), 0o700); err != nil {
		return m, err
	}
	if _, err := m.must("start"); err != nil {
		return m, err
	}
	return m, m.identify()
}

// fill makes the shop, and one table of it that autovacuum comes for as soon as
// a hundred thousand transactions have passed.
func (m *move) fill() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, m.app(m.w.old))
	if err != nil {
		return fmt.Errorf("connecting to the old server: %w", err)
	}
	defer pg.Close(ctx, conn)
	if err := workload.Create(ctx, conn, workload.LoadOptions{Rows: shopRows}); err != nil {
		return err
	}
	return m.w.old.execute(m.name, `alter table "SHOP".orders set (autovacuum_freeze_max_age = 100000)`)
}

// identify asks both servers, which have the shop by now, what ledgers call
// them.
func (m *move) identify() error {
	for _, s := range []*server{m.w.old, m.w.new} {
		name, err := one[string](s, m.name, `select "SHOP".server()`)
		if err != nil {
			return err
		}
		m.names[s.side] = name
	}
	return nil
}

// app is the application's connection string for one server.
func (m *move) app(s *server) string { return m.through(s, s.cluster.Addr(), appRole) }

// toolURL and peerURL lead through the networks that rounds cut.
func (m *move) toolURL(s *server) string { return m.through(s, s.tool.Addr(), "") }

func (m *move) peerURL(s *server) string { return m.through(s, s.peer.Addr(), "") }

func (m *move) through(s *server, address, user string) string {
	u, err := url.Parse(s.cluster.URL(m.name))
	if err != nil {
		panic(err) // the cluster's own URL
	}
	u.Host = address
	if user != "" {
		u.User = url.User(user)
	}
	return u.String()
}

// source takes the writes now; target is to take them.
func (m *move) source() *server { return m.w.at(m.serving) }

func (m *move) target() *server { return m.w.at(m.serving.Other()) }

// direction is what the tool calls the way from source to target.
func (m *move) direction() string {
	if m.serving == pg.New {
		return "back"
	}
	return "forward"
}

const decidedSQL = `select coalesce(max(attempt), 0)::bigint from pgcutover.decision_%s`

// decided returns the newest attempt that the source has decided.
func (m *move) decided() (int64, error) {
	return one[int64](m.source(), m.name, fmt.Sprintf(decidedSQL, m.direction()))
}

// statusAnswer is what is read of `status --json`.
type statusAnswer struct {
	Phase   string `json:"phase"`
	Serving string `json:"serving"`
	Lag     *struct {
		Connected bool  `json:"connected"`
		Bytes     int64 `json:"bytes"`
	} `json:"lag"`
	Verdict struct {
		CanCutOver bool     `json:"can_cut_over"`
		CanGoBack  string   `json:"can_go_back"`
		Reasons    []string `json:"reasons"`
	} `json:"verdict"`
}

func (m *move) status() (statusAnswer, error) {
	t, err := m.must("status", "--json")
	if err != nil {
		return statusAnswer{}, err
	}
	return answer[statusAnswer](t)
}

// turn is the command that turns the writes to the target.
func (m *move) turn() string {
	if m.serving == pg.New {
		return "rollback"
	}
	return "cutover"
}

// smallLag is less than what the tool refuses.
const smallLag = 1 << 20

// ready waits until the tool says that a cutover, or a rollback, could begin, and
// makes the statistics where it says that they are missing. Vacuums that do not
// give way, which the tool refuses to begin beside, are over by then.
func (m *move) ready() error {
	for _, s := range []*server{m.w.old, m.w.new} {
		if err := s.calm(m.name); err != nil {
			return err
		}
	}
	if m.serving == pg.New {
		return until("the move to be ready to go back", 2*time.Minute, func() (bool, string, error) {
			s, err := m.status()
			ok := s.Phase == "cut over" && strings.HasPrefix(s.Verdict.CanGoBack, "yes: ") && s.Lag != nil && s.Lag.Bytes < smallLag
			return ok, s.Phase + ": " + s.Verdict.CanGoBack, err
		})
	}
	return until("the move to be ready", 2*time.Minute, func() (bool, string, error) {
		s, err := m.status()
		reasons := fmt.Sprint(s.Verdict.Reasons)
		if err == nil && strings.Contains(reasons, "run: pgcutover analyze") {
			_, err = m.must("analyze")
		}
		return s.Verdict.CanCutOver, reasons, err
	})
}

// end turns the writes once more, undisturbed, if they are not on the new server
// already; looks up there what the clients of all rounds were told, since what
// the stream lost in an undone round would show only now; and removes the move
// with the tool.
func (m *move) end() (f findings, err error) {
	if m.serving == pg.Old {
		if err := m.ready(); err != nil {
			return f, err
		}
		if _, err := m.must("cutover", "--yes"); err != nil {
			return f, err
		}
		m.serving = pg.New
	}
	if f, err = m.proveAgain(); err != nil {
		return f, err
	}
	t, err := m.must("complete", "--yes", "--json")
	if err != nil {
		return f, err
	}
	left, err := answer[struct{ Leftovers []string }](t)
	if err == nil && len(left.Leftovers) > 0 {
		err = fmt.Errorf("complete left %v", left.Leftovers)
	}
	if err != nil {
		return f, err
	}
	for _, s := range []*server{m.w.old, m.w.new} {
		if err := s.dropDatabase(m.name); err != nil {
			return f, err
		}
	}
	if m.pooler != nil {
		if err := m.pooler.Stop(); err != nil {
			return f, err
		}
	}
	return f, os.RemoveAll(m.dir)
}

const endSessionsSQL = `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()`

func (s *server) dropDatabase(name string) error {
	return until("dropping a database of the "+string(s.side)+" server", 2*time.Minute, func() (bool, string, error) {
		_, err := ask[bool](s, "postgres", endSessionsSQL, name)
		if err == nil {
			err = s.execute("postgres", "drop database if exists "+name)
		}
		return err == nil, fmt.Sprint(err), nil
	})
}

// endTools kills what is left of the round's tools.
func (m *move) endTools() error {
	var errs []error
	for _, t := range m.tools {
		if t.running() {
			errs = append(errs, t.signal(syscall.SIGKILL))
			<-t.done
		}
	}
	return errors.Join(errs...)
}
