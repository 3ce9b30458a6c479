package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// SQLSTATEs that the tool decides by. Postgres manual: Appendix A.
const (
	LockNotAvailable        = "55P03"
	QueryCanceled           = "57014"
	ReadOnlyTransaction     = "25006"
	InsufficientPrivilege   = "42501"
	UndefinedTable          = "42P01"
	UndefinedObject         = "42704"
	UndefinedFunction       = "42883"
	InvalidSchemaName       = "3F000"
	DuplicateObject         = "42710"
	DuplicateTable          = "42P07"
	UniqueViolation         = "23505"
	ObjectInUse             = "55006"
	AdminShutdown           = "57P01"
	CrashShutdown           = "57P02"
	CannotConnectNow        = "57P03"
	InvalidPassword         = "28P01"
	InvalidAuthorization    = "28000"
	InvalidCatalogName      = "3D000"
	TooManyConnections      = "53300"
	SerializationFailure    = "40001"
	DeadlockDetected        = "40P01"
	ObjectNotInPrerequisite = "55000"
	ConfigurationLimit      = "53400"
	ConnectionFailure       = "08006"
	IdleInTransaction       = "25P03"
)

// Code returns the SQLSTATE of err, or an empty string when err does not come
// from the server.
func Code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// IsCode reports whether err carries one of the given SQLSTATEs.
func IsCode(err error, codes ...string) bool {
	c := Code(err)
	return c != "" && slices.Contains(codes, c)
}

// Lost reports whether err means that the session is gone, so that nobody on
// this side knows what became of a statement that was under way.
func Lost(err error) bool {
	if err == nil {
		return false
	}
	if c := Code(err); c != "" {
		return c == AdminShutdown || c == CrashShutdown || c == CannotConnectNow || c == IdleInTransaction || c[:2] == "08"
	}
	return true // no answer of the server at all: network, timeout, closed connection
}

// connectHint adds what to do next to the common failures of a connection.
func connectHint(err error, s *Server) error {
	switch {
	case IsCode(err, InvalidPassword):
		return hint.With(err, fmt.Sprintf("the server refused the password of role %q: correct it in %s.url, or in a passfile (~/.pgpass)", s.User(), s.side))
	case IsCode(err, InvalidAuthorization):
		return hint.With(err, fmt.Sprintf("the server has no pg_hba.conf line that lets role %q in to database %q from this host, or the role may not log in or replicate", s.User(), s.Database()))
	case IsCode(err, InvalidCatalogName):
		return hint.With(err, fmt.Sprintf("create it first: CREATE DATABASE \"%s\"; (on the %s server)", s.Database(), s.side))
	case IsCode(err, TooManyConnections):
		return hint.With(err, "the server has no free connection slot: raise max_connections or end idle sessions")
	}
	var op *net.OpError
	if errors.As(err, &op) || errors.Is(err, context.DeadlineExceeded) {
		return hint.With(err, fmt.Sprintf("check that the %s server runs and listens on %s, and that no firewall stands between", s.side, s.Address()))
	}
	return err
}
