package preflight

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

// alterNew changes the new database itself.
func alterNew(what string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		pgtest.Exec(t, w.newURL, fmt.Sprintf("alter database %s %s", quote(w.New.Database()), what))
	}
}

// stateOf makes the state of a move on one side.
func stateOf(side pg.Side, name string, as pg.Side) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		_, url := w.cluster(side)
		s := open(t, as, url, "")
		if err := state.Create(t.Context(), s, state.Move{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
}

// targetTraps are the traps of the checks in list_target.go.
var targetTraps = []trap{
	{
		finds: "target.not-empty", about: `schema "public"`, on: pg.New, new: []string{`create table here (a int)`},
		byHand: func(t *testing.T, w *world, _ Finding) { pgtest.Exec(t, w.newURL, `drop table here`) },
	},
	{
		finds: "target.sessions", about: "database", on: pg.New,
		seed: func(t *testing.T, w *world) {
			conn, err := pgx.Connect(t.Context(), w.newURL)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { pg.Close(t.Context(), conn) })
		},
		also: map[string]string{"rights.shared-role": "it is of the tool's role"},
	},
	{finds: "target.connection-limit", about: "database", on: pg.New, seed: alterNew("connection limit 50")},
	{finds: "target.template", about: "database", on: pg.New, seed: alterNew("is_template true")},
	{shared: true, finds: "target.read-only", about: "default_transaction_read_only", on: pg.New, seed: reload(pg.New, map[string]string{"default_transaction_read_only": "on"})},
	{shared: true, finds: "target.replica-role", about: "session_replication_role", on: pg.New, seed: reload(pg.New, map[string]string{"session_replication_role": "replica"})},
	{
		finds: "target.event-trigger", about: `"watch"`, on: pg.New,
		new: []string{
			`create function watch() returns event_trigger language plpgsql as 'begin end'`,
			`create event trigger watch on ddl_command_end execute procedure watch()`,
		},
		also: map[string]string{"target.not-empty": "its function"},
	},
	{
		finds: "target.not-valid", about: "plain", on: pg.New, seed: configured(func(s *Settings) { s.DataPresent = true }),
		new: []string{
			`create table plain (id bigint primary key, t text)`,
			`alter table plain add constraint short check (length(t) < 100) not valid`,
		},
	},
	{
		finds: "leftovers.object", about: `publication "pgcutover_another"`, old: []string{`create publication pgcutover_another`},
		also: map[string]string{"neighbours.publication": "it is one, too"},
		byHand: func(t *testing.T, w *world, _ Finding) {
			pgtest.Exec(t, w.oldURL, `drop publication pgcutover_another`)
		},
	},
	{
		finds: "leftovers.move", about: "schema pgcutover", seed: stateOf(pg.Old, "another", pg.Old),
		byHand: func(t *testing.T, w *world, _ Finding) { pgtest.Exec(t, w.oldURL, `drop schema pgcutover cascade`) },
	},
	{
		finds: "leftovers.swapped", about: "schema pgcutover", seed: stateOf(pg.Old, move, pg.New),
		byHand: func(t *testing.T, w *world, _ Finding) { pgtest.Exec(t, w.oldURL, `drop schema pgcutover cascade`) },
	},
}
