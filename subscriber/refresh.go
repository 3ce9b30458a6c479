package subscriber

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// RefreshSQL makes the subscription look at what its publication lists now. It
// cannot run in a transaction block.
// https://www.postgresql.org/docs/current/sql-altersubscription.html
func RefreshSQL(st state.Stream) string {
	return fmt.Sprintf("alter subscription %s refresh publication with (copy_data = true)", pgx.Identifier{st.Name()}.Sanitize())
}

// Refresh subscribes to the tables that the publication has been given, which are
// copied from then on, and forgets those that it has not any more. The
// subscription must be enabled. It may be called again.
func Refresh(ctx context.Context, s *pg.Server, st state.Stream) error {
	conn, err := s.Connect(ctx, "refresh", s.QuietSession())
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	if _, err := conn.Exec(ctx, RefreshSQL(st)); err != nil {
		return fmt.Errorf("running %q on the %s server: %w", RefreshSQL(st), s.Side(), s.Redacted(err))
	}
	return nil
}
