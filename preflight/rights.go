package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// roleSQL reads what the tool's role may do. Providers without superuser have
// an admin role whose members may do more than Postgres itself would let them;
// what they may is found out by trying (checks replication and peer).
const roleSQL = `
select r.rolsuper as super,
       exists (select 1 from pg_roles p
                where p.rolname in ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'alloydbsuperuser')
                  and pg_has_role(p.oid, 'usage')) as provider,
       has_database_privilege(d.oid, 'create') as may_create,
       pg_has_role(d.datdba, 'usage') as owns, pg_get_userbyid(d.datdba)::text as owner,
       pg_has_role('pg_read_all_stats', 'usage') as sees_sessions,
       pg_has_role('pg_signal_backend', 'usage') as ends_sessions,
       coalesce((select bool_or(pg_has_role(p.oid, 'usage')) from pg_roles p
                  where p.rolname = 'pg_create_subscription'), false) as may_subscribe,
       (select count(*)::int from pg_stat_activity a
         where a.usename = current_user and a.datname = current_database() and a.backend_type = 'client backend'
           and coalesce(a.application_name, '') not like 'pgcutover%') as shared_sessions
  from pg_roles r, pg_database d
 where r.rolname = current_user and d.datname = current_database()`

type roleFacts struct {
	Super          bool
	Provider       bool
	MayCreate      bool
	Owns           bool
	Owner          string
	SeesSessions   bool
	EndsSessions   bool
	MaySubscribe   bool
	SharedSessions int
}

// checkRights looks at what the two roles may do with their databases; tables
// are looked at by checkOwnership. Postgres manual: 29.11, Security.
func checkRights(ctx context.Context, p *Pair) ([]Finding, error) {
	return onBoth(p, func(s *pg.Server) ([]Finding, error) {
		have, err := readOne[roleFacts](ctx, s, "reading the role's rights", roleSQL)
		if err != nil {
			return nil, err
		}
		found := sharedFindings(s, have)
		if have.Super {
			return found, nil
		}
		found = append(found, databaseRights(s, have)...)
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
			Fix:  fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", database, role),
		})
	}
	if !have.Owns {
		found = append(found, Finding{
			ID: "rights.database-owner", Severity: Blocker, Server: side, Object: "role " + role,
			Seen: "database " + database + " belongs to " + quote(have.Owner),
			Why:  "The cutover sets default_transaction_read_only on the database, which only its owner may.",
			Fix:  grantRole(s, have.Owner),
		})
	}
	return found
}

// subscriberRights are needed where a subscription is made.
func subscriberRights(s *pg.Server, have roleFacts) []Finding {
	if have.Provider {
		return nil
	}
	role, side := quote(s.User()), string(s.Side())
	var found []Finding
	if s.Major() < 16 || !have.MaySubscribe {
		seen := "not a member of pg_create_subscription"
		if s.Major() < 16 {
			seen = "not superuser"
		}
		found = append(found, Finding{
			ID: "rights.subscription", Severity: Blocker, Server: side, Object: "role " + role, Seen: seen,
			Why: "The role may not make a subscription.", Fix: subscriptionGrant(s),
		})
	}
	return found
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
			Fix:  fmt.Sprintf("GRANT pg_monitor TO %s;", role),
		})
	}
	if !have.EndsSessions {
		f := Finding{
			ID: "rights.pg_signal_backend", Severity: Warning, Server: side, Object: "role " + role,
			Seen: "not a member of pg_signal_backend",
			Why:  "Sessions that stay on the old server after the cutover read stale data until they end by themselves.",
			Fix:  fmt.Sprintf("GRANT pg_signal_backend TO %s; -- sessions of superusers can be ended by superusers only", role),
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
		Fix: "make a role of its own for the move, and put it into " + string(s.Side()) + ".url",
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
		f.Fix = fmt.Sprintf("ALTER ROLE %s REPLICATION;", role)
	case pg.IsCode(err, pg.InvalidAuthorization, pg.InvalidPassword):
		f.Fix = fmt.Sprintf("let the role in by pg_hba.conf: host %s %s <address of the tool>/32 scram-sha-256", quote(s.Database()), role)
	case pg.IsCode(err, pg.TooManyConnections):
		f.Fix = "raise max_wal_senders or max_connections (needs a restart), or end idle sessions"
	default:
		return nil, err
	}
	return []Finding{f}, nil
}
