package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// subscriptionsSQL lists the subscriptions of others in this database with the
// tables that they write. Their ids come from pg_stat_subscription, which every
// role may read; pg_subscription.oid not before 12.
const subscriptionsSQL = `
select s.subname::text as name, s.subenabled as enabled,
       coalesce(array_agg(n.nspname::text order by n.nspname, c.relname) filter (where c.oid is not null), '{}') as schemas,
       coalesce(array_agg(c.relname::text order by n.nspname, c.relname) filter (where c.oid is not null), '{}') as tables
  from pg_subscription s
  left join (
    select distinct st.subname, r.srrelid
      from pg_stat_subscription st
      join pg_subscription_rel r on r.srsubid = st.subid
  ) w on w.subname = s.subname
  left join pg_class c on c.oid = w.srrelid and c.relkind <> 'S'
  left join pg_namespace n on n.oid = c.relnamespace
 where s.subdbid = (select oid from pg_database where datname = current_database())
   and s.subname <> $1 and left(s.subname::text, length($1) + 1) <> $1 || '_'
   and left(s.subname::text, 16) <> 'pgcutover_check_'
 group by s.subname, s.subenabled
 order by 1`

type subscriptionRow struct {
	Name    string
	Enabled bool
	Schemas []string
	Tables  []string
}

// publicationsSQL lists the publications of others in this database.
const publicationsSQL = `
select pubname::text
  from pg_publication
 where pubname <> $1 and left(pubname::text, length($1) + 1) <> $1 || '_'
 order by 1`

// slotsSQL lists the replication slots of others, with the WAL that each
// retains.
const slotsSQL = `
select s.slot_name::text as name, s.slot_type as type, coalesce(s.plugin::text, '') as plugin,
       coalesce(s.database::text, '') as database,
       s.active, coalesce(s.database = current_database(), false) as here,
       coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
                                     else pg_current_wal_lsn() end, s.restart_lsn), 0)::bigint as retained
  from pg_replication_slots s
 where not s.temporary and s.slot_name <> $1 and left(s.slot_name::text, length($1) + 1) <> $1 || '_'
 order by 1`

type slotRow struct {
	Name, Type, Plugin, Database string
	Active, Here                 bool
	Retained                     int64
}

// neighboursCheck looks at the replication of others. A subscription on old
// that writes tables in scope gets severity: its apply worker passes every
// trigger and would write on after the decision. With Blocker, at the cutover,
// nothing else is reported but what brings rows of schema pgcutover, or sets
// sequences.
func neighboursCheck(severity Severity) func(context.Context, *Pair) ([]Finding, error) {
	return func(ctx context.Context, p *Pair) ([]Finding, error) {
		found, err := oldSubscriptions(ctx, p, severity)
		if err != nil {
			return found, err
		}
		second, err := onBoth(p, func(s *pg.Server) ([]Finding, error) { return secondStreams(ctx, s) })
		found = append(found, second...)
		if err != nil {
			return found, err
		}
		synced, err := onBoth(p, func(s *pg.Server) ([]Finding, error) { return sequenceSync(ctx, s, p.ours(s), severity) })
		found = append(found, synced...)
		if err != nil || severity == Blocker {
			return found, err
		}
		published, err := publishedSequences(ctx, p.Old)
		found = append(found, published...)
		if err != nil {
			return found, err
		}
		more, err := onBoth(p, func(s *pg.Server) ([]Finding, error) { return othersOf(ctx, p, s) })
		return append(found, more...), err
	}
}

func oldSubscriptions(ctx context.Context, p *Pair, severity Severity) ([]Finding, error) {
	rows, err := read[subscriptionRow](ctx, p.Old, "reading subscriptions", subscriptionsSQL, streamName(p.Old.Move()))
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, s := range rows {
		var written []string
		for i := range s.Tables {
			if s.Schemas[i] != stateSchema && p.Scope.Match(s.Schemas[i], s.Tables[i]) {
				written = append(written, quote(s.Schemas[i])+"."+quote(s.Tables[i]))
			}
		}
		f := Finding{Server: string(p.Old.Side()), Object: "subscription " + quote(s.Name)}
		switch {
		case s.Enabled && len(written) > 0:
			f.ID, f.Severity = "neighbours.subscription-writes", severity
			f.Seen = "enabled, writes " + list(written)
			f.Why = fmt.Sprintf("Its apply worker passes the fence: it would write on the %s server after the cutover, which therefore refuses to begin.", p.Old.Side())
			f.Fix, f.FixKind = fmt.Sprintf("-- before the cutover:\nALTER SUBSCRIPTION %s DISABLE;", quote(s.Name)), FixSQL
		case severity == Blocker && !s.Enabled:
			f.ID, f.Severity = "neighbours.subscription", Note
			f.Seen = fmt.Sprintf("disabled, writes %s", plural(len(s.Tables), "table"))
			f.Why = "It must stay disabled until the move is complete: its apply worker passes the fence."
			f.Fix, f.FixKind = "leave it disabled, or drop it when it is wanted no more", FixAction
		case severity == Blocker:
			continue
		default:
			f.ID, f.Severity = "neighbours.subscription", Note
			f.Seen = fmt.Sprintf("%s, writes %s", enabled(s.Enabled), plural(len(s.Tables), "table"))
			f.Why = "Subscriptions are not carried over: what it brings comes to the new server only when it is made there."
			f.Fix, f.FixKind = "make it on the new server after the cutover, if it is still wanted; drop it when it is not", FixAction
		}
		found = append(found, f)
	}
	return found, nil
}

func enabled(on bool) string {
	if on {
		return "enabled"
	}
	return "disabled"
}

// othersOf lists publications and slots, and on new subscriptions.
func othersOf(ctx context.Context, p *Pair, s *pg.Server) ([]Finding, error) {
	ours := p.ours(s)
	var found []Finding
	publications, err := readValues[string](ctx, s, "reading publications", publicationsSQL, ours)
	if err != nil {
		return nil, err
	}
	if len(publications) > 0 && s.Side() == pg.Old {
		found = append(found, Finding{
			ID: "neighbours.publication", Severity: Note, Server: string(s.Side()), Object: "publications", Seen: list(publications),
			Why: "Publications are not carried over: after the cutover their subscribers hear nothing more.",
			Fix: "make them on the new server, and point their subscribers there", FixKind: FixAction,
		})
	}
	if s.Side() == pg.New {
		subscriptions, err := read[subscriptionRow](ctx, s, "reading subscriptions", subscriptionsSQL, ours)
		if err != nil {
			return nil, err
		}
		for _, sub := range subscriptions {
			found = append(found, Finding{
				ID: "neighbours.subscription", Severity: Note, Server: string(s.Side()), Object: "subscription " + quote(sub.Name),
				Seen: fmt.Sprintf("%s, writes %s", enabled(sub.Enabled), plural(len(sub.Tables), "table")),
				Why:  "What it writes is not from the old server.",
				Fix:  "drop it, unless it is meant to write there", FixKind: FixAction,
			})
		}
	}
	slots, err := read[slotRow](ctx, s, "reading replication slots", slotsSQL, ours)
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		found = append(found, slotFindings(s, slot)...)
	}
	travels, err := stateTravels(ctx, s, slots)
	return append(found, travels...), err
}

// laggingBytes is from where on a reader counts as behind.
const laggingBytes = 1 << 30

func slotFindings(s *pg.Server, slot slotRow) []Finding {
	f := Finding{Server: string(s.Side()), Object: slot.Type + " replication slot " + quote(slot.Name)}
	switch {
	case !slot.Active:
		f.ID, f.Severity = "neighbours.slot-inactive", Warning
		f.Seen = fmt.Sprintf("nobody reads it, it retains %s of WAL", bytes(slot.Retained))
		f.Why = "A slot that nobody reads keeps WAL until the disk is full; a move makes much of it."
		f.Fix, f.FixKind = fmt.Sprintf("-- if its reader is gone for good:\nSELECT pg_drop_replication_slot(%s);", literal(slot.Name)), FixSQL
	case slot.Retained >= laggingBytes:
		f.ID, f.Severity = "neighbours.slot-lagging", Warning
		f.Seen = fmt.Sprintf("its reader is %s of WAL behind", bytes(slot.Retained))
		f.Why = "A reader that does not keep up keeps WAL on the server; the move adds to what it has to read."
		f.Fix, f.FixKind = "find out why it is behind before the move begins", FixAction
	case slot.Here && s.Side() == pg.Old:
		f.ID, f.Severity = "neighbours.slot-consumer", Warning
		f.Seen = "somebody reads it"
		f.Why = "Slots are not carried over: after the cutover the reader (change data capture, another subscriber) hears nothing more."
		f.Fix, f.FixKind = "plan how the reader goes on from the new server: a slot made there before clients write loses nothing", FixAction
		if slot.Plugin != "" && slot.Plugin != "pgoutput" {
			f.Seen += fmt.Sprintf(", with output plugin %s", slot.Plugin)
			f.Fix += fmt.Sprintf("; the new server needs the plugin %s", slot.Plugin)
		}
	default:
		return nil
	}
	return []Finding{f}
}
