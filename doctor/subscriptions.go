package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/preflight"
	"github.com/pgcutover/pgcutover/subscriber"
)

// subscriptionRow is a subscription of the whole cluster.
type subscriptionRow struct {
	OIDs     []int64 `db:"oids"` // one, or those of its namesakes in other databases as well
	Name     string
	Database string
	Here     bool // it belongs to the database at hand
	Owner    string
	Enabled  bool
	Slot     string // empty: it has none
	PID      int32  `db:"pid"` // of its apply worker, 0 when none runs
	Heard    bool   // the worker has received a position from the publisher
	Applying int64  // failures of the apply worker, from 15 on
	Copying  int64  // failures of table synchronization, from 15 on

	reach string `db:"-"` // what connecting to its publisher from here said; see tryPublisher
}

// subscriptionsSQL10 is for 10 to 13, where not every role may read the OIDs of
// pg_subscription. pg_stat_subscription has a row for every subscription, but
// not its database: those of the same name are seen as one.
const subscriptionsSQL10 = `
select w.oids, s.subname::text as name, d.datname::text as database,
       d.datname = current_database() as here, r.rolname::text as owner, s.subenabled as enabled,
       coalesce(s.subslotname::text, '') as slot, coalesce(w.pid, 0) as pid, coalesce(w.heard, false) as heard,
       0::bigint as applying, 0::bigint as copying
  from pg_subscription s
  join pg_database d on d.oid = s.subdbid
  join pg_roles r on r.oid = s.subowner
  left join (select subname, array_agg(distinct subid::bigint) as oids, max(pid) filter (where relid is null) as pid,
                    bool_or(relid is null and received_lsn is not null) as heard
               from pg_stat_subscription
              group by subname) w on w.subname = s.subname
 order by s.subname`

// subscriptionsSQL14 is for 14.
const subscriptionsSQL14 = `
select array[s.oid::bigint] as oids, s.subname::text as name, d.datname::text as database,
       d.datname = current_database() as here, r.rolname::text as owner, s.subenabled as enabled,
       coalesce(s.subslotname::text, '') as slot, coalesce(w.pid, 0) as pid, coalesce(w.heard, false) as heard,
       0::bigint as applying, 0::bigint as copying
  from pg_subscription s
  join pg_database d on d.oid = s.subdbid
  join pg_roles r on r.oid = s.subowner
  left join (select subid, max(pid) filter (where relid is null) as pid,
                    bool_or(relid is null and received_lsn is not null) as heard
               from pg_stat_subscription
              group by subid) w on w.subid = s.oid
 order by s.subname`

// subscriptionsSQL15 also counts failures.
const subscriptionsSQL15 = `
select array[s.oid::bigint] as oids, s.subname::text as name, d.datname::text as database,
       d.datname = current_database() as here, r.rolname::text as owner, s.subenabled as enabled,
       coalesce(s.subslotname::text, '') as slot, coalesce(w.pid, 0) as pid, coalesce(w.heard, false) as heard,
       coalesce(f.apply_error_count, 0) as applying, coalesce(f.sync_error_count, 0) as copying
  from pg_subscription s
  join pg_database d on d.oid = s.subdbid
  join pg_roles r on r.oid = s.subowner
  left join (select subid, max(pid) filter (where relid is null) as pid,
                    bool_or(relid is null and received_lsn is not null) as heard
               from pg_stat_subscription
              group by subid) w on w.subid = s.oid
  left join pg_stat_subscription_stats f on f.subid = s.oid
 order by s.subname`

func lookSubscriptions(ctx context.Context, s *server, _ Options) error {
	sql := subscriptionsSQL15
	switch {
	case s.conn.Major() < 14:
		sql = subscriptionsSQL10
	case s.conn.Major() < 15:
		sql = subscriptionsSQL14
	}
	var err error
	if s.subs, err = read[subscriptionRow](ctx, s.conn, "reading subscriptions", sql); err != nil {
		return err
	}
	for i, sub := range s.subs {
		if sub.Here && sub.Enabled && !sub.streams() {
			s.subs[i].reach = tryPublisher(ctx, s, sub)
		}
	}
	return nil
}

// streams tells whether its apply worker runs and has heard from the publisher:
// one that fails is started again and again, and may be seen in between.
func (r subscriptionRow) streams() bool { return r.PID != 0 && r.Heard }

// subscription finds a subscription of the database by name.
func (s *server) subscription(name string) *subscriptionRow {
	for i := range s.subs {
		if s.subs[i].Name == name && s.subs[i].Here {
			return &s.subs[i]
		}
	}
	return nil
}

// conninfoSQL may be read by superusers only. The string holds a password: it
// is used, and never shown.
const conninfoSQL = `
select subconninfo
  from pg_subscription
 where subname = $1
   and subdbid = (select oid from pg_database where datname = current_database())`

// publisherSlotSQL asks a publisher for the slot of a subscription.
const publisherSlotSQL = `
select exists (select 1 from pg_replication_slots where slot_name = $1)`

// tryBound is how long connecting to a publisher may take.
const tryBound = 3 * time.Second

// tryPublisher connects to the publisher of a subscription that does not run,
// from this host. That is a hint only: the server may reach it another way.
func tryPublisher(ctx context.Context, s *server, sub subscriptionRow) string {
	var conninfo string
	if err := s.conn.Pool().QueryRow(ctx, conninfoSQL, sub.Name).Scan(&conninfo); err != nil {
		return "" // not to be had for this role
	}
	config, err := pgx.ParseConfig(conninfo)
	if err != nil {
		return "its connection string cannot be tried from here"
	}
	where := fmt.Sprintf("its publisher %s:%d/%s", config.Host, config.Port, config.Database)
	limit, cancel := context.WithTimeout(ctx, tryBound)
	defer cancel()
	config.RuntimeParams["application_name"] = s.conn.ApplicationName(purpose)
	config.RuntimeParams["default_transaction_read_only"] = "on"
	conn, err := pgx.ConnectConfig(limit, config)
	if err != nil {
		return where + " cannot be reached from here either: " + strings.Join(strings.Fields(pg.Redact(err, conninfo).Error()), " ")
	}
	defer pg.Close(limit, conn)
	if sub.Slot == "" {
		return where + " can be reached from here"
	}
	var there bool
	if err := conn.QueryRow(limit, publisherSlotSQL, sub.Slot).Scan(&there); err == nil && !there {
		return where + " can be reached from here, and has no slot " + quote(sub.Slot)
	}
	return where + " can be reached from here"
}

// text says what was seen of a subscription.
func (r subscriptionRow) text() string {
	var parts []string
	switch {
	case !r.Enabled:
		parts = append(parts, "disabled")
	case !r.streams():
		parts = append(parts, "enabled, and no apply worker runs")
	default:
		parts = append(parts, fmt.Sprintf("its apply worker %d runs", r.PID))
	}
	if r.Slot == "" {
		parts = append(parts, "it has no slot")
	}
	if r.Applying+r.Copying > 0 {
		parts = append(parts, fmt.Sprintf("failures of its workers so far: %d", r.Applying+r.Copying))
	}
	if r.reach != "" {
		parts = append(parts, r.reach)
	}
	return strings.Join(parts, "; ")
}

// detachSQL ends a subscription whether or not its publisher can be reached.
// Its slot, if it still exists there, must be dropped there.
func detachSQL(name string) []string {
	q := quote(name)
	return []string{
		"ALTER SUBSCRIPTION " + q + " DISABLE",
		"ALTER SUBSCRIPTION " + q + " SET (slot_name = NONE)",
		"DROP SUBSCRIPTION " + q,
	}
}

// finding begins a finding about a subscription.
func (r subscriptionRow) finding(s *server, whose Whose) Finding {
	f := Finding{
		Server: on(s.side), Object: "subscription " + quote(r.Name), Whose: whose, Seen: r.text(),
		SQL: detachSQL(r.Name), order: orderSubscription,
	}
	if !r.Here {
		f.Object += " of database " + quote(r.Database)
	}
	return f
}

// subscriptionFindings judges every subscription of both clusters.
func (e *examination) subscriptionFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		for _, r := range s.subs {
			var f *Finding
			attempt, ours := e.attemptOf(r.Name)
			switch {
			case ours && r.Here && s.kind(e.name) == copied:
				f = e.restoredSubscription(s, r, attempt)
			case ours && r.Here:
				f = e.ourSubscription(s, r, attempt)
			default:
				f = e.othersSubscription(s, r)
			}
			if f != nil {
				found = append(found, *f)
			}
		}
	}
	return found
}

// standsStill is why a subscription that does not run matters.
const standsStill = "This server receives nothing, and the slot on the publisher keeps WAL until its disk is full."

// ourSubscription judges a subscription of this move.
func (e *examination) ourSubscription(s *server, r subscriptionRow, attempt int64) *Finding {
	f := r.finding(s, This)
	stream := e.stream()
	current := e.live && r.Name == stream.Name() && s.side != e.pos.Serving()
	peer := e.other(s)
	switch {
	case slices.Contains(e.inFlux(), r.Name) && r.streams():
		return nil // the cutover that was interrupted is reported
	case slices.Contains(e.inFlux(), r.Name):
		f.ID, f.Severity = "subscription.unfinished", preflight.Warning
		f.Why = "It belongs to the cutover that was interrupted."
		f.Next, f.SQL = "run: pgcutover resume", nil
	case current && r.Slot != "" && peer.reached() && peer.unreadable["slots"] == nil && peer.slot(r.Slot) == nil:
		f.ID, f.Severity = "subscription.no-slot", preflight.Blocker
		f.Seen += fmt.Sprintf("; the %s server has no slot %s", peer.side, quote(r.Slot))
		f.Why = "The stream cannot go on: nobody knows what this server has not received."
		f.Next = e.without(attempt)
	case current && (!r.Enabled || r.Slot == ""):
		f.ID, f.Severity = "subscription.disabled", preflight.Blocker
		f.Why = standsStill
		f.SQL = []string{subscriber.EnableSQL(stream)}
		f.Next = "if nobody disabled it on purpose, enable it: pgcutover start does so before the cutover, pgcutover resume after it"
	case current && !r.streams():
		f.ID, f.Severity = "subscription.not-running", preflight.Blocker
		f.Why = standsStill
		f.Next = fmt.Sprintf("the log of the %s server says why it fails: it tries again every few seconds. The SQL detaches it for good", s.side)
	case current && r.Applying+r.Copying > 0:
		f.ID, f.Severity, f.SQL = "subscription.errors", preflight.Note, nil
		f.Why = "It runs now. Each failure has held the stream up."
		f.Next = fmt.Sprintf("if the number grows, the log of the %s server says why", s.side)
	case current:
		return nil
	default:
		f.ID, f.Severity = "subscription.leftover", preflight.Blocker
		f.Why = "It is not the stream that the move goes on with. Enabled, it would bring back what was changed since."
		f.Mend = e.dropSubscription(s, r, attempt)
		if f.Mend == nil {
			f.Next = "it streams: find out from where before you detach it"
		}
	}
	return &f
}

// restoredSubscription reports one that came with a dump, and goes with it.
func (e *examination) restoredSubscription(s *server, r subscriptionRow, attempt int64) *Finding {
	f := r.finding(s, Copy)
	f.ID, f.Severity = "subscription.restored", preflight.Warning
	f.Why = "It came with a dump. Enabled, it would take the place of the real one on the publisher."
	f.Mend = e.dropSubscription(s, r, attempt)
	return &f
}

// othersSubscription judges a subscription of somebody else; nil when it runs.
func (e *examination) othersSubscription(s *server, r subscriptionRow) *Finding {
	f := r.finding(s, e.whose(r.Name, r.Here))
	switch {
	case r.Enabled && !r.streams():
		f.ID, f.Severity = "subscription.not-running", preflight.Warning
		f.Why = standsStill
		f.Next = fmt.Sprintf("the log of the %s server says why. If its publisher is gone for good, detach it", s.side)
	case !r.Enabled:
		f.ID, f.Severity = "subscription.disabled", preflight.Note
		f.Why = "It receives nothing while it is disabled, and its slot on the publisher keeps WAL."
		f.Next = "if nobody needs it any more, detach it, then drop its slot on the publisher"
	default:
		return nil
	}
	if !r.Here {
		f.Next += fmt.Sprintf(" (in database %s)", quote(r.Database))
	}
	return &f
}

// originRow is a replication origin of a subscription that does not exist.
type originRow struct{ Name string }

// originsSQL finds the origins that Postgres makes for subscriptions (pg_<OID>)
// and for their table synchronization (pg_<OID>_<table>) whose subscription is
// gone. pg_stat_subscription lists all subscriptions of the cluster to every
// role.
const originsSQL = `
select o.roname::text as name
  from pg_replication_origin o
 where o.roname ~ '^pg_[0-9]+(_[0-9]+)?$'
   and not exists (select 1 from pg_stat_subscription s where s.subid::text = split_part(o.roname, '_', 2))
 order by o.roname`

func lookOrigins(ctx context.Context, s *server, _ Options) error {
	var err error
	s.origins, err = read[originRow](ctx, s.conn, "reading replication origins", originsSQL)
	return err
}

// originFindings reports origins that no subscription has. Whose they were
// cannot be told.
func (e *examination) originFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		for _, o := range s.origins {
			found = append(found, Finding{
				ID: "origin.orphan", Severity: preflight.Warning, Server: on(s.side), Object: "replication origin " + quote(o.Name), Whose: Other,
				Seen: "the subscription with that OID does not exist in this cluster",
				Why:  "Nothing removes it, and it takes one of the places that new subscriptions need (max_replication_slots).",
				SQL:  []string{fmt.Sprintf("SELECT pg_replication_origin_drop(%s)", literal(o.Name))},
			})
		}
	}
	return found
}

// publicationRow is a publication that is called like ours.
type publicationRow struct{ Name string }

const publicationsSQL = `
select pubname::text as name
  from pg_publication
 where left(pubname, 10) = 'pgcutover_'
 order by pubname`

func lookPublications(ctx context.Context, s *server, _ Options) error {
	var err error
	s.pubs, err = read[publicationRow](ctx, s.conn, "reading publications", publicationsSQL)
	return err
}

// publicationFindings judges the publications that are called like ours.
func (e *examination) publicationFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		names := make([]string, 0, len(s.pubs))
		for _, p := range s.pubs {
			names = append(names, p.Name)
			if f := e.publication(s, p.Name); f != nil {
				found = append(found, *f)
			}
		}
		if name := e.stream().Name(); e.live && s.side == e.pos.Serving() && s.slot(name) != nil && !slices.Contains(names, name) && s.unreadable["publications"] == nil {
			found = append(found, Finding{
				ID: "publication.missing", Severity: preflight.Blocker, Server: on(s.side), Object: "publication " + quote(name), Whose: This,
				Seen: "its slot stands, and the publication does not exist",
				Why:  "The stream fails at the next change, and goes on failing also when a publication of that name is made anew.",
				Next: e.without(e.stream().Attempt),
			})
		}
	}
	return found
}

// publication judges one; nil when it is as it should be.
func (e *examination) publication(s *server, name string) *Finding {
	_, ours := e.attemptOf(name)
	f := Finding{
		ID: "publication.leftover", Severity: preflight.Warning, Server: on(s.side), Object: "publication " + quote(name), Whose: This,
		Seen: "no stream of this move uses it",
		Why:  "UPDATE and DELETE fail on its tables that have no replica identity, and a dump carries it along.",
		SQL:  []string{"DROP PUBLICATION " + quote(name)}, order: orderPublication,
		Mend: func(ctx context.Context) error { return e.dropPublication(ctx, s, name) },
	}
	switch {
	case s.kind(e.name) == copied && ours:
		f.ID, f.Whose, f.Seen = "publication.restored", Copy, "it came with a dump"
	case !ours:
		f.Whose, f.Mend = Another, nil
		f.Seen = "its name is another move's"
	case e.live && name == e.stream().Name() && s.side == e.pos.Serving():
		return nil
	case slices.Contains(e.inFlux(), name):
		return nil // reported with the cutover that was interrupted
	}
	return &f
}

// streamOf is the stream of this move that an attempt made.
func (e *examination) streamOf(attempt int64) state.Stream {
	return state.Stream{Move: e.name, Attempt: attempt}
}
