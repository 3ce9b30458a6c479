package subscriber

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
)

// What the functions of this package run, for the plan, with values in place of
// parameters.

// Plan says which of the statements apply to a server.
type Plan struct {
	server *pg.Server
	super  bool
	quiet  map[string]string
}

// PlanFor asks a server for what the statements depend on. It changes nothing.
func PlanFor(ctx context.Context, s *pg.Server) (Plan, error) {
	super, err := isSuperuser(ctx, s)
	if err != nil {
		return Plan{}, err
	}
	quiet, err := mayBeQuiet(ctx, s)
	return Plan{server: s, super: super, quiet: quiet}, err
}

// Owner is the role that will own the subscription.
func (p Plan) Owner() string {
	if p.super {
		return RoleName(p.server.Move())
	}
	return p.server.User()
}

// RoleStatements are what EnsureRole runs where nothing is there yet.
func (p Plan) RoleStatements() []string {
	setting := RoleSettingSQL(p.Owner(), p.server.Database())
	if !p.super {
		return []string{setting}
	}
	return []string{CreateRoleSQL(p.server.Move()), setting}
}

// DropRoleStatement is what DropRole runs.
func (p Plan) DropRoleStatement() string {
	if p.super {
		return dropRoleSQL(RoleName(p.server.Move()))
	}
	return resetRoleSQL(p.server.User(), p.server.Database())
}

// Quiet are the settings of the session that makes the subscription.
func (p Plan) Quiet() map[string]string { return p.quiet }

// ConninfoVariable is the psql variable that stands for the connection string by
// which the other side reaches a server: it holds a password.
func ConninfoVariable(publisher pg.Side) string { return string(publisher) + "_conninfo" }

// CreateScript is what Ensure runs, with ConninfoVariable in place of the
// connection string.
func (p Plan) CreateScript(st state.Stream) string {
	const here = "pgcutover:conninfo"
	create := strings.Replace(CreateStatement(p.server, st, here), literal(here), ":'"+ConninfoVariable(p.server.Side().Other())+"'", 1)
	statements := []string{"begin", create}
	if p.super {
		statements = append(statements, OwnerSQL(st, p.Owner()))
	}
	return strings.Join(append(statements, "commit"), ";\n")
}

// AlterScript is how one statement about a subscription is run.
func (p Plan) AlterScript(sql string) string {
	return strings.Join([]string{"begin", p.server.Quiet(sql), "commit"}, ";\n")
}

// DropScripts are what Drop runs for the subscription of that name.
func (p Plan) DropScripts(name string) []string {
	var out []string
	for _, sql := range dropStatements(name) {
		out = append(out, p.AlterScript(sql))
	}
	return out
}

// readyCheckSQL tells whether all tables of a subscription follow the stream.
const readyCheckSQL = `
select count(*) > 0 and coalesce(bool_and(r.srsubstate = 'r'), false)
  from (select distinct subid, subname from pg_stat_subscription) s
  join pg_subscription_rel r on r.srsubid = s.subid
 where s.subname = $1`

// ReadySQL answers t when all tables are copied and follow the stream.
func ReadySQL(st state.Stream) string { return pg.Fill(readyCheckSQL, st.Name()) }

// StoppedSQL answers 0 when no worker of the subscription is left.
func StoppedSQL(st state.Stream) string { return pg.Fill(workersSQL, st.Name()) }

// MarkerSQL answers t when the marker of an attempt has arrived.
func MarkerSQL(d state.Direction, attempt int64) string {
	if d == state.Back {
		return pg.Fill(markerBackSQL, attempt)
	}
	return pg.Fill(markerForwardSQL, attempt)
}

// FlushStatement is what FlushMarker runs.
func FlushStatement(d state.Direction, attempt int64) string { return pg.Fill(FlushSQL(d), attempt) }

// settingsSQL sets a session's settings in order of their names.
func settingsSQL(settings map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "set %s = %s;\n", name, pg.Literal(settings[name]))
	}
	return b.String()
}

// QuietSQL sets Quiet in a session.
func (p Plan) QuietSQL() string { return settingsSQL(p.Quiet()) }

// Names lists the subscriptions of the server's move that are there now.
func Names(ctx context.Context, s *pg.Server) ([]string, error) { return names(ctx, s) }
