package upgrade

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/schema"
)

// roles makes the roles that the database needs, and reports in the journal what
// did not arrive. The schema comes after them: it names them.
func (s *start) roles(ctx context.Context) (any, error) {
	report, err := schema.MakeRoles(ctx, s.Old, s.New, func(text string) { step.Progress(ctx, "%s", text) })
	s.tell("roles", report.Notices)
	return report, err
}

// extensions makes them before pg_restore would, at a version of our choice.
func (s *start) extensions(ctx context.Context) (schema.ExtensionsReport, error) {
	report, err := schema.MakeExtensions(ctx, s.Old, s.New, func(text string) { step.Progress(ctx, "%s", text) })
	s.tell("schema", report.Notices)
	return report, err
}

// database gives new's database what old's has besides its contents.
func (s *start) database(ctx context.Context) (any, error) {
	report, err := schema.CarryDatabase(ctx, s.Old, s.New)
	s.tell("database", report.Notices)
	return report, err
}

// tell shows what did not arrive as it is on old: none of it stops the move.
func (m *Move) tell(step string, notices []schema.Notice) {
	for _, n := range notices {
		m.Observer.Warning(step, errors.New(n.String()))
	}
}

// noticesSQL lists what the phases noticed, each phase's last run.
const noticesSQL = `
select n->>'object', n->>'seen', coalesce(n->>'fix', '')
  from (select distinct on (step) step, run, seq, facts
          from pgcutover.journal
         where list = $1 and event = 'succeeded' and step in ('roles', 'schema', 'database')
         order by step, run desc, seq desc) j
 cross join lateral jsonb_array_elements(coalesce(j.facts->'notices', '[]')) with ordinality x (n, place)
 order by j.seq, x.place`

// notAsOnOld reads from the journal what did not arrive as it is on old.
func (m *Move) notAsOnOld(ctx context.Context) ([]schema.Notice, error) {
	rows, err := m.New.Pool().Query(ctx, noticesSQL, List)
	if err != nil {
		return nil, fmt.Errorf("reading from the journal what is not as on old: %w", err)
	}
	notices, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (schema.Notice, error) {
		var n schema.Notice
		err := row.Scan(&n.Object, &n.Seen, &n.Fix)
		return n, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading from the journal what is not as on old: %w", err)
	}
	return notices, nil
}

// notAsOnOldText shows the first of them.
func notAsOnOldText(notices []schema.Notice) string {
	var b strings.Builder
	for i, n := range notices {
		if i == maxShown {
			fmt.Fprintf(&b, "  not as on old  and %d more; all of them with --json\n", len(notices)-i)
			break
		}
		fmt.Fprintf(&b, "  not as on old  %s\n", n)
	}
	return b.String()
}

// globalsPlan is what the statements of the phases roles, schema and database
// are filled in with.
type globalsPlan struct{ roles, extensions, database []string }

func (s *start) planGlobals(ctx context.Context) (globalsPlan, error) {
	var (
		p   globalsPlan
		err error
	)
	if p.roles, err = schema.RoleStatements(ctx, s.Old, s.New); err != nil {
		return p, err
	}
	if p.extensions, err = schema.ExtensionStatements(ctx, s.Old, s.New); err != nil {
		return p, err
	}
	p.database, err = schema.DatabaseStatements(ctx, s.Old, s.New)
	return p, err
}

func (s *start) rolesStatements(p startPlan) ([]step.Statement, error) {
	return onNew(p.globals.roles, "what the database needs and new lacks; pgcutover.made_role remembers them for abort"), nil
}

func (s *start) databaseStatements(p startPlan) ([]step.Statement, error) {
	return onNew(p.globals.database, "as on old; pgcutover.carried remembers how to take it back"), nil
}

func onNew(statements []string, why string) []step.Statement {
	out := make([]step.Statement, 0, len(statements))
	for _, sql := range statements {
		out = append(out, step.Statement{Server: "new", SQL: sql, Why: why})
	}
	return out
}

type rolesFacts struct {
	Dropped []string        `json:"dropped"`
	Left    []schema.Notice `json:"left"`
}

// rolesBound is how long taking back roles and settings may take.
const rolesBound = 10 * time.Minute

// abortRoles is the step that takes back, on new, what the move set on the
// database and which roles it made. It comes before the schema pgcutover goes,
// which remembers both. Roles that are in use elsewhere on the server stay: the
// facts name them.
func (r *remover) abortRoles() []step.Step {
	if r.options.OldOnly {
		return nil
	}
	bound := rolesBound
	if r.options.gather != nil {
		bound += emptyBound
	}
	return []step.Step{{
		Name: "roles", About: "take back what start set on new's database; drop the roles that it made there", Bound: bound,
		Do: func(ctx context.Context) (any, error) {
			if r.options.gather != nil {
				if err := r.options.gather(ctx); err != nil {
					return nil, err
				}
			}
			if err := schema.ReturnDatabase(ctx, r.New, r.guard(r.New)); err != nil {
				return nil, err
			}
			dropped, left, err := schema.DropRoles(ctx, r.New, r.guard(r.New))
			r.tell("roles", left)
			return rolesFacts{Dropped: dropped, Left: left}, err
		},
		Statements: step.Fixed(
			step.Statement{Server: "new", SQL: strings.TrimSpace(schema.ReturnDatabaseSQL), Why: "if start came as far as the phase database"},
			step.Statement{Server: "new", SQL: strings.TrimSpace(schema.DropRolesSQL), Why: "if start came as far as the phase roles"}),
	}}
}

// completeRoles is for complete: the roles stay, but not the tool's role in
// them.
func (r *remover) completeRoles() []step.Step {
	return []step.Step{{
		Name: "roles", About: "end the tool's own membership in the roles that start made on new", Bound: rolesBound,
		Do:         func(ctx context.Context) (any, error) { return nil, schema.LeaveRoles(ctx, r.New, r.guard(r.New)) },
		Statements: step.Fixed(step.Statement{Server: "new", SQL: strings.TrimSpace(schema.LeaveRolesSQL), Why: "a superuser has made itself a member of none"}),
	}}
}
