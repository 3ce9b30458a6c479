package schema

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// meanwhile runs do, which has to wait for a transaction of somebody else that has
// run sql on new, and lets that commit.
func (p pair) meanwhile(t *testing.T, sql string, do func() error) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.newURL)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(context.WithoutCancel(t.Context()), conn)
	for _, sql := range []string{"begin", sql} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() { done <- do() }()
	const waits = `select exists (select from pg_locks where not granted and locktype = 'transactionid')`
	err = pg.Wait(t.Context(), "somebody to wait", 20*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[bool](t, p.newURL, waits), "", nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := conn.Exec(t.Context(), "commit"); err != nil {
		t.Error(err)
	}
	return <-done
}

// The moves of several databases change the same rows of catalogs that all of them
// share, at the same time: rights on a tablespace, memberships.
func TestRolesBesideAnotherDatabase(t *testing.T) {
	eachPair(t, func(t *testing.T, p pair) {
		p.rolesFor(t, "pgct_g_plain", "pgct_g_team", "pgct_g_other")
		revoke := `revoke all on tablespace pg_default from pgct_g_plain`
		pgtest.Exec(t, p.oldURL, `create table public.t ()`, `grant select on public.t to pgct_g_plain, pgct_g_team`, `grant pgct_g_team to pgct_g_plain`,
			`grant create on tablespace pg_default to pgct_g_plain`)
		defer pgtest.Exec(t, p.oldURL, revoke)
		pgtest.Exec(t, p.newURL, `create role pgct_g_other`)
		var report RolesReport
		err := p.meanwhile(t, `grant create on tablespace pg_default to pgct_g_other`, func() (err error) {
			report, err = MakeRoles(t.Context(), p.old, p.new, nil)
			return err
		})
		if err != nil || len(report.Notices) > 0 || !slices.Equal(slices.Sorted(slices.Values(report.Made)), []string{"pgct_g_plain", "pgct_g_team"}) {
			t.Errorf("made: %+v, %v", report, err)
		}
		for _, role := range []string{"pgct_g_plain", "pgct_g_other"} {
			if !pgtest.Value[bool](t, p.newURL, `select has_tablespace_privilege($1, 'pg_default', 'create')`, role) {
				t.Errorf("%s has not got its right", role)
			}
		}
		err = p.meanwhile(t, `revoke all on tablespace pg_default from pgct_g_other`, func() error { return ReturnDatabase(t.Context(), p.new, nil) })
		if err != nil {
			t.Error(err)
		}
		var dropped []string
		var left []Notice
		err = p.meanwhile(t, `revoke pgct_g_team from pgct_g_plain`, func() (err error) {
			dropped, left, err = DropRoles(t.Context(), p.new, nil)
			return err
		})
		if err != nil || len(left) > 0 || len(dropped) != 2 {
			t.Errorf("dropped %q, left %v, %v", dropped, left, err)
		}
	})
}
