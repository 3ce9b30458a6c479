package warmup

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// session analyzes tables, one after the other. It belongs to one goroutine at
// a time, but for the fields that say so.
type session struct {
	server *pg.Server
	stage  Stage
	gently bool
	rough  bool // a better ANALYZE of the same table follows
	conn   *pgx.Conn
	holder *pgx.Conn // holds locks on partitions meanwhile; opened at first use

	perTable, lockTimeout, answer time.Duration
	until                         time.Time     // no ANALYZE goes on past it; zero for no bound
	bound                         time.Duration // of the statements at this moment

	// For the sentry: the processes of conn and holder, and whether the ANALYZE
	// was ended for somebody who waited.
	pid, holderPID atomic.Int32
	gaveWay        atomic.Bool
}

// sessions are opened once for all stages.
type sessions struct {
	all []*session
}

// open opens as many sessions as there is work for, and as the server has room
// for. On an error the sessions that were opened are returned, too.
func (a *analysis) open(ctx context.Context, tables int) (*sessions, error) {
	list := &sessions{}
	for range min(a.options.Jobs, tables) {
		se := &session{
			server: a.server, gently: a.options.Gently, until: a.until,
			perTable: a.options.PerTable, lockTimeout: a.options.LockTimeout, answer: a.options.Answer,
		}
		err := se.reopen(ctx)
		if len(list.all) > 0 && pg.IsCode(err, pg.TooManyConnections) {
			list.shrink(ctx)
			return list, nil
		}
		list.all = append(list.all, se)
		if err != nil {
			return list, err
		}
	}
	return list, nil
}

// spareSessions are given back to a server that has no room for more: others
// need it, and so do the looks at who waits and at what is missing in the end.
const spareSessions = 3

func (l *sessions) shrink(ctx context.Context) {
	keep := max(len(l.all)-spareSessions, 1)
	for _, se := range l.all[keep:] {
		giveBack(ctx, se.conn)
	}
	l.all = l.all[:keep]
}

// giveBack ends an idle session and waits until its process has ended, which the
// end of the connection tells: before that, nobody gets its place.
func giveBack(ctx context.Context, conn *pgx.Conn) {
	if ctx.Err() != nil {
		endSession(ctx, conn)
		return
	}
	taken, err := conn.PgConn().Hijack()
	if err != nil { // lost already
		endSession(ctx, conn)
		return
	}
	defer taken.Conn.Close() //nolint:errcheck // the server has gone first, or does not answer
	if err := taken.Conn.SetDeadline(time.Now().Add(closeBound)); err != nil {
		return
	}
	taken.Frontend.Send(&pgproto3.Terminate{})
	for err = taken.Frontend.Flush(); err == nil; {
		_, err = taken.Frontend.Receive()
	}
}

func (l *sessions) close(ctx context.Context) {
	for _, se := range l.all {
		endSession(ctx, se.conn)
		endSession(ctx, se.holder)
	}
}

// reopen connects, or replaces a session that was lost. In the startup packet
// the settings go before those of the role, the database and the server.
func (se *session) reopen(ctx context.Context) error {
	endSession(ctx, se.conn)
	return answered(ctx, se.server, se.answer, se.open)
}

func (se *session) open(ctx context.Context) error {
	settings := pg.LongRunning()
	settings["statement_timeout"] = milliseconds(se.perTable)
	settings["lock_timeout"] = milliseconds(se.lockTimeout)
	// Each ANALYZE is a commit. What a crash takes of them is missed afterwards.
	settings["synchronous_commit"] = "off"
	conn, err := se.server.Connect(ctx, "analyze", settings)
	if err != nil {
		return fmt.Errorf("opening a session to analyze tables: %w", err)
	}
	se.conn, se.bound = conn, se.perTable
	se.pid.Store(int32(conn.PgConn().PID()))
	return se.setTarget(ctx, se.stage)
}

// milliseconds is how time settings are written; 0 would mean no bound.
func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// setTarget makes the stage the session's.
func (se *session) setTarget(ctx context.Context, stage Stage) error {
	for _, sql := range stage.settings(se.gently) {
		if _, err := se.conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("setting the statistics target %s: %w", stage, err)
		}
	}
	se.stage = stage
	return nil
}

// What a gentle ANALYZE is allowed: after as much as 100 blocks read from disk or
// 200 found in the cache it pauses for 10 ms. Postgres manual: 19.10.2, Cost-based
// Vacuum Delay.
const (
	gentleDelay = "set vacuum_cost_delay = '10ms'"
	gentleLimit = "set vacuum_cost_limit = 200"
)

// settings make a stage the session's. RESET brings back what the database's or
// the role's settings say. The first stage is to be over soon, hence no
// vacuum_cost_delay in it, as vacuumdb has it.
func (s Stage) settings(gently bool) []string {
	statements := []string{"reset default_statistics_target"}
	if s != DefaultTarget {
		statements[0] = "set default_statistics_target = " + s.String()
	}
	switch {
	case gently:
		return append(statements, gentleDelay, gentleLimit)
	case s == 1:
		return append(statements, "set vacuum_cost_delay = 0")
	}
	return append(statements, "reset vacuum_cost_delay")
}

// hurry makes statements end when the time of all is up, should that come before
// the time of one table. It returns false when it is up already.
func (se *session) hurry(ctx context.Context) (bool, error) {
	if se.until.IsZero() {
		return true, nil
	}
	left := time.Until(se.until)
	if left <= 0 {
		return false, nil
	}
	bound := min(left, se.perTable)
	if bound == se.bound {
		return true, nil
	}
	// Rounded down, what the bound ends would leave a moment for the next table.
	bound = (bound + time.Millisecond - 1).Truncate(time.Millisecond)
	if _, err := se.conn.Exec(ctx, "set statement_timeout = "+milliseconds(bound)); err != nil {
		return false, fmt.Errorf("bounding ANALYZE: %w", err)
	}
	se.bound = bound
	return true, nil
}

// forbiddenSQL lists the tables of which this role may not gather statistics,
// up to 16: it must own the table or the database. ANALYZE would warn and
// leave them out.
const forbiddenSQL = `
select c.oid
  from pg_class c
 where c.relkind in ('r', 'p', 'm', 'f')
   and not pg_has_role(c.relowner, 'USAGE')
   and not (select pg_has_role(d.datdba, 'USAGE') from pg_database d where d.datname = current_database())`

// forbiddenMaintainSQL is the same for 17 and later: the privilege MAINTAIN,
// which the owner has unless it was revoked, or the database's ownership.
const forbiddenMaintainSQL = `
select c.oid
  from pg_class c
 where c.relkind in ('r', 'p', 'm', 'f')
   and not has_table_privilege(c.oid, 'MAINTAIN')
   and not (select pg_has_role(d.datdba, 'USAGE') from pg_database d where d.datname = current_database())`

// forbiddenTables lists the tables that ANALYZE would leave out.
func forbiddenTables(ctx context.Context, conn *pgx.Conn, version int) (map[uint32]bool, error) {
	sql := forbiddenSQL
	if version >= 170000 {
		sql = forbiddenMaintainSQL
	}
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, fmt.Errorf("listing tables that may not be analyzed: %w", err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("listing tables that may not be analyzed: %w", err)
	}
	forbidden := make(map[uint32]bool, len(oids))
	for _, oid := range oids {
		forbidden[oid] = true
	}
	return forbidden, nil
}

// analyzeSQL is for tables, up to 17. On a partitioned table it goes on to all
// partitions.
const analyzeSQL = `analyze %s`

// analyzeOnlySQL is for 18 and later, where ANALYZE goes on to inheritance
// children, too. Of a parent it gathers the statistics of the whole tree, but
// not each child's own.
const analyzeOnlySQL = `analyze only %s`

// analyze gathers the statistics of one table, of its own rows and, when it has
// descendants, of the tree; up to 11, of a partitioned table's partitions, too.
func (se *session) analyze(ctx context.Context, r *relation, descendants []uint32) error {
	var err error
	switch v := se.server.Version(); {
	case v >= 180000:
		_, err = se.conn.Exec(ctx, fmt.Sprintf(analyzeOnlySQL, r.Table))
	case alone(v, r, descendants):
		err = se.analyzeAlone(ctx, r, descendants)
	default:
		_, err = se.conn.Exec(ctx, fmt.Sprintf(analyzeSQL, r.Table))
	}
	if err != nil {
		return fmt.Errorf("analyzing %s: %w", r.Table, err)
	}
	return nil
}

// alone tells that a table's own statistics can be had without those of its
// partitions, by locking these.
func alone(version int, r *relation, descendants []uint32) bool {
	return version >= 120000 && version < 180000 && r.Kind == PartitionedTable && len(descendants) > 0 && len(descendants) <= mostHeld
}

// separate tells that ANALYZE of a table leaves what is below it as it is.
func separate(version int, r *relation, descendants []uint32) bool {
	return r.Kind != PartitionedTable || version >= 180000 || alone(version, r, descendants)
}

// lockTreeSQL and analyzeSkipSQL are what analyzeAlone runs, in one transaction.
const (
	lockTreeSQL    = `lock table only %s in share update exclusive mode`
	analyzeSkipSQL = `analyze (skip_locked) %s`
)

// errNotAlone says that ANALYZE of a partitioned table would go on to its
// partitions and give them rough statistics for good ones.
var errNotAlone = errors.New("its partitions would be analyzed, too")

// mostHeld is how many partitions are locked at the same time: the server's
// lock table has room for some thousands.
const mostHeld = 1000

// analyzeAlone gathers the statistics of a partitioned table alone, on 12 to
// 17, where ANALYZE would go on to all partitions, which were just analyzed.
// With SKIP_LOCKED it leaves out those that somebody locks: here another
// session of ours, with the lock that keeps only ANALYZE, VACUUM and DDL away.
// The partitioned table itself is locked beforehand in the same transaction,
// so that it is not left out itself, but waited for; first, so that nobody who
// wants the tree can have it while this waits for him.
// Postgres manual: ANALYZE, SKIP_LOCKED.
func (se *session) analyzeAlone(ctx context.Context, r *relation, descendants []uint32) error {
	tx, err := se.conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer rollback(ctx, tx)
	_, err = tx.Exec(ctx, fmt.Sprintf(lockTreeSQL, r.Table))
	if pg.IsCode(err, pg.InsufficientPrivilege) {
		// Who owns the database may analyze a table that it may not lock.
		rollback(ctx, tx)
		if se.rough {
			return errNotAlone
		}
		_, err = se.conn.Exec(ctx, fmt.Sprintf(analyzeSQL, r.Table))
		return err
	}
	if err != nil {
		return err
	}
	release, err := se.hold(ctx, descendants)
	if err != nil {
		return err
	}
	defer release()
	if _, err := tx.Exec(ctx, fmt.Sprintf(analyzeSkipSQL, r.Table)); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// holdSQL locks one partition if that is possible at once. A partition that
// somebody else locks is left out by SKIP_LOCKED anyway; one that this role
// may not lock is analyzed once more, which does no harm.
const holdSQL = `lock table only %s in share update exclusive mode nowait`

// namesSQL returns the names of partitions. Foreign tables are left out, since LOCK
// refuses them; ANALYZE of a partitioned table reaches them all the same.
const namesSQL = `
select n.nspname, c.relname
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
 where c.oid = any($1::oid[])
   and c.relkind in ('r', 'p')
 order by c.oid`

// hold locks what it can of the partitions and returns what ends that.
func (se *session) hold(ctx context.Context, partitions []uint32) (release func(), err error) {
	if se.holder == nil || se.holder.IsClosed() {
		if se.holder, err = se.server.Connect(ctx, "analyze", pg.LongRunning()); err != nil {
			return nil, fmt.Errorf("opening a session to hold partitions: %w", err)
		}
		se.holderPID.Store(int32(se.holder.PgConn().PID()))
	}
	rows, err := se.holder.Query(ctx, namesSQL, partitions)
	if err != nil {
		return nil, fmt.Errorf("naming partitions: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Table])
	if err != nil {
		return nil, fmt.Errorf("naming partitions: %w", err)
	}
	tx, err := se.holder.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("holding partitions: %w", err)
	}
	for _, t := range tables {
		if err := holdOne(ctx, tx, t); err != nil {
			rollback(ctx, tx)
			return nil, err
		}
	}
	return func() { rollback(ctx, tx) }, nil
}

func holdOne(ctx context.Context, tx pgx.Tx, t Table) error {
	savepoint, err := tx.Begin(ctx)
	if err != nil {
		return fmt.Errorf("holding %s: %w", t, err)
	}
	_, err = savepoint.Exec(ctx, fmt.Sprintf(holdSQL, t))
	switch {
	case err == nil:
		err = savepoint.Commit(ctx)
	case pg.Code(err) != "" && !pg.Lost(err):
		err = savepoint.Rollback(ctx)
	}
	if err != nil {
		return fmt.Errorf("holding %s: %w", t, err)
	}
	return nil
}
