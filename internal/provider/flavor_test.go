package provider

import (
	"errors"
	"slices"
	"testing"
)

func TestDetect(t *testing.T) {
	for _, c := range []struct {
		signs Signs
		want  Flavor
	}{
		{Signs{}, Community},
		{Signs{Roles: []string{"rds_superuser"}}, RDS},
		{Signs{Roles: []string{"rds_superuser"}, Aurora: true}, Aurora},
		{Signs{Settings: []string{"cloudsql"}}, CloudSQL},
		{Signs{Roles: []string{"azure_pg_admin"}, Settings: []string{"azure"}}, Azure},
		{Signs{Roles: []string{"supabase_admin"}}, Supabase},
		{Signs{Roles: []string{"neon_superuser"}}, Neon},
	} {
		if got := Detect(c.signs); got != c.want {
			t.Errorf("%+v is %s, want %s", c.signs, got, c.want)
		}
	}
}

// Every role that a flavor goes by is kept for it, so that the moves of roles
// leave it alone.
func TestTraits(t *testing.T) {
	for _, f := range Flavors() {
		traits := f.Traits()
		if traits.Name == "" || traits.Logical == "" || traits.Access == "" || traits.AdminLogin == "" || len(traits.Pages) == 0 {
			t.Errorf("%s: something is missing in %+v", f, traits)
		}
		for _, role := range []string{traits.Admin, traits.ReplicationRole} {
			if _, reserved := ReservedRole(role); role != "" && !reserved {
				t.Errorf("%s: role %s is not reserved", f, role)
			}
		}
		if traits.AdminSubscribes && !slices.Contains(AdminRoles(), traits.Admin) {
			t.Errorf("%s: %s is not among the admin roles", f, traits.Admin)
		}
		if got, err := Parse(string(f)); err != nil || got != f {
			t.Errorf("parsing %s: %s, %v", f, got, err)
		}
	}
	if _, err := Parse("heroku"); !errors.Is(err, ErrUnknown) {
		t.Errorf("parsing an unknown one: %v", err)
	}
}
