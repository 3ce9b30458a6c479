package preflight

import (
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// rightsTraps are the traps of the checks in list_rights.go that can be laid where
// the tool's role is a superuser.
var rightsTraps = []trap{
	{
		finds: "roles.missing", about: `"trap_owner"`, on: "new",
		old:     []string{`create role trap_owner nologin`, `create table owned (id int primary key)`, `alter table owned owner to trap_owner`},
		tidyOld: []string{`drop owned by trap_owner`, `drop role trap_owner`}, tidyNew: []string{`drop role if exists trap_owner`},
	},
	{
		finds: "roles.connected", about: `"trap_guest"`, on: "new",
		old: []string{`create role trap_guest login`},
		seed: func(t *testing.T, w *world) {
			exec(t, session(t, pgtest.WithUser(t, w.oldURL, "trap_guest", "")), `select 1`)
		},
		tidyOld: []string{`select pg_terminate_backend(pid) from pg_stat_activity where usename = 'trap_guest'`, `drop role trap_guest`},
		tidyNew: []string{`drop role if exists trap_guest`},
	},
}
