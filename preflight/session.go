package preflight

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// oddTimeout is a value of statement_timeout that nobody else would set: a
// session that shows it has taken the settings of its startup packet.
const oddTimeout = "59783ms"

// backendSQL tells which backend serves a session, and whether its startup
// settings arrived.
const backendSQL = `select pg_backend_pid() as pid, current_setting('statement_timeout') as timeout`

type backend struct {
	PID     int32 `db:"pid"`
	Timeout string
}

// blockSQL is the smallest piece of PL/pgSQL: it fails on a server whose
// libraries were replaced under it by a package upgrade.
const blockSQL = `do $$ begin perform 1; end $$`

// checkSession makes sure that the connection strings reach the servers
// themselves: through a transaction pooler neither locks nor snapshots nor
// session settings hold.
func checkSession(ctx context.Context, p *Pair) ([]Finding, error) {
	return onBoth(p, func(s *pg.Server) ([]Finding, error) {
		found, err := poolerFindings(ctx, s)
		if err != nil {
			return nil, err
		}
		if _, err := s.Pool().Exec(ctx, blockSQL, pgx.QueryExecModeSimpleProtocol); err != nil {
			f := Finding{
				ID: "session.plpgsql", Severity: Blocker, Server: string(s.Side()), Object: "language plpgsql",
				Seen: s.Redacted(err).Error(),
				Why:  "The fence is written in PL/pgSQL, and a DO block fails on this server.",
			}.told("restart the server: a package upgrade may have replaced PostgreSQL's libraries since it started")
			if pg.IsCode(err, pg.UndefinedObject) {
				f = f.mended("CREATE EXTENSION plpgsql;")
			}
			found = append(found, f)
		}
		return found, nil
	})
}

// poolerFindings tells a pooler from a server by two connections: behind a
// pooler that shares backends, the second gets the backend that the first has
// just used, and keeps it while the first asks again.
func poolerFindings(ctx context.Context, s *pg.Server) ([]Finding, error) {
	settings := map[string]string{"statement_timeout": oddTimeout}
	first, err := s.Connect(ctx, "check", settings)
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, first)
	second, err := s.Connect(ctx, "check", settings)
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, second)

	before, err := askBackend(ctx, first)
	if err != nil {
		return nil, err
	}
	tx, err := second.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("beginning a transaction on the %s server: %w", s.Side(), err)
	}
	other, err := askBackend(ctx, tx)
	if err != nil {
		return nil, err
	}
	after, err := askBackend(ctx, first)
	if err != nil {
		return nil, err
	}
	return judgeSession(s, before, other, after), nil
}

// judgeSession compares what the first connection saw before and after the
// second one took a backend.
func judgeSession(s *pg.Server, before, other, after backend) []Finding {
	f := Finding{
		ID: "session.pooler", Severity: Blocker, Server: string(s.Side()), Object: s.Address(),
		Why: "Locks, snapshots and session settings do not hold through a pooler that shares sessions.",
	}.told(fmt.Sprintf("put the server's own address into %s.url, not the pooler's", s.Side()))
	switch {
	case before.PID != after.PID:
		f.Seen = fmt.Sprintf("one connection was served by backend %d, then by %d", before.PID, after.PID)
	case before.PID == other.PID:
		f.Seen = fmt.Sprintf("two connections were served by the same backend %d", before.PID)
	case before.Timeout != oddTimeout:
		f.Seen = fmt.Sprintf("statement_timeout is %s, though the connection asked for %s", before.Timeout, oddTimeout)
	default:
		return nil
	}
	return []Finding{f}
}

type rowsQuerier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// askBackend uses the simple protocol: a pooler may give each message of the
// extended one to another backend.
func askBackend(ctx context.Context, q rowsQuerier) (backend, error) {
	rows, err := q.Query(ctx, backendSQL, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return backend{}, fmt.Errorf("asking for the backend's process: %w", err)
	}
	b, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[backend])
	if err != nil {
		return backend{}, fmt.Errorf("asking for the backend's process: %w", err)
	}
	return b, nil
}
