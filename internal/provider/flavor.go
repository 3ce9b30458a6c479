package provider

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Flavor is a kind of server, by who runs it.
type Flavor string

// The flavors that are known apart.
const (
	Community Flavor = "community" // PostgreSQL as it is, with a superuser within reach
	RDS       Flavor = "rds"
	Aurora    Flavor = "aurora"
	CloudSQL  Flavor = "cloudsql"
	Azure     Flavor = "azure" // Azure Database for PostgreSQL, flexible server
	Supabase  Flavor = "supabase"
	Neon      Flavor = "neon"
)

// ErrUnknown says that a flavor's name is none of those above.
var ErrUnknown = errors.New("unknown provider")

// Flavors lists them, the plain one first.
func Flavors() []Flavor { return []Flavor{Community, RDS, Aurora, CloudSQL, Azure, Supabase, Neon} }

// Parse returns the flavor of that name.
func Parse(name string) (Flavor, error) {
	if f := Flavor(name); slices.Contains(Flavors(), f) {
		return f, nil
	}
	names := make([]string, 0, len(Flavors()))
	for _, f := range Flavors() {
		names = append(names, string(f))
	}
	return "", fmt.Errorf("%w %q: it is one of %s", ErrUnknown, name, strings.Join(names, ", "))
}

// Traits are what a flavor does otherwise than PostgreSQL, as its operator
// documents it at Pages.
type Traits struct {
	Name string // for people
	// Admin is the role whose members administer the server, in place of a
	// superuser. Empty: a superuser does.
	Admin string
	// AdminLogin is who has that role from the beginning, for people.
	AdminLogin string
	// ReplicationRole is granted where PostgreSQL has the attribute REPLICATION.
	// Empty: the attribute is.
	ReplicationRole string
	// AdminSubscribes says that members of Admin may make subscriptions where
	// PostgreSQL (up to 15) wants a superuser.
	AdminSubscribes bool
	// NoSubscriptions says that the operator documents CREATE SUBSCRIPTION as not
	// supported.
	NoSubscriptions bool
	// ParameterRights says that GRANT SET ON PARAMETER is within reach.
	ParameterRights bool
	// Logical is how wal_level becomes logical.
	Logical string
	// Access is where pg_hba.conf would be edited.
	Access string
	// Extensions is what comes before CREATE EXTENSION; may be empty.
	Extensions string
	Pages      []string
}

var traits = map[Flavor]Traits{
	Community: {
		Name: "PostgreSQL", AdminLogin: "a superuser", ParameterRights: true,
		Logical: "ALTER SYSTEM SET wal_level = logical, then restart the server",
		Access:  "pg_hba.conf",
		Pages:   []string{"https://www.postgresql.org/docs/current/logical-replication-security.html"},
	},
	RDS: {
		Name: "Amazon RDS for PostgreSQL", Admin: "rds_superuser", AdminLogin: "the master user", ReplicationRole: "rds_replication", AdminSubscribes: true,
		Logical: "rds.logical_replication = 1 in a DB parameter group of your own, then reboot the instance",
		Access:  "the VPC security group",
		Pages: []string{
			"https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Appendix.PostgreSQL.CommonDBATasks.Roles.rds_superuser.html",
			"https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/Appendix.PostgreSQL.CommonDBATasks.pglogical.basic-setup.html",
		},
	},
	Aurora: {
		Name: "Amazon Aurora PostgreSQL", Admin: "rds_superuser", AdminLogin: "the master user", ReplicationRole: "rds_replication", AdminSubscribes: true,
		Logical: "rds.logical_replication = 1 in a DB cluster parameter group of your own, then reboot the writer",
		Access:  "the VPC security group",
		Pages: []string{
			"https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/AuroraPostgreSQL.Replication.Logical.Configure.html",
			"https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/Appendix.PostgreSQL.CommonDBATasks.Roles.rds_superuser.html",
		},
	},
	CloudSQL: {
		Name: "Google Cloud SQL for PostgreSQL", Admin: "cloudsqlsuperuser", AdminLogin: "the user postgres", AdminSubscribes: true,
		Logical: "the flag cloudsql.logical_decoding = on, which restarts the instance",
		Access:  "the authorized networks, or the private network",
		Pages: []string{
			"https://cloud.google.com/sql/docs/postgres/users",
			"https://cloud.google.com/sql/docs/postgres/replication/configure-logical-replication",
		},
	},
	Azure: {
		Name: "Azure Database for PostgreSQL, flexible server", Admin: "azure_pg_admin", AdminLogin: "the server's admin user", AdminSubscribes: true,
		Logical:    "the server parameter wal_level = logical (and max_worker_processes of at least 16), then restart the server",
		Access:     "the firewall rules, or the virtual network",
		Extensions: "the server parameter azure.extensions must list the extension",
		Pages:      []string{"https://learn.microsoft.com/en-us/azure/postgresql/flexible-server/concepts-logical"},
	},
	Supabase: {
		Name: "Supabase", Admin: "supabase_admin", AdminLogin: "the user postgres", NoSubscriptions: true,
		Logical: "it is logical on every project",
		Access:  "the project's network restrictions; the connection must be the direct one, not the pooler's",
		Pages: []string{
			"https://supabase.com/docs/guides/database/postgres/roles-superuser",
			"https://supabase.com/docs/guides/database/replication/manual-replication-faq",
		},
	},
	Neon: {
		Name: "Neon", Admin: "neon_superuser", AdminLogin: "a role made in the console, the CLI or the API", ReplicationRole: "neon_superuser", AdminSubscribes: true,
		Logical: "logical replication, in the settings of the project",
		Access:  "the project's IP allow list; the connection must be the direct one, not the pooler's",
		Pages: []string{
			"https://neon.com/docs/manage/roles",
			"https://neon.com/docs/guides/logical-replication-neon",
		},
	},
}

// Traits returns what the flavor does otherwise.
func (f Flavor) Traits() Traits {
	if t, ok := traits[f]; ok {
		return t
	}
	return traits[Community]
}

// String returns its name for commands.
func (f Flavor) String() string { return string(f) }

// AdminRoles lists the roles whose members may do more than PostgreSQL itself
// would let them. AlloyDB's is not told apart from the others'.
func AdminRoles() []string {
	return []string{"rds_superuser", "cloudsqlsuperuser", "azure_pg_admin", "neon_superuser", "alloydbsuperuser"}
}

// Signs are what a server's catalogs show of its flavor.
type Signs struct {
	Roles    []string // those of [SignRoles] that exist
	Aurora   bool     // the function aurora_version() exists
	Settings []string // prefixes of settings of the provider's own: rds, cloudsql, azure, neon
}

// SignRoles are the roles that tell a flavor.
func SignRoles() []string {
	return []string{"rds_superuser", "cloudsqlsuperuser", "azure_pg_admin", "supabase_admin", "neon_superuser"}
}

// Detect tells the flavor from what the catalogs show; Community when they show
// nothing of a provider's.
func Detect(s Signs) Flavor {
	has := func(role, prefix string) bool {
		return slices.Contains(s.Roles, role) || slices.Contains(s.Settings, prefix)
	}
	switch {
	case s.Aurora:
		return Aurora
	case has("rds_superuser", "rds"):
		return RDS
	case has("cloudsqlsuperuser", "cloudsql"):
		return CloudSQL
	case has("azure_pg_admin", "azure"):
		return Azure
	case has("neon_superuser", "neon"):
		return Neon
	case has("supabase_admin", "supautils"):
		return Supabase
	}
	return Community
}
