package preflight

import (
	"context"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// preparedSQL lists prepared transactions of the whole cluster: making a slot
// waits for those of every database (measured on 10 and 18).
const preparedSQL = `
select gid, owner::text as owner, database::text as database, database = current_database() as here,
       extract(epoch from clock_timestamp() - prepared)::bigint as age
  from pg_prepared_xacts
 order by prepared`

type preparedRow struct {
	GID      string `db:"gid"`
	Owner    string
	Database string
	Here     bool
	Age      int64 // seconds
}

// longSQL lists transactions older than $1 seconds. writes: it has a
// transaction id, or holds a lock on a table that only a writer takes.
const longSQL = `
select a.pid, coalesce(a.usename::text, '') as role, coalesce(a.datname::text, '') as database,
       a.datname = current_database() as here, coalesce(a.state, '') as state,
       extract(epoch from clock_timestamp() - a.xact_start)::bigint as age,
       left(regexp_replace(coalesce(a.query, ''), '\s+', ' ', 'g'), 120) as query,
       a.backend_xid is not null or exists (
         select 1 from pg_locks l
          where l.pid = a.pid and l.locktype = 'relation' and l.granted and l.relation >= 16384
            and l.mode in ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock',
                           'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')) as writes
  from pg_stat_activity a
 where a.backend_type = 'client backend' and a.pid <> pg_backend_pid()
   and coalesce(a.application_name, '') not like 'pgcutover%'
   and a.xact_start < clock_timestamp() - make_interval(secs => $1)
 order by a.xact_start`

type longRow struct {
	PID      int32 `db:"pid"`
	Role     string
	Database string
	Here     bool
	State    string
	Age      int64 // seconds
	Query    string
	Writes   bool
}

// transactionsCheck looks for transactions that the move would have to wait
// for. With Warning, ahead of the move, the slot on the old server matters; with
// Blocker, at the cutover, the freeze there and the reverse slot on the new one.
func transactionsCheck(severity Severity) func(context.Context, *Pair) ([]Finding, error) {
	return func(ctx context.Context, p *Pair) ([]Finding, error) {
		gate := severity == Blocker
		old, err := transactionFindings(ctx, p.Old, severity, p.Settings.longTransaction(), !gate, true)
		if err != nil {
			return nil, err
		}
		if !gate {
			possible, err := preparedPossible(ctx, p.Old)
			if err != nil {
				return nil, err
			}
			old = append(old, possible...)
		}
		if !p.Settings.Rollback {
			return old, nil
		}
		found, err := transactionFindings(ctx, p.New, severity, p.Settings.longTransaction(), gate, false)
		return append(old, found...), err
	}
}

// transactionFindings looks at one server. slot says that a slot is about to be
// made there, for which transactions of every database count; source, that its
// writers are going to be frozen.
func transactionFindings(ctx context.Context, s *pg.Server, severity Severity, long time.Duration, slot, source bool) ([]Finding, error) {
	prepared, err := read[preparedRow](ctx, s, "reading prepared transactions", preparedSQL)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, t := range prepared {
		if !t.Here && !slot {
			continue
		}
		found = append(found, Finding{
			ID: "transactions.prepared", Severity: Blocker, Server: string(s.Side()), Object: "prepared transaction " + literal(t.GID),
			Seen:    fmt.Sprintf("of %s in database %s, %s old", quote(t.Owner), quote(t.Database), age(t.Age)),
			Why:     "It holds its locks until somebody ends it: making a slot and the freeze wait for it without end.",
			Fix:     fmt.Sprintf("in database %s: COMMIT PREPARED %s; or ROLLBACK PREPARED %s;", quote(t.Database), literal(t.GID), literal(t.GID)),
			FixKind: FixAction,
		})
	}
	open, err := read[longRow](ctx, s, "reading long transactions", longSQL, long.Seconds())
	for _, t := range open {
		relevant := (t.Here && source) || (t.Writes && (t.Here || slot))
		if relevant {
			found = append(found, longFinding(s, t, severity))
		}
	}
	return found, err
}

func longFinding(s *pg.Server, t longRow, severity Severity) Finding {
	f := Finding{
		ID: "transactions.long", Severity: severity, Server: string(s.Side()), Object: fmt.Sprintf("session %d", t.PID),
		Seen: fmt.Sprintf("%s in database %s, %s, for %s: %s", quote(t.Role), quote(t.Database), t.State, age(t.Age), t.Query),
		Why:  "It has written: making a slot and the freeze wait until it ends.",
		Fix:  fmt.Sprintf("-- wait for it, or:\nSELECT pg_terminate_backend(%d);", t.PID), FixKind: FixSQL,
	}
	if !t.Writes {
		f.Why = "It has not written yet; if it does, making a slot and the freeze wait for it."
		if severity == Blocker {
			f.Severity = Note // the freeze does not wait for readers
		}
	}
	return f
}

func age(seconds int64) string { return (time.Duration(seconds) * time.Second).String() }

const maxPreparedSQL = `select current_setting('max_prepared_transactions')::int`

// preparedPossible notes that applications may prepare transactions at all.
func preparedPossible(ctx context.Context, s *pg.Server) ([]Finding, error) {
	limit, err := readValues[int](ctx, s, "reading max_prepared_transactions", maxPreparedSQL)
	if err != nil || limit[0] == 0 {
		return nil, err
	}
	return []Finding{{
		ID: "transactions.prepared-possible", Severity: Note, Server: string(s.Side()), Object: "max_prepared_transactions",
		Seen: fmt.Sprintf("max_prepared_transactions is %d", limit[0]),
		Why:  "Applications may prepare transactions; one that stands at the cutover stops it.",
		Fix:  "-- when no application prepares transactions:\n" + setting("max_prepared_transactions", 0, true), FixKind: FixRestart,
	}}, nil
}

// vacuumSQL lists what vacuums in this database and does not give way to a
// lock: a VACUUM of a client, and autovacuum against wraparound.
const vacuumSQL = `
select v.pid, coalesce(v.relid::regclass::text, '') as table, a.backend_type = 'client backend' as manual,
       coalesce(extract(epoch from clock_timestamp() - a.xact_start), 0)::bigint as age
  from pg_stat_progress_vacuum v
  join pg_stat_activity a on a.pid = v.pid
 where v.datname = current_database()
   and (a.backend_type = 'client backend' or a.query like '%(to prevent wraparound)')
 order by 1`

type vacuumRow struct {
	PID    int32 `db:"pid"`
	Table  string
	Manual bool
	Age    int64 // seconds
}

// vacuumCheck looks for vacuums that the lease would wait for: it locks every
// table against DDL, in a mode that conflicts with VACUUM.
// Postgres manual: 24.1.6, The Autovacuum Daemon.
func vacuumCheck(severity Severity) func(context.Context, *Pair) ([]Finding, error) {
	return func(ctx context.Context, p *Pair) ([]Finding, error) {
		rows, err := read[vacuumRow](ctx, p.Old, "looking for vacuums", vacuumSQL)
		var found []Finding
		for _, v := range rows {
			kind := "autovacuum to prevent wraparound"
			if v.Manual {
				kind = "VACUUM by a client"
			}
			found = append(found, Finding{
				ID: "vacuum.running", Severity: severity, Server: string(p.Old.Side()), Object: v.Table,
				Seen: fmt.Sprintf("%s, session %d, for %s", kind, v.PID, age(v.Age)),
				Why:  "The cutover waits for the table's lock, and this vacuum does not give way.",
				Fix:  fmt.Sprintf("-- wait for it, or:\nSELECT pg_cancel_backend(%d);", v.PID), FixKind: FixSQL,
			})
		}
		return found, err
	}
}
