package preflight

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// checkPeer has the new server connect to the old one, with the very connection
// string that its subscription will use, and, when a reverse stream is wanted,
// the old one to the new one.
func checkPeer(ctx context.Context, p *Pair) ([]Finding, error) {
	found, err := reach(ctx, p.New, p.Old, p.Settings.peerTimeout())
	if err != nil || !p.Settings.Rollback {
		return found, err
	}
	reverse, err := reach(ctx, p.Old, p.New, p.Settings.peerTimeout())
	return append(found, reverse...), err
}

// reach reports why a subscription on from could not read from to.
func reach(ctx context.Context, from, to *pg.Server, bound time.Duration) ([]Finding, error) {
	conninfo, err := to.Peer()
	if err != nil {
		return nil, err
	}
	conn, err := from.Connect(ctx, "check", map[string]string{
		"statement_timeout": fmt.Sprint(bound.Milliseconds()),
	})
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, conn)
	may, err := maySubscribe(ctx, conn, from)
	if err != nil {
		return nil, err
	}
	if !may {
		return rightsFinding(ctx, from, to)
	}
	name := probeName()
	logged, err := probe(ctx, conn, name, conninfo)
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return append(logged.findings(from), peerFinding(refused, from, to, conninfo, bound)), nil
	}
	if err != nil {
		return nil, fmt.Errorf("having the %s server connect to the %s one: %w", from.Side(), to.Side(), to.Redacted(from.Redacted(err)))
	}
	elsewhere, err := arrival(ctx, conn, from, to, name, conninfo, min(bound, arrivalBound))
	return append(logged.findings(from), elsewhere...), err
}

// maySubscribeSQL tells whether the role may make a subscription in this
// database. Members of a provider's admin role may where Postgres would say no.
const maySubscribeSQL = `
select r.rolsuper
       or exists (select 1 from pg_roles p
                   where p.rolname in ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin', 'neon_superuser', 'alloydbsuperuser')
                     and pg_has_role(p.oid, 'usage'))
       or has_database_privilege(current_database(), 'create')
          and exists (select 1 from pg_roles p
                       where p.rolname = 'pg_create_subscription' and pg_has_role(p.oid, 'usage'))
  from pg_roles r
 where r.rolname = current_user`

// maySubscribe is asked before the probe: a statement that fails may be logged,
// and the probe's holds a password.
func maySubscribe(ctx context.Context, conn *pgx.Conn, from *pg.Server) (bool, error) {
	var may bool
	if err := conn.QueryRow(ctx, maySubscribeSQL).Scan(&may); err != nil {
		return false, fmt.Errorf("reading the role's rights on the %s server: %w", from.Side(), err)
	}
	return may, nil
}

func rightsFinding(ctx context.Context, from, to *pg.Server) ([]Finding, error) {
	have, err := readRole(ctx, from)
	if err != nil {
		return nil, err
	}
	f := Finding{
		ID: "peer.rights", Severity: Blocker, Server: string(from.Side()), Object: reached(from, to),
		Seen: "not tried: role " + quote(from.User()) + " may not make a subscription",
		Why:  "Whether the one server reaches the other is found out by a subscription, rolled back.",
	}
	f.Fix, f.FixKind = subscribeFix(from, have.traits())
	return []Finding{f}, nil
}

// reached names the way from one server to the other.
func reached(from, to *pg.Server) string {
	return fmt.Sprintf("connection from the %s server to the %s one", from.Side(), to.Side())
}

// probeName is a name that no subscription or publication has.
func probeName() string { return "pgcutover_check_" + rand.Text()[:12] }

// probe runs a CREATE SUBSCRIPTION that connects to the publisher as the apply
// worker will (the replication protocol, the same role, password and TLS), and
// rolls it back. It makes no slot (create_slot = false, which is what allows it
// in a transaction) and needs no publication: the server looks for it, and at
// most warns. Nothing is left on either side, on 10 to 18 (measured).
func probe(ctx context.Context, conn *pgx.Conn, name, conninfo string) (statementLog, error) {
	// Before the transaction begins: whether its statements are sampled for the
	// log is decided then.
	logged, err := quiet(ctx, conn)
	if err != nil {
		return logged, err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return logged, err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		//nolint:errcheck // a session that cannot roll back is closed, which rolls back
		tx.Rollback(end)
	}()
	_, err = tx.Exec(ctx, fmt.Sprintf(
		"create subscription %s connection %s publication %s with (connect = true, enabled = false, create_slot = false, slot_name = none, copy_data = false)",
		quote(name), literal(conninfo), quote(name)), pgx.QueryExecModeSimpleProtocol)
	return logged, err
}

// statementLog says which statements the server still writes into its log, with
// the password that is in them.
type statementLog struct {
	All    bool // every CREATE SUBSCRIPTION
	Failed bool // those that fail
	Seen   string
}

func (l statementLog) findings(s *pg.Server) []Finding {
	f := Finding{
		ID: "peer.statement-log", Severity: Warning, Server: string(s.Side()), Object: "log_statement", Seen: l.Seen,
		Why: "CREATE SUBSCRIPTION and its password are written to the server's log; the role may not turn that off for itself.",
	}.mended(fmt.Sprintf("GRANT SET ON PARAMETER log_statement, log_min_duration_statement, log_min_error_statement TO %s;",
		quote(s.User())))
	if s.Major() < 15 {
		f = f.told("before 15 only superusers may turn it off: " + setting("log_statement", "none", false))
	}
	switch {
	case l.All:
		return []Finding{f}
	case l.Failed:
		f.Severity, f.Object = Note, "log_min_error_statement"
		f.Why = "A CREATE SUBSCRIPTION that fails is written to the server's log, with its password; the role may not turn that off for itself."
		return []Finding{f}
	}
	return nil
}

// quietSQL keeps the statements of this session out of the server's log and
// out of pg_stat_statements, as far as the role may: a superuser may, and (15
// and later) a role with GRANT SET ON PARAMETER. log_min_messages keeps the
// warning out that there is no such publication.
const quietSQL = `
do $$
declare
  p record;
begin
  for p in select name, case when name in ('log_statement', 'pg_stat_statements.track') then 'none'
                             when name = 'log_min_error_statement' then 'panic'
                             when name = 'log_min_messages' then 'error'
                             when name = 'log_transaction_sample_rate' then '0'
                             else '-1' end as value
             from pg_settings
            where name in ('log_statement', 'log_min_duration_statement', 'log_min_duration_sample',
                           'log_transaction_sample_rate', 'log_min_error_statement', 'log_min_messages', 'pg_stat_statements.track') loop
    begin
      perform set_config(p.name, p.value, false);
    exception when insufficient_privilege then
      null;
    end;
  end loop;
end
$$`

// logSettingsSQL tells what the log gets all the same.
const logSettingsSQL = `
select current_setting('log_statement') in ('ddl', 'all') or current_setting('log_min_duration_statement') <> '-1' as all,
       current_setting('log_min_error_statement') not in ('fatal', 'panic') as failed,
       format('log_statement is %s, log_min_duration_statement is %s, log_min_error_statement is %s',
              current_setting('log_statement'), current_setting('log_min_duration_statement'),
              current_setting('log_min_error_statement')) as seen`

// quiet does what the role may do to keep the password out of the log.
func quiet(ctx context.Context, conn *pgx.Conn) (statementLog, error) {
	if _, err := conn.Exec(ctx, quietSQL, pgx.QueryExecModeSimpleProtocol); err != nil {
		return statementLog{}, err
	}
	rows, err := conn.Query(ctx, logSettingsSQL)
	if err != nil {
		return statementLog{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[statementLog])
}

// arrivalSQL looks, in the publishing database, for the walsender of a probe: it
// is there for some milliseconds. It gives up after so many milliseconds, though
// not before 200 looks, which a busy server may need longer for. Each look renews
// the snapshot of the statistics.
const arrivalSQL = `
do $$
declare
  looks int := 0;
  until timestamptz := clock_timestamp() + interval '%d milliseconds';
begin
  while looks < 200 or clock_timestamp() < until loop
    looks := looks + 1;
    perform pg_stat_clear_snapshot();
    if exists (select 1 from pg_stat_activity
                where application_name = %s and datname = current_database()) then
      perform set_config('pgcutover.arrived', 'yes', false);
      return;
    end if;
    perform pg_sleep(0.0005);
  end loop;
end
$$`

// arrivalBound is how long the publisher is watched for probes, of which there
// are some twenty a second.
const arrivalBound = 2 * time.Second

const arrivedSQL = `select coalesce(current_setting('pgcutover.arrived', true), '') = 'yes'`

// arrival proves that the connection string leads to the server that is meant,
// and not to another one (localhost means the new server there; an address may
// belong to a different cluster): it watches the publisher for the probe's
// session, which carries the subscription's name.
func arrival(ctx context.Context, conn *pgx.Conn, from, to *pg.Server, name, conninfo string, bound time.Duration) ([]Finding, error) {
	watcher, err := to.Connect(ctx, "check", nil)
	if err != nil {
		return nil, err
	}
	defer pg.Close(ctx, watcher)
	visible, err := sessionsVisible(ctx, watcher, to, conninfo)
	if err != nil || !visible {
		return nil, err // rights.pg_monitor says that sessions of others cannot be seen
	}
	watched := make(chan error, 1)
	go func() {
		_, err := watcher.Exec(ctx, fmt.Sprintf(arrivalSQL, bound.Milliseconds(), literal(name)), pgx.QueryExecModeSimpleProtocol)
		watched <- err
	}()
	if err := probeUntil(ctx, conn, name, conninfo, watched); err != nil {
		return nil, fmt.Errorf("having the %s server connect to the %s one: %w", from.Side(), to.Side(), to.Redacted(from.Redacted(err)))
	}
	var arrived bool
	if err := watcher.QueryRow(ctx, arrivedSQL).Scan(&arrived); err != nil {
		return nil, fmt.Errorf("watching sessions on the %s server: %w", to.Side(), err)
	}
	if arrived {
		return nil, nil
	}
	return []Finding{Finding{
		ID: "peer.elsewhere", Severity: Blocker, Server: string(from.Side()), Object: peerSetting(to),
		Seen: fmt.Sprintf("from the %s server it connects, but no session arrives in %s", from.Side(), to.Address()),
		Why:  "The connection string of the subscription leads to another server or database than the tool's own.",
	}.told(fmt.Sprintf("set %s to the address by which the %s server reaches the %s one", peerSetting(to), from.Side(), to.Side()))}, nil
}

// probeUntil repeats the probe until the watcher is done, and waits for it.
func probeUntil(ctx context.Context, conn *pgx.Conn, name, conninfo string, watched <-chan error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := probe(ctx, conn, name, conninfo); err != nil {
			return errors.Join(err, <-watched)
		}
		select {
		case err := <-watched:
			return err
		case <-tick.C:
		}
	}
}

// visibleSQL tells whether this session sees the names of sessions of role $1.
const visibleSQL = `
select coalesce(bool_or(pg_has_role(r.oid, 'usage')), false) or pg_has_role('pg_read_all_stats', 'usage')
  from pg_roles r
 where r.rolname = $1`

func sessionsVisible(ctx context.Context, watcher *pgx.Conn, to *pg.Server, conninfo string) (bool, error) {
	var visible bool
	if err := watcher.QueryRow(ctx, visibleSQL, peerOf(conninfo).User).Scan(&visible); err != nil {
		return false, fmt.Errorf("asking what the role sees on the %s server: %w", to.Side(), err)
	}
	return visible, nil
}

func peerSetting(s *pg.Server) string { return string(s.Side()) + ".peer_url" }

// peerFinding turns the answer of from into a finding with advice.
func peerFinding(e *pgconn.PgError, from, to *pg.Server, conninfo string, bound time.Duration) Finding {
	message := e.Message
	if e.Detail != "" {
		message += " (" + e.Detail + ")"
	}
	seen := to.Redacted(errors.New(message))
	f := Finding{
		ID: "peer.failed", Severity: Blocker, Server: string(from.Side()),
		Object: reached(from, to),
		Seen:   pg.Redact(seen, conninfo).Error(),
		Why:    fmt.Sprintf("The subscription on the %s server reads from the %s server by %s.", from.Side(), to.Side(), peerSetting(to)),
	}.told(fmt.Sprintf("correct %s", peerSetting(to)))
	if e.Code == pg.QueryCanceled {
		f.Seen = fmt.Sprintf("no connection within %s", bound)
	}
	if advice, ok := adviseOn(e, from, to, conninfo); ok {
		f.ID, f.Fix = advice.id, advice.fix
		if advice.sqlOn != "" {
			f.FixKind = FixSQL
		}
		if advice.sqlOn != from.Side() {
			f.FixOn = advice.sqlOn
		}
	}
	return f
}
