// Package subscriber says what has to be said to the subscribing side of a
// stream: the role that owns the subscription, the subscription, the states of
// its tables, its progress and errors, and the marker whose arrival proves
// that the stream is drained.
//
// It takes a server, not a colour: on rollback the old server is the
// subscriber.
package subscriber

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// RoleName is the role that owns the subscription where the tool may make one.
func RoleName(move string) string { return "pgcutover_" + move }

const superuserSQL = `select rolsuper from pg_roles where rolname = current_user`

const roleExistsSQL = `select exists (select 1 from pg_roles where rolname = $1)`

// CreateRoleSQL makes the subscription's owner. It must be a superuser up to
// 15, where Postgres lets nobody else own a subscription, and must have LOGIN,
// which apply workers are asked for; without a password it cannot log in by
// one.
func CreateRoleSQL(move string) string {
	return "create role " + pgx.Identifier{RoleName(move)}.Sanitize() + " superuser login password null"
}

// RoleSettingSQL lets the apply workers write SQL in triggers, the guard among
// them, while the database's default is read-only.
func RoleSettingSQL(role, database string) string {
	return fmt.Sprintf("alter role %s in database %s set default_transaction_read_only = off",
		pgx.Identifier{role}.Sanitize(), pgx.Identifier{database}.Sanitize())
}

// EnsureRole makes the role that owns the subscription and returns its name.
// A superuser makes a role of its own, so that nobody else's sessions get its
// setting. Anybody else (16 and later) owns the subscription himself.
func EnsureRole(ctx context.Context, s *pg.Server) (string, error) {
	super, err := isSuperuser(ctx, s)
	if err != nil {
		return "", err
	}
	role := s.User()
	if super {
		role = RoleName(s.Move())
		var exists bool
		if err := s.Pool().QueryRow(ctx, roleExistsSQL, role).Scan(&exists); err != nil {
			return "", fmt.Errorf("looking for role %q on the %s server: %w", role, s.Side(), err)
		}
		if !exists {
			if _, err := s.Pool().Exec(ctx, CreateRoleSQL(s.Move())); err != nil {
				return "", fmt.Errorf("creating role %q on the %s server: %w", role, s.Side(), err)
			}
		}
	}
	if _, err := s.Pool().Exec(ctx, RoleSettingSQL(role, s.Database())); err != nil {
		return "", fmt.Errorf("setting role %q on the %s server: %w", role, s.Side(), err)
	}
	return role, nil
}

func isSuperuser(ctx context.Context, s *pg.Server) (bool, error) {
	var super bool
	if err := s.Pool().QueryRow(ctx, superuserSQL).Scan(&super); err != nil {
		return false, fmt.Errorf("asking for rights on the %s server: %w", s.Side(), err)
	}
	return super, nil
}

func dropRoleSQL(role string) string { return "drop role " + pgx.Identifier{role}.Sanitize() }

// resetRoleSQL takes back RoleSettingSQL.
func resetRoleSQL(role, database string) string {
	return fmt.Sprintf("alter role %s in database %s reset default_transaction_read_only",
		pgx.Identifier{role}.Sanitize(), pgx.Identifier{database}.Sanitize())
}

// DropRole takes back what EnsureRole did.
func DropRole(ctx context.Context, s *pg.Server) error {
	role := RoleName(s.Move())
	var exists bool
	if err := s.Pool().QueryRow(ctx, roleExistsSQL, role).Scan(&exists); err != nil {
		return fmt.Errorf("looking for role %q on the %s server: %w", role, s.Side(), err)
	}
	if !exists {
		if _, err := s.Pool().Exec(ctx, resetRoleSQL(s.User(), s.Database())); err != nil {
			return fmt.Errorf("resetting the setting of role %q on the %s server: %w", s.User(), s.Side(), err)
		}
		return nil
	}
	if _, err := s.Pool().Exec(ctx, dropRoleSQL(role)); err != nil {
		return fmt.Errorf("dropping role %q on the %s server: %w", role, s.Side(), err)
	}
	return nil
}

// options10 to options16 are what each major understands; all make the
// subscription disabled, on a slot that exists, with the tables still to copy.
const (
	options10 = `create_slot = false, enabled = false, synchronous_commit = local, copy_data = true, slot_name = '%s'`
	options14 = `create_slot = false, enabled = false, synchronous_commit = local, copy_data = true, slot_name = '%s', streaming = on`
	options16 = `create_slot = false, enabled = false, synchronous_commit = local, copy_data = true, slot_name = '%s', streaming = parallel`
)

// wayBack10 to wayBack16 make a subscription that waits for its slot: nothing
// to copy, since the publisher has all rows from here.
const (
	wayBack10 = `create_slot = false, enabled = false, synchronous_commit = local, copy_data = false, slot_name = none`
	wayBack14 = `create_slot = false, enabled = false, synchronous_commit = local, copy_data = false, slot_name = none, streaming = on`
	wayBack16 = `create_slot = false, enabled = false, synchronous_commit = local, copy_data = false, slot_name = none, streaming = parallel`
)

// CreateStatement returns the CREATE SUBSCRIPTION for a server's version, with
// conninfo in place: pass a redacted one for the plan.
func CreateStatement(s *pg.Server, st state.Stream, conninfo string) string {
	options := [3]string{options10, options14, options16}
	if st.Attempt != 0 {
		options = [3]string{wayBack10, wayBack14, wayBack16}
	}
	chosen := options[0]
	switch {
	case s.Major() >= 16:
		chosen = options[2]
	case s.Major() >= 14:
		chosen = options[1]
	}
	return fmt.Sprintf("create subscription %[1]s connection %[2]s publication %[1]s with (%[3]s)",
		pgx.Identifier{st.Name()}.Sanitize(), literal(conninfo), strings.ReplaceAll(chosen, "%s", st.Name()))
}

// quiet are the settings of a session whose statements, one of which holds a
// password, stay out of the server's log; who may have them, see mayBeQuiet. They
// must hold before its transaction begins: whether the statements of one are
// sampled is decided then.
// Postgres manual: 19.8, Error Reporting and Logging.
func quiet(s *pg.Server) map[string]string {
	settings := map[string]string{
		"log_statement": "none", "log_min_duration_statement": "-1", "log_min_error_statement": "panic",
	}
	if s.Major() >= 12 {
		settings["log_transaction_sample_rate"] = "0"
	}
	if s.Major() >= 13 {
		settings["log_min_duration_sample"] = "-1"
	}
	return settings
}

// maySetSQL returns those of the settings in $1 that the role may change, from 15
// on. Postgres manual: 9.27, Access Privilege Inquiry Functions.
const maySetSQL = `select p from unnest($1::text[]) as p where has_parameter_privilege(p, 'set')`

// mayBeQuiet returns those of the quiet settings that the role may have: all of
// them for a superuser, what GRANT SET ON PARAMETER gives to others, 15 and later.
func mayBeQuiet(ctx context.Context, s *pg.Server) (map[string]string, error) {
	settings := quiet(s)
	super, err := isSuperuser(ctx, s)
	if err != nil || super {
		return settings, err
	}
	if s.Major() < 15 {
		return nil, nil
	}
	rows, err := s.Pool().Query(ctx, maySetSQL, slices.Collect(maps.Keys(settings)))
	if err != nil {
		return nil, fmt.Errorf("asking which settings the role may change on the %s server: %w", s.Side(), err)
	}
	may, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("asking which settings the role may change on the %s server: %w", s.Side(), err)
	}
	maps.DeleteFunc(settings, func(name, _ string) bool { return !slices.Contains(may, name) })
	return settings, nil
}

const subscriptionSQL = `
select oid, subenabled, coalesce(subslotname, '')
  from pg_subscription
 where subname = $1
   and subdbid = (select oid from pg_database where datname = current_database())`

// Subscription is a stream's subscription as the catalog shows it.
type Subscription struct {
	OID     uint32
	Enabled bool
	Slot    string
}

// subscription13SQL is for a role that is no superuser, up to 13: it may not read
// the catalog's oid (14 grants it), and pg_stat_subscription, which has a row for
// every subscription of the cluster, tells it.
const subscription13SQL = `
select (select max(w.subid) from pg_stat_subscription w where w.subname = s.subname), s.subenabled, coalesce(s.subslotname, '')
  from pg_subscription s
 where s.subname = $1
   and s.subdbid = (select oid from pg_database where datname = current_database())`

const oidsSQL = `select distinct subid::bigint from pg_stat_subscription`

// OIDs lists the subscriptions of the whole cluster, which tell table
// synchronization slots that are in use from those that were left behind.
func OIDs(ctx context.Context, s *pg.Server) ([]int64, error) {
	rows, err := s.Pool().Query(ctx, oidsSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the subscriptions of the %s server: %w", s.Side(), err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("listing the subscriptions of the %s server: %w", s.Side(), err)
	}
	return oids, nil
}

// ErrNone means that the subscription does not exist.
var ErrNone = errors.New("the subscription does not exist")

// Read looks the subscription up, or returns ErrNone.
func Read(ctx context.Context, s *pg.Server, st state.Stream) (Subscription, error) {
	return read(ctx, s, st.Name())
}

func read(ctx context.Context, s *pg.Server, name string) (Subscription, error) {
	var sub Subscription
	err := s.Pool().QueryRow(ctx, subscriptionSQL, name).Scan(&sub.OID, &sub.Enabled, &sub.Slot)
	if s.Major() < 14 && pg.IsCode(err, pg.InsufficientPrivilege) {
		err = s.Pool().QueryRow(ctx, subscription13SQL, name).Scan(&sub.OID, &sub.Enabled, &sub.Slot)
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return sub, fmt.Errorf("subscription %q on the %s server: %w", name, s.Side(), ErrNone)
	}
	if err != nil {
		return sub, fmt.Errorf("reading subscription %q on the %s server: %w", name, s.Side(), err)
	}
	return sub, nil
}

const namesSQL = `
select subname
  from pg_subscription
 where subname ~ $1
   and subdbid = (select oid from pg_database where datname = current_database())
 order by subname`

func names(ctx context.Context, s *pg.Server) ([]string, error) {
	rows, err := s.Pool().Query(ctx, namesSQL, state.StreamPattern(s.Move()))
	if err != nil {
		return nil, fmt.Errorf("listing the subscriptions of the %s server: %w", s.Side(), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("listing the subscriptions of the %s server: %w", s.Side(), err)
	}
	return found, nil
}

// DropAll removes the subscriptions of the server's move, whichever attempt made
// them, that which says yes to (all when it is nil), and returns their OIDs.
// guard, if not nil, is asked at the beginning of each transaction.
func DropAll(ctx context.Context, s *pg.Server, which func(name string) bool, guard func(context.Context, pgx.Tx) error) ([]uint32, error) {
	found, err := names(ctx, s)
	if err != nil {
		return nil, err
	}
	var oids []uint32
	for _, name := range found {
		if which != nil && !which(name) {
			continue
		}
		oid, err := drop(ctx, s, name, guard)
		if oid != 0 {
			oids = append(oids, oid)
		}
		if err != nil {
			return oids, err
		}
	}
	return oids, nil
}

// Ensure makes the subscription, disabled and owned by owner, unless it
// exists. conninfo is how this server reaches the publisher; it holds the
// password and stays out of every error and, as far as the role may, of the log.
func Ensure(ctx context.Context, s *pg.Server, st state.Stream, conninfo, owner string) error {
	if _, err := Read(ctx, s, st); err == nil || !errors.Is(err, ErrNone) {
		return err
	}
	settings, err := mayBeQuiet(ctx, s)
	if err != nil {
		return err
	}
	conn, err := s.Connect(ctx, "subscribe", settings)
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, CreateStatement(s, st, conninfo)); err != nil {
			return err
		}
		if owner == s.User() {
			return nil
		}
		_, err := tx.Exec(ctx, OwnerSQL(st, owner))
		return err
	})
	if err != nil {
		return createError(s, st, pg.Redact(s.Redacted(err), conninfo))
	}
	return nil
}

func createError(s *pg.Server, st state.Stream, err error) error {
	err = fmt.Errorf("creating subscription %q on the %s server: %w", st.Name(), s.Side(), err)
	switch {
	case pg.IsCode(err, pg.InsufficientPrivilege) && s.Major() >= 16:
		return hint.With(err, fmt.Sprintf("GRANT pg_create_subscription TO %s; GRANT CREATE ON DATABASE %s TO %[1]s; (on the %s server)",
			pgx.Identifier{s.User()}.Sanitize(), pgx.Identifier{s.Database()}.Sanitize(), s.Side()))
	case pg.IsCode(err, pg.InsufficientPrivilege):
		return hint.With(err, "before 16 only a superuser may create subscriptions (managed services have a role for it)")
	case pg.IsCode(err, pg.ConnectionFailure):
		return hint.With(err, fmt.Sprintf("the %s server cannot reach the %[2]s one with these parameters: set %[2]s.peer_url to an address that it can reach, and let it in with pg_hba.conf; run: pgcutover check", s.Side(), s.Side().Other()))
	}
	return err
}

// OwnerSQL gives the subscription to the role that owns it.
func OwnerSQL(st state.Stream, owner string) string {
	return fmt.Sprintf("alter subscription %s owner to %s", pgx.Identifier{st.Name()}.Sanitize(), pgx.Identifier{owner}.Sanitize())
}

// EnableSQL starts the apply worker.
func EnableSQL(st state.Stream) string {
	return "alter subscription " + pgx.Identifier{st.Name()}.Sanitize() + " enable"
}

// DisableSQL stops the apply worker.
func DisableSQL(st state.Stream) string {
	return "alter subscription " + pgx.Identifier{st.Name()}.Sanitize() + " disable"
}

// SetEnabled starts or stops the apply worker. On 15 and earlier a start may
// take up to wal_retrieve_retry_interval, 5 s by default.
func SetEnabled(ctx context.Context, s *pg.Server, st state.Stream, enabled bool) error {
	sql := DisableSQL(st)
	if enabled {
		sql = EnableSQL(st)
	}
	if err := alter(ctx, s, sql); err != nil {
		return fmt.Errorf("running %q on the %s server: %w", sql, s.Side(), err)
	}
	return nil
}

// alter runs one statement about the subscription.
func alter(ctx context.Context, s *pg.Server, sql string) error {
	return alterGuarded(ctx, s, sql, nil)
}

// alterGuarded runs it in a transaction that guard has looked at first. Event
// triggers that came with the schema must not fire: one that writes a table is
// refused by the closed fence, and then nobody could stop or drop the stream.
func alterGuarded(ctx context.Context, s *pg.Server, sql string, guard func(context.Context, pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, s.Pool(), func(tx pgx.Tx) error {
		if guard != nil {
			if err := guard(ctx, tx); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, s.Quiet(sql))
		return err
	})
}

const workersSQL = `
select count(*)
  from pg_stat_subscription
 where subname = $1 and pid is not null`

// ConnectSQL gives a way back its slot.
func ConnectSQL(st state.Stream) string {
	return fmt.Sprintf("alter subscription %[1]s set (slot_name = '%[1]s')", st.Name())
}

// Connect gives a way back its slot, which stands on the publisher by now, and
// starts its apply worker.
func Connect(ctx context.Context, s *pg.Server, st state.Stream) error {
	sub, err := Read(ctx, s, st)
	if err != nil {
		return err
	}
	if sub.Slot == "" {
		if err := alter(ctx, s, ConnectSQL(st)); err != nil {
			return fmt.Errorf("running %q on the %s server: %w", ConnectSQL(st), s.Side(), err)
		}
	}
	if sub.Enabled {
		return nil
	}
	return SetEnabled(ctx, s, st, true)
}

// WaitStopped waits until no worker of the subscription is left.
func WaitStopped(ctx context.Context, s *pg.Server, st state.Stream, bound time.Duration) error {
	return pg.Wait(ctx, "the apply workers to stop", 20*time.Millisecond, bound, nil, func(ctx context.Context) (bool, string, error) {
		var n int
		if err := s.Pool().QueryRow(ctx, workersSQL, st.Name()).Scan(&n); err != nil {
			return false, "", err
		}
		return n == 0, fmt.Sprintf("%d still run", n), nil
	})
}

// DropStatements detach the subscription from its slot and drop it: that
// works whether or not the publisher can be reached.
func DropStatements(st state.Stream) []string { return dropStatements(st.Name()) }

func dropStatements(name string) []string {
	name = pgx.Identifier{name}.Sanitize()
	return []string{
		"alter subscription " + name + " disable",
		"alter subscription " + name + " set (slot_name = none)",
		"drop subscription " + name,
	}
}

// Drop removes the subscription, if it is there, and leaves the slot to the
// publisher. It returns the subscription's OID, by which its table
// synchronization slots are called, 0 when there was none.
func Drop(ctx context.Context, s *pg.Server, st state.Stream) (uint32, error) {
	return drop(ctx, s, st.Name(), nil)
}

func drop(ctx context.Context, s *pg.Server, name string, guard func(context.Context, pgx.Tx) error) (uint32, error) {
	sub, err := read(ctx, s, name)
	if errors.Is(err, ErrNone) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, sql := range dropStatements(name) {
		if err := alterGuarded(ctx, s, sql, guard); err != nil {
			return sub.OID, fmt.Errorf("running %q on the %s server: %w", sql, s.Side(), s.Redacted(err))
		}
	}
	return sub.OID, nil
}

func literal(s string) string {
	if strings.ContainsRune(s, '\\') {
		return " E'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}
