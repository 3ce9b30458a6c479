package preflight

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// timeoutsSQL reads the timeouts of a session of role $1 in this database: what
// was set on the role here, on the role, or else on the database, on all roles,
// or in the file, in milliseconds. It runs in a session without settings of its
// own, of a role that may be another one.
const timeoutsSQL = `
select s.name::text as name,
       coalesce(o.value, case when s.source in ('user', 'database user') and current_user <> $1 then '0' else s.setting end) as setting,
       coalesce(d.value, '') as database
  from pg_settings s
  left join lateral (
    select substr(c.pair, strpos(c.pair, '=') + 1) as value
      from pg_db_role_setting r
     cross join lateral unnest(r.setconfig) as c(pair)
     where r.setrole = (select oid from pg_roles where rolname = $1)
       and r.setdatabase in (0, (select oid from pg_database where datname = current_database()))
       and lower(split_part(c.pair, '=', 1)) = s.name and current_user <> $1
     order by r.setdatabase desc
     limit 1
  ) o on true
  left join lateral (
    select substr(c.pair, strpos(c.pair, '=') + 1) as value
      from pg_db_role_setting r
     cross join lateral unnest(r.setconfig) as c(pair)
     where r.setrole = 0
       and r.setdatabase = (select oid from pg_database where datname = current_database())
       and lower(split_part(c.pair, '=', 1)) = s.name
     limit 1
  ) d on true
 where s.name in ('statement_timeout', 'lock_timeout', 'transaction_timeout')
 order by s.name`

type timeoutRow struct {
	Name     string
	Setting  string // of the session; a number of milliseconds unless set on another role with a unit
	Database string // of the database alone, as it was written; empty for none
}

// set tells whether the timeout is on: 0, with any unit, is off.
func (r timeoutRow) set() bool {
	return strings.Trim(r.Setting, "0 abcdefghijklmnopqrstuvwxyz") != ""
}

// readTimeouts returns the timeouts that a session of role would have.
func readTimeouts(ctx context.Context, s *pg.Server, role string) (map[string]timeoutRow, error) {
	conn, err := s.ConnectAsClient(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, conn)
	rows, err := conn.Query(ctx, timeoutsSQL, role)
	if err != nil {
		return nil, fmt.Errorf("reading timeouts on the %s server: %w", s.Side(), s.Redacted(err))
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[timeoutRow])
	if err != nil {
		return nil, fmt.Errorf("reading timeouts on the %s server: %w", s.Side(), s.Redacted(err))
	}
	out := map[string]timeoutRow{}
	for _, r := range found {
		out[r.Name] = r
	}
	return out, nil
}

// checkTimeouts looks for timeouts that end what replication does. The copy of a
// table is one statement of a walsender, and statement_timeout of the publisher
// ends it (measured, 10 to 17), so does transaction_timeout (17); they are taken
// from the role that the subscription connects as. Apply workers are ended by
// lock_timeout of the subscriber from 16 on and by transaction_timeout (17 and
// 18), never by statement_timeout (measured, 12 to 18).
func checkTimeouts(ctx context.Context, p *Pair) ([]Finding, error) {
	found, err := copyTimeouts(ctx, p.Old)
	if err != nil {
		return nil, err
	}
	apply, err := applyTimeouts(ctx, p.New)
	if err != nil || !p.Settings.Rollback {
		return append(found, apply...), err
	}
	back, err := applyTimeouts(ctx, p.Old)
	return append(append(found, apply...), back...), err
}

func copyTimeouts(ctx context.Context, s *pg.Server) ([]Finding, error) {
	conninfo, err := s.Peer()
	if err != nil {
		return nil, err
	}
	role := peerOf(conninfo).User
	have, err := readTimeouts(ctx, s, role)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, name := range []string{"statement_timeout", "transaction_timeout"} {
		r, ok := have[name]
		if !ok || !r.set() {
			continue
		}
		found = append(found, Finding{
			ID: "timeouts.copy", Severity: Warning, Server: string(s.Side()), Object: name,
			Seen: fmt.Sprintf("%s is %s for role %s, as which the subscription connects", name, milliseconds(r.Setting), quote(role)),
			Why:  "The copy of a table is one statement: one that takes longer is ended, and begins anew every few seconds without ever coming to an end.",
		}.mended(fmt.Sprintf("ALTER ROLE %s IN DATABASE %s SET %s = 0;", quote(role), quote(s.Database()), name)))
	}
	return found, nil
}

func applyTimeouts(ctx context.Context, s *pg.Server) ([]Finding, error) {
	// A superuser gives the subscription an owner of its own; others own it.
	super, err := readOne[superFacts](ctx, s, "reading the role's rights", superSQL)
	if err != nil {
		return nil, err
	}
	owner := streamName(s.Move())
	if !super.Super {
		owner = s.User()
	}
	have, err := readTimeouts(ctx, s, owner)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, name := range []string{"lock_timeout", "transaction_timeout"} {
		r, ok := have[name]
		if !ok || !r.set() || (name == "lock_timeout" && s.Major() < 16) {
			continue
		}
		f := Finding{
			ID: "timeouts.apply", Severity: Warning, Server: string(s.Side()), Object: name,
			Seen: fmt.Sprintf("%s is %s in database %s", name, milliseconds(r.Setting), quote(s.Database())),
			Why:  "Apply workers keep to it: one that waits for a lock, or applies a large transaction, for longer is ended and begins anew every few seconds.",
		}.mended(databaseSetting(s, name, "0"))
		f.Undo = fmt.Sprintf("ALTER DATABASE %s RESET %s;", quote(s.Database()), name)
		if r.Database != "" {
			f.Undo = databaseSetting(s, name, literal(r.Database))
		}
		found = append(found, f)
	}
	return found, nil
}

// milliseconds writes a setting of the catalog for people; one with a unit stays.
func milliseconds(setting string) string {
	if _, err := strconv.ParseInt(setting, 10, 64); err == nil {
		return setting + " ms"
	}
	return setting
}
