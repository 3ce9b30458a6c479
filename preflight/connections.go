package preflight

import (
	"context"
	"fmt"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// sessionsPerDatabase is how many sessions the tool may have open at a time in
// each database that moves: its pool, and those that copy, build and watch.
const sessionsPerDatabase = 12

// connectionsSQL reads how many sessions the server takes and has. The role's
// and the database's own limits do not bind superusers.
const connectionsSQL = `
select current_setting('max_connections')::int as max,
       current_setting('superuser_reserved_connections')::int
         + coalesce(current_setting('reserved_connections', true), '0')::int as reserved,
       (select coalesce(sum(numbackends), 0)::int from pg_stat_database) as used,
       (select numbackends from pg_stat_database where datname = current_database()) as here,
       (select count(*)::int from pg_stat_activity where application_name like 'pgcutover/%') as own,
       (select count(*)::int from pg_stat_activity
         where application_name like 'pgcutover/%' and datname = current_database()) as own_here,
       (select count(*)::int from pg_stat_activity where usename = current_user) as role_used,
       r.rolconnlimit as role_limit, d.datconnlimit as database_limit, r.rolsuper as superuser
  from pg_roles r, pg_database d
 where r.rolname = current_user and d.datname = current_database()`

type connectionFacts struct {
	Max, Reserved, Used, Here, Own, OwnHere int
	RoleUsed, RoleLimit, DatabaseLimit      int
	Superuser                               bool
}

// free is how many more sessions ordinary roles may open.
func (c connectionFacts) free() int { return c.Max - c.Reserved - (c.Used - c.Own) }

// checkConnections looks for room for the tool's sessions on both servers, and
// on the new one for the clients that are to come.
func checkConnections(ctx context.Context, p *Pair) ([]Finding, error) {
	older, err := readOne[connectionFacts](ctx, p.Old, "counting sessions", connectionsSQL)
	if err != nil {
		return nil, err
	}
	newer, err := readOne[connectionFacts](ctx, p.New, "counting sessions", connectionsSQL)
	if err != nil {
		return nil, err
	}
	need := sessionsPerDatabase * p.Settings.databases()
	found := append(roomFindings(p.Old, older, need), roomFindings(p.New, newer, need)...)
	return append(found, fewerFindings(older, newer)...), nil
}

func roomFindings(s *pg.Server, have connectionFacts, need int) []Finding {
	var found []Finding
	if have.free() < need {
		found = append(found, Finding{
			ID: "connections.room", Severity: Warning, Server: string(s.Side()), Object: "max_connections",
			Seen: fmt.Sprintf("%d connections are free (max_connections %d, %d reserved, %d in use), the tool may use %d",
				max(have.free(), 0), have.Max, have.Reserved, have.Used-have.Own, need),
			Why: "A connection that is refused stops the move where it stands, and clients may be refused because of the tool.",
		}.setTo("max_connections", have.Max+need-have.free(), true))
	}
	if have.Superuser {
		return found
	}
	if have.RoleLimit >= 0 && have.RoleLimit-(have.RoleUsed-have.Own) < need {
		f := Finding{
			ID: "connections.limit", Severity: Warning, Server: string(s.Side()), Object: "role " + quote(s.User()),
			Seen: fmt.Sprintf("CONNECTION LIMIT %d, %d in use, the tool may use %d", have.RoleLimit, max(have.RoleUsed-have.Own, 0), need),
			Why:  "A connection that is refused stops the move where it stands.",
		}.mended(fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT -1;", quote(s.User())))
		f.Undo = fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d;", quote(s.User()), have.RoleLimit)
		found = append(found, f)
	}
	if have.DatabaseLimit >= 0 && have.DatabaseLimit-(have.Here-have.OwnHere) < sessionsPerDatabase {
		f := Finding{
			ID: "connections.limit", Severity: Warning, Server: string(s.Side()), Object: "database " + quote(s.Database()),
			Seen: fmt.Sprintf("CONNECTION LIMIT %d, %d in use, the tool may use %d", have.DatabaseLimit, have.Here-have.OwnHere, sessionsPerDatabase),
			Why:  "A connection that is refused stops the move where it stands; clients may be refused because of the tool.",
		}.mended(fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT -1;", quote(s.Database())))
		f.Undo = fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT %d;", quote(s.Database()), have.DatabaseLimit)
		found = append(found, f)
	}
	return found
}

// fewerFindings compares what the new server takes with what old has and takes.
func fewerFindings(older, newer connectionFacts) []Finding {
	clients := older.Here - older.OwnHere
	if newer.Max >= older.Max && newer.free() >= clients {
		return nil
	}
	f := Finding{
		ID: "connections.fewer", Severity: Note, Server: string(pg.New), Object: "max_connections",
		Seen: fmt.Sprintf("max_connections is %d on new with %d free, %d on old; sessions in the old database now: %d", newer.Max, newer.free(), older.Max, clients),
		Why:  "Clients that found room on old may be refused by new when there are more of them than now.",
	}
	if newer.free() < clients {
		f.Severity = Warning
		f.Why = "The clients that are connected to old now do not all find room on new: some are refused after the cutover."
	}
	return []Finding{f.setTo("max_connections", max(older.Max, newer.Max+clients-newer.free()), true)}
}
