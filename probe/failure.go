package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// Kind is why a round failed.
type Kind string

// The kinds of failure.
const (
	// Connection: nobody answered, the client was not let in, or the connection
	// broke.
	Connection Kind = "connection"
	// ReadOnly: the database or the server takes no writes.
	ReadOnly Kind = "read-only"
	// Closed: the same where a move is under way, whose fence or read-only
	// default says so.
	Closed Kind = "closed"
	// Timeout: somebody is there and did not answer in time.
	Timeout Kind = "timeout"
	// WrongServer: not the expected one answered.
	WrongServer Kind = "wrong-server"
	// Lost: what was acknowledged is not there.
	Lost Kind = "lost"
	// Refused: the server answered with another error.
	Refused Kind = "refused"
)

// Failure is why a round failed.
type Failure struct {
	Kind Kind `json:"kind"`
	// SQLSTATE is the server's code; empty when no server answered.
	SQLSTATE string `json:"sqlstate,omitempty"`
	Message  string `json:"message"`
	Hint     string `json:"hint,omitempty"`
}

// String is the failure in one line, without its hint.
func (f Failure) String() string {
	if f.SQLSTATE == "" {
		return fmt.Sprintf("%s: %s", f.Kind, f.Message)
	}
	return fmt.Sprintf("%s (SQLSTATE %s): %s", f.Kind, f.SQLSTATE, f.Message)
}

// lostError is an acknowledged write that is not there.
type lostError struct{ text string }

func (e *lostError) Error() string { return e.text }

// wrongServerError is another server than the expected one.
type wrongServerError struct {
	text string
	err  error // of the write there; nil when it was taken
}

func (e *wrongServerError) Error() string { return e.text }
func (e *wrongServerError) Unwrap() error { return e.err }

// diagnose says what an error of a round means. ctx is the round's.
func (s *session) diagnose(ctx context.Context, err error) *Failure {
	f := &Failure{Kind: s.kind(ctx, err), SQLSTATE: pg.Code(err)}
	var lost *lostError
	var wrong *wrongServerError
	if errors.As(err, &lost) || errors.As(err, &wrong) {
		f.Message = oneLine(err.Error())
	} else {
		f.Message = oneLine(s.doing + ": " + pg.Redact(err, s.prober.o.URL).Error())
	}
	if f.Kind == Timeout {
		f.Message = fmt.Sprintf("no answer within %s; %s", s.prober.o.Timeout, f.Message)
	}
	f.Hint = hint.Of(err)
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Hint != "" && f.Hint == "" && f.Kind == Closed {
		f.Hint = server.Hint // the fence knows best
	}
	if f.Hint == "" {
		f.Hint = s.advice(f)
	}
	return f
}

func (s *session) kind(ctx context.Context, err error) Kind {
	var (
		lost  *lostError
		wrong *wrongServerError
	)
	code := pg.Code(err)
	switch {
	case errors.As(err, &wrong):
		return WrongServer
	case errors.As(err, &lost):
		return Lost
	case code == pg.ReadOnlyTransaction && s.facts.moving:
		return Closed
	case code == pg.ReadOnlyTransaction, errors.Is(err, pgconn.ErrReadOnlyConnection):
		return ReadOnly
	case contains(code, pg.QueryCanceled, pg.LockNotAvailable, pg.IdleInTransaction), errors.Is(context.Cause(ctx), errTimeout), pgconn.Timeout(err):
		return Timeout
	case s.conn == nil:
		return Connection
	case errors.Is(err, errPublished), !pg.Lost(err):
		return Refused
	}
	return Connection
}

// advice is what to look at next.
func (s *session) advice(f *Failure) string {
	switch f.Kind {
	case Closed:
		return "a move is under way, and this server takes no writes: the client is to reach the other one. To see which serves: pgcutover status"
	case ReadOnly:
		return s.readOnlyAdvice()
	case Timeout:
		if s.conn == nil {
			return "nobody accepted the connection in time: a host or firewall that drops packets, a server that starts, or a pooler without a free connection"
		}
		return "a write waits: at the gate while a cutover freezes the writers (it ends by itself), for a standby of a synchronous commit, or in a paused pooler"
	case WrongServer:
		return "the connection string, the pooler's entry or the name leads elsewhere: correct it, and make the clients connect again"
	case Lost:
		return "the server lost a committed write (a crash without synchronous_commit, a failover to a standby that was behind, a restore), or reads go to a replica: find out before anything else"
	}
	return s.codeAdvice(f.SQLSTATE)
}

func (s *session) readOnlyAdvice() string {
	switch {
	case !s.known:
		return "no host of the connection string takes writes now: during a cutover that ends by itself; else look at default_transaction_read_only of both databases and at the role's settings"
	case s.server.Standby:
		return "this server is a standby: the connection string, the pooler or the name does not lead to the primary"
	}
	return "default_transaction_read_only is on for this database, role or server: select * from pg_db_role_setting"
}

// codeAdvice is what an SQLSTATE, or none, lets one look at.
func (s *session) codeAdvice(code string) string {
	switch {
	case code == "":
		return "check that the server or pooler runs and listens on " + s.prober.addresses() + ", and that no firewall stands between"
	case code == pg.InvalidPassword, code == pg.InvalidAuthorization:
		return fmt.Sprintf("role %q is not let in: its password, or a line of pg_hba.conf (or the pooler's user list), is wrong", s.prober.config.User)
	case code == pg.InvalidCatalogName:
		return "the connection string names a database that is not there"
	case code == pg.TooManyConnections:
		return "no connection slot is free: raise max_connections, or end idle sessions"
	case code == pg.CannotConnectNow:
		return "the server is starting or stopping: wait for it"
	case code == pg.AdminShutdown && s.facts.moving:
		return "the session was ended: by the switch of a cutover or a closed fence (on_closed: disconnect), or by an operator; the next round shows whether it lasts"
	case contains(code, pg.AdminShutdown, pg.CrashShutdown):
		return "the session was ended by an operator, a restart or a crash; the next round shows whether it lasts"
	case strings.HasPrefix(code, "08"):
		return "this is a pooler's or a connection's complaint: look at the log of the pooler and at what stands behind it"
	case code == pg.InsufficientPrivilege, code == pg.InvalidSchemaName:
		return s.rightsAdvice()
	}
	return ""
}

// rightsAdvice is the SQL that lets the role probe.
func (s *session) rightsAdvice() string {
	role := quoteRole(s.prober.config.User)
	if s.table == moveTable {
		return fmt.Sprintf("on both servers: grant usage on schema pgcutover to %[1]s; grant select, insert, update, delete on pgcutover.probe to %[1]s (or make a table and name it with --table)", role)
	}
	return fmt.Sprintf("make a table for the probe and name it with --table: %s; grant select, insert, update, delete on %s to %s",
		oneLine(fmt.Sprintf(createSQL, s.table)), s.table, role)
}

// addresses lists where the connection string leads, without its secrets.
func (p *prober) addresses() string {
	c := &p.config.Config
	list := []string{address(c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if a := address(f.Host, f.Port); !contains(a, list...) {
			list = append(list, a)
		}
	}
	text := list[0]
	for _, a := range list[1:] {
		text += " and " + a
	}
	return text
}

func address(host string, port uint16) string {
	return net.JoinHostPort(host, fmt.Sprint(port))
}
