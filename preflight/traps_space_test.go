package preflight

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// spaceTraps are the traps of the checks in list_space.go.
var spaceTraps = []trap{
	{
		finds: "space.wal-rate", about: "WAL", seed: busyWriter,
		byHand: reconfigure(func(s *Settings) { s.WALWarn = 1 << 40 }),
	},
	{
		finds: "space.archiver", about: "archive_command", oldSettings: map[string]string{"archive_mode": "on", "archive_command": "false"},
		seed: func(t *testing.T, w *world) {
			pgtest.Exec(t, w.oldURL, `insert into plain (t) values ('x')`, `select pg_switch_wal()`)
			eventually(t, "archiving to fail", func() bool {
				return pgtest.Value[int64](t, w.oldURL, `select failed_count from pg_stat_archiver`) > 0
			})
		},
		byHand: func(t *testing.T, w *world, _ Finding) {
			readAgain(t, w.oldURL, `alter system set archive_command = 'true'`)
			eventually(t, "archiving to work", func() bool {
				pgtest.Exec(t, w.oldURL, `insert into plain (t) values ('x')`, `select pg_switch_wal()`)
				return pgtest.Value[bool](t, w.oldURL, `select coalesce(last_archived_time > last_failed_time, false) from pg_stat_archiver`)
			})
		},
	},
	{
		finds: "space.temp-file-limit", about: "temp_file_limit", on: pg.New,
		old:  []string{`insert into plain (t) select repeat('x', 100) from generate_series(1, 2000)`, `analyze plain`},
		seed: reload(pg.New, map[string]string{"temp_file_limit": "64kB"}),
	},
	{
		finds: "space.tablespace", about: `"trap_fast"`, on: pg.New, when: atLeast(15, 15),
		seed: func(t *testing.T, w *world) {
			tablespace(t, w.oldURL)
			pgtest.Exec(t, w.oldURL, `create index plain_t on plain (t) tablespace trap_fast`)
			t.Cleanup(func() { pgtest.Exec(t, w.oldURL, `drop index plain_t`) })
		},
		byHand: func(t *testing.T, w *world, _ Finding) { tablespace(t, w.newURL) },
	},
	{
		finds: "space.tablespace-setting", about: `"trap_fast"`, on: pg.New, when: atLeast(15, 15),
		seed: func(t *testing.T, w *world) {
			tablespace(t, w.oldURL)
			pgtest.Exec(t, w.oldURL, fmt.Sprintf(`alter database %s set temp_tablespaces = 'trap_fast'`, quote(w.Old.Database())))
		},
		byHand: func(t *testing.T, w *world, _ Finding) { tablespace(t, w.newURL) },
	},
}

// tablespace makes a tablespace in the server's own folder.
func tablespace(t *testing.T, databaseURL string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("options", "-c allow_in_place_tablespaces=on")
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	pgtest.Exec(t, u.String(), `create tablespace trap_fast location ''`)
	t.Cleanup(func() { pgtest.Exec(t, databaseURL, `drop tablespace trap_fast`) })
}

// busyWriter writes WAL until the test's end, and has the tool care for every
// byte of it.
func busyWriter(t *testing.T, w *world) {
	ctx, stop := context.WithCancel(t.Context())
	conn, err := pgx.Connect(ctx, w.oldURL)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			//nolint:errcheck // it ends with the context
			conn.Exec(ctx, `select pg_logical_emit_message(false, 'trap', repeat('x', 10000))`)
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
		pg.Close(context.WithoutCancel(ctx), conn)
	})
	// Long enough for the writer to come to its turn on a loaded machine.
	w.Settings.WALWarn, w.Settings.Sample = 1, time.Second
}
