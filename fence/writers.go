package fence

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/state"
)

// Writer is a session whose transaction has got an id: it has written
// something, be it a row, a definition, or a row lock.
type Writer struct {
	PID         int32  `json:"pid"`
	XID         string `json:"xid"`
	Kind        string `json:"kind"` // pg_stat_activity.backend_type
	Here        bool   `json:"here"` // in this database
	User        string `json:"user,omitempty"`
	Super       bool   `json:"super,omitempty"`
	Application string `json:"application,omitempty"`
	State       string `json:"state,omitempty"`
	Query       string `json:"query,omitempty"`
	Ours        bool   `json:"ours,omitempty"` // the tool's session, or a worker of this move's stream
}

// String is one line for people.
func (w Writer) String() string {
	who := []string{}
	for _, part := range []string{w.User, w.Application, w.Kind, w.State} {
		if part != "" {
			who = append(who, part)
		}
	}
	if w.Super {
		who = append(who, "superuser")
	}
	return fmt.Sprintf("session %d (%s), transaction %s: %s", w.PID, strings.Join(who, ", "), w.XID, w.Query)
}

// writersSQL lists the transactions of the whole server that have an id now. $1
// is the pattern of the names of this move's streams.
const writersSQL = `
select a.pid, a.backend_xid::text, coalesce(a.backend_type, ''), coalesce(a.datname = current_database(), false),
       coalesce(a.usename::text, ''), coalesce(r.rolsuper, false), coalesce(a.application_name, ''), coalesce(a.state, ''),
       left(regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 120),
       coalesce(a.application_name, '') like 'pgcutover/%'
       or a.pid in (select s.pid from pg_stat_subscription s where s.subname ~ $1)
  from pg_stat_activity a
  left join pg_roles r on r.oid = a.usesysid
 where a.backend_xid is not null and a.pid <> pg_backend_pid()
 order by a.pid`

// Writers lists the sessions that are writing now, on the whole server.
//
// While the lease holds the gate, a client session of this database among them
// has written without passing the gate: DDL, a large object, a temporary table,
// SELECT FOR UPDATE. Prove watches for them after the decision.
func Writers(ctx context.Context, q state.Querier, move string) ([]Writer, error) {
	rows, err := q.Query(ctx, writersSQL, state.StreamPattern(move))
	if err != nil {
		return nil, fmt.Errorf("looking for transactions that write: %w", err)
	}
	writers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Writer])
	if err != nil {
		return nil, fmt.Errorf("looking for transactions that write: %w", err)
	}
	return writers, nil
}

// Stray tells that a writer is a client, or somebody else's worker, in this
// database. Autovacuum writes statistics and freezes rows, which is no harm.
func (w Writer) Stray() bool {
	return w.Here && !w.Ours && w.Kind != "autovacuum worker" && w.Kind != "walsender"
}
