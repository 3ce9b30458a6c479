package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// stateSchema is the schema of the move's own tables.
const stateSchema = "pgcutover"

// secondStreams looks for subscriptions of others that bring rows of the move's
// own tables. The marker of a cutover proves that the move's stream has delivered
// all that came before it; brought by another stream it proves nothing, and new
// was opened without what the move's stream still had to deliver (measured, 15
// to 18).
func secondStreams(ctx context.Context, s *pg.Server) ([]Finding, error) {
	rows, err := read[subscriptionRow](ctx, s, "reading subscriptions", subscriptionsSQL, streamName(s.Move()))
	var found []Finding
	for _, sub := range rows {
		var ours []string
		for i, schema := range sub.Schemas {
			if schema == stateSchema {
				ours = append(ours, quote(schema)+"."+quote(sub.Tables[i]))
			}
		}
		if !sub.Enabled || len(ours) == 0 {
			continue
		}
		found = append(found, Finding{
			ID: "neighbours.subscription-state", Severity: Blocker, Server: string(s.Side()), Object: "subscription " + quote(sub.Name),
			Seen: "enabled, writes " + list(ours),
			Why:  "The arrival of rows in these tables tells that the move's own stream has delivered everything. Through another stream they come too early, and the clients would be moved before their rows are there.",
			Fix:  fmt.Sprintf("ALTER SUBSCRIPTION %s DISABLE; -- until the move is over, or take schema pgcutover out of what it subscribes to", quote(sub.Name)), FixKind: FixSQL,
		})
	}
	return found, err
}

// travelsSQL lists the publications of others that publish schema pgcutover, or
// will as soon as it is there.
const travelsSQL = `
select p.pubname::text as name, p.puballtables as everything
  from pg_publication p
 where p.pubname <> $1 and left(p.pubname::text, length($1) + 1) <> $1 || '_'
   and (p.puballtables
        or exists (select 1 from pg_publication_tables t
                    where t.pubname = p.pubname and t.schemaname = 'pgcutover'))
 order by 1`

type travelsRow struct {
	Name       string
	Everything bool
}

// stateTravels looks for publications of others that carry the move's own tables
// to their subscribers. A subscriber that is a PostgreSQL server and has not got
// the tables stops at the first row that start writes, and the WAL that it has not
// read stays; nothing is lost, and with the tables there it goes on, passing over
// rows of tables that are not in its subscription (measured with subscribers of 10
// to 18).
func stateTravels(ctx context.Context, s *pg.Server, slots []slotRow) ([]Finding, error) {
	rows, err := read[travelsRow](ctx, s, "reading publications", travelsSQL, streamName(s.Move()))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	var readers []string
	for _, slot := range slots {
		if slot.Here && slot.Plugin == "pgoutput" {
			readers = append(readers, slot.Name)
		}
	}
	severity, read := Warning, "read through slot "+list(readers)+", or another publication is"
	if len(readers) == 0 {
		severity, read = Note, "no slot of a subscriber is there now"
	}
	var found []Finding
	for _, r := range rows {
		how := "publishes tables of schema pgcutover"
		if r.Everything {
			how = "FOR ALL TABLES, which schema pgcutover is among from start on"
		}
		found = append(found, Finding{
			ID: "neighbours.publication-state", Severity: severity, Server: string(s.Side()), Object: "publication " + quote(r.Name),
			Seen: how + "; " + read,
			Why: "A subscriber that is a PostgreSQL server without these tables stops with an error at the first row that start writes there, until it has them; meanwhile its slot keeps WAL on this server. " +
				"Change data capture gets rows of tables that it does not know.",
			Fix: fmt.Sprintf("right after start, give its subscribers the tables, which stay empty: CREATE SCHEMA pgcutover; there, then pg_dump --section=pre-data --table='pgcutover.*' of this server into psql there; "+
				"DROP SCHEMA pgcutover CASCADE; there when the move is over. Or before start: publication %s FOR TABLE its tables instead", quote(r.Name)), FixKind: FixAction,
		})
	}
	return found, nil
}
