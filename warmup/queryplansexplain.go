package warmup

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// PlanMethod says how a statement with parameters was planned. Both servers do it
// the same way, else the difference would show in the plans.
type PlanMethod string

const (
	// GenericPlan is the plan that a prepared statement has for any values, from
	// 12 on: plan_cache_mode = force_generic_plan and EXPLAIN EXECUTE.
	GenericPlan PlanMethod = "generic"
	// SubselectPlan has (select null::type) for each parameter, which the planner
	// does not look into either: for servers before 12, and for partitioned
	// tables, of which EXPLAIN EXECUTE with nulls shows no partition.
	SubselectPlan PlanMethod = "subselects"
	// ParameterPlan has the values from a file.
	ParameterPlan PlanMethod = "parameters"
)

// noPlan is why a statement has no plan, where it is not the server that says so.
type noPlan string

func (n noPlan) Error() string { return string(n) }

// explainer plans statements in a session of its own. Every statement has a
// transaction of its own, read-only and rolled back, so that no lock is held
// longer than one takes to plan.
type explainer struct {
	server   *pg.Server
	conn     *pgx.Conn
	settings map[string]map[string]string // by role: what its sessions begin with
	roles    map[string]bool              // that this role may take on
	path     string                       // search_path for all, when given
}

// lockWait is how long planning may wait for a table that somebody has locked.
const lockWait = time.Second

// openExplainer opens the session. Where the role may, the explaining is kept out
// of pg_stat_statements.
func openExplainer(ctx context.Context, s *pg.Server, o PlansOptions) (*explainer, error) {
	settings := map[string]string{
		"default_transaction_read_only": "on",
		"statement_timeout":             milliseconds(o.Timeout),
		"lock_timeout":                  milliseconds(lockWait),
	}
	if s.Major() >= 12 {
		settings["plan_cache_mode"] = "force_generic_plan"
	}
	conn, err := s.Connect(ctx, "plans", settings)
	if err != nil {
		return nil, fmt.Errorf("opening a session to explain queries: %w", err)
	}
	e := &explainer{server: s, conn: conn, path: o.SearchPath}
	if err := e.prepare(ctx); err != nil {
		endSession(ctx, conn)
		return nil, fmt.Errorf("preparing to explain queries on the %s server: %w", s.Side(), err)
	}
	return e, nil
}

// quietly are refused to most roles. Then the statements are counted as EXPLAIN,
// and those that the server cannot plan stand in its log.
var quietly = []string{`set pg_stat_statements.track = 'none'`, `set log_min_messages = 'fatal'`}

// sessionDefaultsSQL lists what ALTER ROLE and ALTER DATABASE set for this
// database, the weakest first.
const sessionDefaultsSQL = `
select coalesce(r.rolname::text, ''), split_part(setting, '=', 1), substr(setting, strpos(setting, '=') + 1)
  from pg_db_role_setting s
  left join pg_roles r on r.oid = s.setrole
  left join pg_database d on d.oid = s.setdatabase
 cross join unnest(s.setconfig) setting
 where (s.setdatabase = 0 or d.datname = current_database())
   and (s.setrole = 0 or r.oid is not null)
 order by s.setrole <> 0, s.setdatabase <> 0`

// serverPathSQL is what a session without such settings has, where the session
// that asks has none; else Postgres' own default is taken for it.
const serverPathSQL = `
select case when source in ('default', 'configuration file', 'command line', 'environment variable') then reset_val else boot_val end
  from pg_settings
 where name = 'search_path'`

func (e *explainer) prepare(ctx context.Context) error {
	for _, sql := range quietly {
		if _, err := e.conn.Exec(ctx, sql); err != nil && !pg.IsCode(err, pg.InsufficientPrivilege) {
			return err
		}
	}
	path, err := serverPath(ctx, e.server)
	if err != nil {
		return err
	}
	e.settings = map[string]map[string]string{"": {"search_path": path}}
	rows, err := e.conn.Query(ctx, sessionDefaultsSQL)
	if err != nil {
		return err
	}
	var role, name, value string
	_, err = pgx.ForEachRow(rows, []any{&role, &name, &value}, func() error {
		if name != "search_path" && !slices.Contains(plannerSettings, name) {
			return nil
		}
		if e.settings[role] == nil {
			e.settings[role] = map[string]string{}
		}
		e.settings[role][name] = value
		return nil
	})
	if err != nil {
		return err
	}
	return e.readRoles(ctx)
}

// rolesSQL lists the roles that this one may take on with SET ROLE, up to 15.
const rolesSQL = `select rolname from pg_roles where pg_has_role(oid, 'MEMBER')`

// roles16SQL is the same for 16 and later, where that is a right of its own.
const roles16SQL = `select rolname from pg_roles where pg_has_role(oid, 'SET')`

func (e *explainer) readRoles(ctx context.Context) error {
	sql := rolesSQL
	if e.server.Major() >= 16 {
		sql = roles16SQL
	}
	rows, err := e.conn.Query(ctx, sql)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	e.roles = map[string]bool{}
	for _, name := range names {
		e.roles[name] = true
	}
	return err
}

// serverPath asks in a session without the tool's own settings.
func serverPath(ctx context.Context, s *pg.Server) (path string, err error) {
	err = askAsClient(ctx, s, serverPathSQL, &path)
	return path, err
}

// askAsClient asks for one value in a session without the tool's own settings. Where
// SERIALIZABLE is the default, a standby would refuse to answer.
// Postgres manual: 13.2.3, Serializable Isolation Level.
func askAsClient(ctx context.Context, s *pg.Server, sql string, into any) error {
	conn, err := s.ConnectAsClient(ctx)
	if err != nil {
		return err
	}
	defer endSession(ctx, conn)
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, sql).Scan(into)
	})
}

// pathOf is the search_path that a role's sessions begin with.
func (e *explainer) pathOf(role string) string {
	if e.path != "" {
		return e.path
	}
	role = cmp.Or(role, e.server.User())
	path := e.settings[""]["search_path"]
	if own, ok := e.settings[role]["search_path"]; ok {
		path = own
	}
	// "$user" is who ran the statement, not who explains it.
	return strings.ReplaceAll(path, `"$user"`, pgx.Identifier{role}.Sanitize())
}

// settingsFor are what a statement is planned under: its role with its planner
// settings on this server, as far as this role may take it on, and the search_path
// of old.
func (e *explainer) settingsFor(q *question) map[string]string {
	all := maps.Clone(e.settings[""])
	maps.Copy(all, e.settings[cmp.Or(q.Role, e.server.User())])
	if e.roles[q.Role] {
		all["role"] = q.Role
	}
	all["search_path"] = q.Path
	if q.Serial {
		all["max_parallel_workers_per_gather"] = "0"
	}
	return all
}

// question is a statement in the form in which it can be planned.
type question struct {
	Text   string      `json:"text"`             // mended, where that was needed
	Types  []uint32    `json:"types,omitempty"`  // of parameters that have none by themselves
	Values QueryValues `json:"values,omitempty"` // with ParameterPlan
	Method PlanMethod  `json:"method"`
	// Guessed tells that some of Types were tried until the server took one.
	Guessed bool   `json:"guessed,omitempty"`
	Serial  bool   `json:"serial,omitempty"` // without parallel workers
	Role    string `json:"role,omitempty"`   // who ran it
	Path    string `json:"search_path"`      // of the role on old
}

// explain plans a statement once, in a transaction of its own.
func (e *explainer) explain(ctx context.Context, q *question) (*rawPlan, error) {
	tx, err := e.conn.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer rollback(ctx, tx)
	if err := apply(ctx, tx, e.settingsFor(q)); err != nil {
		return nil, err
	}
	const name = "pgcutover_plan"
	pc := e.conn.PgConn()
	prepared, err := pc.Prepare(ctx, name, q.Text, q.Types)
	if err != nil {
		return nil, err
	}
	defer deallocate(ctx, pc, name)
	var answer []byte
	switch {
	case q.Method == ParameterPlan:
		answer, err = e.withValues(ctx, q, prepared.ParamOIDs)
	case q.Method == GenericPlan || len(prepared.ParamOIDs) == 0:
		answer, err = e.generic(ctx, len(prepared.ParamOIDs))
	default:
		answer, err = e.withSubselects(ctx, q.Text, prepared.ParamOIDs)
	}
	if err != nil {
		return nil, err
	}
	var all []struct{ Plan rawPlan }
	if err := json.Unmarshal(answer, &all); err != nil {
		return nil, noPlan("its plan cannot be read: " + err.Error())
	}
	if len(all) != 1 {
		return nil, noPlan(fmt.Sprintf("EXPLAIN shows %d plans; a rule makes several statements of it", len(all)))
	}
	return &all[0].Plan, nil
}

// deallocate frees the name. What fails here ends with the transaction's session
// at the latest, and the next Prepare says so.
func deallocate(ctx context.Context, pc *pgconn.PgConn, name string) {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	//nolint:errcheck // see above
	pc.Deallocate(end, name)
}

// applySQL sets one setting for the transaction.
const applySQL = `select pg_catalog.set_config($1, $2, true)`

func apply(ctx context.Context, tx pgx.Tx, settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		if _, err := tx.Exec(ctx, applySQL, name, settings[name]); err != nil {
			return fmt.Errorf("setting %s to %q: %w", name, settings[name], err)
		}
	}
	return nil
}

const (
	explainSQL        = `explain (verbose, format json) `
	explainExecuteSQL = `explain (verbose, format json) execute pgcutover_plan`
)

// generic explains what was prepared. The nulls are not looked at: the session
// has plan_cache_mode = force_generic_plan.
func (e *explainer) generic(ctx context.Context, parameters int) ([]byte, error) {
	sql := explainExecuteSQL
	if parameters > 0 {
		sql += "(" + strings.TrimSuffix(strings.Repeat("null, ", parameters), ", ") + ")"
	}
	return e.ask(ctx, sql, nil, nil)
}

// typeNamesSQL writes types as the session's search_path needs them.
const typeNamesSQL = `
select pg_catalog.format_type(t.oid, -1)
  from pg_catalog.unnest($1::pg_catalog.oid[]) with ordinality t(oid, place)
 order by t.place`

func (e *explainer) withSubselects(ctx context.Context, text string, types []uint32) ([]byte, error) {
	rows, err := e.conn.Query(ctx, typeNamesSQL, types)
	if err != nil {
		return nil, fmt.Errorf("naming types: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("naming types: %w", err)
	}
	return e.ask(ctx, explainSQL+subselects(text, names), nil, nil)
}

func (e *explainer) withValues(ctx context.Context, q *question, types []uint32) ([]byte, error) {
	if len(q.Values) != len(types) {
		return nil, noPlan(fmt.Sprintf("it has %d parameters, and %d values are given", len(types), len(q.Values)))
	}
	values, err := q.Values.encode(types)
	if err != nil {
		return nil, noPlan(err.Error())
	}
	return e.ask(ctx, explainSQL+q.Text, values, types)
}

// ask runs an EXPLAIN by the extended protocol, which takes one statement only,
// whatever the text holds.
func (e *explainer) ask(ctx context.Context, sql string, values [][]byte, types []uint32) ([]byte, error) {
	result := e.conn.PgConn().ExecParams(ctx, sql, values, types, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	if len(result.Rows) != 1 || len(result.Rows[0]) != 1 {
		return nil, noPlan(fmt.Sprintf("EXPLAIN answered with %d rows instead of one", len(result.Rows)))
	}
	return result.Rows[0][0], nil
}

// SQLSTATEs that tell what a parameter lacks. Postgres manual: Appendix A.
const (
	indeterminateType = "42P18"
	ambiguousFunction = "42725"
	notNullViolation  = "23502" // of a domain, by a null for a parameter
	checkViolation    = "23514"
)

const (
	mostAttempts   = 100 // at planning one statement
	mostParameters = 1000
	oidOfText      = 25
)

// first plans a statement of pg_stat_statements, giving its parameters types as
// far as it must, and leaves in q what was planned in the end.
func (e *explainer) first(ctx context.Context, q *question) (*rawPlan, error) {
	m := mending{guesses: map[int32]int{}}
	for range mostAttempts {
		plan, err := e.explain(ctx, q)
		var server *pgconn.PgError
		switch {
		case err == nil && q.Method == GenericPlan && plan.removed() > 0:
			q.Method = SubselectPlan
			continue
		case err == nil:
			return plan, nil
		case !errors.As(err, &server) || q.Method == ParameterPlan:
			return nil, err
		}
		if m.first == nil {
			m.first = err
		}
		if !m.mend(q, server) {
			return nil, m.first
		}
	}
	return nil, noPlan("its parameters have no types")
}

// mending is what was tried already for a statement.
type mending struct {
	first   error         // what the server said before anything was tried
	guesses map[int32]int // how many types were tried, by the place of the error
	domain  bool
	wide    bool // all parameters were given a type
}

// mend changes the question by what the server said. It is false when nothing is
// left to try.
func (m *mending) mend(q *question, said *pgconn.PgError) bool {
	switch said.Code {
	case indeterminateType:
		n := undetermined(said.Message)
		return n > 0 && q.setType(n, oidOfText)
	case pg.UndefinedFunction, ambiguousFunction:
		return m.guess(q, said.Position)
	case notNullViolation, checkViolation:
		if m.domain || q.Method != GenericPlan {
			return false
		}
		m.domain, q.Method = true, SubselectPlan
		return true
	}
	return false
}

// guess gives the parameters of the function or operator that was not found the
// next type of the list; when none of them fits, all parameters the first one,
// since what is compared with them may be made of others.
func (m *mending) guess(q *question, position int32) bool {
	q.Guessed = true
	tried, near := m.guesses[position], parametersAt(q.Text, int(position))
	m.guesses[position]++
	if len(near) > 0 && tried < len(guessed) {
		for _, n := range near {
			q.setType(n, guessed[tried])
		}
		return true
	}
	all := uncast(q.Text)
	if m.wide || len(all) == 0 {
		return false
	}
	m.wide, m.guesses = true, map[int32]int{}
	for _, n := range all {
		q.setType(n, guessed[0])
	}
	return true
}

// setType gives parameter n a type. It is false when it had that one.
func (q *question) setType(n int, oid uint32) bool {
	if n > mostParameters || len(q.Types) >= n && q.Types[n-1] == oid {
		return false
	}
	for len(q.Types) < n {
		q.Types = append(q.Types, 0)
	}
	q.Types[n-1] = oid
	return true
}
