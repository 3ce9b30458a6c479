package schema

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// RolesReport says what became of the roles that the database needs. It holds
// no secret.
type RolesReport struct {
	Made    []string `json:"made"`    // by this call
	Earlier []string `json:"earlier"` // made by an earlier call, before a crash
	There   []string `json:"there"`   // existed before the move, left as they are
	Skipped []string `json:"skipped"` // names that a hosting service keeps for itself
	Notices []Notice `json:"notices"`
}

// MakeRoles makes on new the roles that the old database needs and that do not
// exist there, with attributes, memberships, settings, comments, security labels
// and, where the tool's role may read them on old, passwords.
//
// All of it is one transaction, and each role that is made is recorded in schema
// pgcutover there (which must exist): called again, it goes on, and [DropRoles]
// takes back exactly those. Roles that exist already are left as they are; how
// they differ is among the notices, and so are attributes, memberships and
// settings that new refuses. A role that is not a superuser makes itself a member
// of the roles it made that own something, since it will have to act as them;
// [LeaveRoles] takes that back.
//
// The verifiers of passwords are sent as they are: they are neither shown nor
// kept, and stay out of the server's log where the tool's role is a superuser.
func MakeRoles(ctx context.Context, old, new *pg.Server, progress func(string)) (RolesReport, error) {
	report, err := makeAll(ctx, old, new, progress)
	if err != nil {
		return report, fmt.Errorf("making roles on the new server (%s): %w", new.Address(), new.Redacted(err))
	}
	return report, nil
}

// roleAttempts is how often making or dropping roles begins again when the moves of
// several databases do it at the same time, and get in each other's way. Two changes
// of one row of a shared catalog (the rights on a tablespace, a membership) do not
// follow each other as in a table: the second one ends with an internal error.
const roleAttempts = 10

func makeAll(ctx context.Context, old, new *pg.Server, progress func(string)) (RolesReport, error) {
	for attempt := 1; ; attempt++ {
		report, err := makeOnce(ctx, old, new, progress)
		if attempt < roleAttempts && (inEachOthersWay(err) || pg.IsCode(err, pg.LockNotAvailable)) {
			continue
		}
		return report, err
	}
}

// inEachOthersWay tells whether a transaction may succeed when it is begun again.
func inEachOthersWay(err error) bool { return pg.IsCode(err, pg.DeadlockDetected, internalError) }

func makeOnce(ctx context.Context, old, new *pg.Server, progress func(string)) (RolesReport, error) {
	p, err := planRoles(ctx, old, new, false)
	if err != nil {
		return RolesReport{}, err
	}
	if len(p.roles) == 0 {
		return p.report, nil
	}
	conn, err := new.Connect(ctx, "roles", p.me.session(new))
	if err != nil {
		return RolesReport{}, err
	}
	defer pg.Close(ctx, conn)
	err = inTransaction(ctx, conn, func(tx pgx.Tx) error { return p.execute(ctx, tx, progress) })
	return p.report, err
}

// tool is what the tool's own role on new may do.
type tool struct {
	Name              string
	Super, CreateRole bool
}

const toolSQL = `select rolname::text, rolsuper, rolcreaterole from pg_roles where rolname = current_user`

func readTool(ctx context.Context, q querier) (tool, error) {
	var t tool
	if err := q.QueryRow(ctx, toolSQL).Scan(&t.Name, &t.Super, &t.CreateRole); err != nil {
		return t, fmt.Errorf("asking for the rights of the tool's role: %w", err)
	}
	return t, nil
}

// session are settings that keep the statements with password verifiers out of
// the server's log and statistics; only a superuser may have them. They must hold before the
// transaction begins: whether its statements are sampled is decided then.
// https://www.postgresql.org/docs/current/runtime-config-logging.html
func (t tool) session(s *pg.Server) map[string]string {
	settings := pg.LongRunning()
	if !t.Super {
		return settings
	}
	settings["log_statement"] = "none"
	settings["log_min_duration_statement"] = "-1"
	settings["log_min_error_statement"] = "panic"
	settings["pg_stat_statements.track"] = "none" // it would keep the statement; without the module it means nothing
	if s.Major() >= 12 {
		settings["log_transaction_sample_rate"] = "0"
	}
	if s.Major() >= 13 {
		settings["log_min_duration_sample"] = "-1"
	}
	return settings
}

// MayMakeRoles tells whether the tool's role on the server may make roles.
func MayMakeRoles(ctx context.Context, s *pg.Server) (bool, error) {
	t, err := readTool(ctx, s.Pool())
	if err != nil {
		return false, s.Redacted(err)
	}
	return t.Super || t.CreateRole, nil
}

// rolePlan is what MakeRoles is going to do.
type rolePlan struct {
	me       tool
	major    int    // of new
	roles    []Role // to make, groups first
	there    []Role // that exist on new, as they are on old
	earlier  []Role // that an earlier call has made, as they are on old
	existing map[string]bool
	ours     []string // made earlier, by this move
	readable bool     // passwords on old
	grants   []serverGrant
	report   RolesReport
}

// planRoles compares the two servers. afresh takes the roles that an earlier call
// has made for missing.
func planRoles(ctx context.Context, old, new *pg.Server, afresh bool) (*rolePlan, error) {
	roles, readable, err := RolesNeeded(ctx, old)
	if err != nil {
		return nil, err
	}
	p := &rolePlan{major: new.Major(), readable: readable, existing: map[string]bool{}}
	p.report = RolesReport{Made: []string{}, Earlier: []string{}, There: []string{}, Skipped: []string{}, Notices: []Notice{}}
	if p.me, err = readTool(ctx, new.Pool()); err != nil {
		return nil, err
	}
	if p.ours, err = madeRoles(ctx, new.Pool()); err != nil {
		return nil, err
	}
	if p.grants, err = readServerGrants(ctx, old, namesOf(roles)); err != nil {
		return nil, old.Redacted(err)
	}
	missing, err := missingOn(ctx, new, roles)
	if err != nil {
		return nil, err
	}
	absent := namesOf(missing)
	for _, r := range groupsFirst(roles) {
		switch {
		case slices.Contains(p.ours, r.Name) && afresh:
			p.roles = append(p.roles, r)
		case slices.Contains(p.ours, r.Name):
			p.earlier = append(p.earlier, r)
			p.report.Earlier = append(p.report.Earlier, r.Name)
		case !slices.Contains(absent, r.Name):
			p.there = append(p.there, r)
			p.existing[r.Name] = true
			p.report.There = append(p.report.There, r.Name)
		case r.Reserved != "":
			p.skip(r)
		default:
			p.roles = append(p.roles, r)
		}
	}
	differences, err := p.differences(ctx, new)
	p.notice(differences...)
	return p, err
}

// skip leaves out a role whose name a service keeps for itself.
func (p *rolePlan) skip(r Role) {
	p.report.Skipped = append(p.report.Skipped, r.Name)
	n := Notice{Object: "role " + quoteName(r.Name), Seen: fmt.Sprintf("%s; the name belongs to %s, so it is not made", r.Why, r.Reserved)}
	if r.Owner || r.Why == roleReasons[2] {
		n.Fix = "on old, give what it owns to another role and revoke its rights, or on new make a stand-in: create role " + quoteName(r.Name) + " nologin;"
	}
	p.notice(n)
}

func (p *rolePlan) notice(n ...Notice) { p.report.Notices = append(p.report.Notices, n...) }

// keepRolesSQL makes the table that remembers which roles the tool made. The
// OID tells a role from a later one of the same name. acting: the tool's role
// has made itself a member.
const keepRolesSQL = `
create table if not exists pgcutover.made_role (
  oid oid primary key,
  name text not null,
  acting boolean not null default false
)`

const keepRoleSQL = `
insert into pgcutover.made_role (oid, name)
select oid, rolname from pg_roles where rolname = $1`

const madeRolesSQL = `
select r.rolname::text
  from pgcutover.made_role m
  join pg_roles r on r.oid = m.oid
 order by 1`

// madeRoles lists the roles that the tool made and that still exist.
func madeRoles(ctx context.Context, q querier) ([]string, error) {
	rows, err := q.Query(ctx, madeRolesSQL)
	if err == nil {
		var names []string
		if names, err = pgx.CollectRows(rows, pgx.RowTo[string]); err == nil {
			return names, nil
		}
	}
	if pg.IsCode(err, pg.UndefinedTable, pg.InvalidSchemaName) {
		return nil, nil
	}
	return nil, fmt.Errorf("reading which roles were made: %w", err)
}

func (p *rolePlan) execute(ctx context.Context, tx pgx.Tx, progress func(string)) error {
	for _, sql := range []string{keepRolesSQL, carriedSQL} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("making the tables that remember what was made: %w", err)
		}
	}
	var made []Role
	for _, r := range p.roles {
		if progress != nil {
			progress("making role " + r.Name)
		}
		done, err := p.create(ctx, tx, r)
		if err != nil {
			return err
		}
		if done {
			made = append(made, r)
		}
	}
	for _, s := range p.acting(made) {
		if err := p.try(ctx, tx, s); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, actingSQL); err != nil {
		return fmt.Errorf("recording the memberships of the tool's role: %w", err)
	}
	for _, s := range slices.Concat(p.memberships(), p.details(made)) {
		if err := p.try(ctx, tx, s); err != nil {
			return err
		}
	}
	for _, c := range p.changes(made) {
		refused, err := c.carry(ctx, tx)
		if err != nil {
			return err
		}
		if refused != nil {
			p.notice(*refused)
		}
	}
	p.unreadable(made)
	return nil
}

// try executes a statement that may be refused.
func (p *rolePlan) try(ctx context.Context, tx pgx.Tx, s statement) error {
	refused, err := s.attempt(ctx, tx)
	if refused != nil {
		p.notice(*refused)
	}
	return err
}

// create makes the role and records it. It returns false when somebody else has
// made it meanwhile: another database's move, for instance.
func (p *rolePlan) create(ctx context.Context, tx pgx.Tx, r Role) (bool, error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return false, fmt.Errorf("setting a savepoint: %w", err)
	}
	sql := r.createPlain()
	if _, err = inner.Exec(ctx, sql); err != nil {
		rollback(ctx, inner)
		if pg.IsCode(err, pg.DuplicateObject, pg.UniqueViolation) {
			p.existing[r.Name] = true
			p.report.There = append(p.report.There, r.Name)
			return false, nil
		}
		return false, mayNotCreate(fmt.Errorf("executing %q: %w", sql, err), p.me.Name, p.roles)
	}
	if _, err := inner.Exec(ctx, keepRoleSQL, r.Name); err != nil {
		rollback(ctx, inner)
		return false, fmt.Errorf("recording that role %q was made: %w", r.Name, err)
	}
	if err := inner.Commit(ctx); err != nil {
		return false, fmt.Errorf("releasing a savepoint: %w", err)
	}
	p.report.Made = append(p.report.Made, r.Name)
	for _, s := range r.attributes() {
		if err := p.try(ctx, tx, s); err != nil {
			return false, err
		}
	}
	return true, nil
}

// mayNotCreate adds the script that a superuser can run instead.
func mayNotCreate(err error, me string, roles []Role) error {
	if !pg.IsCode(err, pg.InsufficientPrivilege) {
		return err
	}
	return hint.With(err, fmt.Sprintf("as a superuser on new: ALTER ROLE %s CREATEROLE; or make the roles by hand:\n%s", quoteName(me), Script(roles)))
}
