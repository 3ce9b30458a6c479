package preflight

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// leastRights is a pair on which the tool is superuser nowhere but where
// Postgres insists on it, with an application owned by somebody else.
type leastRights struct {
	*Pair
	oldURL, newURL string // the superuser's
}

func newLeastRights(t *testing.T, majors pgtest.Pair) leastRights {
	t.Helper()
	older := pgtest.Cluster(t, pgserver.Options{Major: majors.Old, Name: "leastold", Password: "pw"})
	newer := pgtest.Cluster(t, pgserver.Options{Major: majors.New, Name: "leastnew", Password: "pw"})
	w := leastRights{oldURL: older.URL("app"), newURL: newer.URL("app")}
	for _, admin := range []string{older.URL("postgres"), newer.URL("postgres")} {
		pgtest.Exec(t, admin, `create role "ow ner" nologin`, `create role "to ol" login password 'pass-word'`, `create database app template template0 owner "ow ner"`)
	}
	pgtest.Exec(t, w.oldURL, `set role "ow ner"`,
		`create schema app`, `create table app.t (id bigserial primary key)`, `create sequence app.s`)
	w.Pair = &Pair{
		Old: open(t, pg.Old, pgtest.WithUser(t, w.oldURL, "to ol", "pass-word"), ""),
		New: open(t, pg.New, pgtest.WithUser(t, w.newURL, "to ol", "pass-word"), ""),
	}
	// The reverse stream needs a superuser on old before 16.
	w.Settings.Rollback = majors.Old >= 16
	return w
}

// checkAll runs every check that looks at rights.
func (w leastRights) checkAll(t *testing.T) []Finding {
	t.Helper()
	var found []Finding
	for _, id := range []string{"rights", "ownership", "replication", "peer", "sequences", "row-security", "roles", "extensions"} {
		found = append(found, check(t, id, w.Pair)...)
	}
	// Who is not superuser cannot keep its failing statements out of the log.
	return slices.DeleteFunc(found, func(f Finding) bool { return f.ID == "peer.statement-log" })
}

// The advice alone, followed to the letter, makes every blocker go away.
func TestRightsAreNamedAndTheAdviceSuffices(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		w := newLeastRights(t, majors)
		found := w.checkAll(t)
		for _, id := range []string{"rights.database-owner", "rights.create", "rights.subscription"} {
			only(t, onSide(found, "new"), id, `"to ol"`)
		}
		for _, id := range []string{"rights.database-owner", "rights.create", "rights.replication", "rights.pg_monitor", "rights.pg_signal_backend"} {
			only(t, onSide(found, "old"), id, `"to ol"`)
		}
		only(t, found, "rights.table-owner", `"ow ner"`)
		only(t, found, "rights.schema", "app")
		only(t, found, "rights.restore-owner", `"ow ner"`)
		only(t, found, "sequences.unreadable", "app")

		for round := 0; ; round++ {
			var open []Finding
			for _, f := range w.checkAll(t) {
				if strings.HasPrefix(f.ID, "rights.") || strings.HasPrefix(f.ID, "sequences.") || f.Severity == Blocker {
					open = append(open, f)
				}
			}
			if len(open) == 0 {
				return
			}
			if round == 3 {
				t.Fatalf("after %d rounds of advice there still is\n%s", round, text(open))
			}
			for _, f := range open {
				if strings.HasSuffix(f.Fix, "on the old server") || f.Server == "old" && !strings.HasSuffix(f.Fix, "on the new server") {
					mend(t, w.oldURL, f)
				} else {
					mend(t, w.newURL, f)
				}
			}
		}
	})
}

// What a provider's extensions own cannot be fenced, which is no reason not to
// move; what the role may fence is not named.
func TestExtensionsAndEndingSessions(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		w := newLeastRights(t, majors)
		none(t, w.checkAll(t), "rights.extension-table")
		pgtest.Exec(t, w.oldURL, `create table public.spatial (a int)`, `alter extension plpgsql add table public.spatial`)
		found := w.checkAll(t)
		f := only(t, found, "rights.extension-table", `extension "plpgsql"`)
		if f.Severity != Warning || f.Server != "old" || !strings.Contains(f.Seen, "1 table (public.spatial) of role \"postgres\"") {
			t.Errorf("got %+v", f)
		}
		for _, other := range found {
			if strings.Contains(other.Object, "spatial") {
				t.Errorf("named as one of the application's: %+v", other)
			}
		}
		if o := only(t, found, "rights.table-owner", ""); !strings.Contains(o.Seen, "1 table ") {
			t.Errorf("got %+v", o)
		}
		statement, _, _ := strings.Cut(f.Fix[strings.Index(f.Fix, "GRANT"):], " -- ")
		mend(t, w.oldURL, Finding{ID: "x", Fix: statement})
		none(t, w.checkAll(t), "rights.extension-table")

		// Here it only warns that sessions cannot be ended, unless they are to be.
		for terminate, want := range map[bool]Severity{false: Warning, true: Blocker} {
			w.Settings.TerminateBlockers = terminate
			if f := only(t, onSide(check(t, "rights", w.Pair), "old"), "rights.pg_signal_backend", ""); f.Severity != want {
				t.Errorf("terminate %t: %+v", terminate, f)
			}
		}
	})
}

// Each right that is missing by itself is found, and nothing else is.
func TestEachMissingRight(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		w := newLeastRights(t, majors)
		grants := []string{
			`alter role "to ol" replication`, `alter database app owner to "to ol"`, `grant "ow ner" to "to ol"`,
			`grant pg_monitor to "to ol"`, `grant pg_signal_backend to "to ol"`,
		}
		pgtest.Exec(t, w.oldURL, grants...)
		pgtest.Exec(t, w.newURL, `alter database app owner to "to ol"`, `grant "ow ner" to "to ol"`)
		newAdmin := []string{`alter role "to ol" superuser`, `alter role "to ol" nosuperuser`}
		if majors.New >= 16 {
			newAdmin = []string{`grant pg_create_subscription to "to ol"`, `revoke pg_create_subscription from "to ol"`}
		}
		pgtest.Exec(t, w.newURL, newAdmin[0])
		if w.Settings.Rollback {
			pgtest.Exec(t, w.oldURL, `grant pg_create_subscription to "to ol"`)
			pgtest.Exec(t, w.newURL, `alter role "to ol" replication`, `grant pg_monitor to "to ol"`, `grant pg_signal_backend to "to ol"`)
		}
		none(t, w.checkAll(t))
		for _, c := range []struct{ name, take, give, id string }{
			{"replication", `alter role "to ol" noreplication`, `alter role "to ol" replication`, "rights.replication"},
			{"database", `alter database app owner to postgres; grant create on database app to "to ol"`, `alter database app owner to "to ol"`, "rights.database-owner"},
			{"membership", `revoke "ow ner" from "to ol"`, `grant "ow ner" to "to ol"`, "rights.table-owner"},
			{"select", `revoke select on app.t from "ow ner"`, `grant select on app.t to "ow ner"`, "rights.select"},
			{"sequence", `revoke select on app.s from "ow ner"`, `grant select on app.s to "ow ner"`, "sequences.unreadable"},
			{"usage", `revoke usage on schema app from "ow ner"`, `grant usage on schema app to "ow ner"`, "rights.schema"},
			{"monitor", `revoke pg_monitor from "to ol"`, `grant pg_monitor to "to ol"`, "rights.pg_monitor"},
			{"signal", `revoke pg_signal_backend from "to ol"`, `grant pg_signal_backend to "to ol"`, "rights.pg_signal_backend"},
			{
				"row security", `alter table app.t enable row level security; alter table app.t force row level security`,
				`alter table app.t no force row level security; alter table app.t disable row level security`, "row-security.copy",
			},
		} {
			t.Run(c.name, func(t *testing.T) {
				pgtest.Exec(t, w.oldURL, c.take)
				defer pgtest.Exec(t, w.oldURL, c.give)
				only(t, onSide(w.checkAll(t), "old"), c.id, "")
			})
		}
		none(t, w.checkAll(t))
		pgtest.Exec(t, w.newURL, newAdmin[1])
		only(t, onSide(w.checkAll(t), "new"), "rights.subscription", "")
		pgtest.Exec(t, w.newURL, newAdmin[0])
		if majors.New >= 16 { // the rights of a role are not yet the right to SET ROLE
			pgtest.Exec(t, w.newURL, `grant "ow ner" to "to ol" with set false`)
			only(t, w.checkAll(t), "rights.restore-owner", "")
		}
		if w.Settings.Rollback {
			pgtest.Exec(t, w.oldURL, `grant "ow ner" to "to ol" with set false`)
			mend(t, w.oldURL, only(t, w.checkAll(t), "rights.apply-owner", ""))
			none(t, onSide(w.checkAll(t), "old"))
		}
	})
}

// Before 16 a member without INHERIT has no rights of the role.
func TestNoInherit(t *testing.T) {
	eachPair(t, func(t *testing.T, majors pgtest.Pair) {
		p := newPair(t, majors)
		role(t, p.oldURL, "app_owner", "nologin")
		role(t, p.oldURL, "mover", "login noinherit")
		pgtest.Exec(t, p.oldURL, `create table t (a int primary key); alter table t owner to app_owner; grant app_owner to mover`)
		p.Old = open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "mover", ""), "")
		t.Cleanup(p.Old.Close)
		f := only(t, check(t, "ownership", p.Pair), "rights.table-owner", "app_owner")
		mend(t, p.oldURL, f)
		none(t, check(t, "ownership", p.Pair), "rights.table-owner")
	})
}

// Tables out of scope need no SELECT, but do need their owner's rights: the
// fence stands on them, too.
func TestScopeOfRights(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	role(t, p.oldURL, "mover", "login")
	role(t, p.oldURL, "keeper", "nologin")
	pgtest.Exec(t, p.oldURL, `create table t (a int primary key); alter table t owner to keeper`)
	p.Old = open(t, pg.Old, pgtest.WithUser(t, p.oldURL, "mover", ""), "")
	t.Cleanup(p.Old.Close)
	found := check(t, "ownership", p.Pair)
	only(t, found, "rights.select", "t")
	only(t, found, "rights.table-owner", "keeper")
	p.Scope = Scope{Exclude: []string{"public.*"}}
	found = check(t, "ownership", p.Pair)
	none(t, found, "rights.select")
	only(t, found, "rights.table-owner", "keeper")
}

func TestSharedRole(t *testing.T) {
	p := newPair(t, pgtest.Pairs(t)[0])
	none(t, check(t, "rights", p.Pair))
	client := session(t, p.oldURL)
	exec(t, client, `select 1`)
	f := only(t, check(t, "rights", p.Pair), "rights.shared-role", "postgres")
	if f.Severity != Note || f.Server != "old" {
		t.Errorf("got %+v", f)
	}
}
