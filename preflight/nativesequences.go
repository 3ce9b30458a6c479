package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// sequenceSyncSQL lists the subscriptions of others in this database that bring
// values of sequences, which they do from 19 on, with those that they bring and how
// many of them are to be set at once. Before 19 pg_subscription_rel has tables only.
// Ids of subscriptions come from pg_stat_subscription, see subscriptionsSQL.
// Postgres manual (19): Logical Replication, Replicating Sequences.
const sequenceSyncSQL = `
select s.subname::text as name, s.subenabled as enabled,
       array_agg(format('%I.%I', n.nspname, c.relname) order by n.nspname, c.relname) as sequences,
       count(*) filter (where w.srsubstate <> 'r')::int as pending
  from pg_subscription s
  join (
    select distinct st.subname, r.srrelid, r.srsubstate
      from pg_stat_subscription st
      join pg_subscription_rel r on r.srsubid = st.subid
  ) w on w.subname = s.subname
  join pg_class c on c.oid = w.srrelid and c.relkind = 'S'
  join pg_namespace n on n.oid = c.relnamespace
 where s.subdbid = (select oid from pg_database where datname = current_database())
   and s.subname <> $1 and left(s.subname::text, length($1) + 1) <> $1 || '_'
 group by s.subname, s.subenabled
 order by 1`

type sequenceSyncRow struct {
	Name      string
	Enabled   bool
	Sequences []string
	Pending   int
}

// sequenceSync looks for subscriptions of others that set sequences. Postgres sets
// them to the publisher's values whether these are ahead or not, when the
// subscription is made, and again with each ALTER SUBSCRIPTION ... REFRESH
// SEQUENCES. A disabled one has no worker that could.
func sequenceSync(ctx context.Context, s *pg.Server, ours string, severity Severity) ([]Finding, error) {
	rows, err := read[sequenceSyncRow](ctx, s, "reading which subscriptions set sequences", sequenceSyncSQL, ours)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, r := range rows {
		if !r.Enabled {
			continue
		}
		seen := "enabled, sets " + list(r.Sequences)
		if r.Pending > 0 {
			seen += fmt.Sprintf("; %d of them now", r.Pending)
		}
		found = append(found, Finding{
			ID: "neighbours.sequence-sync", Severity: severity, Server: string(s.Side()), Object: "subscription " + quote(r.Name), Seen: seen,
			Why: "ALTER SUBSCRIPTION ... REFRESH SEQUENCES sets sequences to its publisher's values, backwards too. The cutover sets them past old's by the margin: set back after that, they hand out numbers that are used.",
			Fix: fmt.Sprintf("ALTER SUBSCRIPTION %s DISABLE; -- until the move is over", quote(r.Name)), FixKind: FixSQL,
		})
	}
	return found, nil
}

// publishedSequencesSQL lists the publications of others that publish all sequences.
// The column is of 19.
const publishedSequencesSQL = `
select pubname::text
  from pg_publication
 where puballsequences and pubname <> $1 and left(pubname::text, length($1) + 1) <> $1 || '_'
 order by 1`

// withPublishedSequences is the first version that publishes sequences.
const withPublishedSequences = 190000

// publishedSequences tells of publications of sequences on old, which the move
// leaves alone.
func publishedSequences(ctx context.Context, s *pg.Server) ([]Finding, error) {
	if s.Side() != pg.Old || s.Version() < withPublishedSequences {
		return nil, nil
	}
	names, err := readValues[string](ctx, s, "reading which publications have sequences", publishedSequencesSQL, streamName(s.Move()))
	if err != nil {
		return nil, err
	}
	return publishedFindings(s.Side(), names), nil
}

func publishedFindings(side pg.Side, names []string) []Finding {
	if len(names) == 0 {
		return nil
	}
	return []Finding{{
		ID: "neighbours.published-sequences", Severity: Note, Server: string(side), Object: "publications FOR ALL SEQUENCES", Seen: list(names),
		Why: "The move carries sequences by itself, with a margin and never backwards, and leaves these publications alone. Their subscribers get old's values, which stand still after the cutover.",
		Fix: "subscribe to none of them from the new server, and point their subscribers to the new server after the cutover", FixKind: FixAction,
	}}
}
