package preflight

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgclient"
)

// oldestClient is the lowest major that can be used: programs before 12 send SET
// default_with_oids, which servers from 12 on refuse.
const oldestClient = 12

// checkClients looks for the client programs that carry the schema over. They
// must be at least as new as the old server, and what they send must be
// understood by the new one: from 17 on they send SET transaction_timeout, which
// earlier servers refuse.
// Postgres manual: pg_dump, Notes.
func checkClients(ctx context.Context, p *Pair) ([]Finding, error) {
	found, err := clientFindings(ctx, max(p.Old.Major(), oldestClient))
	if err != nil || len(found) > 0 || p.New.Major() >= 17 {
		return found, err
	}
	path, major, err := pgclient.FindClient(ctx, "pg_dump", max(p.Old.Major(), oldestClient))
	if err != nil || major < 17 {
		return nil, err
	}
	return []Finding{Finding{
		ID: "clients.missing", Severity: Blocker, Server: Both, Object: "pg_dump",
		Seen: fmt.Sprintf("%s is of PostgreSQL %d, the new server of %d", path, major, p.New.Major()),
		Why:  "The programs of 17 and later send a setting that earlier servers refuse.",
	}.told(fmt.Sprintf("install the client programs of PostgreSQL %d, or name their folder in %s", p.New.Major(), pgclient.BinVariable))}, nil
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
		}.told(cmp.Or(hint.Of(err), fmt.Sprintf("install the client programs of PostgreSQL %d", major))))
	}
	return found, nil
}
