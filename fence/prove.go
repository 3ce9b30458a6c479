package fence

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// ProveOptions say how a closed server is looked at.
type ProveOptions struct {
	OnClosed OnClosed
	// Within is how long to watch for transactions that write; 0 means two
	// seconds.
	Within time.Duration
}

// Proof is what was seen of a closed server.
type Proof struct {
	Probes   []Probe  `json:"probes"`
	Unfenced []string `json:"unfenced,omitempty"` // tables on which something is wrong with the fence
	LeftOut  int      `json:"left_out,omitempty"` // tables of extensions that cannot be fenced
	// Assigned is how many transactions of the whole server, other databases
	// included, got an id while it was watched.
	Assigned int64    `json:"transaction_ids"`
	Writers  []Writer `json:"writers,omitempty"` // those that were seen, ours not
	// Warnings are what should not be so, for people.
	Warnings []string `json:"warnings,omitempty"`
}

// Probe is one attempt to write that must be refused.
type Probe struct {
	Class   string `json:"class"` // what kind of table
	Table   string `json:"table"`
	Refused bool   `json:"refused"`
	Answer  string `json:"answer"` // SQLSTATE, or what happened instead
}

const (
	proveWithin = 2 * time.Second
	proveEvery  = 20 * time.Millisecond
	proveExtra  = 10 * time.Second // for the probes, on a busy server
)

// Prove looks whether a closed server, the source after the decision, really
// takes no writes: a write to one table of each kind is refused by our message,
// every table has its trigger, the read-only default stands, and nobody's
// transaction gets an id. It changes nothing: a probe would write no row even
// if it passed, and is rolled back. What is wrong comes back as warnings; an
// error means that it could not look.
func Prove(ctx context.Context, s *pg.Server, o ProveOptions) (Proof, error) {
	if o.Within == 0 {
		o.Within = proveWithin
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Within+proveExtra, fmt.Errorf("proving that the %s server is closed: %w", s.Side(), pg.ErrTimeout))
	defer cancel()
	p := &prover{server: s, options: o, began: time.Now()}
	for _, look := range []func(context.Context) error{p.begin, p.probe, p.fences, p.readOnly, p.subscriptions, p.watch} {
		if err := look(ctx); err != nil {
			return p.proof, fmt.Errorf("proving that the %s server is closed: %w", s.Side(), err)
		}
	}
	return p.proof, nil
}

type prover struct {
	server  *pg.Server
	options ProveOptions
	began   time.Time
	first   int64 // next transaction id at the beginning
	proof   Proof
}

func (p *prover) warn(format string, args ...any) {
	p.proof.Warnings = append(p.proof.Warnings, fmt.Sprintf(format, args...))
}

// nextIDSQL is the first transaction id that is not assigned yet.
const nextIDSQL = `select txid_snapshot_xmax(txid_current_snapshot())`

func (p *prover) begin(ctx context.Context) error {
	return p.server.Pool().QueryRow(ctx, nextIDSQL).Scan(&p.first)
}

// probesSQL picks the smallest table of each kind that the role may delete from
// and that no rule rewrites the statement for. Null: there is none.
const probesSQL = `
select t.class, (array_agg(t.name order by t.pages, t.name) filter (where t.usable))[1]
  from (
    select case when c.relkind = 'p' and not c.relispartition then 'partitioned table'
                when c.relkind = 'p' then 'partition with partitions'
                when c.relispartition then 'partition'
                when c.oid in (select inhparent from pg_inherits) then 'inheritance parent'
                when c.oid in (select inhrelid from pg_inherits) then 'inheriting table'
                when c.relpersistence = 'u' then 'unlogged table'
                else 'table' end as class,
           format('%I.%I', n.nspname, c.relname) as name, c.relpages as pages,
           not c.relhasrules and has_table_privilege(c.oid, 'delete') and has_schema_privilege(n.oid, 'usage') as usable
      from pg_class c
      join pg_namespace n on n.oid = c.relnamespace
     where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
       and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover')
       and not exists (select 1 from pg_depend d
                        where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
  ) t
 group by t.class
 order by t.class`

// probeSQL writes nothing even where it is not refused.
const probeSQL = `delete from %s where false`

func (p *prover) probe(ctx context.Context) error {
	rows, err := p.server.Pool().Query(ctx, probesSQL)
	if err != nil {
		return err
	}
	type kind struct {
		Class string
		Table *string
	}
	kinds, err := pgx.CollectRows(rows, pgx.RowToStructByPos[kind])
	if err != nil {
		return err
	}
	for _, k := range kinds {
		if k.Table == nil {
			p.warn("no %s could be probed: the role may write to none", k.Class)
			continue
		}
		probe, err := p.refused(ctx, Probe{Class: k.Class, Table: *k.Table})
		if err != nil {
			return err
		}
		p.proof.Probes = append(p.proof.Probes, probe)
		if !probe.Refused {
			p.warn("a write to %s (%s) was not refused by the fence: %s", probe.Table, probe.Class, probe.Answer)
		}
	}
	return nil
}

// refused runs one probe in a session of its own: one that is refused with
// Disconnect ends.
func (p *prover) refused(ctx context.Context, probe Probe) (Probe, error) {
	conn, err := p.server.Connect(ctx, "prove", map[string]string{"lock_timeout": "1s", "statement_timeout": "3s"})
	if err != nil {
		return probe, err
	}
	defer pg.Close(ctx, conn)
	if _, err := conn.Exec(ctx, "begin"); err != nil {
		return probe, err
	}
	_, err = conn.Exec(ctx, fmt.Sprintf(probeSQL, probe.Table))
	if _, back := conn.Exec(ctx, "rollback"); back != nil && !conn.IsClosed() {
		return probe, back
	}
	var answer *pgconn.PgError
	switch {
	case err == nil:
		probe.Answer = "it passed"
	case !errors.As(err, &answer):
		return probe, err
	default:
		probe.Answer = answer.Code
		ours := answer.Code == pg.ReadOnlyTransaction && strings.HasPrefix(answer.Message, refusal)
		ended := answer.Code == pg.AdminShutdown
		probe.Refused = ours || ended && p.options.OnClosed == Disconnect
		if !probe.Refused {
			probe.Answer += " " + answer.Message
		}
		if ours && p.options.OnClosed == Disconnect {
			p.warn("a refused session is not ended (on_closed: disconnect): GRANT pg_signal_backend TO %s", pgx.Identifier{p.server.User()}.Sanitize())
		}
	}
	return probe, nil
}

// doubtfulSQL lists tables that have not exactly one fence trigger, in order.
const doubtfulSQL = `
select format('%I.%I', n.nspname, c.relname)
  from (
    select u.oid
      from (
        select c.oid, 0 as good, 0 as bad
          from pg_class c
         where c.relkind in ('r', 'p') and c.relpersistence <> 't' and c.oid >= 16384
           and c.relnamespace not in (select n.oid from pg_namespace n
                                       where n.nspname in ('pg_catalog', 'information_schema', 'pg_toast', 'pgcutover'))
           and (pg_has_role(c.relowner, 'usage')
                or c.oid not in (select d.objid from pg_depend d
                                  where d.refclassid = 'pg_extension'::regclass and d.classid = 'pg_class'::regclass and d.deptype = 'e'))
        union all
        select t.tgrelid, case when f.fine then 1 else 0 end, case when f.fine then 0 else 1 end
          from pg_trigger t
         cross join lateral (
           select t.tgname = $1 and t.tgenabled = 'A' and t.tgtype = 62 and t.tgqual is null and t.tgattr::text = ''
                  and t.tgfoid = (select to_regprocedure('pgcutover.fence()')::oid) as fine
         ) f
         where t.tgfoid = (select to_regprocedure('pgcutover.fence()')::oid) or t.tgname = $1
      ) u
     group by u.oid
    having sum(u.good) <> 1 or sum(u.bad) <> 0
  ) w
  join pg_class c on c.oid = w.oid
  join pg_namespace n on n.oid = c.relnamespace
 order by n.nspname, c.relname`

func (p *prover) fences(ctx context.Context) error {
	rows, err := p.server.Pool().Query(ctx, doubtfulSQL, TriggerName(p.server.Move()))
	if err != nil {
		return err
	}
	p.proof.Unfenced, err = pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	if n := len(p.proof.Unfenced); n > 0 {
		p.warn("%d tables without one fence in order, so that writes to them are not refused: %v", n, some(p.proof.Unfenced))
	}
	left, err := LeftOut(ctx, p.server.Pool())
	if err != nil {
		return err
	}
	p.proof.LeftOut = len(left)
	if len(left) > 0 {
		p.warn("%d tables of extensions cannot be fenced, for example %s.%s of %s", len(left), left[0].Schema, left[0].Name, left[0].Extension)
	}
	return nil
}

func some(names []string) string {
	const shown = 5
	if len(names) > shown {
		return strings.Join(names[:shown], ", ") + " and more"
	}
	return strings.Join(names, ", ")
}

// defaultSQL is what multihost clients go by, as the database has it, and
// whether the role sees what others do.
const defaultSQL = `
select exists (select 1
                 from pg_db_role_setting s
                 join pg_database d on d.oid = s.setdatabase
                where s.setrole = 0 and d.datname = current_database()
                  and 'default_transaction_read_only=on' = any (s.setconfig)),
       pg_has_role('pg_read_all_stats', 'usage')`

func (p *prover) readOnly(ctx context.Context) error {
	var on, sees bool
	if err := p.server.Pool().QueryRow(ctx, defaultSQL).Scan(&on, &sees); err != nil {
		return err
	}
	if !sees {
		p.warn("who writes cannot be seen: GRANT pg_monitor TO %s", pgx.Identifier{p.server.User()}.Sanitize())
	}
	if !on {
		p.warn("default_transaction_read_only is not set on the database: clients that look for a writable server stay here")
	}
	turn, err := state.ReadTurn(ctx, p.server.Pool())
	if err != nil {
		return err
	}
	if turn.Open {
		p.warn("the turn says that the %s server takes writes", p.server.Side())
	}
	return nil
}

// subscriptionsSQL lists the enabled subscriptions of others in this database:
// row changes that their workers apply fire no statement trigger.
const subscriptionsSQL = `
select s.subname
  from pg_subscription s
 where s.subenabled and s.subdbid = (select oid from pg_database where datname = current_database()) and s.subname !~ $1
 order by s.subname`

func (p *prover) subscriptions(ctx context.Context) error {
	rows, err := p.server.Pool().Query(ctx, subscriptionsSQL, state.StreamPattern(p.server.Move()))
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, name := range names {
		p.warn("subscription %[1]s is enabled: its worker passes the fence. Run: ALTER SUBSCRIPTION %[1]s DISABLE;", pgx.Identifier{name}.Sanitize())
	}
	return err
}

// watch looks again and again who is writing. One look sees only what is going
// on at that instant: the number of ids that were assigned tells whether
// anything was missed.
func (p *prover) watch(ctx context.Context) error {
	seen := map[string]bool{}
	tick := time.NewTicker(proveEvery)
	defer tick.Stop()
	for {
		writers, err := Writers(ctx, p.server.Pool(), p.server.Move())
		if err != nil {
			return err
		}
		for _, w := range writers {
			if seen[w.XID] {
				continue
			}
			seen[w.XID] = true
			if !w.Ours {
				p.proof.Writers = append(p.proof.Writers, w)
			}
			if w.Stray() {
				p.warn("somebody writes: %s", w)
			}
		}
		if time.Since(p.began) >= p.options.Within {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	var next int64
	if err := p.server.Pool().QueryRow(ctx, nextIDSQL).Scan(&next); err != nil {
		return err
	}
	p.proof.Assigned = next - p.first
	return nil
}
