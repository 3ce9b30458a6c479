package provider

import "testing"

func TestReservedRoles(t *testing.T) {
	for name, want := range map[string]string{
		"pg_monitor": "PostgreSQL", "rdsadmin": "Amazon RDS", "rds_superuser": "Amazon RDS", "rdsrepladmin": "Amazon RDS",
		"cloudsqlsuperuser": "Google Cloud SQL", "alloydbsuperuser": "Google AlloyDB", "azure_pg_admin": "Azure", "azuresu": "Azure",
		"supabase_auth_admin": "Supabase", "neon_superuser": "Neon", "cloud_admin": "Neon",
		"app": "", "rdsapp": "", "pgbouncer": "", "azuredata": "", "anon": "", "authenticated": "", "replication": "", "my_rds_user": "", "neonate": "",
	} {
		owner, reserved := ReservedRole(name)
		if owner != want || reserved != (want != "") {
			t.Errorf("%s: %q, %v, want %q", name, owner, reserved, want)
		}
	}
}
