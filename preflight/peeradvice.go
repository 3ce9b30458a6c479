package preflight

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// advice is what to do; sqlOn is the server for which it is SQL, if it is.
type advice struct {
	id, fix string
	sqlOn   pg.Side
}

// peerAddress is what a connection string says of its end. It is read here as
// text: files that it names (sslrootcert, passfile) lie on the other server.
type peerAddress struct{ User, Host, Port, Database string }

func peerOf(conninfo string) peerAddress {
	u, err := url.Parse(conninfo)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return peerAddress{
			User: pg.Keyword(conninfo, "user"), Host: pg.Keyword(conninfo, "host"),
			Port: pg.Keyword(conninfo, "port"), Database: pg.Keyword(conninfo, "dbname"),
		}
	}
	p := peerAddress{Host: u.Hostname(), Port: u.Port(), Database: strings.TrimPrefix(u.Path, "/")}
	if u.User != nil {
		p.User = u.User.Username()
	}
	for _, part := range []struct {
		into *string
		key  string
	}{{&p.User, "user"}, {&p.Host, "host"}, {&p.Port, "port"}, {&p.Database, "dbname"}} {
		if v := u.Query().Get(part.key); v != "" {
			*part.into = v
		}
	}
	return p
}

// The SQLSTATE of a subscriber that may not subscribe, or only with a password
// in the connection string (16 and later).
const prohibitedStatement = "2F003"

// adviseOn says what to do about a failed probe. What goes wrong between the
// servers has no SQLSTATE here: the subscriber passes on the text of its libpq
// or of the other server, with one code (08006, XX000 before 14) for all. So
// this, and only this, looks at texts, which picks the advice and decides
// nothing: the probe has failed either way.
func adviseOn(e *pgconn.PgError, from, to *pg.Server, conninfo string) (advice, bool) {
	switch e.Code {
	case pg.QueryCanceled:
		return advice{"peer.timeout", fmt.Sprintf(
			"let the %s server reach port and address of the %s one (firewall, security group, routing), or set %s to an address that it reaches",
			from.Side(), to.Side(), peerSetting(to)), ""}, true
	case pg.InsufficientPrivilege:
		return advice{"peer.rights", subscriptionGrant(from), from.Side()}, true
	case prohibitedStatement:
		return advice{"peer.password-missing", fmt.Sprintf(
			"write the password into %s: a subscription of a role that is not superuser must carry it", peerSetting(to)), ""}, true
	}
	peer := peerOf(conninfo)
	text := strings.ToLower(e.Message + " " + e.Detail)
	for _, known := range peerTexts(e.Message, peer, from, to) {
		for _, part := range known.parts {
			if strings.Contains(text, part) {
				return known.advice, true
			}
		}
	}
	return advice{}, false
}

type peerText struct {
	parts  []string
	advice advice
}

// peerTexts are the messages of libpq and of the server, 10 to 18, with what
// helps. The order matters: a refused TLS connection names pg_hba.conf too.
func peerTexts(message string, peer peerAddress, from, to *pg.Server) []peerText {
	role, address := quote(peer.User), peerSetting(to)
	return []peerText{
		{
			[]string{"must be superuser or replication role", "permission denied to start wal sender"},
			advice{"peer.role", fmt.Sprintf("ALTER ROLE %s REPLICATION; -- on the %s server", role, to.Side()), to.Side()},
		},
		{
			[]string{"no pg_hba.conf entry", "pg_hba.conf rejects"},
			advice{"peer.hba", hbaLine(message, peer, from, to), ""},
		},
		{
			[]string{"does not support ssl", "certificate", "ssl error", "tls", "root.crt"},
			advice{"peer.tls", fmt.Sprintf("adjust sslmode, sslrootcert or the certificate in %s: files are looked for on the %s server's host", address, from.Side()), ""},
		},
		{
			[]string{"password authentication failed", "authentication failed"},
			advice{"peer.password", fmt.Sprintf("correct role or password in %s; or, on the %s server: \\password %s", address, to.Side(), peer.User), ""},
		},
		{
			[]string{"no password supplied"},
			advice{"peer.password-missing", fmt.Sprintf("write the password into %s: the %s server itself connects, and has no passfile of yours", address, from.Side()), ""},
		},
		{
			[]string{"connection refused"},
			advice{"peer.refused", fmt.Sprintf("set %s to an address on which the %s server listens (listen_addresses, port) as seen from the %s server's host",
				address, to.Side(), from.Side()), ""},
		},
		{
			[]string{"could not translate host name", "name or service not known"},
			advice{"peer.address", fmt.Sprintf("the %s server's host cannot resolve %q: write an address that it can into %s", from.Side(), peer.Host, address), ""},
		},
		{
			[]string{"timed out", "timeout expired", "no route to host", "network is unreachable"},
			advice{"peer.timeout", fmt.Sprintf("let the %s server reach %s port %s (firewall, routing), or set %s to an address that it reaches", from.Side(), peer.Host, peer.Port, address), ""},
		},
		{
			[]string{"database \"" + strings.ToLower(peer.Database) + "\" does not exist"},
			advice{"peer.database", "correct the database name in " + address, ""},
		},
		{
			[]string{"is not permitted to log in"},
			advice{"peer.role", fmt.Sprintf("ALTER ROLE %s LOGIN; -- on the %s server", role, to.Side()), to.Side()},
		},
		{
			[]string{"too many connections", "remaining connection slots", "exceeds max_wal_senders", "too many clients"},
			advice{"peer.full", fmt.Sprintf("raise max_wal_senders or max_connections on the %s server (needs a restart), or end idle sessions", to.Side()), ""},
		},
	}
}

// fromHost finds the address that the refusing server saw.
var fromHost = regexp.MustCompile(`host "([^"]+)"`)

// hbaLine is the line that pg_hba.conf of to lacks. A logical walsender is
// matched by its database, not by the word replication.
// Postgres manual: 20.1, The pg_hba.conf File.
func hbaLine(message string, peer peerAddress, from, to *pg.Server) string {
	address := fmt.Sprintf("<address of the %s server>/32", from.Side())
	if named := fromHost.FindStringSubmatch(message); named != nil {
		address = named[1] + "/32"
		if strings.Contains(named[1], ":") {
			address = named[1] + "/128"
		}
	}
	return fmt.Sprintf("in pg_hba.conf of the %s server: host %s %s %s scram-sha-256\nthen, there: SELECT pg_reload_conf();",
		to.Side(), quote(peer.Database), quote(peer.User), address)
}

// subscriptionGrant is what lets the tool's role make subscriptions.
func subscriptionGrant(s *pg.Server) string {
	if s.Major() < 16 {
		return fmt.Sprintf("ALTER ROLE %s SUPERUSER; -- before 16 only superusers, or the provider's admin role, may subscribe", quote(s.User()))
	}
	return fmt.Sprintf("GRANT pg_create_subscription TO %s; GRANT CREATE ON DATABASE %s TO %s;",
		quote(s.User()), quote(s.Database()), quote(s.User()))
}
