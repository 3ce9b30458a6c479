package fence_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

const commentSQL = `select shobj_description(oid, 'pg_database') from pg_database where datname = current_database()`

func (s *server) comment(t *testing.T) string {
	t.Helper()
	if c := pgtest.Value[*string](t, s.url, commentSQL); c != nil {
		return *c
	}
	return "(none)"
}

func (s *server) setComment(t *testing.T, literal string) {
	t.Helper()
	pgtest.Exec(t, s.url, readWrite, "comment on database "+pgx.Identifier{s.Database()}.Sanitize()+" is "+literal)
}

// catalogOf leaves out what is the tool's own.
func (s *server) catalogOf(t *testing.T) string {
	t.Helper()
	return pgtest.Catalog(t, s.url)
}

// Closing and opening leave nothing behind.
func TestCloseAndOpenAgain(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (n integer)`)
		s.fenced(t)
		client := "client_" + s.Move()
		pgtest.Exec(t, s.url, "create role "+client+" login")
		t.Cleanup(func() { pgtest.Exec(t, s.url, "drop role "+client) })
		for _, comment := range []string{`null`, `'it''s "ours"'`} {
			s.setComment(t, comment)
			before := s.catalogOf(t)
			c := s.closing()
			c.RevokeConnect = true
			for range 2 { // twice closed is closed
				if notes := s.closeAll(t, c); len(notes) != 0 {
					t.Errorf("notes %q", notes)
				}
			}
			said := s.comment(t)
			for _, part := range []string{
				`writes are refused`, fmt.Sprintf("move %q", s.Move()), "old server, closed since 2026-05-04 03:02:01Z",
				"The new server takes the writes: connect there", "pgcutover status",
			} {
				if !strings.Contains(said, part) {
					t.Errorf("the comment %q does not say %q", said, part)
				}
			}
			if pgtest.Diff(before, s.catalogOf(t)) == "" {
				t.Error("the catalog does not show that it is closed")
			}
			if _, err := pgx.Connect(t.Context(), pgtest.WithUser(t, s.url, client, "")); pg.Code(err) != pg.InsufficientPrivilege {
				t.Errorf("a client connects: %v", err)
			}
			refused(t, "a write", exec(t, begun(t, s.url, `set transaction read write`), `insert into public.t values (1)`))
			s.openAll(t)
			do(t, connect(t, pgtest.WithUser(t, s.url, client, "")), `select 1`)
			if d := pgtest.Diff(before, s.catalogOf(t)); d != "" {
				t.Errorf("opened it is not as before:\n%s", d)
			}
			if n := pgtest.Value[int](t, s.url, `select count(*) from pgcutover.kept`); n != 0 {
				t.Errorf("%d things are remembered", n)
			}
		}
	})
}

// What somebody else has written into the comment meanwhile stays.
func TestCommentOfOthersStays(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		s.setComment(t, `'before'`)
		s.closeAll(t, s.closing())
		s.setComment(t, `'theirs'`)
		s.openAll(t)
		if got := s.comment(t); got != "theirs" {
			t.Errorf("the comment is %q", got)
		}
		// Changed while closed, and closed again: that is what is put back.
		s.closeAll(t, s.closing())
		s.setComment(t, `'theirs too'`)
		s.closeAll(t, s.closing())
		if err := fence.Revert(t.Context(), s.Pool(), s.Server); err != nil {
			t.Fatal(err)
		}
		if got := s.comment(t); got != "theirs too" {
			t.Errorf("the comment is %q", got)
		}
		if err := fence.Revert(t.Context(), s.Pool(), s.Server); err != nil {
			t.Errorf("with nothing to put back: %v", err)
		}
		if err := state.Drop(t.Context(), s.Server); err != nil {
			t.Fatal(err)
		}
		if err := fence.Revert(t.Context(), s.Pool(), s.Server); err != nil {
			t.Errorf("without the fence: %v", err)
		}
	})
}

func TestCommentNeedsTheOwner(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		role := "tool_" + s.Move()
		pgtest.Exec(t, s.url, "create role "+role+" login", "grant all on schema pgcutover to "+role,
			"grant all on all tables in schema pgcutover to "+role, "grant execute on all functions in schema pgcutover to "+role)
		t.Cleanup(func() { pgtest.Exec(t, s.url, "drop owned by "+role, "drop role "+role) })
		tool, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: pgtest.WithUser(t, s.url, role, ""), Move: s.Move()})
		if err != nil {
			t.Fatal(err)
		}
		defer tool.Close()
		if done, err := fence.Comment(t.Context(), tool.Pool(), tool, time.Now()); done || err != nil {
			t.Errorf("commented %t, %v", done, err)
		}
		if got := s.comment(t); got != "(none)" {
			t.Errorf("the comment is %q", got)
		}
		if _, err := fence.RevokeConnect(t.Context(), tool.Pool(), tool); pg.Code(err) != pg.InsufficientPrivilege || !strings.Contains(err.Error(), "must be owner") {
			t.Errorf("taking CONNECT: %v", err)
		}
		if err := fence.Revert(t.Context(), tool.Pool(), tool); err != nil {
			t.Error(err)
		}
	})
}

// aclSQL shows who may do what in the database, whether an access list says so
// or the default.
const aclSQL = `
select coalesce(string_agg(x.line, E'\n' order by x.line), '')
  from (
    select format('%s %s by %s%s', coalesce(e.rolname, 'public'), a.privilege_type, g.rolname, case when a.is_grantable then ' grantable' end) as line
      from pg_database d
     cross join lateral aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a
      left join pg_roles e on e.oid = a.grantee
      left join pg_roles g on g.oid = a.grantor
     where d.datname = current_database()
  ) x`

// Whatever the access list was, it says the same again afterwards. The tool's
// role is no superuser here, and the owner of the database.
func TestConnectIsPutBackExactly(t *testing.T) {
	const plain, granted, passer, passed = "plain", "granted", "passer", "passed"
	for _, test := range []struct {
		name  string
		setup []string // %s is the role's prefix, %d the database
		still []string
		after []string // changed by somebody while it was closed
		want  string   // a line that is there afterwards on top
	}{
		{name: "default"},
		{name: "public only", setup: []string{`grant temporary on database %d to %splain`}},
		{name: "not public", setup: []string{`revoke all on database %d from public`, `grant connect on database %d to %splain`, `grant connect, create on database %d to %sgranted with grant option`}},
		{name: "nobody", setup: []string{`revoke all on database %d from public`, `revoke connect on database %d from %owner`}},
		{
			name:  "passed on",
			setup: []string{`grant connect on database %d to %spasser with grant option`, `grant connect on database %d to %splain`, `set role %spasser`, `grant connect on database %d to %spassed`, `reset role`},
			still: []string{passed, passer},
		},
		{
			name: "changed meanwhile", setup: []string{`grant connect on database %d to %splain`},
			after: []string{`grant connect on database %d to %sgranted`}, want: "granted CONNECT by ",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, major := range pgtest.Majors(t) {
				t.Run(fmt.Sprint(major), func(t *testing.T) {
					t.Parallel()
					s := newServerAs(t, pg.Old, major)
					prefix := s.Move() + "_"
					for _, role := range []string{plain, granted, passed, passer} { // dropped in reverse
						pgtest.Exec(t, s.url, "create role "+prefix+role+" login")
						t.Cleanup(func() {
							pgtest.Exec(t, s.url, readWrite, "revoke all on database "+s.Database()+" from "+prefix+role+" cascade", "drop role "+prefix+role)
						})
					}
					owned := "pgcutover_" + s.Move()
					pgtest.Exec(t, s.url, "create role "+owned+" login")
					t.Cleanup(func() { pgtest.Exec(t, s.url, readWrite, "drop owned by "+owned, "drop role "+owned) })
					fill := strings.NewReplacer("%d", pgx.Identifier{s.Database()}.Sanitize(), "%s", prefix, "%owner", s.User())
					run := func(statements []string) {
						for i := range statements {
							statements[i] = fill.Replace(statements[i])
						}
						pgtest.Exec(t, s.url, append([]string{readWrite}, statements...)...)
					}
					run(slices.Clone(test.setup))
					before := pgtest.Value[string](t, s.url, aclSQL)
					c := s.closing()
					c.RevokeConnect = true
					notes := s.closeAll(t, c)
					var still []string
					for _, role := range test.still {
						still = append(still, prefix+role)
					}
					if (len(notes) > 0) != (len(still) > 0) || len(still) > 0 && !strings.Contains(notes[0], strings.Join(still, " ")) {
						t.Errorf("notes %q, want %q", notes, still)
					}
					for _, role := range []string{plain, granted, passer, passed} {
						_, err := pgx.Connect(t.Context(), pgtest.WithUser(t, s.url, prefix+role, ""))
						if may := slices.Contains(test.still, role); may != (err == nil) {
							t.Errorf("%s connects: %v", role, err)
						}
					}
					for _, role := range []string{s.User(), owned} {
						do(t, connect(t, pgtest.WithUser(t, s.url, role, "")), `select 1`)
					}
					run(slices.Clone(test.after))
					s.openAll(t)
					after := pgtest.Value[string](t, s.url, aclSQL)
					if test.want != "" {
						var rest []string
						for line := range strings.Lines(after) {
							if !strings.HasPrefix(line, prefix+test.want) {
								rest = append(rest, line)
							}
						}
						if trimmed := strings.TrimSuffix(strings.Join(rest, ""), "\n"); trimmed == after {
							t.Errorf("%q is gone:\n%s", test.want, after)
						} else {
							after = trimmed
						}
					}
					if after != before {
						t.Errorf("the rights were\n%s\nand are\n%s", before, after)
					}
				})
			}
		})
	}
}

// A role that was dropped meanwhile, or a database that is somebody else's now,
// must not keep a server closed.
func TestOpeningDoesNotDependOnThat(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (n integer)`)
		s.fenced(t)
		gone, database := "gone_"+s.Move(), pgx.Identifier{s.Database()}.Sanitize()
		pgtest.Exec(t, s.url, "create role "+gone+" login", "grant connect on database "+database+" to "+gone)
		c := s.closing()
		c.RevokeConnect = true
		s.closeAll(t, c)
		pgtest.Exec(t, s.url, readWrite, "drop role "+gone)
		s.openAll(t)
		do(t, connect(t, s.url), `insert into public.t values (1)`)
		if rights := pgtest.Value[string](t, s.url, aclSQL); !strings.Contains(rights, "public CONNECT") {
			t.Errorf("the others were not let in:\n%s", rights)
		}

		s.closeAll(t, c)
		pgtest.Exec(t, s.url, readWrite, `create or replace function pgcutover.let_in() returns void language plpgsql as 'begin raise exception ''no''; end'`)
		s.openAll(t)
		do(t, connect(t, s.url), `insert into public.t values (1)`)
		if n := pgtest.Value[int](t, s.url, `select count(*) from pgcutover.kept`); n == 0 {
			t.Error("what is to be put back was forgotten")
		}
	})
}

// Whoever streams from the closed server must get in again, or the decision
// could not travel.
func TestRevokeConnectKeepsTheStream(t *testing.T) {
	for peer, role := range map[string]string{
		`host=127.0.0.1 user='stream\'s' dbname=x sslrootcert=/nowhere`: `stream''s`, "postgresql://other%20one@127.0.0.1/x": "other one",
		"postgres://127.0.0.1/x?user=third": "third", "": "postgres",
	} {
		t.Run(role, func(t *testing.T) {
			s := newServer(t, pg.Old, pgtest.Majors(t)[0])
			tool, err := pg.Open(t.Context(), pg.Options{Side: pg.Old, URL: s.url, PeerURL: peer, Move: "m"})
			if err != nil {
				t.Fatal(err)
			}
			defer tool.Close()
			sql, err := fence.RevokeConnectSQL(tool)
			if want := `select pgcutover.lock_out(array[E'postgres', E'` + role + `', E'pgcutover_m']::text[])`; sql != want || err != nil {
				t.Errorf("%s, %v, want %s", sql, err, want)
			}
		})
	}
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		role, cluster := "streams_"+s.Move(), pgtest.Server(t, s.Major())
		to := pgtest.Database(t, cluster)
		pgtest.Exec(t, s.url, "create role "+role+" login replication", "create publication p")
		pgtest.Exec(t, s.url, fmt.Sprintf("select pg_create_logical_replication_slot('%s', 'pgoutput')", role))
		t.Cleanup(func() { pgtest.Exec(t, s.url, "drop role "+role) })
		pgtest.Exec(t, to, fmt.Sprintf("create subscription %[1]s connection 'host=127.0.0.1 port=%[2]d dbname=%[3]s user=%[1]s' publication p with (create_slot = false, copy_data = false)",
			role, cluster.Port(), s.Database()))
		until(t, "the stream", func() bool {
			return pgtest.Value[int](t, s.url, "select count(*) from pg_stat_replication where usename = $1", role) == 1
		})
		c := s.closing()
		c.RevokeConnect = true
		s.closeAll(t, c)
		if !pgtest.Value[bool](t, s.url, `select has_database_privilege($1, current_database(), 'connect')`, role) {
			t.Error("the stream's role may not connect")
		}
		s.openAll(t)
		pgtest.Exec(t, to, "alter subscription "+role+" disable", "alter subscription "+role+" set (slot_name = none)", "drop subscription "+role)
		until(t, "the slot to be free", func() bool {
			return !pgtest.Value[bool](t, s.url, "select active from pg_replication_slots where slot_name = $1", role)
		})
		pgtest.Exec(t, s.url, fmt.Sprintf("select pg_drop_replication_slot('%s')", role))
	})
}

// Why it is not for clients that name both servers: from a server that is
// read-only they go on to the next one, from one that refuses them they do not.
func TestRevokeConnectStopsClientsWithSeveralHosts(t *testing.T) {
	majors := pgtest.Majors(t)
	s := newServer(t, pg.Old, majors[0])
	other := pgtest.Cluster(t, pgserver.Options{Major: majors[len(majors)-1]})
	role := "hosts_" + s.Move()
	for _, url := range []string{s.url, other.URL("postgres")} {
		pgtest.Exec(t, url, "create role "+role+" login")
	}
	t.Cleanup(func() { pgtest.Exec(t, s.url, readWrite, "drop role "+role) })
	pgtest.Exec(t, other.URL("postgres"), "create database "+s.Database())
	hosts := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d dbname=%s user=%s target_session_attrs=read-write",
		pgtest.Server(t, majors[0]).Port(), other.Port(), s.Database(), role)
	c := s.closing()
	for _, c.RevokeConnect = range []bool{false, true} {
		s.closeAll(t, c)
		conn, err := pgx.Connect(t.Context(), hosts)
		if err == nil {
			pg.Close(t.Context(), conn)
		}
		if c.RevokeConnect && pg.Code(err) != pg.InsufficientPrivilege || !c.RevokeConnect && err != nil {
			t.Errorf("without CONNECT %t: %v", c.RevokeConnect, err)
		}
	}
}

// What would stop the decision shows beforehand, and nothing is changed by it.
func TestDryRunClose(t *testing.T) {
	eachMajor(t, pg.Old, func(t *testing.T, s *server) {
		pgtest.Exec(t, s.url, `create table public.t (n integer)`, `create table public.log (tag text)`)
		s.fenced(t)
		before := s.catalogOf(t)
		c := s.closing()
		c.RevokeConnect = true
		if notes, err := fence.DryRunClose(t.Context(), s.Server, c); err != nil || len(notes) != 0 {
			t.Errorf("%q, %v", notes, err)
		}
		s.withEventTrigger(t, func(what string) {
			if notes, err := fence.DryRunClose(t.Context(), s.Server, c); err != nil || len(notes) != 0 {
				t.Errorf("an event trigger that %s, kept away: %q, %v", what, notes, err)
			}
		})
		if d := pgtest.Diff(before, s.catalogOf(t)); d != "" {
			t.Errorf("a dry run changed something:\n%s", d)
		}
		do(t, connect(t, s.url), `insert into public.t values (1)`)
	})
}

// withEventTrigger has one that refuses DDL, and then one that writes a table.
func (s *server) withEventTrigger(t *testing.T, look func(what string)) {
	t.Helper()
	for what, body := range map[string]string{
		"refuses": `raise exception 'no DDL today'`,
		"writes":  `insert into public.log values (tg_tag)`,
	} {
		pgtest.Exec(t, s.url, `create or replace function public.on_ddl() returns event_trigger language plpgsql as $$ begin `+body+`; end $$`,
			`create event trigger `+s.Move()+` on ddl_command_end execute procedure public.on_ddl()`)
		look(what)
		pgtest.Exec(t, s.url, `drop event trigger `+s.Move(), `drop function public.on_ddl()`)
	}
}

// A tool that may not keep event triggers away meets them in the dry run, and the
// error names the function that stands in the way.
func TestDryRunCloseMeetsEventTriggers(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newServerAs(t, pg.Old, major)
			if _, err := s.Pool().Exec(t.Context(), `create table public.t (n integer); create table public.log (tag text)`); err != nil {
				t.Fatal(err)
			}
			s.fenced(t)
			if _, err := fence.DryRunClose(t.Context(), s.Server, s.closing()); err != nil {
				t.Fatalf("without any: %v", err)
			}
			s.withEventTrigger(t, func(what string) {
				_, err := fence.DryRunClose(t.Context(), s.Server, s.closing())
				want := map[string]string{"refuses": "P0001", "writes": pg.ReadOnlyTransaction}[what]
				var refused *pgconn.PgError
				if pg.Code(err) != want || !errors.As(err, &refused) || !strings.Contains(refused.Where, "on_ddl()") {
					t.Errorf("an event trigger that %s: %v, %+v", what, err, refused)
				}
			})
		})
	}
}

// The statements shown are those that are run.
func TestCloseSQL(t *testing.T) {
	s := newServer(t, pg.Old, pgtest.Majors(t)[0])
	pgtest.Exec(t, s.url, `create table public.t (n integer)`)
	s.fenced(t)
	c := s.closing()
	c.RevokeConnect = true
	statements, err := fence.CloseSQL(s.Server, c)
	if err != nil || len(statements) != 4 {
		t.Fatalf("%q, %v", statements, err)
	}
	pgtest.Exec(t, s.url, statements...)
	refused(t, "a write", exec(t, begun(t, s.url, `set transaction read write`), `insert into public.t values (1)`))
}

// Ending a session takes rights over its role. Without them the error must do.
func TestDisconnectWithoutTheRight(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := newServerAs(t, pg.Old, major)
			if _, err := s.Pool().Exec(t.Context(), `create table public.t (n integer)`); err != nil {
				t.Fatal(err)
			}
			s.fenced(t)
			s.close(t, fence.Disconnect)
			conn := connect(t, s.url) // a superuser's
			refused(t, "a superuser's write", exec(t, conn, `insert into public.t values (1)`))
			do(t, conn, `select 1`)
			own := connect(t, pgtest.WithUser(t, s.url, s.User(), ""))
			if err := exec(t, own, `insert into public.t values (1)`); pg.Code(err) != pg.AdminShutdown {
				t.Errorf("a write of the tool's own role: %v", err)
			}
		})
	}
}
