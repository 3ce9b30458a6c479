package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/preflight"
)

// server is what one look saw on one of the two servers.
type server struct {
	side  pg.Side
	asked bool       // a URL was given
	conn  *pg.Server // nil: not asked for, or not reached
	err   error      // why it was not reached, or was lost while looking

	stranger bool // its state is of another move of the same name

	base       base
	client     readOnly
	id         *state.Identity
	move       *moveRow
	turn       *state.Turn
	decisions  decisions
	journal    []journalRow
	kept       []string // what closing the server has replaced; see package fence
	check      *check
	triggers   []triggerRow
	unfenced   unfenced
	tool       *toolRow
	slots      []slotRow
	subs       []subscriptionRow
	origins    []originRow
	pubs       []publicationRow
	roles      []roleRow
	settings   []settingRow
	events     []eventRow
	prepared   []preparedRow
	unreadable map[string]error // looks that failed, by their names
}

// reached tells whether the server was looked at.
func (s *server) reached() bool { return s != nil && s.conn != nil && s.err == nil }

// looks are made in this order: later ones use what earlier ones saw.
var looks = []struct {
	name string
	look func(context.Context, *server, Options) error
}{
	{"database", lookBase},
	{"identity", lookIdentity},
	{"read-only", lookReadOnly},
	{"state", lookState},
	{"check", lookCheck},
	{"triggers", lookTriggers},
	{"tool", lookTool},
	{"slots", lookSlots},
	{"subscriptions", lookSubscriptions},
	{"origins", lookOrigins},
	{"publications", lookPublications},
	{"roles", lookRoles},
	{"settings", lookSettings},
	{"event-triggers", lookEvents},
	{"prepared", lookPrepared},
}

// lookBound is how long all looks at one server may take: one that hangs must
// not keep the other's findings back.
const lookBound = 30 * time.Second

// errSlow is the cause when it passed.
var errSlow = errors.New("the server did not answer in time")

// look looks at one server. A look that fails, for want of rights for example,
// is remembered, and the others go on; a lost server ends it.
func look(ctx context.Context, side pg.Side, conn *pg.Server, o Options) *server {
	s := &server{side: side, asked: true, conn: conn, unreadable: map[string]error{}}
	limit, cancel := context.WithTimeoutCause(ctx, lookBound, errSlow)
	defer cancel()
	for _, l := range looks {
		err := l.look(limit, s, o)
		switch {
		case err == nil:
		case limit.Err() != nil:
			s.err = fmt.Errorf("looking at the %s server: %w", side, context.Cause(limit))
			return s
		case pg.Lost(err):
			s.err = err
			return s
		default:
			s.unreadable[l.name] = err
		}
	}
	return s
}

// base is the database and its schema pgcutover.
type base struct {
	OID           int64
	Name          string
	Connections   int // its connection limit
	Recovering    bool
	Comment       string
	Schema        bool // pgcutover exists
	SchemaComment string
	Tables        []string // in schema pgcutover
	ReadOnly      string   // the read-only default set on the database: on, off, or empty
}

// baseSQL reads the database's own row, and what is in schema pgcutover, from
// the catalogs: to_regclass fails without rights on the schema.
const baseSQL = `
select d.oid::bigint as oid, d.datname::text as name, d.datconnlimit as connections, pg_is_in_recovery() as recovering,
       coalesce(shobj_description(d.oid, 'pg_database'), '') as comment,
       n.oid is not null as schema,
       coalesce(obj_description(n.oid, 'pg_namespace'), '') as schema_comment,
       coalesce((select array_agg(c.relname::text order by c.relname)
                   from pg_class c where c.relnamespace = n.oid and c.relkind = 'r'), '{}') as tables,
       coalesce((select case when split_part(c, '=', 2)::boolean then 'on' else 'off' end
                   from pg_db_role_setting s
                  cross join lateral unnest(s.setconfig) as c
                  where s.setdatabase = d.oid and s.setrole = 0
                    and c like 'default\_transaction\_read\_only=%'), '') as read_only
  from pg_database d
  left join pg_namespace n on n.nspname = 'pgcutover'
 where d.datname = current_database()`

func lookBase(ctx context.Context, s *server, _ Options) error {
	row, err := readOne[base](ctx, s.conn, "reading the database", baseSQL)
	if err == nil && row != nil {
		s.base = *row
	}
	return err
}

func lookIdentity(ctx context.Context, s *server, _ Options) error {
	id, err := state.Identify(ctx, s.conn)
	if err == nil {
		s.id = &id
	}
	return err
}

// readOnly is what a client's session gets as default_transaction_read_only,
// and from where.
type readOnly struct {
	Setting string
	Source  string
	File    string
}

// readOnlySQL must run in a session without the tool's settings.
const readOnlySQL = `
select setting, source, coalesce(sourcefile, '') as file
  from pg_settings
 where name = 'default_transaction_read_only'`

func lookReadOnly(ctx context.Context, s *server, _ Options) error {
	conn, err := s.conn.ConnectAsClient(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	if err := conn.QueryRow(ctx, readOnlySQL).Scan(&s.client.Setting, &s.client.Source, &s.client.File); err != nil {
		return fmt.Errorf("asking the %s server for its read-only default: %w", s.side, err)
	}
	return nil
}

// reachable reports servers that could not be asked, and looks that failed.
func (e *examination) reachable() []Finding {
	var found []Finding
	for _, s := range e.both() {
		if s.asked && !s.reached() {
			f := Finding{
				ID: "server.unreachable", Severity: preflight.Blocker, Server: on(s.side), Object: "server", Whose: This,
				Seen: s.err.Error(), Next: hint.Of(s.err),
				Why: "Nobody knows what is stuck there, nor whether a tool is at work there: what is found on the other server is half of the picture, and --fix leaves the move alone.",
			}
			if f.Next == "" {
				f.Next = fmt.Sprintf("make it reachable from here, or look at the other one alone: pgcutover doctor --%s URL", s.side.Other())
			}
			found = append(found, f)
		}
		for _, l := range looks {
			err := s.unreadable[l.name]
			if err == nil {
				continue
			}
			f := Finding{
				ID: "server.could-not-look", Severity: preflight.Warning, Server: on(s.side), Object: l.name, Whose: This,
				Seen: err.Error(), Next: hint.Of(err),
				Why: "This kind of thing was not looked at, so nothing is known of it, and --fix leaves the move alone.",
			}
			if pg.IsCode(err, pg.InsufficientPrivilege) && f.Next == "" {
				f.Next = "run doctor as the role that the move uses, or as a superuser"
			}
			found = append(found, f)
		}
	}
	return found
}

// settingsFindings reports what keeps clients out whether or not a move is
// there.
func (e *examination) settingsFindings() []Finding {
	var found []Finding
	for _, s := range e.reachedOnes() {
		if s.client.Setting == "on" && s.client.Source != "database" && s.client.Source != "user" && s.client.Source != "database user" {
			from := s.client.Source
			if s.client.File != "" {
				from += " " + s.client.File
			}
			found = append(found, Finding{
				ID: "read-only.server", Severity: e.readOnlySeverity(s), Server: on(s.side), Object: "default_transaction_read_only", Whose: Other,
				Seen: "on for the whole server, from its " + from,
				Why:  "Every session is read-only unless it says otherwise. pgcutover never sets it there.",
				SQL:  []string{"ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"},
				Next: "if it stands in postgresql.conf itself, take it out there and reload",
			})
		}
		if s.base.Connections == 0 {
			found = append(found, Finding{
				ID: "database.connection-limit", Severity: preflight.Warning, Server: on(s.side), Object: "database " + quote(s.base.Name), Whose: Other,
				Seen: "its connection limit is 0", Why: "Nobody but superusers can connect.",
				SQL: []string{fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT -1", quote(s.base.Name))},
			})
		}
		if s.base.Recovering {
			found = append(found, Finding{
				ID: "server.standby", Severity: preflight.Blocker, Server: on(s.side), Object: "server", Whose: Other,
				Seen: "it is in recovery: a standby", Why: "It takes no writes at all, and a move cannot go on with it.",
				Next: fmt.Sprintf("correct %s.url: it must name the primary", s.side),
			})
		}
	}
	return found
}
