package preflight

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/provider"
)

// script makes the statements, in the order in which they can be run.
func (g *grantSide) script() GrantScript {
	s := GrantScript{
		Server: string(g.server.Side()), Database: g.server.Database(), Role: g.role, Major: g.server.Major(),
		Provider: g.flavor, Detected: g.detected,
	}
	switch {
	case g.facts.Super:
		g.remark("role %s is a superuser, who needs nothing. For another role: --role NAME", quote(g.role))
	case g.mustBeSuperuser():
		g.login()
		g.application()
		g.superuser()
		g.parameters()
	default:
		g.login()
		g.application()
		g.ownership()
		g.schemaUse()
		g.ownersInPublic()
		g.replication()
		g.subscription()
		g.sessions()
		g.rowSecurity()
		g.largeObjects()
		g.extension()
		g.parameters()
	}
	s.Statements, s.Remarks = g.out, g.remarks
	if s.Statements == nil {
		s.Statements = []GrantStatement{}
	}
	s.SQL = g.text(s)
	return s
}

func (g *grantSide) add(why, sql string, args ...any) {
	g.out = append(g.out, GrantStatement{SQL: fmt.Sprintf(sql, args...), Why: why})
}

func (g *grantSide) remark(text string, args ...any) {
	g.remarks = append(g.remarks, fmt.Sprintf(text, args...))
}

func (g *grantSide) login() {
	g.add("What pgcutover connects as. A role of its own: rights given to a role that applications use are theirs, too.",
		"SELECT %s WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %s) \\gexec",
		literal("CREATE ROLE "+quote(g.role)+" LOGIN"), literal(g.role))
}

// application makes the roles that old's database names and new does not have.
func (g *grantSide) application() {
	for _, r := range g.missing {
		if unlendable(r.Name, r.Super) {
			g.remark("role %s, a superuser or a provider's, %s and does not exist on new: make a stand-in, or take what it has away on old", quote(r.Name), roleReasons[r.Why])
			continue
		}
		why := "A role of the application's: it " + roleReasons[r.Why] + "."
		if r.Login {
			why += " Set its password, or carry all roles over first: pg_dumpall --roles-only."
		}
		g.add(why, "SELECT %s WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %s) \\gexec",
			literal("CREATE ROLE "+quote(r.Name)+" "+strings.Join(r.attributes(), " ")), literal(r.Name))
		for _, group := range r.Groups {
			g.add("As on old.", "GRANT %s TO %s;", quote(group), quote(r.Name))
		}
	}
}

// member makes the role a member of another. From 16 on a membership says what
// may be done with it; before, a member that inherits (the default) has it all.
func (g *grantSide) member(of string, become bool, why string) {
	switch {
	case slices.Contains(g.unadministered, of):
		g.remark("role %s is needed (%s), and nobody on this server can grant it, which since 16 takes ADMIN OPTION: let pgcutover connect as it (--role %[1]s), or give what it owns to a role that you made",
			quote(of), strings.TrimSuffix(why, "."))
	case g.server.Major() < 16:
		g.add(why, "GRANT %s TO %s;", quote(of), quote(g.role))
	case become:
		g.add(why, "GRANT %s TO %s WITH INHERIT TRUE, SET TRUE;", quote(of), quote(g.role))
	default:
		g.add(why, "GRANT %s TO %s WITH INHERIT TRUE, SET FALSE;", quote(of), quote(g.role))
	}
}

// ownership gives the rights of the database's owner and of the tables' owners.
func (g *grantSide) ownership() {
	const database = "Only the owner of a database may set default_transaction_read_only on it, which the cutover does; the schema pgcutover is made in it, too."
	owners := g.grantable()
	owned := slices.IndexFunc(owners, func(o objectOwner) bool { return o.Name == g.facts.Owner })
	switch {
	case g.facts.Owner == g.role || owned >= 0:
	case unlendable(g.facts.Owner, g.facts.OwnerSuper):
		g.add(database+" It belongs to a role whose rights cannot be lent; when the move is over: "+databaseOwner(g.server, g.facts.Owner),
			"%s", databaseOwner(g.server, g.role))
	default:
		g.member(g.facts.Owner, false, database)
	}
	for _, o := range owners {
		g.memberOfOwner(o)
	}
	for _, o := range g.owners {
		if o.Name != g.role && unlendable(o.Name, o.Super) {
			g.remark("role %s owns objects on old, and a member of it would be more than this role should: give them to a role that is neither superuser nor the provider's, see finding rights.superuser-owner of pgcutover check", quote(o.Name))
		}
	}
}

func (g *grantSide) memberOfOwner(o objectOwner) {
	var why []string
	if o.Name == g.facts.Owner {
		why = append(why, "It owns the database: only the owner may set default_transaction_read_only on it.")
	}
	become := false
	switch {
	case g.server.Side() == pg.Old && !o.Tables && o.Name != g.facts.Owner:
		return // pg_dump reads the catalogs, which everybody may
	case g.server.Side() == pg.Old && o.Tables:
		why = append(why, "It owns tables: publishing them and putting the fence's triggers on them is their owner's right, and copying reads them.")
		if g.subscribes && g.server.Major() >= 16 {
			become = true
			why = append(why, "The stream back is applied in its name.")
		}
	case g.server.Side() == pg.New:
		become = true
		why = append(why, "Its objects are made by the tool and given to it, which takes SET ROLE.")
		if g.server.Major() >= 16 {
			why = append(why, "Changes are applied in its name.")
		}
	}
	g.member(o.Name, become, strings.Join(why, " "))
}

// databaseOwner is the statement that gives the database to a role.
func databaseOwner(s *pg.Server, role string) string {
	return fmt.Sprintf("ALTER DATABASE %s OWNER TO %s;", quote(s.Database()), quote(role))
}

// schemaUse gives what the memberships do not bring.
func (g *grantSide) schemaUse() {
	for _, s := range g.schemas {
		switch {
		case g.server.Side() == pg.Old && !s.Uses:
			g.add("Its tables and sequences are read.", "GRANT USAGE ON SCHEMA %s TO %s;", quote(s.Name), quote(g.role))
		case g.server.Side() == pg.New && s.Public && !s.Creates && len(g.closed) == 0: // else by membership
			g.add("Objects are made in it.", "GRANT USAGE, CREATE ON SCHEMA %s TO %s;", quote(s.Name), quote(g.role))
		}
	}
}

// ownersInPublic gives the owners what the privileges of old cannot bring.
func (g *grantSide) ownersInPublic() {
	for _, owner := range g.closed {
		if owner != g.role && !slices.ContainsFunc(g.owners, func(o objectOwner) bool { return o.Name == owner && o.Super }) {
			g.add("It owns objects there on old; they can be given to it only where it may create.", "GRANT USAGE, CREATE ON SCHEMA public TO %s;", quote(owner))
		}
	}
}

func (g *grantSide) replication() {
	if !g.publishes {
		return
	}
	why := "The slot is made, and the other server's subscription reads, over a replication connection."
	if g.server.Side() == pg.New {
		why = "For the way back: " + strings.ToLower(why[:1]) + why[1:]
	}
	if role := g.flavor.Traits().ReplicationRole; role != "" {
		g.add(why, "GRANT %s TO %s;", quote(role), quote(g.role))
		return
	}
	if g.flavor == provider.Supabase {
		why += " Supabase has documented CREATE ROLE ... WITH REPLICATION as not supported; where this is refused put the user postgres, who has it, into " + string(g.server.Side()) + ".url."
	}
	g.add(why, "ALTER ROLE %s REPLICATION;", quote(g.role))
}

func (g *grantSide) subscription() {
	if !g.subscribes {
		return
	}
	t := g.flavor.Traits()
	switch {
	case t.NoSubscriptions:
		g.remark("%s documents CREATE SUBSCRIPTION as not supported (%s): %s", t.Name, t.Pages[0], g.withoutSubscription())
	case g.server.Major() >= 16:
		g.add("CREATE SUBSCRIPTION. Its connection string has to carry a password, since the role is no superuser: keep it in "+
			string(g.server.Side().Other())+".url or .peer_url.", "GRANT pg_create_subscription TO %s;", quote(g.role))
		g.quietParameters(t)
	case t.AdminSubscribes:
		g.add("CREATE SUBSCRIPTION: PostgreSQL "+fmt.Sprint(g.server.Major())+" wants a superuser, in whose place "+t.Name+" takes members of this role. Revoke it when the move is over.",
			"GRANT %s TO %s;", quote(t.Admin), quote(g.role))
	default:
		g.remark("the way back needs a subscription on old, which before 16 only a superuser may make: set rollback.keep: false in pgcutover.yaml, or: ALTER ROLE %s SUPERUSER;", quote(g.role))
	}
}

// mustBeSuperuser says that nothing less lets the role do its work: new before 16,
// where no provider has changed that.
func (g *grantSide) mustBeSuperuser() bool {
	t := g.flavor.Traits()
	return g.server.Side() == pg.New && g.server.Major() < 16 && !t.AdminSubscribes && !t.NoSubscriptions
}

func (g *grantSide) superuser() {
	g.add("CREATE SUBSCRIPTION: before 16 only a superuser may make or own one, and its apply worker acts as superuser. Nothing else is needed beside. Take it back when the move is over.",
		"ALTER ROLE %s SUPERUSER;", quote(g.role))
}

func (g *grantSide) withoutSubscription() string {
	if g.server.Side() == pg.New {
		return "it cannot be the new server of a move"
	}
	return "set rollback.keep: false in pgcutover.yaml"
}

// quietParameters keep the password of the subscription out of the server's log.
func (g *grantSide) quietParameters(t provider.Traits) {
	if !t.ParameterRights {
		g.remark("CREATE SUBSCRIPTION holds a password: keep log_statement at none (not ddl or all) while pgcutover start and cutover run")
		return
	}
	g.add("CREATE SUBSCRIPTION holds a password: with these the tool keeps it out of the server's log.",
		"GRANT SET ON PARAMETER log_statement, log_min_duration_statement, log_min_error_statement TO %s;", quote(g.role))
}

func (g *grantSide) sessions() {
	if !g.publishes {
		return
	}
	g.add("To see sessions, transactions and replication positions of others: who blocks the freeze, how far the stream is.",
		"GRANT pg_monitor TO %s;", quote(g.role))
	g.add("To end sessions that stay behind after the decision; not those of superusers.", "GRANT pg_signal_backend TO %s;", quote(g.role))
}

func (g *grantSide) rowSecurity() {
	if len(g.forced) > 0 {
		g.add("Row-level security is forced upon owners of tables: without this the copy would see some rows only.", "ALTER ROLE %s BYPASSRLS;", quote(g.role))
	}
}

// largeObjects gives what freezing and reading them takes, on the server that they
// come from.
func (g *grantSide) largeObjects() {
	if !g.objects || !g.publishes {
		return
	}
	if g.server.Major() >= 14 {
		g.add("The database has large objects, which are read out of a catalog.", "GRANT pg_read_all_data TO %s;", quote(g.role))
	}
	if g.server.Major() >= 17 {
		g.add("The catalogs of large objects are locked in the freeze.", "GRANT pg_maintain TO %s;", quote(g.role))
		return
	}
	g.remark("the database has large objects, whose catalogs only a superuser may lock before 17: see to it yourself that nobody writes them from the freeze to the end of the cutover, and set unreplicated: { large_objects: idle }, or leave them behind: ignore")
	if g.server.Major() < 14 {
		g.remark("before 14 only a superuser may read the catalog of large objects: unreplicated: { large_objects: ignore }")
	}
}

func (g *grantSide) extension() {
	hint := g.flavor.Traits().Extensions
	for _, e := range g.extensions {
		why := "Only a superuser may make it (or who stands in for one)."
		if hint != "" {
			why += " Before: " + hint + "."
		}
		g.add(why, "CREATE EXTENSION IF NOT EXISTS %s;", quote(e))
	}
	for _, e := range g.elsewhere {
		g.remark("only a superuser may make the extension %s: make it there before pgcutover start", e)
	}
}

func (g *grantSide) parameters() {
	t := g.flavor.Traits()
	if g.publishes && g.facts.WalLevel != "logical" {
		g.remark("wal_level is %s: it has to be logical: %s", g.facts.WalLevel, t.Logical)
	}
	if g.publishes {
		g.remark("let %s in from where pgcutover runs and from the %s server (%s): host %s %s <address>/32 scram-sha-256",
			quote(g.role), g.server.Side().Other(), t.Access, quote(g.server.Database()), quote(g.role))
	}
}

// text is the script for psql.
func (g *grantSide) text(s GrantScript) string {
	t := g.flavor.Traits()
	known := "given"
	if g.detected {
		known = "as its catalogs show"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "-- What role %s needs on the %s server, and no more.\n", quote(g.role), s.Server)
	fmt.Fprintf(&b, "-- PostgreSQL %d, database %s; %s (%s).\n", s.Major, quote(s.Database), t.Name, known)
	fmt.Fprintf(&b, "-- Run it with psql, connected to that database, as %s; again whenever you like:\n", t.AdminLogin)
	fmt.Fprintf(&b, "--   pgcutover check --grants=%s | psql -X -d <connection string>\n", s.Server)
	for _, page := range t.Pages {
		fmt.Fprintf(&b, "-- %s\n", page)
	}
	b.WriteString("\\set ON_ERROR_STOP on\n")
	for i, st := range s.Statements {
		fmt.Fprintf(&b, "\n%s%s\n", comment(st.Why), st.SQL)
		if i == 0 {
			b.WriteString(g.password())
		}
	}
	if len(s.Remarks) > 0 {
		b.WriteString("\n-- What no statement here does:\n")
		for _, r := range s.Remarks {
			b.WriteString(comment("- " + r))
		}
	}
	return b.String()
}

// password asks psql for one only when it was given on its command line: a script
// that is read from a pipe has nobody to ask.
func (g *grantSide) password() string {
	return fmt.Sprintf(`
-- Its password: \password %[1]s in psql, or psql -v password=...
\if :{?password}
ALTER ROLE %[1]s PASSWORD :'password';
\endif
`, quote(g.role))
}

// commentWidth is where lines of comments are broken.
const commentWidth = 100

// comment writes text as lines of SQL comment.
func comment(text string) string {
	var b strings.Builder
	line := "--"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > commentWidth && line != "--" {
			b.WriteString(line + "\n")
			line = "--"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
	return b.String()
}
