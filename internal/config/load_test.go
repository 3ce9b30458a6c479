package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/config"
)

// least is the smallest file that is right.
const least = `name: shop
old: { url: "postgres://app@old.example/shop" }
new: { url: "postgres://app@new.example/shop" }
`

func noEnv(string) (string, bool) { return "", false }

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

func parse(t *testing.T, text string, lookup func(string) (string, bool)) *config.Config {
	t.Helper()
	c, err := config.Parse("pgcutover.yaml", []byte(text), lookup)
	if err != nil {
		t.Fatalf("parsing: %v", err)
	}
	return c
}

func TestDefaults(t *testing.T) {
	c := parse(t, least, noEnv)
	want := config.Default()
	want.Name = "shop"
	want.Old.URL = config.NewSecret("postgres://app@old.example/shop")
	want.New.URL = config.NewSecret("postgres://app@new.example/shop")
	if !reflect.DeepEqual(*c, want) {
		t.Fatalf("got %s\nwant %s", c, want)
	}
	for got, want := range map[string]string{
		c.Cutover.MaxLag.String():      "16MiB",
		c.Cutover.MaxPause.String():    "10s",
		c.Cutover.LockTimeout.String(): "300ms",
		c.WAL.Warn.String():            "20GiB",
		c.Warm.Recent.String():         "24h",
		c.Warm.Budget.String():         "auto",
		c.Warm.Every.String():          "5m",
		c.Warm.BeforeCutover.String():  "30s",
		c.Copy.Mode:                    "native",
		c.Cutover.OnClosed:             "error",
		c.WAL.OnLimit:                  "warn",
	} {
		if got != want {
			t.Errorf("default is %s, want %s", got, want)
		}
	}
	if c.Cutover.Attempts != 20 || c.Sequences.Margin != 100 || c.Streams != 1 || !c.Rollback.Keep ||
		!reflect.DeepEqual(c.Analyze.Stages, []config.Stage{1, 10, config.DefaultTarget}) ||
		!reflect.DeepEqual(c.Tables.Include, []string{"*.*"}) {
		t.Errorf("defaults: %s", c)
	}
}

// Every key, in a file that sets none of them to its default.
func TestEveryKey(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "scripts"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "pgcutover.yaml")
	text := `
name: shop_2
old:
  url: host=old dbname=shop user=app password='it\'s'
  peer_url: "postgres://repl@10.0.0.1:5433/shop"
new:
  url: postgres://app:s3cret@new:6543/shop?sslmode=disable
  peer_url: postgres://repl@10.0.0.2/shop
databases: [shop]
check: { ignore: [versions.end-of-life] }
tables: { include: ["public.*", invoices], exclude: [audit.log_*] }
copy: { mode: native, jobs: 8 }
streams: 1
sequences: { margin: 0 }
warm: { recent: 1h30m, budget: 2GiB, jobs: 1, rate: 8MiB, prewarm: never, columns: [public.orders.booked], every: 90s, before_cutover: 0s }
analyze:
  stages:
    - 100
    - default
  jobs: 64
  per_table: 90s
  foreign: true
  carry: false
wal: { warn: 512kB, on_limit: warn }
cutover: { max_lag: 1MB, max_pause: 500ms, lock_timeout: 10ms, attempts: 1000, on_closed: disconnect, terminate_blockers_after: 30s, revoke_connect: false }
unreplicated: { budget: 300ms, unlogged: empty, large_objects: idle }
refresh: { before_cutover: false, bound: 5m }
traffic:
  - multihost:
  - multihost: {}
  - hook: { command: ["./move dns.sh", "--to=new"] }
  - hook: { command: [curl, http://localhost] }
  - hook: { command: [/usr/bin/env] }
  - pgbouncer:
      admin_url: postgres://admin:s3cret@pooler:6432/pgbouncer
      database: [shop, "shop ro"]
      config: pooler/databases.ini
      probe_url: postgres://app:s3cret@pooler:6432/shop
      old: { host: "10.0.0.1,10.0.0.2", port: 5432, dbname: shop1 }
      new: { host: 10.0.0.3 }
      pause_timeout: 250ms
      pause_attempts: 0
  - pgbouncer: { admin_url: "host=/tmp port=6432 dbname=pgbouncer", database: shop, for: shop, config: /etc/pgbouncer/pgbouncer.ini }
hooks: { dir: scripts }
rollback: { keep: false }
probe: { url: "postgres://app:s3cret@pooler:6432/shop", webhook: "https://example.org/s3cret" }
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		Name: "shop_2",
		Old: config.Server{
			URL:     config.NewSecret(`host=old dbname=shop user=app password='it\'s'`),
			PeerURL: config.NewSecret("postgres://repl@10.0.0.1:5433/shop"),
		},
		New: config.Server{
			URL:     config.NewSecret("postgres://app:s3cret@new:6543/shop?sslmode=disable"),
			PeerURL: config.NewSecret("postgres://repl@10.0.0.2/shop"),
		},
		Databases: []string{"shop"},
		Check:     config.Check{Ignore: []string{"versions.end-of-life"}},
		Tables:    config.Tables{Include: []string{"public.*", "invoices"}, Exclude: []string{"audit.log_*"}},
		Copy:      config.Copy{Mode: "native", Jobs: 8},
		Streams:   1,
		Warm: config.Warm{
			Recent: config.Duration(90 * time.Minute), Budget: config.Budget{Size: 2 << 30}, Jobs: 1, Rate: 8 << 20, Prewarm: "never",
			Columns: []string{"public.orders.booked"}, Every: config.Duration(90 * time.Second),
		},
		Analyze: config.Analyze{Stages: []config.Stage{100, config.DefaultTarget}, Jobs: 64, PerTable: config.Duration(90 * time.Second), Foreign: true},
		WAL:     config.WAL{Warn: 512 << 10, OnLimit: "warn"},
		Cutover: config.Cutover{
			MaxLag: 1 << 20, MaxPause: config.Duration(500 * time.Millisecond),
			LockTimeout: config.Duration(10 * time.Millisecond), Attempts: 1000, OnClosed: "disconnect",
			TerminateBlockersAfter: config.Duration(30 * time.Second), RevokeConnect: false,
		},
		Unreplicated: config.Unreplicated{Budget: config.Duration(300 * time.Millisecond), Unlogged: "empty", LargeObjects: "idle"},
		Refresh:      config.Refresh{Bound: config.Duration(5 * time.Minute)},
		Traffic: []config.Traffic{
			{MultiHost: &config.MultiHost{}},
			{MultiHost: &config.MultiHost{}},
			{Hook: &config.Hook{Command: []string{filepath.Join(dir, "move dns.sh"), "--to=new"}}},
			{Hook: &config.Hook{Command: []string{"curl", "http://localhost"}}},
			{Hook: &config.Hook{Command: []string{"/usr/bin/env"}}},
			{PgBouncer: &config.PgBouncer{
				AdminURL: config.NewSecret("postgres://admin:s3cret@pooler:6432/pgbouncer"), Databases: config.Names{"shop", "shop ro"},
				Config: filepath.Join(dir, "pooler/databases.ini"), ProbeURL: config.NewSecret("postgres://app:s3cret@pooler:6432/shop"),
				Old: config.PoolerServer{Host: "10.0.0.1,10.0.0.2", Port: 5432, DBName: "shop1"}, New: config.PoolerServer{Host: "10.0.0.3"},
				PauseTimeout: config.Duration(250 * time.Millisecond),
			}},
			{PgBouncer: &config.PgBouncer{
				AdminURL: config.NewSecret("host=/tmp port=6432 dbname=pgbouncer"), Databases: config.Names{"shop"}, For: "shop",
				Config: "/etc/pgbouncer/pgbouncer.ini", PauseTimeout: config.Duration(time.Second), PauseAttempts: 5,
			}},
		},
		Probe: config.Probe{URL: config.NewSecret("postgres://app:s3cret@pooler:6432/shop"), Webhook: config.NewSecret("https://example.org/s3cret")},
		Hooks: config.Hooks{Dir: filepath.Join(dir, "scripts")},
	}
	if !reflect.DeepEqual(*c, want) {
		t.Fatalf("got %s\nwant %s", c, want)
	}
	if text := c.String(); strings.Contains(text, "s3cret") || !strings.Contains(text, "postgres://admin@pooler:6432/pgbouncer") {
		t.Errorf("a password is shown, or an address is not: %s", text)
	}
	if c.New.URL.Reveal() != "postgres://app:s3cret@new:6543/shop?sslmode=disable" {
		t.Fatalf("the connection string was changed")
	}
	if _, err := config.Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("no such file: %v", err)
	}
}

func TestBlockScalarsAndAbsolutePaths(t *testing.T) {
	dir := t.TempDir()
	c := parse(t, `name: |
  shop
old:
  url: >
    host=old dbname=shop
new: { url: "host=new dbname=shop" }
hooks:
  dir: `+dir+"\n", noEnv)
	if c.Name != "shop" || c.Old.URL.Reveal() != "host=old dbname=shop" || c.Hooks.Dir != dir {
		t.Fatalf("got %s", c)
	}
}

func TestEnvironment(t *testing.T) {
	lookup := env("OLD_PW", "p@ss$HOME", "JOBS", "7", "DIR", "x", "STAGE", "default", "EMPTY", "")
	c := parse(t, `name: shop${EMPTY}
old:
  url: "host=old dbname=shop password='${OLD_PW}'"
new:
  url: 'host=new dbname=shop password=a$$b$c$'
copy:
  jobs: ${JOBS}
analyze: { stages: ["${STAGE}"] }
tables:
  exclude: [ "$${DIR}.*" , "${DIR}.${DIR}" ]
`, lookup)
	if got := c.Old.URL.Reveal(); got != "host=old dbname=shop password='p@ss$HOME'" {
		t.Errorf("old.url is %q", got)
	}
	if got := c.New.URL.Reveal(); got != "host=new dbname=shop password=a$b$c$" {
		t.Errorf("new.url is %q", got)
	}
	if c.Copy.Jobs != 7 || c.Analyze.Stages[0] != config.DefaultTarget || c.Name != "shop" ||
		!reflect.DeepEqual(c.Tables.Exclude, []string{"${DIR}.*", "x.x"}) {
		t.Errorf("got %s", c)
	}
}

func TestFromURLs(t *testing.T) {
	c, err := config.FromURLs("postgres://h1/My-Shop.2", "postgres://h2/shop", "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "my_shop_2" || c.Old.URL.Reveal() != "postgres://h1/My-Shop.2" || c.Cutover.Attempts != 20 {
		t.Errorf("got %s", c)
	}
	for database, want := range map[string]string{
		"9lives":                "move",
		"_x":                    "move",
		strings.Repeat("a", 63): strings.Repeat("a", 30),
		"shop":                  "shop",
	} {
		c, err := config.FromURLs("postgres://h1/"+database, "postgres://h2/shop", "")
		if err != nil || c.Name != want {
			t.Errorf("the name for %s: %v, %v", database, c, err)
		}
	}
	if c, err := config.FromURLs("postgres://h1/a", "postgres://h2/a", "given"); err != nil || c.Name != "given" {
		t.Errorf("got %v, %v", c, err)
	}
	for _, c := range []struct{ old, new, name, want string }{
		{"", "postgres://h2/a", "", "old.url: is missing: the connection string of the old server"},
		{"postgres://h1/a", "", "x", "new.url: is missing: the connection string of the new server"},
		{"postgres://h1/a", "postgres://h2/a", "No", `name: "No" is not a small letter followed by at most 29 small letters, digits and underscores`},
		{"postgres://h1/a", "host=H1 dbname=a", "x", "new.url: names the same host, port and database as old.url"},
	} {
		if _, err := config.FromURLs(c.old, c.new, c.name); err == nil || err.Error() != c.want {
			t.Errorf("FromURLs(%q, %q, %q): got %v, want %q", c.old, c.new, c.name, err, c.want)
		}
	}
}
