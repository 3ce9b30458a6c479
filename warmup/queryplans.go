package warmup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// PlansOptions say which statements are compared and how.
type PlansOptions struct {
	// Top is how many of the most expensive reads are compared; 50 when 0.
	Top int
	// Timeout bounds the planning of one statement; 10 s when 0.
	Timeout time.Duration
	// SearchPath holds for all statements; empty: what the sessions of the role
	// that ran the statement begin with on old.
	SearchPath string
	// Tolerance is how many times its cost on old a changed plan may cost on new
	// without being called dearer; 1.1 when 0.
	Tolerance float64
	// Statements are compared instead of those of pg_stat_statements.
	Statements []PlanStatement
	// Progress, which may be nil, is told before each statement.
	Progress func(side pg.Side, done int)
}

func (o PlansOptions) withDefaults() PlansOptions {
	if o.Top <= 0 {
		o.Top = 50
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Tolerance <= 0 {
		o.Tolerance = 1.1
	}
	if o.Progress == nil {
		o.Progress = func(pg.Side, int) {}
	}
	return o
}

// PlannedStatement is a statement with its plan on one server, or the reason why
// there is none.
type PlannedStatement struct {
	PlanStatement
	Plan   *Plan  `json:"plan,omitempty"`
	Reason string `json:"reason,omitempty"`

	// Asked is what was planned, so that it can be planned again elsewhere.
	Asked question `json:"asked"`
}

// PlanSet are the plans of one server's statements. As JSON it can be kept, and
// compared with the plans of another server, or of the same one, later.
type PlanSet struct {
	Format     int                `json:"format"` // planSetFormat
	Server     string             `json:"server"` // host:port/database
	Version    string             `json:"version"`
	At         time.Time          `json:"at"`
	Statements []PlannedStatement `json:"statements"`
	// Indexes are those of the tables that the plans read.
	Indexes []PlanIndex `json:"indexes"`
	// Settings are what the planner counts with.
	Settings map[string]string `json:"settings"`
	// Hidden is how many calls were of statements whose text this role may not see.
	Hidden int64 `json:"hidden_calls"`
	// LeftOut counts statements that read no table of the application, or write; of
	// those that cannot be planned, the ones that name none.
	LeftOut int `json:"left_out"`
	// Warnings are for people.
	Warnings []string `json:"warnings"`
}

const planSetFormat = 1

// Save writes the set as JSON.
func (p PlanSet) Save(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(p); err != nil {
		return fmt.Errorf("writing the plans: %w", err)
	}
	return nil
}

// LoadPlans reads what Save wrote.
func LoadPlans(r io.Reader) (PlanSet, error) {
	var p PlanSet
	if err := json.NewDecoder(r).Decode(&p); err != nil {
		return p, fmt.Errorf("reading kept plans: %w", err)
	}
	if p.Format != planSetFormat {
		return p, hint.With(fmt.Errorf("reading kept plans: format %d, this program knows %d", p.Format, planSetFormat), "write them anew: pgcutover warm --plans --save FILE")
	}
	return p, nil
}

// ComparePlans explains the most expensive reads of old, or those of o.Statements,
// on both servers, and compares. It runs none of them and writes nothing: each is
// planned in a read-only transaction of its own, bounded by o.Timeout and a lock
// timeout of a second, in one session on each server.
//
// A statement of pg_stat_statements has parameters in place of its literals: what
// is compared is its generic plan, the same way on both servers. Planning takes
// on the role that ran the statement where this role may (SET ROLE), else goes on
// as this one.
//
// It returns ErrNoStatements with a hint where there is no pg_stat_statements.
// A statement that cannot be planned is part of the report with the reason.
func ComparePlans(ctx context.Context, from, to *pg.Server, o PlansOptions) (PlansReport, error) {
	set, err := ReadPlans(ctx, from, o)
	if err != nil {
		return PlansReport{}, err
	}
	return ComparePlansWith(ctx, set, to, o)
}

// ReadPlans is the first half of ComparePlans: the plans of one server alone.
func ReadPlans(ctx context.Context, s *pg.Server, o PlansOptions) (PlanSet, error) {
	o = o.withDefaults()
	set := PlanSet{Format: planSetFormat, Server: s.Address(), At: time.Now().UTC(), Statements: []PlannedStatement{}, Indexes: []PlanIndex{}, Warnings: []string{}}
	e, err := openExplainer(ctx, s, o)
	if err != nil {
		return set, err
	}
	defer endSession(ctx, e.conn)
	set.Version = e.conn.PgConn().ParameterStatus("server_version")
	statements := o.Statements
	if statements == nil {
		var lost int64
		if statements, set.Hidden, lost, err = readStatements(ctx, e.conn, s.User()); err != nil {
			return set, fmt.Errorf("reading the most expensive statements of the %s server: %w", s.Side(), err)
		}
		if lost > 0 {
			set.Warnings = append(set.Warnings, fmt.Sprintf("pg_stat_statements has lost the texts of statements with %d calls", lost))
		}
	} else {
		o.Top = len(statements)
	}
	if set.Hidden > 0 {
		set.Warnings = append(set.Warnings, hiddenWarning(set.Hidden, s))
	}
	for _, statement := range statements {
		if len(set.Statements) == o.Top {
			break
		}
		o.Progress(s.Side(), len(set.Statements))
		planned, isRead, err := e.plan(ctx, statement)
		switch {
		case err != nil:
			return set, fmt.Errorf("explaining statement %s on the %s server: %w", statement.ID, s.Side(), err)
		case isRead:
			set.Statements = append(set.Statements, planned)
		default:
			set.LeftOut++
		}
	}
	if o.Statements == nil && len(set.Statements) == 0 {
		set.Warnings = append(set.Warnings, "pg_stat_statements has counted no query of the application whose text this role may see: it may have been reset, or compute_query_id may be off")
	}
	return set, set.surroundings(ctx, e)
}

// plan plans a statement for the first time. isRead is false for what is not to be
// compared; err is of the session, not of the statement.
func (e *explainer) plan(ctx context.Context, s PlanStatement) (planned PlannedStatement, isRead bool, err error) {
	q := question{Text: repaired(s.Text), Values: s.Parameters, Method: GenericPlan, Role: s.Role, Path: e.pathOf(s.Role)}
	switch {
	case s.Parameters != nil:
		q.Text, q.Method = s.Text, ParameterPlan
	case e.server.Major() < 12:
		q.Method = SubselectPlan
		// On 10 no parallel worker is given what a sub-select returns.
		q.Serial = e.server.Major() < 11 && parameters(s.Text)
	}
	planned = PlannedStatement{PlanStatement: s}
	if s.Parameters == nil {
		planned.Text = maskLiterals(s.Text)
	}
	if s.tooLong {
		planned.Reason, planned.Asked = "its text is longer than 100,000 characters", question{}
		return planned, true, nil
	}
	if why := readsOnly(s.Text); why != "" {
		planned.Reason = why
		return planned, true, nil
	}
	raw, err := e.first(ctx, &q)
	planned.Asked = q
	switch {
	case err != nil && !ofStatement(ctx, err):
		return planned, false, err
	case err != nil:
		planned.Reason = e.reason(err, q)
		return planned, s.Parameters != nil || namesApplication(s.Text), nil
	}
	plan := raw.plan(q.Method == SubselectPlan)
	planned.Plan = &plan
	// What a file names was meant, whatever it reads.
	return planned, !raw.writes() && (s.Parameters != nil || plan.Root.readsApplication()), nil
}

func parameters(sql string) bool {
	for _, t := range tokens(sql) {
		if t.kind == parameterToken {
			return true
		}
	}
	return false
}

// ofStatement tells whether the server refused this one statement, so that the
// session can go on with the next.
func ofStatement(ctx context.Context, err error) bool {
	var none noPlan
	return ctx.Err() == nil && (errors.As(err, &none) || !pg.Lost(err))
}

// reason is what the server said, without the words that stand around it.
func (e *explainer) reason(err error, q question) string {
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return err.Error()
	}
	text := said.Message + " (" + said.Code + ")"
	role := e.server.User()
	if e.roles[q.Role] {
		role = q.Role
	}
	switch said.Code {
	case pg.UndefinedTable, pg.UndefinedFunction, pg.UndefinedObject:
		text += fmt.Sprintf(", with search_path %s, as role %s", q.Path, role)
	case pg.InsufficientPrivilege:
		text += ", as role " + role
	case pg.QueryCanceled:
		text += ": planning took too long"
	case pg.LockNotAvailable:
		text += ": a table is locked by another session"
	}
	return text
}

func hiddenWarning(calls int64, s *pg.Server) string {
	return fmt.Sprintf("pg_stat_statements hides the texts of other roles' statements (%d calls) from role %s: "+hiddenHint, calls, s.User(), pgx.Identifier{s.User()}.Sanitize())
}
