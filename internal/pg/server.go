package pg

import (
	"context"
	"fmt"
	"maps"
	"net"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Side says which of the two servers of a move is meant. The sides are fixed
// for the whole move; publisher and subscriber are roles and may swap.
type Side string

// The two sides of a move.
const (
	Old Side = "old"
	New Side = "new"
)

// Other returns the side that s is not.
func (s Side) Other() Side {
	if s == Old {
		return New
	}
	return Old
}

// Options describe how a Server is reached.
type Options struct {
	Side Side
	URL  string // libpq connection string, as URL or keywords
	// PeerURL is how the other server reaches this one, when that differs
	// from URL (another address, another role). Empty means URL.
	PeerURL string
	Move    string // the move's name; part of application_name
}

// Server is one database on one PostgreSQL server. It is safe for concurrent
// use. Close releases its pool.
type Server struct {
	side    Side
	move    string
	url     string
	peerURL string
	config  *pgx.ConnConfig
	pool    *pgxpool.Pool
	version int
	quiet   bool // the role may keep event triggers from firing
	once    sync.Once
}

// Timeouts of ordinary sessions. Long statements (copy, analyze, warm) ask for
// a session of their own with other values, see Connect.
const (
	statementTimeout = "60s"
	lockTimeout      = "10s"
	idleTimeout      = "10s" // in a transaction: a tool that was stopped must not hold locks for long
	connectTimeout   = 10 * time.Second
	poolSize         = 8
)

// Open connects to the server once, to learn its version and to fail early
// with the cause, and returns a Server with a small pool behind it.
func Open(ctx context.Context, o Options) (*Server, error) {
	config, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("reading the connection string of the %s server: %w", o.Side, Redact(err, o.URL))
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	s := &Server{side: o.Side, move: o.Move, url: o.URL, peerURL: o.PeerURL, config: config}

	poolConfig, err := pgxpool.ParseConfig(o.URL)
	if err != nil {
		return nil, fmt.Errorf("reading the connection string of the %s server: %w", o.Side, Redact(err, o.URL))
	}
	poolConfig.ConnConfig = s.sessionConfig("", nil)
	poolConfig.MaxConns = poolSize
	poolConfig.MinConns = 0
	s.pool, err = pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, s.wrap("opening a pool to", err)
	}
	if err := s.readVersion(ctx); err != nil {
		s.pool.Close()
		return nil, err
	}
	if err := s.readQuiet(ctx); err != nil {
		s.pool.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the pool's sessions.
func (s *Server) Close() { s.once.Do(s.pool.Close) }

const versionSQL = `select current_setting('server_version_num')::int`

func (s *Server) readVersion(ctx context.Context) error {
	if err := s.pool.QueryRow(ctx, versionSQL).Scan(&s.version); err != nil {
		return s.wrap("connecting to", err)
	}
	return nil
}

// wrap names the server, address and database in err and takes passwords out.
func (s *Server) wrap(doing string, err error) error {
	return fmt.Errorf("%s the %s server (%s): %w", doing, s.side, s.Address(), connectHint(Redact(err, s.url, s.peerURL), s))
}

// Side says whether this is the old or the new server.
func (s *Server) Side() Side { return s.side }

// Move returns the move's name.
func (s *Server) Move() string { return s.move }

// Version returns server_version_num, for example 150018.
func (s *Server) Version() int { return s.version }

// Major returns the major version, for example 15.
func (s *Server) Major() int { return s.version / 10000 }

// Database returns the name of the database.
func (s *Server) Database() string { return s.config.Database }

// User returns the role that the tool connects as.
func (s *Server) User() string { return s.config.User }

// Address returns host:port/database for messages; it never holds a secret.
func (s *Server) Address() string {
	return net.JoinHostPort(s.config.Host, strconv.Itoa(int(s.config.Port))) + "/" + s.config.Database
}

// Pool returns the pool of ordinary sessions: statement_timeout 60 s,
// lock_timeout and idle_in_transaction_session_timeout 10 s,
// default_transaction_read_only off, synchronous_commit on.
func (s *Server) Pool() *pgxpool.Pool { return s.pool }

// Settings that every session of the tool carries in its startup packet.
// There they override ALTER DATABASE and ALTER ROLE settings, so the tool can
// write into a database whose default is read-only and its commits are durable
// (Postgres manual: 20.1.3, "PGOPTIONS" and session start).
func baseSettings() map[string]string {
	return map[string]string{
		"statement_timeout":                   statementTimeout,
		"lock_timeout":                        lockTimeout,
		"idle_in_transaction_session_timeout": idleTimeout,
		"default_transaction_read_only":       "off",
		"default_transaction_isolation":       "read committed",
		"synchronous_commit":                  "on",
		"client_encoding":                     "UTF8",
		"DateStyle":                           "ISO, YMD",
		"search_path":                         "pg_catalog",
		"standard_conforming_strings":         "on",
		"quote_all_identifiers":               "off", // names are compared
		"array_nulls":                         "on",
	}
}

// LongRunning are the settings of a session whose statements may take hours:
// its bound is the caller's context.
func LongRunning() map[string]string {
	return map[string]string{
		"statement_timeout":                   "0",
		"lock_timeout":                        lockTimeout,
		"idle_in_transaction_session_timeout": "0",
	}
}

func (s *Server) sessionConfig(purpose string, settings map[string]string) *pgx.ConnConfig {
	c := s.config.Copy()
	if c.RuntimeParams == nil {
		c.RuntimeParams = map[string]string{}
	}
	maps.Copy(c.RuntimeParams, baseSettings())
	// The version is known once the pool stands: sessions of their own, which
	// may live long, are kept from timeouts that newer servers have.
	if s.Major() >= 14 {
		c.RuntimeParams["idle_session_timeout"] = "0"
	}
	if s.Major() >= 17 {
		c.RuntimeParams["transaction_timeout"] = "0"
	}
	maps.Copy(c.RuntimeParams, settings)
	c.RuntimeParams["application_name"] = s.ApplicationName(purpose)
	return c
}

// ApplicationName is what the tool's sessions are called in pg_stat_activity:
// pgcutover/<move> or pgcutover/<move>/<purpose>.
func (s *Server) ApplicationName(purpose string) string {
	name := "pgcutover/" + s.move
	if purpose != "" {
		name += "/" + purpose
	}
	if len(name) > 63 {
		name = name[:63]
	}
	return name
}

// ApplicationNamePrefix is the common beginning of every application_name of
// the tool.
const ApplicationNamePrefix = "pgcutover/"

// Connect opens a session of its own. purpose becomes part of its
// application_name; settings are given in the startup packet and override the
// pool's. The caller closes it.
func (s *Server) Connect(ctx context.Context, purpose string, settings map[string]string) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, s.sessionConfig(purpose, settings))
	if err != nil {
		return nil, s.wrap("connecting to", err)
	}
	return conn, nil
}

// ConnectAsClient opens a session without the tool's settings: what it sees is
// what a client of the application with this role would get.
func (s *Server) ConnectAsClient(ctx context.Context) (*pgx.Conn, error) {
	c := s.config.Copy()
	if c.RuntimeParams == nil {
		c.RuntimeParams = map[string]string{}
	}
	c.RuntimeParams["application_name"] = s.ApplicationName("probe")
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return nil, s.wrap("connecting to", err)
	}
	return conn, nil
}

// Endpoint returns where the server listens, for hooks and messages.
func (s *Server) Endpoint() (host string, port int, database string) {
	return s.config.Host, int(s.config.Port), s.config.Database
}

// Replication opens a connection that speaks the streaming replication
// protocol with a database (replication=database), for pglogrepl.
// The settings zero every timeout that could end it while it waits: ended by
// idle_in_transaction_session_timeout, an exporting session leaves its slot
// behind. Postgres manual: 53.4, Streaming Replication Protocol.
func (s *Server) Replication(ctx context.Context) (*pgconn.PgConn, error) {
	c := s.sessionConfig("replication", map[string]string{
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "0",
	})
	delete(c.RuntimeParams, "default_transaction_isolation")
	c.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(ctx, &c.Config)
	if err != nil {
		return nil, s.wrap("opening a replication connection to", err)
	}
	return conn, nil
}

// Peer returns the connection string by which the other server reaches this
// one, for CREATE SUBSCRIPTION ... CONNECTION: a list of libpq keywords and
// values. It holds the password; never print it.
func (s *Server) Peer() (string, error) {
	if s.peerURL != "" {
		return s.peerURL, nil
	}
	return s.Conninfo(), nil
}

// Conninfo returns the tool's own connection as libpq keywords and values,
// password included, for CREATE SUBSCRIPTION. Never print it. Settings that
// only the client's host can resolve (service file, passfile) have been
// resolved.
func (s *Server) Conninfo() string {
	c := s.config
	values := map[string]string{
		"host": c.Host, "port": strconv.Itoa(int(c.Port)), "dbname": c.Database, "user": c.User,
	}
	if c.Password != "" {
		values["password"] = c.Password
	}
	maps.Copy(values, tlsKeywords(s.url))
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var b strings.Builder
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s", k, quoteConninfo(values[k]))
	}
	return b.String()
}

func quoteConninfo(v string) string {
	return "'" + keywordEscaper.Replace(v) + "'"
}

// Environment returns what a client program of PostgreSQL (pg_dump,
// pg_restore, psql) needs to reach this database: PGHOST, PGPORT and so on,
// with the password in PGPASSWORD so that it never stands in argv. PGOPTIONS
// keeps the read-only default of the database out of the way.
func (s *Server) Environment() []string {
	c := s.config
	env := []string{
		"PGHOST=" + c.Host, "PGPORT=" + strconv.Itoa(int(c.Port)), "PGDATABASE=" + c.Database, "PGUSER=" + c.User,
		"PGAPPNAME=" + s.ApplicationName("client"), "PGCONNECT_TIMEOUT=10", "PGCLIENTENCODING=UTF8",
		"PGOPTIONS=" + s.clientOptions(),
	}
	if c.Password != "" {
		env = append(env, "PGPASSWORD="+c.Password)
	}
	for k, v := range tlsKeywords(s.url) {
		env = append(env, "PG"+strings.ToUpper(k)+"="+v)
	}
	return env
}

// clientOptions lift what would end a long run of a client program; those of
// older majors do not know transaction_timeout, so that it is lifted here.
func (s *Server) clientOptions() string {
	options := "-c default_transaction_read_only=off -c statement_timeout=0"
	if s.Major() >= 17 {
		options += " -c transaction_timeout=0"
	}
	return options
}

// tlsKeywords returns the sslmode, sslrootcert, sslcert and sslkey of a
// connection string as they were written: pgx keeps only what it made of them.
func tlsKeywords(url string) map[string]string {
	out := map[string]string{}
	for _, k := range []string{"sslmode", "sslrootcert", "sslcert", "sslkey"} {
		if v := Keyword(url, k); v != "" {
			out[k] = v
		}
	}
	return out
}

// Redacted returns err without this server's passwords.
func (s *Server) Redacted(err error) error { return Redact(err, s.url, s.peerURL) }
