package traffic_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgbouncer"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/traffic"
)

// scene is an old and a new database on two servers, and a pooler whose entry
// shop leads to the old one.
type scene struct {
	to             traffic.Target // the old one serves
	oldURL, newURL string
	pooler         *pgbouncer.Pooler
	options        traffic.PgBouncerOptions
	driver         *traffic.PgBouncer
}

// newScene makes the scene; change, which may be nil, has a say in what is
// made.
func newScene(t *testing.T, change func(*pgbouncer.Options, *traffic.PgBouncerOptions)) *scene {
	t.Helper()
	pair := pgtest.Pairs(t)[0]
	s := &scene{
		oldURL: pgtest.Database(t, pgtest.Server(t, pair.Old)),
		newURL: pgtest.Database(t, pgtest.Server(t, pair.New)),
	}
	s.to = traffic.Target{Move: "m", Attempt: 10000001, Old: open(t, pg.Old, s.oldURL), New: open(t, pg.New, s.newURL), Serving: pg.Old}
	pooler := pgbouncer.Options{
		Databases: map[string]pgbouncer.Endpoint{"shop": endpointOf(s.to.Old)},
		// The default, which hurts: it must not be felt.
		Settings: map[string]string{"server_login_retry": "15"},
	}
	s.options = traffic.PgBouncerOptions{
		Databases: []string{"shop"}, ClientURL: s.oldURL,
		PauseTimeout: 2 * time.Second, PauseAttempts: 2,
	}
	if change != nil {
		change(&pooler, &s.options)
	}
	var err error
	if s.pooler, err = pgbouncer.Start(t.Context(), pooler); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the pooler's log:\n%s", s.pooler.LogTail(40))
		}
		if err := s.pooler.Stop(); err != nil {
			t.Error(err)
		}
	})
	if s.options.AdminURL == "" {
		s.options.AdminURL = s.pooler.AdminURL()
	}
	if s.options.File == "" {
		s.options.File = s.pooler.ConfigFile()
	}
	s.driver = traffic.NewPgBouncer(s.options)
	return s
}

func endpointOf(server *pg.Server) pgbouncer.Endpoint {
	host, port, database := server.Endpoint()
	return pgbouncer.Endpoint{Host: host, Port: port, Database: database}
}

// hurried is for pauses that will not be had.
func hurried(_ *pgbouncer.Options, o *traffic.PgBouncerOptions) {
	o.PauseTimeout = 400 * time.Millisecond
}

// serving is the target with another server serving.
func (s *scene) serving(side pg.Side) traffic.Target {
	to := s.to
	to.Serving = side
	return to
}

// admin asks the admin console and returns the rows by the columns' names.
func (s *scene) admin(t *testing.T, command string) []map[string]string {
	t.Helper()
	rows, err := s.adminErr(t.Context(), command)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return rows
}

func (s *scene) adminErr(ctx context.Context, command string) ([]map[string]string, error) {
	config, err := pgx.ParseConfig(s.pooler.AdminURL())
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, &config.Config)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	results, err := conn.Exec(ctx, command).ReadAll()
	var rows []map[string]string
	for _, result := range results {
		for _, values := range result.Rows {
			r := map[string]string{}
			for i, value := range values {
				r[result.FieldDescriptions[i].Name] = string(value)
			}
			rows = append(rows, r)
		}
	}
	return rows, err
}

// row returns the row of SHOW DATABASES about a database.
func (s *scene) row(t *testing.T, name string) map[string]string {
	t.Helper()
	for _, r := range s.admin(t, "SHOW DATABASES") {
		if r["name"] == name {
			return r
		}
	}
	t.Fatalf("the pooler has no database %s", name)
	return nil
}

// setting returns a setting of the running pooler.
func (s *scene) setting(t *testing.T, key string) string {
	t.Helper()
	for _, r := range s.admin(t, "SHOW CONFIG") {
		if r["key"] == key {
			return r["value"]
		}
	}
	t.Fatalf("the pooler has no setting %s", key)
	return ""
}

// untouched fails the test unless nothing is paused and the settings are the
// configured ones.
func (s *scene) untouched(t *testing.T) {
	t.Helper()
	for _, name := range s.options.Databases {
		if r := s.row(t, name); r["paused"] != "0" {
			t.Errorf("%s is still paused: %v", name, r)
		}
	}
	for key, want := range map[string]string{"server_login_retry": "15", "server_fast_close": "0"} {
		if got := s.setting(t, key); got != want {
			t.Errorf("%s is %s, not %s", key, got, want)
		}
	}
}

// client is a connection to the pooler.
func (s *scene) client(t *testing.T, database string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(s.pooler.URL(database))
	if err != nil {
		t.Fatal(err)
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.RuntimeParams["application_name"] = "shop client"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// reaches returns the database's name behind a client.
func reaches(ctx context.Context, conn *pgx.Conn) (string, error) {
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var name string
	err := conn.QueryRow(limit, `select current_database()::text`).Scan(&name)
	return name, err
}

// leadsTo returns an error unless a client reaches a server.
func leadsTo(t *testing.T, conn *pgx.Conn, want *pg.Server) error {
	t.Helper()
	name, err := reaches(t.Context(), conn)
	if err == nil && name != want.Database() {
		err = fmt.Errorf("the client reaches %s, not %s", name, want.Database())
	}
	return err
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatalf("%v\nhint: %s", err, hint.Of(err))
		}
	}
}

func contains(t *testing.T, err error, wanted ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, wanted %q", wanted)
		return
	}
	text := err.Error() + "\nhint: " + hint.Of(err)
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

// A client at work sees nothing of the way there and back but a slow query.
func TestPgBouncerMovesClients(t *testing.T) {
	s := newScene(t, nil)
	before, err := os.ReadFile(s.pooler.ConfigFile())
	must(t, err)
	conn := s.client(t, "shop")
	must(t, leadsTo(t, conn, s.to.Old))
	for _, server := range []*pg.Server{s.to.New, s.to.Old} {
		from, to := s.serving(server.Side().Other()), s.serving(server.Side())
		must(t, s.driver.Ready(t.Context(), from))
		must(t, s.driver.Pause(t.Context(), from), s.driver.Pause(t.Context(), from))
		answer := make(chan error, 1)
		go func() { answer <- leadsTo(t, conn, server) }()
		select {
		case err := <-answer:
			t.Fatalf("the client did not wait: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		began := time.Now()
		must(t, s.driver.Switch(t.Context(), to))
		switched := time.Since(began)
		must(t, <-answer)
		t.Logf("switched after %s, the client went on after %s", switched, time.Since(began))
		must(t, s.driver.Verify(t.Context(), to))
		must(t, s.driver.Switch(t.Context(), to), s.driver.Verify(t.Context(), to)) // once more
		must(t, leadsTo(t, conn, server))
		s.untouched(t)
	}
	after, err := os.ReadFile(s.pooler.ConfigFile())
	must(t, err)
	if string(before) != string(after) {
		t.Errorf("after the way back the file is not what it was:\n%s\n%s", before, after)
	}
}

// A pause that was given up leaves everything as it was, and so does one that
// is ended before the point of no return, by another process too.
func TestPgBouncerResume(t *testing.T) {
	s := newScene(t, nil)
	conn := s.client(t, "shop")
	another := traffic.NewPgBouncer(s.options)
	for _, test := range []struct {
		name    string
		resume  func() error
		serving pg.Side
	}{
		{"the same process", func() error { return s.driver.Resume(t.Context(), s.to) }, pg.Old},
		{"another process", func() error { return another.Resume(t.Context(), s.to) }, pg.Old},
		{"nobody knows who serves", func() error { return another.Resume(t.Context(), s.serving("")) }, pg.Old},
		// The tool died between the file and the RELOAD.
		{"a file half way", func() error {
			half := strings.NewReplacer("port="+fmt.Sprint(endpointOf(s.to.Old).Port), "port="+fmt.Sprint(endpointOf(s.to.New).Port))
			text, err := os.ReadFile(s.options.File)
			must(t, err)
			must(t, os.WriteFile(s.options.File, []byte(half.Replace(string(text))), 0o600))
			return another.Resume(t.Context(), s.to)
		}, pg.Old},
	} {
		must(t, s.driver.Pause(t.Context(), s.to))
		if s.row(t, "shop")["paused"] != "1" {
			t.Fatalf("%s: not paused", test.name)
		}
		must(t, test.resume(), test.resume())
		s.untouched(t)
		must(t, s.driver.Verify(t.Context(), s.serving(test.serving)))
		if name, err := reaches(t.Context(), conn); err != nil || name != s.to.Old.Database() {
			t.Errorf("%s: the client reaches %s, %v", test.name, name, err)
		}
	}
	must(t, s.driver.Ready(t.Context(), s.to))
}

// A transaction that does not end makes the tool give up within its bound, and
// everybody else's work goes on.
func TestPgBouncerLongTransaction(t *testing.T) {
	t.Parallel()
	s := newScene(t, hurried)
	long := s.client(t, "shop")
	tx, err := long.Begin(t.Context())
	must(t, err)
	var pid int
	must(t, tx.QueryRow(t.Context(), `select pg_backend_pid()`).Scan(&pid))
	began := time.Now()
	err = s.driver.Pause(t.Context(), s.to)
	took := time.Since(began)
	contains(t, err, "shop client", fmt.Sprintf("pid %d", pid), "in 2 attempts", "pause_timeout")
	if !errors.Is(err, traffic.ErrNotPaused) {
		t.Errorf("error %v", err)
	}
	if took < 1200*time.Millisecond || took > 30*time.Second {
		t.Errorf("two attempts of 400 ms with a rest took %s", took)
	}
	s.untouched(t)
	if name, err := reaches(t.Context(), s.client(t, "shop")); err != nil || name != s.to.Old.Database() {
		t.Errorf("another client reaches %s, %v", name, err)
	}
	// It ends during the rest between two attempts, or, where that comes late, some
	// attempts later.
	options := s.options
	options.PauseAttempts = 50
	patient := traffic.NewPgBouncer(options)
	done := make(chan error, 1)
	time.AfterFunc(600*time.Millisecond, func() { done <- tx.Commit(context.WithoutCancel(t.Context())) })
	must(t, patient.Pause(t.Context(), s.to), <-done, patient.Resume(t.Context(), s.to))
	s.untouched(t)
}

// The first signal ends a PAUSE that still waits.
func TestPgBouncerPauseInterrupted(t *testing.T) {
	t.Parallel()
	s := newScene(t, func(_ *pgbouncer.Options, o *traffic.PgBouncerOptions) { o.PauseTimeout = time.Minute })
	tx, err := s.client(t, "shop").Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), `select 1`)
	must(t, err)
	signal := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- s.driver.Pause(ctx, s.to) }()
	must(t, pg.Wait(t.Context(), "the PAUSE", 5*time.Millisecond, 30*time.Second, nil, func(context.Context) (bool, string, error) {
		return s.row(t, "shop")["paused"] == "1", "", nil
	}))
	cancel(signal)
	if err := <-done; !errors.Is(err, signal) {
		t.Errorf("error %v", err)
	}
	s.untouched(t)
	must(t, tx.Commit(t.Context()))
}
