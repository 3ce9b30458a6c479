// Package provider knows what hosting services keep for themselves on a
// PostgreSQL server (names that no client may make or alter there), and what they
// do otherwise than PostgreSQL. It asks no server.
package provider

import "regexp"

// rule is one family of role names and whose it is.
type rule struct {
	names *regexp.Regexp
	owner string
}

// rules are the roles that a service makes on every server of its own, as the
// services document them. Names that applications use as well (Supabase's anon
// and authenticated, Azure's replication) are not here: such a role exists
// already on a new server of the same service, and has to be made elsewhere.
//
//	PostgreSQL         predefined roles, manual 21.5: the prefix pg_ is reserved
//	Amazon RDS         rdsadmin, rds_superuser, rds_replication, rds_iam, rdsrepladmin, rdstopmgr ...
//	Google Cloud SQL   cloudsqlsuperuser, cloudsqladmin, cloudsqlagent, cloudsqlreplica ...
//	Google AlloyDB     alloydbsuperuser, alloydbadmin, alloydbagent ...
//	Azure              azure_pg_admin, azure_superuser, azuresu
//	Supabase           supabase_admin, supabase_auth_admin, supabase_storage_admin ...
//	Neon               neon_superuser, cloud_admin
var rules = []rule{
	{regexp.MustCompile(`^pg_`), "PostgreSQL"},
	{regexp.MustCompile(`^(rds_.*|rdsadmin|rdsrepladmin|rdstopmgr|rdsproxyadmin|rdswriteforwarduser)$`), "Amazon RDS"},
	{regexp.MustCompile(`^cloudsql`), "Google Cloud SQL"},
	{regexp.MustCompile(`^alloydb`), "Google AlloyDB"},
	{regexp.MustCompile(`^(azure_.*|azuresu)$`), "Azure"},
	{regexp.MustCompile(`^supabase_`), "Supabase"},
	{regexp.MustCompile(`^(neon_.*|cloud_admin)$`), "Neon"},
}

// ReservedRole says whose the role is when its name is kept for PostgreSQL
// itself or for a hosting service, and whether it is such a name.
func ReservedRole(name string) (owner string, reserved bool) {
	for _, r := range rules {
		if r.names.MatchString(name) {
			return r.owner, true
		}
	}
	return "", false
}
