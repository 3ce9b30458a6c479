package preflight

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// secret is a password with everything that quoting may get wrong.
const secret = `p'a ss\w"o%rd`

// lockedServer is a cluster that asks for passwords, with roles for every
// reason to be refused.
func lockedServer(t *testing.T, major int) *pgserver.Cluster {
	t.Helper()
	c := pgtest.Cluster(t, pgserver.Options{
		Major: major, Name: "locked", Password: secret,
		HBA: []string{"host all rejected 127.0.0.1/32 reject"},
	})
	pgtest.Exec(t, c.URL("postgres"),
		`create role replicator login replication password 'r'`,
		`create role plain login password 'p'`,
		`create role rejected login replication password 'x'`,
		`create role nologin replication password 'n'`)
	return c
}

// quietListener accepts connections and never answers.
func quietListener(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var held []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range held {
					c.Close()
				}
				return
			}
			held = append(held, c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// closedPort is an address on which nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	p, err := pgserver.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Release)
	return p.Addr()
}

func at(t *testing.T, base, host string) string {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = host
	return u.String()
}

// The tests of the peer connection share one old server, which takes a while to
// boot.
func TestPeer(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		older := lockedServer(t, majors.Old)
		for name, test := range map[string]func(*testing.T, pgtest.Pair, *pgserver.Cluster){
			"refusals": testPeerRefusals, "reached": testPeerReached,
			"rights": testPeerWithoutRights, "log": testPeerKeepsThePasswordOutOfTheLog,
		} {
			t.Run(name, func(t *testing.T) { test(t, majors, older) })
		}
	})
}

func testPeerRefusals(t *testing.T, majors pgtest.Pair, older *pgserver.Cluster) {
	oldURL := older.URL("postgres")
	newURL := pgtest.Database(t, pgtest.Server(t, majors.New))
	newer := open(t, pg.New, newURL, "")
	before := pgtest.Catalog(t, newURL)
	for _, c := range []struct{ name, peer, id, fix string }{
		{"password", pgtest.WithUser(t, oldURL, "replicator", "wr0ng"), "peer.password", "replicator"},
		{"no password", pgtest.WithUser(t, oldURL, "replicator", ""), "peer.password-missing", "old.peer_url"},
		{"pg_hba.conf", pgtest.WithUser(t, oldURL, "rejected", "x"), "peer.hba", `host "postgres" "rejected" `},
		{"no login", pgtest.WithUser(t, oldURL, "nologin", "n"), "peer.role", `ALTER ROLE "nologin" LOGIN`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &Pair{Old: open(t, pg.Old, oldURL, c.peer), New: newer, Settings: Settings{PeerTimeout: 10 * time.Second}}
			found := check(t, "peer", p)
			f := only(t, found, c.id, "from the new server to the old one")
			if f.Severity != Blocker || f.Server != "new" || !strings.Contains(f.Fix, c.fix) {
				t.Errorf("got\n%s", text(found))
			}
			if strings.Contains(f.Seen, "wr0ng") || strings.Contains(f.Seen, secret) {
				t.Errorf("a password is in %q", f.Seen)
			}
		})
	}
	if d := pgtest.Diff(before, pgtest.Catalog(t, newURL)); d != "" {
		t.Errorf("the probes changed the new server:\n%s", d)
	}
}

// The probe takes passwords and names as they are, and the connection's
// keywords as well as its URL.
func testPeerReached(t *testing.T, majors pgtest.Pair, older *pgserver.Cluster) {
	pgtest.Exec(t, older.URL("postgres"), `create database "O'dd ""db"" \x"`)
	oddURL := strings.Replace(older.URL("x"), "/x?", "/"+url.PathEscape(`O'dd "db" \x`)+"?", 1)
	newURL := pgtest.Database(t, pgtest.Server(t, majors.New))
	keywords := fmt.Sprintf(`host=127.0.0.1 port=%d user=replicator password=r dbname='O\'dd "db" \\x' sslmode=disable`, older.Port())
	for name, peer := range map[string]string{"own": "", "url": pgtest.WithUser(t, oddURL, "replicator", "r"), "keywords": keywords} {
		t.Run(name, func(t *testing.T) {
			p := &Pair{
				Old: open(t, pg.Old, oddURL, peer), New: open(t, pg.New, newURL, ""),
				Settings: Settings{Rollback: true, PeerTimeout: 10 * time.Second},
			}
			none(t, check(t, "peer", p))
		})
	}
}

// A peer address that leads to another server or to another database is found
// out, though the connection succeeds.
func TestPeerElsewhere(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	p.Old = open(t, pg.Old, p.oldURL, p.oldServer.URL("postgres"))
	p.New = open(t, pg.New, p.newURL, p.oldURL)
	found := check(t, "peer", p.Pair)
	for side, about := range map[string]string{"new": "old.peer_url", "old": "new.peer_url"} {
		if f := only(t, found, "peer.elsewhere", about); f.Severity != Blocker || f.Server != side {
			t.Errorf("got %+v", f)
		}
	}
}

// A role that may not subscribe is told what it lacks by the probe, too.
func testPeerWithoutRights(t *testing.T, majors pgtest.Pair, older *pgserver.Cluster) {
	newServer := pgtest.Server(t, majors.New)
	newURL := pgtest.Database(t, newServer)
	role(t, newURL, "humble", "login")
	p := &Pair{Old: open(t, pg.Old, older.URL("postgres"), ""), New: open(t, pg.New, pgtest.WithUser(t, newURL, "humble", ""), "")}
	found := check(t, "peer", p)
	f := only(t, found, "peer.rights", "")
	if f.Severity != Blocker || len(found) != 1 {
		t.Errorf("got\n%s", text(found))
	}
	mend(t, newURL, f)
	found = check(t, "peer", p)
	none(t, found, "peer.rights", "peer.failed", "peer.elsewhere")
	if majors.New < 16 {
		return
	}
	// Not superuser: the connection string itself must hold a password.
	trusting := pgtest.Database(t, pgtest.Server(t, majors.Old))
	p.Old = open(t, pg.Old, trusting, "")
	only(t, check(t, "peer", p), "peer.password-missing", "")
}

// What the server's log gets of the probe, successful or not.
func testPeerKeepsThePasswordOutOfTheLog(t *testing.T, majors pgtest.Pair, older *pgserver.Cluster) {
	newer := pgtest.Cluster(t, pgserver.Options{Major: majors.New, Name: "talkative", Settings: map[string]string{
		"log_statement": "all", "log_min_duration_statement": "0", "log_min_error_statement": "info",
	}})
	pgtest.Exec(t, older.URL("postgres"), `create role w1 login replication password 'l0ng-secret'`)
	url := newer.URL("postgres")
	logged := func() string {
		data, err := os.ReadFile(newer.LogPath())
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, peer := range []string{
		pgtest.WithUser(t, older.URL("postgres"), "w1", "l0ng-secret"),
		pgtest.WithUser(t, older.URL("nowhere"), "w1", "l0ng-secret"),
	} {
		p := &Pair{Old: open(t, pg.Old, older.URL("postgres"), peer), New: open(t, pg.New, url, "")}
		none(t, check(t, "peer", p), "peer.statement-log")
	}
	if l := logged(); !strings.Contains(l, "log_min_error_statement") || strings.Contains(l, "l0ng-secret") {
		t.Errorf("the log of a superuser's probe:\n%s", l)
	}
	if majors.New < 16 {
		return // only superusers get as far as the statement
	}
	pgtest.Exec(t, url, `create role humble login; grant pg_create_subscription to humble; grant create on database postgres to humble`)
	p := &Pair{
		Old: open(t, pg.Old, older.URL("postgres"), pgtest.WithUser(t, older.URL("postgres"), "w1", "l0ng-secret")),
		New: open(t, pg.New, pgtest.WithUser(t, url, "humble", ""), ""),
	}
	f := only(t, check(t, "peer", p), "peer.statement-log", "log_statement")
	if f.Severity != Warning {
		t.Errorf("got %+v", f)
	}
	mend(t, url, f)
	size := len(logged())
	none(t, check(t, "peer", p))
	if l := logged()[size:]; strings.Contains(l, "l0ng-secret") {
		t.Errorf("the log after %s:\n%s", f.Fix, l)
	}
}

func TestPeerAdvice(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	for message, want := range map[string]string{
		`connection to server at "db" (fd00::9), port 5432 failed: FATAL:  no pg_hba.conf entry for host "fd00::7", user "u", database "d", no encryption`:    "peer.hba",
		`could not connect to the publisher: FATAL:  no pg_hba.conf entry for replication connection from host "10.1.2.3", user "u", SSL off`:                 "peer.hba",
		`connection to server at "db" (10.0.0.9), port 5432 failed: FATAL:  no pg_hba.conf entry for host "10.1.2.3", user "u", database "d", SSL encryption`: "peer.hba",
		`connection to server at "db" (10.0.0.9), port 5432 failed: SSL error: certificate verify failed`:                                                     "peer.tls",
		`connection to server at "db" (10.0.0.9), port 5432 failed: Connection timed out`:                                                                     "peer.timeout",
		`connection to server at "db" (10.0.0.9), port 5432 failed: FATAL:  number of requested standby connections exceeds max_wal_senders (currently 5)`:    "peer.full",
		`connection to server at "db" (10.0.0.9), port 5432 failed: FATAL:  le mot de passe`:                                                                  "peer.failed",
	} {
		f := peerFinding(&pgconn.PgError{Code: "08006", Message: message}, p.New, p.Old, "postgres://u@db/d", time.Second)
		if f.ID != want {
			t.Errorf("%s: %s, want %s", message, f.ID, want)
		}
		address := "10.1.2.3/32"
		if strings.Contains(message, "fd00::7") {
			address = "fd00::7/128"
		}
		if want == "peer.hba" && !strings.Contains(f.Fix, `host "d" "u" `+address+" scram-sha-256") {
			t.Errorf("fix %q", f.Fix)
		}
	}
}
