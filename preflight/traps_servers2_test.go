package preflight

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// reachedBy gives the old server another address for the new one to reach it.
func reachedBy(peer func(t *testing.T, w *world) string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		w.Old.Close()
		w.Old = open(t, pg.Old, w.oldURL, peer(t, w))
	}
}

// directly opens the tool's connections as they should be.
func directly(t *testing.T, w *world, _ Finding) { w.connect(t) }

// peerTrap is a wrong address, mended by the right one.
func peerTrap(id, name string, peer func(t *testing.T, w *world) string) trap {
	return trap{finds: id, name: name, on: pg.New, seed: reachedBy(peer), byHand: directly}
}

var peerTraps = []trap{
	peerTrap("peer.refused", "", func(t *testing.T, w *world) string { return at(t, w.oldURL, closedPort(t)) }),
	peerTrap("peer.address", "", func(t *testing.T, w *world) string { return at(t, w.oldURL, "no-such-host.invalid:5432") }),
	{
		finds: "peer.timeout", on: pg.New,
		seed: func(t *testing.T, w *world) {
			reachedBy(func(t *testing.T, w *world) string { return at(t, w.oldURL, quietListener(t)) })(t, w)
			w.Settings.PeerTimeout = 2 * time.Second // for the way that is open, too
		},
		byHand: func(t *testing.T, w *world, f Finding) {
			directly(t, w, f)
			w.Settings.PeerTimeout = 10 * time.Second
		},
	},
	peerTrap("peer.database", "", func(_ *testing.T, w *world) string { return w.older.URL("nowhere") }),
	peerTrap("peer.tls", "", func(_ *testing.T, w *world) string {
		return strings.Replace(w.oldURL, "sslmode=disable", "sslmode=require", 1)
	}),
	peerTrap("peer.elsewhere", "", func(_ *testing.T, w *world) string { return w.newURL }),
	{
		finds: "peer.role", about: "connection from the new server to the old one", on: pg.New,
		old: []string{`create role trap_plain login`}, tidyOld: []string{`drop role trap_plain`},
		seed: reachedBy(func(t *testing.T, w *world) string { return pgtest.WithUser(t, w.oldURL, "trap_plain", "x") }),
	},
}

var networkTraps = []trap{
	{
		finds: "network.latency", about: "round trip to the old server",
		seed: func(t *testing.T, w *world) {
			far := pgtest.NewProxy(t, w.older.Addr())
			far.OnFrontend(func(_ int, message byte, _ []byte) pgtest.Action {
				if message == 'Q' || message == 'S' { // what a client waits for an answer to
					<-time.After(3 * slowTrip / 2)
				}
				return pgtest.Forward
			})
			w.Old.Close()
			w.Old = open(t, pg.Old, far.URL(t, w.oldURL), w.oldURL)
		},
		byHand: directly,
	},
	{
		finds: "access.refused", about: `role "trap_client" from 127.0.0.1`, on: pg.New,
		old: []string{`create role trap_client login`}, tidyOld: []string{`drop role trap_client`},
		new: []string{`create role trap_client login`}, tidyNew: []string{`drop role trap_client`},
		seed: func(t *testing.T, w *world) {
			connected(t, w, "trap_client")
			ruled(t, w, "host all trap_client 127.0.0.0/8 reject")
		},
		byHand: func(t *testing.T, w *world, _ Finding) { ruled(t, w, "host all trap_client 127.0.0.1/32 trust") },
	},
	{
		finds: "access.md5", about: `role "trap_client" from 127.0.0.1`, on: pg.New,
		old:     []string{`create role trap_client login password 'md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'`},
		tidyOld: []string{`drop role trap_client`},
		new:     []string{`create role trap_client login`}, tidyNew: []string{`drop role trap_client`},
		seed: func(t *testing.T, w *world) {
			connected(t, w, "trap_client")
			ruled(t, w, "host all trap_client all scram-sha-256")
		},
		byHand: func(t *testing.T, w *world, _ Finding) {
			pgtest.Exec(t, w.oldURL, `set password_encryption = 'scram-sha-256'; alter role trap_client password 'x'`)
		},
	},
	{
		finds: "tls.off", about: "ssl", on: pg.New,
		seed: func(t *testing.T, w *world) {
			certify(t, w.older)
			reload(pg.Old, map[string]string{"ssl": "on"})(t, w)
		},
		byHand: func(t *testing.T, w *world, _ Finding) {
			certify(t, w.newer)
			reload(pg.New, map[string]string{"ssl": "on"})(t, w)
		},
	},
}

// connected opens a client's session on old, until the test's end.
func connected(t *testing.T, w *world, role string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), pgtest.WithUser(t, w.oldURL, role, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pg.Close(context.WithoutCancel(t.Context()), conn)
		eventually(t, "the session to end", func() bool {
			return !pgtest.Value[bool](t, w.oldURL, `select exists (select 1 from pg_stat_activity where usename = $1)`, role)
		})
	})
}

// ruled puts a line before all others of new's pg_hba.conf, until the test's end.
func ruled(t *testing.T, w *world, line string) {
	t.Helper()
	before, err := os.ReadFile(filepath.Join(w.newer.DataDir(), "pg_hba.conf"))
	if err != nil {
		t.Fatal(err)
	}
	own(t, w.newer, "pg_hba.conf", append([]byte(line+"\n"), before...))
	readAgain(t, w.newURL, `select 1`)
	t.Cleanup(func() {
		own(t, w.newer, "pg_hba.conf", before)
		readAgain(t, w.newURL, `select 1`)
	})
}

// certify puts a certificate of its own into a server's folder.
func certify(t *testing.T, c *pgserver.Cluster) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().AddDate(1, 0, 0)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	own(t, c, "server.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	own(t, c, "server.key", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
}

// own writes a file that belongs to the user of the server.
func own(t *testing.T, c *pgserver.Cluster, name string, content []byte) {
	t.Helper()
	file := filepath.Join(c.DataDir(), name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(c.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	if who, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(file, int(who.Uid), int(who.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// anotherDatabase makes the new database anew with options, and takes it for
// the move's.
func anotherDatabase(options string, more ...string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		admin, before := w.newer.URL("postgres"), w.newURL
		pgtest.Exec(t, admin, "create database trap_another template template0 "+options)
		w.newURL = w.newer.URL("trap_another")
		w.connect(t)
		pgtest.Exec(t, w.newURL, more...)
		t.Cleanup(func() {
			w.New.Close()
			w.newURL = before
			pgtest.Exec(t, admin, "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'trap_another'", "drop database trap_another")
		})
	}
}

// aFittingDatabase takes an ordinary database for the move's new one.
func aFittingDatabase(t *testing.T, w *world, _ Finding) {
	w.newURL = pgtest.Database(t, w.newer)
	w.connect(t)
}

const icuDatabase = `encoding 'UTF8' lc_collate 'C' lc_ctype 'C' locale_provider icu icu_locale 'en-US'`

var localeTraps = []trap{
	{
		finds: "locale.encoding", about: "database", on: pg.New, byHand: aFittingDatabase,
		seed: anotherDatabase(`encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'`),
	},
	{finds: "locale.collation", about: "database", on: pg.New, byHand: aFittingDatabase, when: atLeast(10, 15), seed: anotherDatabase(icuDatabase)},
	{
		finds: "locale.version", about: `database "trap_another"`, on: pg.New, when: atLeast(10, 15),
		seed: anotherDatabase(icuDatabase, `update pg_database set datcollversion = '1' where datname = 'trap_another'`),
		also: map[string]string{"locale.collation": "only another provider's collation has a version everywhere"},
	},
	{
		finds: "locale.version", name: "collation", about: `collation pg_catalog."de-x-icu"`, when: atLeast(13, 10),
		old: []string{
			`create table sorted (t text collate "de-x-icu" primary key)`,
			`update pg_collation set collversion = '1' where collname = 'de-x-icu'`,
		},
	},
}

var formatTraps = []trap{
	{finds: "settings.differ", about: "TimeZone", on: pg.New, seed: reload(pg.New, map[string]string{"timezone": "Asia/Tokyo"})},
	{finds: "settings.differ", name: "list", about: "search_path", on: pg.New, seed: reload(pg.Old, map[string]string{"search_path": "app"})},
	{finds: "settings.differ", name: "note", about: "idle_in_transaction_session_timeout", on: pg.New, seed: reload(pg.New, map[string]string{"idle_in_transaction_session_timeout": "1min"})},
	{finds: "settings.differ", name: "pages", about: "effective_cache_size", on: pg.New, seed: reload(pg.Old, map[string]string{"effective_cache_size": "6GB"})},
	{finds: "settings.shared-buffers", about: "shared_buffers", on: pg.New, oldSettings: map[string]string{"shared_buffers": "160MB"}},
	{
		finds: "settings.prepared-transactions", about: "max_prepared_transactions", on: pg.New,
		oldSettings: map[string]string{"max_prepared_transactions": "5"},
		also:        map[string]string{"transactions.prepared-possible": "so it is, and on new after the fix"},
	},
	{
		finds: "settings.xmloption", about: "xmloption", on: pg.New, old: []string{`create table letters (id int primary key, x xml)`},
		seed: reload(pg.New, map[string]string{"xmloption": "document"}),
	},
}
