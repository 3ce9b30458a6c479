package preflight

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgclient"
)

// checkClients looks for the client programs that carry the schema over. They
// must be at least as new as the old server.
// Postgres manual: pg_dump, Notes.
func checkClients(ctx context.Context, p *Pair) ([]Finding, error) {
	return clientFindings(ctx, p.Old.Major())
}

func clientFindings(ctx context.Context, major int) ([]Finding, error) {
	var found []Finding
	for _, name := range []string{"pg_dump", "pg_restore"} {
		_, _, err := pgclient.FindClient(ctx, name, major)
		if err == nil {
			continue
		}
		if !errors.Is(err, pgclient.ErrNotFound) {
			return nil, err
		}
		found = append(found, Finding{
			ID: "clients.missing", Severity: Blocker, Server: Both, Object: name,
			Seen: err.Error(),
			Why:  fmt.Sprintf("%s %d or newer carries the schema from the old server to the new one.", name, major),
			Fix:  hint.Of(err),
		})
	}
	return found, nil
}
