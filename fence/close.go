package fence

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// ClosedSQL makes check() refuse. The text says why, since when, and what to
// do; it binds itself to this database by its OID, so that a dump restored
// elsewhere is not fenced by it.
//
// With Disconnect it first ends the session. That takes rights over the
// client's role which the owner of check() may lack; then the error must do.
func ClosedSQL(s *pg.Server, onClosed OnClosed, databaseOID uint32, since time.Time) string {
	message, advice := why(s, since)
	end := ""
	if onClosed == Disconnect {
		end = `  begin
    perform pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid());
  exception when insufficient_privilege then
    null;
  end;
`
	}
	return fmt.Sprintf(`
create or replace function pgcutover.check() returns void language plpgsql as $pgcutover$
begin
  if (select d.oid from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()) <> %d then
    return;
  end if;
%s  raise exception using errcode = '25006', message = %s, hint = %s;
end
$pgcutover$`, databaseOID, end, literal(message), literal(advice))
}

// Closing says how a server is closed for good.
type Closing struct {
	OnClosed OnClosed
	Database uint32    // the database's OID
	Since    time.Time // for the text
	// RevokeConnect takes CONNECT on the database from its clients too.
	RevokeConnect bool
}

// CloseSQL returns what Close runs, in order.
func CloseSQL(s *pg.Server, c Closing) ([]string, error) {
	statements := []string{CommentSQL(s, c.Since)}
	if c.RevokeConnect {
		sql, err := RevokeConnectSQL(s)
		if err != nil {
			return nil, err
		}
		statements = append(statements, sql)
	}
	return append(statements, ReadOnlySQL(s.Database(), true), s.Quiet(ClosedSQL(s, c.OnClosed, c.Database, c.Since))), nil
}

// Close closes a server in q's transaction, which must be the lease's: the
// fence, the read-only default that multihost clients look at, the database's
// comment, and, if asked for, who may connect. It returns what could not be
// done and does not matter for safety.
func Close(ctx context.Context, q state.Querier, s *pg.Server, c Closing) (notes []string, err error) {
	commented, err := Comment(ctx, q, s, c.Since)
	if err != nil {
		return nil, err
	}
	if !commented {
		notes = append(notes, fmt.Sprintf("the %s database has no comment that says why it refuses writes: only its owner may comment it", s.Side()))
	}
	if c.RevokeConnect {
		still, err := RevokeConnect(ctx, q, s)
		if err != nil {
			return nil, err
		}
		if len(still) > 0 {
			notes = append(notes, fmt.Sprintf("these may still connect to the %s database, because somebody else than its owner granted it, or they have passed it on: %v", s.Side(), still))
		}
	}
	// The fence last: what fires for DDL, such as an event trigger that writes,
	// meets it closed here and not after the COMMIT.
	for _, sql := range []string{ReadOnlySQL(s.Database(), true), s.Quiet(ClosedSQL(s, c.OnClosed, c.Database, c.Since))} {
		if _, err := q.Exec(ctx, sql); err != nil {
			return nil, fmt.Errorf("closing the fence on the %s server: %w", s.Side(), err)
		}
	}
	return notes, nil
}

// DryRunClose closes the server and rolls it back, so that a missing right, or
// an event trigger that refuses DDL or writes, shows before writers wait.
func DryRunClose(ctx context.Context, s *pg.Server, c Closing) (notes []string, err error) {
	errRollback := errors.New("rolled back on purpose")
	err = state.Tx(ctx, s, "3s", func(tx pgx.Tx) error {
		if notes, err = Close(ctx, tx, s, c); err != nil {
			return fmt.Errorf("trying to close the %s server: %w", s.Side(), err)
		}
		return errRollback
	})
	if errors.Is(err, errRollback) {
		return notes, nil
	}
	return nil, err
}

// ReadOnlySQL sets or, with on false, resets the database's default that
// multihost clients look at.
func ReadOnlySQL(database string, on bool) string {
	db := pgx.Identifier{database}.Sanitize()
	if on {
		return "alter database " + db + " set default_transaction_read_only = on"
	}
	return "alter database " + db + " reset default_transaction_read_only"
}

// SetReadOnly runs ReadOnlySQL.
func SetReadOnly(ctx context.Context, s *pg.Server, on bool) error {
	if _, err := s.Pool().Exec(ctx, ReadOnlySQL(s.Database(), on)); err != nil {
		return fmt.Errorf("setting the read-only default of the %s database: %w", s.Side(), err)
	}
	return nil
}
