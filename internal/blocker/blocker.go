// Package blocker names the sessions that stand in the way of a lock on a
// table, and ends them where that is allowed.
//
// A lock that was not to be had says nothing about who held it. Find asks the
// server, right after the refusal. A Watch does so again and again for one piece
// of work: it sends autovacuums away at once, since the work would only wait
// until they give way by themselves, and, if the operator allows it, ends client
// sessions that stay for too long.
//
// What it never ends: walsenders, replication workers, autovacuum to prevent
// wraparound, prepared transactions, and sessions of the tool.
package blocker

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Mode is a table lock mode, as LOCK TABLE names it.
// Postgres manual: 13.3.1, Table-Level Locks.
type Mode string

// The modes that the tool asks for.
const (
	ShareUpdateExclusive Mode = "SHARE UPDATE EXCLUSIVE"
	ShareRowExclusive    Mode = "SHARE ROW EXCLUSIVE"
	Exclusive            Mode = "EXCLUSIVE"
	AccessExclusive      Mode = "ACCESS EXCLUSIVE"
)

// lockModes are the modes of pg_locks from weak to strong. What one of ours
// conflicts with is always an end of this list.
var lockModes = []string{
	"AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
	"ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
}

// conflicting returns the modes of pg_locks that keep mode from being granted.
func (m Mode) conflicting() []string {
	switch m {
	case ShareUpdateExclusive:
		return lockModes[3:]
	case ShareRowExclusive:
		return lockModes[2:]
	case Exclusive:
		return lockModes[1:]
	}
	return lockModes
}

// Kind says what a session is, by which it is told whether it may be ended.
type Kind string

// The kinds that matter; another one is pg_stat_activity.backend_type.
const (
	Client     Kind = "client backend"
	Tool       Kind = "pgcutover"
	Autovacuum Kind = "autovacuum worker"
	Wraparound Kind = "autovacuum to prevent wraparound"
	Prepared   Kind = "prepared transaction"
	Hidden     Kind = "hidden" // the tool's role may not see what it is
)

// Session is a session, or a prepared transaction, that holds a lock or waits
// for one.
type Session struct {
	PID         int32
	Kind        Kind
	User        string
	Application string
	Address     string // of the client; empty for a socket
	State       string // as pg_stat_activity.state
	Age         float64
	Query       string // its beginning
	GID         string // of a prepared transaction
	Locks       []string
	Waits       bool    // it has not got the lock either, but is first in line
	BlockedBy   []int32 // whom it waits for then

	backend, transaction *time.Time // when they began, which tells them from later ones of the same pid
}

// findSQL names who holds, or waits for, one of the modes $2 on the tables $1.
// The sessions of this very move ($3) only wait, or are about to end. Who waits
// counts only with a mode by which DDL stands in line before us.
const findSQL = `
with locks as (
  select locktype, database, relation, virtualtransaction, transactionid, pid, mode, granted from pg_locks
), held as (
  select l.pid, l.virtualtransaction, bool_and(not l.granted) as waits,
         array_agg(distinct l.mode || ' on ' || l.relation::regclass::text) as locks
    from locks l
   where l.locktype = 'relation' and l.mode = any ($2::text[])
     and (l.granted or l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock'))
     and l.database = (select oid from pg_database where datname = current_database())
     and l.relation in (select to_regclass(x.name)::oid from unnest($1::text[]) as x(name))
     and l.pid is distinct from pg_backend_pid()
   group by l.pid, l.virtualtransaction
)
select coalesce(h.pid, 0) as pid,
       case when p.gid is not null then 'prepared transaction'
            when a.backend_type is null then 'hidden'
            when a.backend_type = 'autovacuum worker' and a.query like '%(to prevent wraparound)' then 'autovacuum to prevent wraparound'
            when a.backend_type = 'client backend' and a.application_name like 'pgcutover/%' then 'pgcutover'
            else a.backend_type end as kind,
       coalesce(a.usename::text, p.owner::text, '') as user, coalesce(a.application_name, '') as application,
       coalesce(host(a.client_addr), '') as address, coalesce(a.state, '') as state,
       coalesce(extract(epoch from clock_timestamp() - coalesce(a.xact_start, p.prepared)), 0)::float8 as age,
       left(regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 120) as query, coalesce(p.gid, '') as gid,
       h.locks, h.waits, case when h.waits then pg_blocking_pids(h.pid) else '{}' end as blocked_by,
       a.backend_start as backend, a.xact_start as transaction
  from held h
  left join pg_stat_activity a on a.pid = h.pid
  left join lateral (
    select x.gid, x.owner, x.prepared
      from locks o
      join pg_prepared_xacts x on x.transaction = o.transactionid
     where h.pid is null and o.pid is null and o.locktype = 'transactionid' and o.virtualtransaction = h.virtualtransaction
     limit 1
  ) p on true
 where (a.pid is not null or p.gid is not null) and coalesce(a.application_name, '') <> $3
   and left(coalesce(a.application_name, ''), length($3) + 1) <> $3 || '/'
 order by h.waits, a.xact_start nulls last`

// Querier is what a pool, a session and a transaction have in common.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Find names who stands in the way of a lock in mode on any of the tables,
// given as quoted names: holders first, the longest transaction before others.
// The sessions of the named move do not count. The role needs pg_read_all_stats
// to see more of other roles' sessions than their process numbers.
func Find(ctx context.Context, q Querier, move string, mode Mode, tables ...string) ([]Session, error) {
	rows, err := q.Query(ctx, findSQL, tables, mode.conflicting(), pg.ApplicationNamePrefix+move)
	if err != nil {
		return nil, fmt.Errorf("looking for who is in the way: %w", err)
	}
	found, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("looking for who is in the way: %w", err)
	}
	return found, nil
}

func scan(row pgx.CollectableRow) (Session, error) {
	var s Session
	var kind string
	err := row.Scan(&s.PID, &kind, &s.User, &s.Application, &s.Address, &s.State, &s.Age, &s.Query, &s.GID,
		&s.Locks, &s.Waits, &s.BlockedBy, &s.backend, &s.transaction)
	s.Kind = Kind(kind)
	return s, err
}

// String is one line for people: who, from where, since when, what it holds,
// and what it ran last.
func (s Session) String() string {
	locks := strings.Join(s.Locks, ", ")
	if len(s.Locks) > 3 {
		locks = fmt.Sprintf("%s and %d more", strings.Join(s.Locks[:3], ", "), len(s.Locks)-3)
	}
	if s.Kind == Prepared {
		return fmt.Sprintf("prepared transaction '%s' of %s (%s old), which holds %s", s.GID, s.User, age(s.Age), locks)
	}
	who := []string{s.User}
	if s.Application != "" {
		who = append(who, s.Application)
	}
	if s.Address != "" {
		who = append(who, "from "+s.Address)
	}
	if s.Kind != Client {
		who = append(who, string(s.Kind))
	}
	if s.State != "" {
		who = append(who, s.State)
	}
	if s.Age > 0 {
		who = append(who, "in a transaction for "+age(s.Age))
	}
	if who[0] == "" {
		who = who[1:]
	}
	holds := "holds " + locks
	if s.Waits {
		holds = fmt.Sprintf("waits for %s behind %v", locks, s.BlockedBy)
	}
	text := fmt.Sprintf("session %d (%s), which %s", s.PID, strings.Join(who, ", "), holds)
	if s.Query != "" {
		text += ": " + secrets.ReplaceAllString(s.Query, "${1}'xxxxx'")
	}
	return text
}

// secrets finds passwords in statements such as ALTER ROLE and CREATE
// SUBSCRIPTION, which must not get into a terminal or a log.
var secrets = regexp.MustCompile(`(?i)(password\s*=?\s*)('[^']*'?|[^'\s]+)`)

func age(seconds float64) string {
	return (time.Duration(seconds*10) * time.Second / 10).String()
}

// Describe joins a few sessions for one message.
func Describe(sessions []Session) string {
	const shown = 3
	if len(sessions) == 0 {
		return "a transaction that has ended since"
	}
	var texts []string
	for i, s := range sessions {
		if i == shown {
			texts = append(texts, fmt.Sprintf("%d more", len(sessions)-shown))
			break
		}
		texts = append(texts, s.String())
	}
	return strings.Join(texts, "; ")
}

// Advice says what an operator can do about the first of the sessions; empty
// when there is none.
func Advice(sessions []Session) string {
	if len(sessions) == 0 {
		return ""
	}
	switch s := sessions[0]; s.Kind {
	case Client:
		return fmt.Sprintf("wait for that transaction, or end its session: select pg_terminate_backend(%d);", s.PID)
	case Prepared:
		return fmt.Sprintf("end it, in its database: COMMIT PREPARED '%[1]s'; or ROLLBACK PREPARED '%[1]s';", strings.ReplaceAll(s.GID, "'", "''"))
	case Wraparound:
		return fmt.Sprintf("let that vacuum finish: it keeps the database from having to stop. It does not give way; cancelled (select pg_cancel_backend(%d);) it soon begins anew", s.PID)
	case Autovacuum:
		return fmt.Sprintf("cancel it: select pg_cancel_backend(%d); it gives way by itself after deadlock_timeout", s.PID)
	case Hidden:
		return fmt.Sprintf("let the tool see whose session %d is: GRANT pg_monitor TO its role", s.PID)
	case Tool:
		return fmt.Sprintf("another pgcutover works here: wait for it, or end its session: select pg_terminate_backend(%d);", s.PID)
	default:
		return fmt.Sprintf("wait for process %d (%s)", s.PID, s.Kind)
	}
}

// Still tells whether any of the transactions met before is among those found
// now.
func Still(met, found []Session) bool {
	for _, m := range met {
		for _, f := range found {
			if m.key() == f.key() {
				return true
			}
		}
	}
	return false
}
