package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/provider"
)

// roleSQL reads what the tool's role may do, and what shows who runs the server.
// Providers without superuser have an admin role ($1) whose members may do more
// than Postgres itself would let them; what they may is found out by trying
// (checks replication and peer). $2 are roles that tell the provider.
const roleSQL = `
select r.rolsuper as super,
       exists (select 1 from pg_roles p where p.rolname = any ($1::text[]) and pg_has_role(p.oid, 'usage')) as provider,
       has_database_privilege(d.oid, 'create') as may_create,
       pg_has_role(d.datdba, 'usage') as owns, o.rolname::text as owner, o.rolsuper as owner_super,
       pg_has_role('pg_read_all_stats', 'usage') as sees_sessions,
       pg_has_role('pg_signal_backend', 'usage') as ends_sessions,
       coalesce((select bool_or(pg_has_role(p.oid, 'usage')) from pg_roles p
                  where p.rolname = 'pg_create_subscription'), false) as may_subscribe,
       has_schema_privilege((select n.oid from pg_namespace n where n.nspname = 'public'), 'create') as public,
       (select count(*)::int from pg_stat_activity a
         where a.usename = current_user and a.datname = current_database() and a.backend_type = 'client backend'
           and coalesce(a.application_name, '') not like 'pgcutover%') as shared_sessions,
       array(select p.rolname::text from pg_roles p where p.rolname = any ($2::text[])) as signs,
       to_regproc('pg_catalog.aurora_version') is not null as aurora,
       array(select distinct split_part(s.name, '.', 1) from pg_settings s
              where s.name ~ '^(rds|cloudsql|azure|neon|supautils)[.]') as settings
  from pg_roles r, pg_database d
  join pg_roles o on o.oid = d.datdba
 where r.rolname = current_user and d.datname = current_database()`

type roleFacts struct {
	Super          bool
	Provider       bool
	MayCreate      bool
	Owns           bool
	Owner          string
	OwnerSuper     bool
	SeesSessions   bool
	EndsSessions   bool
	MaySubscribe   bool
	Public         *bool // may create in schema public; nil: there is none
	SharedSessions int
	Signs          []string
	Aurora         bool
	Settings       []string
}

// traits are those of whoever runs the server.
func (r roleFacts) traits() provider.Traits {
	return provider.Detect(provider.Signs{Roles: r.Signs, Aurora: r.Aurora, Settings: r.Settings}).Traits()
}

func readRole(ctx context.Context, s *pg.Server) (roleFacts, error) {
	return readOne[roleFacts](ctx, s, "reading the role's rights", roleSQL, provider.AdminRoles(), provider.SignRoles())
}

// checkRights looks at what the two roles may do with their databases; tables
// are looked at by checkOwnership. Postgres manual: 29.11, Security.
func checkRights(ctx context.Context, p *Pair) ([]Finding, error) {
	return onBoth(p, func(s *pg.Server) ([]Finding, error) {
		have, err := readRole(ctx, s)
		if err != nil {
			return nil, err
		}
		found := sharedFindings(s, have)
		if have.Super {
			return found, nil
		}
		found = append(found, databaseRights(s, have)...)
		public, err := publicSchema(ctx, p, s, have)
		if err != nil {
			return nil, err
		}
		found = append(found, public...)
		if s.Side() == pg.New || p.Settings.Rollback {
			found = append(found, subscriberRights(s, have)...)
		}
		if s.Side() == pg.Old || p.Settings.Rollback {
			found = append(found, sessionRights(s, have, p.Settings.TerminateBlockers)...)
		}
		return found, nil
	})
}

// databaseRights are needed on both servers: a schema of ours, and the setting
// of default_transaction_read_only, which only the owner may change.
func databaseRights(s *pg.Server, have roleFacts) []Finding {
	role, database, side := quote(s.User()), quote(s.Database()), string(s.Side())
	var found []Finding
	if !have.MayCreate {
		found = append(found, Finding{
			ID: "rights.create", Severity: Blocker, Server: side, Object: "role " + role,
			Seen: "no CREATE on database " + database,
			Why:  "The move makes a schema of its own, on old a publication too.",
			Fix:  fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", database, role), FixKind: FixSQL,
		})
	}
	if !have.Owns {
		found = append(found, Finding{
			ID: "rights.database-owner", Severity: Blocker, Server: side, Object: "role " + role,
			Seen: "database " + database + " belongs to " + quote(have.Owner),
			Why:  "The cutover sets default_transaction_read_only on the database, which only its owner may.",
			Fix:  ownDatabase(s, have), FixKind: FixSQL,
		})
	}
	return found
}

// ownDatabase gives the tool's role the rights of the database's owner: by
// membership, but for a superuser, of whom a member could become superuser, and a
// provider's own role.
func ownDatabase(s *pg.Server, have roleFacts) string {
	if !unlendable(have.Owner, have.OwnerSuper) {
		return grantRole(s, have.Owner)
	}
	return databaseOwner(s, s.User()) + " -- and back when the move is over: " + databaseOwner(s, have.Owner)
}

// subscriberRights are needed where a subscription is made.
func subscriberRights(s *pg.Server, have roleFacts) []Finding {
	if have.Provider || s.Major() >= 16 && have.MaySubscribe {
		return nil
	}
	seen := "not a member of pg_create_subscription"
	if s.Major() < 16 {
		seen = "not superuser"
	}
	f := Finding{
		ID: "rights.subscription", Severity: Blocker, Server: string(s.Side()), Object: "role " + quote(s.User()), Seen: seen,
		Why: "The role may not make a subscription.",
	}
	if s.Side() == pg.Old {
		f.Why = "The role may not make a subscription, which the way back needs; a move without a way back (rollback.keep: false) does without."
	}
	f.Fix, f.FixKind = subscribeFix(s, have.traits())
	return []Finding{f}
}

// subscribeFix is what lets the tool's role make subscriptions.
func subscribeFix(s *pg.Server, t provider.Traits) (string, FixKind) {
	switch {
	case t.NoSubscriptions && s.Side() == pg.Old:
		return fmt.Sprintf("set rollback.keep: false: %s documents CREATE SUBSCRIPTION as not supported (%s)", t.Name, t.Pages[0]), FixAction
	case t.NoSubscriptions:
		return fmt.Sprintf("move to another service: %s documents CREATE SUBSCRIPTION as not supported (%s)", t.Name, t.Pages[0]), FixAction
	case s.Major() < 16 && t.AdminSubscribes:
		return fmt.Sprintf("GRANT %s TO %s; -- %s lets its members make subscriptions, which before 16 is a superuser's right", quote(t.Admin), quote(s.User()), t.Name), FixSQL
	}
	return subscriptionGrant(s), FixSQL
}

// sessionRights are needed to see and to end the sessions of clients.
func sessionRights(s *pg.Server, have roleFacts, terminate bool) []Finding {
	role, side := quote(s.User()), string(s.Side())
	var found []Finding
	if !have.SeesSessions {
		found = append(found, Finding{
			ID: "rights.pg_monitor", Severity: Warning, Server: side, Object: "role " + role,
			Seen: "not a member of pg_monitor",
			Why:  "Sessions, transactions and replication positions of other roles stay hidden, also from these checks.",
			Fix:  fmt.Sprintf("GRANT pg_monitor TO %s;", role), FixKind: FixSQL,
		})
	}
	if !have.EndsSessions {
		f := Finding{
			ID: "rights.pg_signal_backend", Severity: Warning, Server: side, Object: "role " + role,
			Seen: "not a member of pg_signal_backend",
			Why:  "Sessions that stay on the old server after the cutover read stale data until they end by themselves.",
			Fix:  fmt.Sprintf("GRANT pg_signal_backend TO %s; -- sessions of superusers can be ended by superusers only", role), FixKind: FixSQL,
		}
		if terminate {
			f.Severity = Blocker
			f.Why = "cutover.terminate_blockers_after is set, and the role may not end the sessions of others."
		}
		found = append(found, f)
	}
	return found
}

// sharedFindings names a role that the application uses too.
func sharedFindings(s *pg.Server, have roleFacts) []Finding {
	if have.SharedSessions == 0 {
		return nil
	}
	return []Finding{{
		ID: "rights.shared-role", Severity: Note, Server: string(s.Side()), Object: "role " + quote(s.User()),
		Seen: fmt.Sprintf("%d other sessions are of this role", have.SharedSessions),
		Why: "Rights given to the tool are given to whoever shares its role; and where the role is not superuser it owns the subscription, " +
			"so that its sessions are exempt from the read-only default of the database.",
		Fix: "make a role of its own for the move, and put it into " + string(s.Side()) + ".url; its rights: pgcutover check --grants=" + string(s.Side()), FixKind: FixAction,
	}}
}

// grantRole makes the tool's role a member of another one, with its rights.
// Postgres manual: GRANT on Roles (INHERIT and SET options since 16).
func grantRole(s *pg.Server, of string) string {
	if s.Major() < 16 {
		return fmt.Sprintf("GRANT %s TO %s;", quote(of), quote(s.User()))
	}
	return fmt.Sprintf("GRANT %s TO %s WITH INHERIT TRUE, SET TRUE;", quote(of), quote(s.User()))
}

// checkReplication opens the connection over which slot and snapshot are made,
// on the old server and, when a reverse stream is wanted, on the new one:
// whether the role may is easier tried than read (REPLICATION, pg_hba.conf, a
// provider's own grant, a free walsender).
func checkReplication(ctx context.Context, p *Pair) ([]Finding, error) {
	found, err := replicationFindings(ctx, p.Old)
	if err != nil || !p.Settings.Rollback {
		return found, err
	}
	reverse, err := replicationFindings(ctx, p.New)
	return append(found, reverse...), err
}

func replicationFindings(ctx context.Context, s *pg.Server) ([]Finding, error) {
	conn, err := s.Replication(ctx)
	if err == nil {
		_, err = pglogrepl.IdentifySystem(ctx, conn)
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		//nolint:errcheck // nothing was changed through it
		conn.Close(end)
	}
	if err == nil {
		return nil, nil
	}
	role := quote(s.User())
	f := Finding{
		ID: "rights.replication", Severity: Blocker, Server: string(s.Side()), Object: "role " + role,
		Seen: s.Redacted(err).Error(),
		Why:  "Slots are made over a replication connection.",
	}
	switch {
	case pg.IsCode(err, pg.InsufficientPrivilege):
		have, err := readRole(ctx, s)
		if err != nil {
			return nil, err
		}
		f.Fix, f.FixKind = replicationGrant(role, have.traits()), FixSQL
	case pg.IsCode(err, pg.InvalidAuthorization, pg.InvalidPassword):
		f.Fix = fmt.Sprintf("let the role in by pg_hba.conf: host %s %s <address of the tool>/32 scram-sha-256", quote(s.Database()), role)
		f.FixKind = FixAction
	case pg.IsCode(err, pg.TooManyConnections):
		f.Fix, f.FixKind = "raise max_wal_senders or max_connections (needs a restart), or end idle sessions", FixAction
	default:
		return nil, err
	}
	return []Finding{f}, nil
}

// replicationGrant lets a role open replication connections. Providers that keep
// the attribute for themselves have a role for it.
func replicationGrant(role string, t provider.Traits) string {
	if t.ReplicationRole != "" {
		return fmt.Sprintf("GRANT %s TO %s;", quote(t.ReplicationRole), role)
	}
	return fmt.Sprintf("ALTER ROLE %s REPLICATION;", role)
}
