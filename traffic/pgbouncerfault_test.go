package traffic_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/traffic"
)

// Several names of one database are one; other databases of the pooler go on.
func TestPgBouncerSeveralDatabases(t *testing.T) {
	s := newScene(t, func(p *pgbouncer.Options, o *traffic.PgBouncerOptions) {
		p.Databases["reports"] = p.Databases["shop"]
		other := p.Databases["shop"]
		other.Database = "postgres"
		p.Databases["other"] = other
		o.Databases = []string{"shop", "reports"}
	})
	shop, reports, other := s.client(t, "shop"), s.client(t, "reports"), s.client(t, "other")
	must(t, s.driver.Ready(t.Context(), s.to), s.driver.Pause(t.Context(), s.to))
	for name, want := range map[string]string{"shop": "1", "reports": "1", "other": "0"} {
		if got := s.row(t, name)["paused"]; got != want {
			t.Errorf("paused of %s is %s", name, got)
		}
	}
	if name, err := reaches(t.Context(), other); err != nil || name != "postgres" {
		t.Errorf("the other database: %s, %v", name, err)
	}
	to := s.serving(pg.New)
	must(t, s.driver.Switch(t.Context(), to), s.driver.Verify(t.Context(), to))
	must(t, leadsTo(t, shop, s.to.New), leadsTo(t, reports, s.to.New))
	if name, err := reaches(t.Context(), other); err != nil || name != "postgres" {
		t.Errorf("the other database: %s, %v", name, err)
	}
	// A transaction under one name ends the pause of the others as well.
	tx, err := reports.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `select 1`)
	must(t, err)
	options := s.options
	hurried(nil, &options)
	contains(t, traffic.NewPgBouncer(options).Pause(t.Context(), to), "@reports")
	s.untouched(t)
	must(t, tx.Rollback(t.Context()))
}

// Tools that get in each other's way end where the last word leaves it, and
// none waits for ever.
func TestPgBouncerPauseAndResumeAtTheSameTime(t *testing.T) {
	s := newScene(t, hurried)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var clients, tools sync.WaitGroup
	stop := make(chan struct{})
	failed := make(chan error, 100)
	for range 4 {
		conn := s.client(t, "shop")
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := reaches(ctx, conn); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for range 3 {
		driver := traffic.NewPgBouncer(s.options) // a process of its own
		tools.Go(func() {
			for range 15 {
				// Another tool's RESUME may end the pause, or its PAUSE may.
				if err := driver.Pause(ctx, s.to); err != nil && !errors.Is(err, traffic.ErrNotPaused) {
					failed <- err
				}
				if err := driver.Resume(ctx, s.to); err != nil {
					failed <- err
				}
			}
		})
	}
	tools.Wait()
	must(t, s.driver.Resume(ctx, s.to))
	close(stop)
	clients.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	s.untouched(t)
}

// Clients at full speed see no error on many ways there and back, and what they
// ask after a switch never comes from the other server.
func TestPgBouncerUnderLoad(t *testing.T) {
	s := newScene(t, func(p *pgbouncer.Options, _ *traffic.PgBouncerOptions) { p.PoolSize = 5 })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var clients sync.WaitGroup
	var asked, longest atomic.Int64
	var serving atomic.Pointer[pg.Server] // nil: while it turns
	serving.Store(s.to.Old)
	failed := make(chan error, 100)
	for range 16 {
		conn := s.client(t, "shop")
		clients.Go(func() {
			for ctx.Err() == nil {
				began, before := time.Now(), serving.Load()
				name, err := reaches(t.Context(), conn)
				if after := serving.Load(); err == nil && before != nil && before == after && name != before.Database() {
					err = fmt.Errorf("while %s served %s answered", before.Database(), name)
				}
				if err != nil {
					failed <- err
					return
				}
				asked.Add(1)
				longest.Store(max(longest.Load(), int64(time.Since(began))))
			}
		})
	}
	server := s.to.Old
	for range 10 {
		from := s.serving(server.Side())
		must(t, s.driver.Pause(t.Context(), from))
		serving.Store(nil)
		server = map[pg.Side]*pg.Server{pg.Old: s.to.New, pg.New: s.to.Old}[server.Side()]
		to := s.serving(server.Side())
		must(t, s.driver.Switch(t.Context(), to))
		serving.Store(server)
		must(t, s.driver.Verify(t.Context(), to))
	}
	cancel()
	clients.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	t.Logf("%d questions, the longest took %s", asked.Load(), time.Duration(longest.Load()))
	if asked.Load() < 100 {
		t.Errorf("only %d questions were asked", asked.Load())
	}
	s.untouched(t)
}

// PgBouncer answers a PAUSE too when it is another database's pause that is
// done, while somebody has resumed this one.
func TestPgBouncerPauseAnsweredForAnother(t *testing.T) {
	t.Parallel()
	s := newScene(t, func(p *pgbouncer.Options, o *traffic.PgBouncerOptions) {
		p.Databases["other"] = p.Databases["shop"]
		o.PauseTimeout, o.PauseAttempts = 5*time.Second, 1
	})
	must(t, leadsTo(t, s.client(t, "other"), s.to.Old)) // it needs a pool for that
	s.admin(t, "PAUSE other")
	tx, err := s.client(t, "shop").Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `select 1`)
	must(t, err)
	done := make(chan error, 1)
	go func() { done <- s.driver.Pause(t.Context(), s.to) }()
	must(t, pg.Wait(t.Context(), "the PAUSE", 5*time.Millisecond, 30*time.Second, nil, func(context.Context) (bool, string, error) {
		return s.row(t, "shop")["paused"] == "1", "", nil
	}))
	s.admin(t, "RESUME shop")
	if err := <-done; !errors.Is(err, traffic.ErrNotPaused) {
		t.Errorf("error %v", err)
	}
	s.untouched(t)
	must(t, tx.Commit(t.Context()))
	s.admin(t, "RESUME other")
}

// A tool that is killed while it pauses leaves a pooler that waits, or still
// tries to; whoever comes next ends that.
func TestPgBouncerToolKilledWhilePausing(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	tx, err := s.client(t, "shop").Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `select 1`)
	must(t, err)
	s.admin(t, "SET server_login_retry = '0.0125'") // as the dead one left it
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	killed := make(chan error, 1)
	go func() {
		_, err := s.adminErr(ctx, "PAUSE shop")
		killed <- err
	}()
	must(t, pg.Wait(t.Context(), "the PAUSE", 5*time.Millisecond, 30*time.Second, nil, func(context.Context) (bool, string, error) {
		return s.row(t, "shop")["paused"] == "1", "", nil
	}))
	cancel()
	if err := <-killed; err == nil {
		t.Fatal("the PAUSE did not wait")
	}
	if s.row(t, "shop")["paused"] != "1" {
		t.Fatal("not paused")
	}
	contains(t, s.driver.Ready(t.Context(), s.to), "shop is paused already", s.driver.Name(), `RESUME "shop";`)
	must(t, s.driver.Resume(t.Context(), s.to))
	s.untouched(t)
	must(t, tx.Commit(t.Context()))
	must(t, s.driver.Pause(t.Context(), s.to), s.driver.Resume(t.Context(), s.to))
	s.untouched(t)
}

// The pooler dies while it is paused.
func TestPgBouncerKilled(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	must(t, s.driver.Pause(t.Context(), s.to), s.pooler.Kill())
	must(t, s.driver.Resume(t.Context(), s.to)) // what does not run is not paused
	to := s.serving(pg.New)
	contains(t, s.driver.Ready(t.Context(), s.to), "does not run")
	contains(t, s.driver.Pause(t.Context(), s.to), "does not run")
	contains(t, s.driver.Switch(t.Context(), to), "does not run", "is written", "pgcutover resume")
	half := traffic.NewPgBouncer(s.options) // nobody tells whether old's entry is back
	must(t, os.Rename(s.options.File, s.options.File+".away"), os.Mkdir(s.options.File, 0o700))
	contains(t, half.Resume(t.Context(), s.to), "rewriting")
	must(t, os.Remove(s.options.File))
	must(t, half.Resume(t.Context(), s.to)) // there is no such file on this host
	must(t, os.Rename(s.options.File+".away", s.options.File), s.pooler.Restart(t.Context()))
	must(t, leadsTo(t, s.client(t, "shop"), s.to.New)) // it read the new entry
	must(t, s.driver.Switch(t.Context(), to), s.driver.Verify(t.Context(), to))
	s.untouched(t)

	// It comes back while the tool tries.
	must(t, s.driver.Pause(t.Context(), to), s.pooler.Kill())
	done := make(chan error, 1)
	time.AfterFunc(300*time.Millisecond, func() { done <- s.pooler.Restart(context.WithoutCancel(t.Context())) })
	must(t, s.driver.Switch(t.Context(), s.to), <-done, s.driver.Verify(t.Context(), s.to))
}

// A line that PgBouncer cannot read keeps it from taking the entry; the error
// says where to look, and the clients wait for the repair.
func TestPgBouncerReloadOfABrokenFile(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	good, err := os.ReadFile(s.pooler.MainFile())
	must(t, err)
	must(t, os.WriteFile(s.pooler.MainFile(), append([]byte("[databases]\nbroken\n"), good...), 0o600))
	must(t, s.driver.Pause(t.Context(), s.to))
	to := s.serving(pg.New)
	contains(t, s.driver.Switch(t.Context(), to), "instead of", "log", s.options.File)
	if s.row(t, "shop")["paused"] != "1" {
		t.Error("clients were sent to the server that does not serve")
	}
	must(t, os.WriteFile(s.pooler.MainFile(), good, 0o600))
	must(t, s.driver.Switch(t.Context(), to), s.driver.Verify(t.Context(), to))
	s.untouched(t)
}

// An entry that leads elsewhere, or to the same server by another name.
func TestPgBouncerWrongHost(t *testing.T) {
	t.Parallel()
	var old pgbouncer.Endpoint
	s := newScene(t, func(p *pgbouncer.Options, _ *traffic.PgBouncerOptions) {
		old = p.Databases["shop"]
		named := old
		named.Host = "localhost"
		p.Databases["shop"] = named
	})
	hintText := fmt.Sprintf(`old: { host: "localhost", port: %d, dbname: %q }`, old.Port, old.Database)
	contains(t, s.driver.Ready(t.Context(), s.to), "instead of host="+old.Host, hintText)
	options := s.options
	options.Old = traffic.PoolerEndpoint{Host: "localhost"}
	driver := traffic.NewPgBouncer(options)
	must(t, driver.Ready(t.Context(), s.to))

	// What the configuration calls the new server is the old one.
	host, port, _ := s.to.Old.Endpoint()
	options.New = traffic.PoolerEndpoint{Host: host, Port: port, Database: s.to.Old.Database()}
	liar := traffic.NewPgBouncer(options)
	must(t, liar.Switch(t.Context(), s.serving(pg.New)))
	began := time.Now()
	contains(t, liar.Verify(t.Context(), s.serving(pg.New)), "reaches another server", s.to.Old.Database(), s.to.New.Database())
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s to find out", took)
	}
	must(t, driver.Switch(t.Context(), s.to), driver.Verify(t.Context(), s.to))
}

// On another host the file is not there: it is not needed when the pooler leads
// to the right server already, and otherwise the error says what to write.
func TestPgBouncerFileElsewhere(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	options := s.options
	options.File = filepath.Join(t.TempDir(), "databases.ini")
	away := traffic.NewPgBouncer(options)
	must(t, s.driver.Pause(t.Context(), s.to))
	must(t, away.Resume(t.Context(), s.to))
	s.untouched(t)
	must(t, s.driver.Pause(t.Context(), s.to))
	to := s.serving(pg.New)
	host, port, database := s.to.New.Endpoint()
	contains(t, away.Switch(t.Context(), to), "no such file", fmt.Sprintf("write host=%s port=%d dbname=%s into the entry of shop", host, port, database), "run RELOAD")
	if s.row(t, "shop")["paused"] != "1" {
		t.Error("clients were sent to the server that does not serve")
	}
	// The operator does it.
	old := endpointOf(s.to.Old)
	text, err := os.ReadFile(s.options.File)
	must(t, err)
	must(t, os.WriteFile(s.options.File, []byte(strings.NewReplacer(fmt.Sprint(old.Port), fmt.Sprint(port), old.Database, database).Replace(string(text))), 0o600))
	s.admin(t, "RELOAD")
	must(t, away.Switch(t.Context(), to), away.Verify(t.Context(), to))
	s.untouched(t)
}

// With session pooling there is no pause; the clients are cut off old at the
// switch.
func TestPgBouncerSessionPooling(t *testing.T) {
	t.Parallel()
	s := newScene(t, func(p *pgbouncer.Options, _ *traffic.PgBouncerOptions) { p.PoolMode = "session" })
	contains(t, s.driver.Ready(t.Context(), s.to), "session pooling", "pause_attempts: 0")
	conn := s.client(t, "shop")
	must(t, leadsTo(t, conn, s.to.Old))
	options := s.options
	options.PauseAttempts = 0
	driver := traffic.NewPgBouncer(options)
	must(t, driver.Ready(t.Context(), s.to), driver.Pause(t.Context(), s.to))
	must(t, leadsTo(t, conn, s.to.Old))
	to := s.serving(pg.New)
	must(t, driver.Switch(t.Context(), to), driver.Verify(t.Context(), to))
	if _, err := reaches(t.Context(), conn); err == nil {
		t.Error("the session on the old server is still there")
	}
	must(t, leadsTo(t, s.client(t, "shop"), s.to.New))
	s.untouched(t)
}

// PgBouncer opens connections for min_pool_size even while a database is
// paused, cuts them off, and holds that against the server.
func TestPgBouncerPauseDoesNotLockClientsOut(t *testing.T) {
	t.Parallel()
	s := newScene(t, func(p *pgbouncer.Options, _ *traffic.PgBouncerOptions) { p.Settings["min_pool_size"] = "3" })
	conn := s.client(t, "shop")
	must(t, leadsTo(t, conn, s.to.Old))
	must(t, s.driver.Pause(t.Context(), s.to))
	<-time.After(time.Second) // three rounds of PgBouncer's maintenance
	to := s.serving(pg.New)
	began := time.Now()
	must(t, s.driver.Switch(t.Context(), to))
	must(t, leadsTo(t, conn, s.to.New))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the client went on after %s", took)
	}
	must(t, s.driver.Verify(t.Context(), to))
	s.untouched(t)
	if got := s.setting(t, "min_pool_size"); got != "3" {
		t.Errorf("min_pool_size is %s", got)
	}
	if warnings, err := s.driver.Warnings(t.Context()); err != nil || len(warnings) != 0 {
		t.Errorf("%q, %v", warnings, err)
	}
	// In the entry nothing helps but to say so.
	text, err := os.ReadFile(s.options.File)
	must(t, err)
	must(t, os.WriteFile(s.options.File, []byte(strings.TrimSpace(string(text))+" min_pool_size=4\n"), 0o600))
	s.admin(t, "RELOAD")
	s.admin(t, "SET query_wait_timeout = 5")
	warnings, err := s.driver.Warnings(t.Context())
	must(t, err)
	if all := strings.Join(warnings, "\n"); len(warnings) != 2 || !strings.Contains(all, "min_pool_size=4") || !strings.Contains(all, "query_wait_timeout is 5 s") {
		t.Errorf("%q", warnings)
	}
}

// Rights: who may look only is found out before anything is touched, and no
// password is ever shown.
func TestPgBouncerRights(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t word"
	s := newScene(t, func(p *pgbouncer.Options, _ *traffic.PgBouncerOptions) {
		users := filepath.Join(userDir(t), "users.txt")
		must(t, os.WriteFile(users, fmt.Appendf(nil, "\"admin\" %q\n\"look\" %q\n\"postgres\" %q\n", secret, secret, secret), 0o644)) //nolint:gosec // the pooler is another user
		p.Settings["auth_file"], p.Settings["stats_users"] = users, "look"
	})
	// From here on it wants passwords.
	text, err := os.ReadFile(s.pooler.MainFile())
	must(t, err)
	must(t, os.WriteFile(s.pooler.MainFile(), []byte(strings.Replace(string(text), "auth_type = any", "auth_type = md5", 1)), 0o600))
	s.admin(t, "RELOAD")
	as := func(user, password, clientPassword string) *traffic.PgBouncer {
		u, err := url.Parse(s.pooler.AdminURL())
		must(t, err)
		u.User = url.UserPassword(user, password)
		options := s.options
		options.AdminURL = u.String()
		options.ClientURL = pgtest.WithUser(t, s.oldURL, "postgres", clientPassword)
		return traffic.NewPgBouncer(options)
	}
	must(t, as("admin", secret, secret).Ready(t.Context(), s.to))
	for name, err := range map[string]error{
		"admin_users": as("look", secret, secret).Ready(t.Context(), s.to),
		"password":    as("admin", "wr0ng/word", secret).Ready(t.Context(), s.to),
		"probe_url":   as("admin", secret, "wr0ng/word").Ready(t.Context(), s.to),
	} {
		contains(t, err, name)
		for _, word := range []string{secret, "s3cr3t%20word", "wr0ng/word", "wr0ng%2Fword"} {
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), word) {
				t.Errorf("a password is shown: %v", err)
			}
		}
	}
	// The probe's own connection string.
	u, err := url.Parse(s.pooler.URL("shop"))
	must(t, err)
	u.User = url.UserPassword("postgres", secret)
	options := s.options
	options.AdminURL = strings.Replace(options.AdminURL, "//admin@", "//admin:"+url.PathEscape(secret)+"@", 1)
	options.ProbeURL = u.String()
	must(t, traffic.NewPgBouncer(options).Ready(t.Context(), s.to))
}

// Several processes may share a port; then only their Unix sockets tell them
// apart. An entry may name several hosts.
func TestPgBouncerBehindAUnixSocket(t *testing.T) {
	t.Parallel()
	dir := userDir(t)
	must(t, os.Chmod(dir, 0o777)) //nolint:gosec // the pooler is another user
	var hosts string
	s := newScene(t, func(p *pgbouncer.Options, o *traffic.PgBouncerOptions) {
		p.Settings["so_reuseport"], p.Settings["unix_socket_dir"] = "1", dir
		e := p.Databases["shop"]
		e.Host += "," + e.Host
		hosts = e.Host
		p.Databases["shop"] = e
		o.Old = traffic.PoolerEndpoint{Host: e.Host}
	})
	contains(t, s.driver.Ready(t.Context(), s.to), "share this port", "Unix socket")
	options := s.options
	options.AdminURL = fmt.Sprintf("host=%s port=%d user=admin dbname=pgbouncer", dir, s.pooler.Port())
	driver := traffic.NewPgBouncer(options)
	must(t, driver.Ready(t.Context(), s.to), driver.Pause(t.Context(), s.to))
	to := s.serving(pg.New)
	must(t, driver.Switch(t.Context(), to), driver.Verify(t.Context(), to))
	must(t, leadsTo(t, s.client(t, "shop"), s.to.New))
	must(t, driver.Pause(t.Context(), to), driver.Switch(t.Context(), s.to), driver.Verify(t.Context(), s.to))
	if r := s.row(t, "shop"); r["host"] != hosts {
		t.Errorf("the way back leads to %s instead of %s", r["host"], hosts)
	}
	s.untouched(t)
	must(t, s.pooler.Stop())
	contains(t, driver.Pause(t.Context(), s.to), "does not run")
}

// userDir is a temporary folder that the pooler's user can reach.
func userDir(t *testing.T) string {
	t.Helper()
	folder, err := pgserver.MakeFolder(t.Context(), "", "users")
	must(t, err)
	t.Cleanup(func() { must(t, folder.Remove()) })
	return folder.Path()
}
