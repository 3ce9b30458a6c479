package subscriber_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/subscriber"
)

const roleSettingSQL = `
select coalesce(string_agg(x, ','), 'none')
  from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase cross join unnest(s.setconfig) x
 where d.datname = current_database() and s.setrole = (select oid from pg_roles where rolname = $1)`

// Everything may be done twice, and nothing is left in the end.
func TestSubscription(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *stream) {
		ctx := t.Context()
		if _, err := subscriber.Read(ctx, s.Server, forward(s.Server)); !errors.Is(err, subscriber.ErrNone) {
			t.Errorf("reading none: %v", err)
		}
		var owner string
		for range 2 {
			var err error
			if owner, err = subscriber.EnsureRole(ctx, s.Server); err != nil || owner != subscriber.RoleName(s.Move()) {
				t.Fatalf("role %q, %v", owner, err)
			}
			if err := subscriber.Ensure(ctx, s.Server, forward(s.Server), s.conninfo, owner); err != nil {
				t.Fatal(err)
			}
		}
		if got := pgtest.Value[string](t, s.to, roleSettingSQL, owner); got != "default_transaction_read_only=off" {
			t.Errorf("the role's setting is %s", got)
		}
		if got := pgtest.Value[string](t, s.to, `select pg_get_userbyid(subowner)::text from pg_subscription where subname = $1`, state.FirstStream(s.Move()).Name()); got != owner {
			t.Errorf("the subscription belongs to %s", got)
		}
		sub, err := subscriber.Read(ctx, s.Server, forward(s.Server))
		if err != nil || sub.Enabled || sub.Slot != state.FirstStream(s.Move()).Name() || sub.OID == 0 {
			t.Errorf("%+v, %v, want it disabled", sub, err)
		}
		if w, err := subscriber.ReadWorker(ctx, s.Server, forward(s.Server)); err != nil || w.PID != 0 {
			t.Errorf("%+v, %v, want no worker", w, err)
		}
		for range 2 {
			if err := subscriber.SetEnabled(ctx, s.Server, forward(s.Server), true); err != nil {
				t.Fatal(err)
			}
		}
		limit, cancel := context.WithTimeout(ctx, 60*time.Second)
		defer cancel()
		if err := subscriber.WaitReady(limit, s.Server, forward(s.Server), subscriber.CopyWatch{}, nil); err != nil {
			t.Fatal(err)
		}
		s.marks(t)
		for range 2 {
			if err := subscriber.SetEnabled(ctx, s.Server, forward(s.Server), false); err != nil {
				t.Fatal(err)
			}
			if err := subscriber.WaitStopped(ctx, s.Server, forward(s.Server), 20*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if oid, err := subscriber.Drop(ctx, s.Server, forward(s.Server)); err != nil || oid != sub.OID {
			t.Errorf("dropped %d, %v", oid, err)
		}
		if oid, err := subscriber.Drop(ctx, s.Server, forward(s.Server)); err != nil || oid != 0 {
			t.Errorf("dropped again %d, %v", oid, err)
		}
		for range 2 {
			if err := subscriber.DropRole(ctx, s.Server); err != nil {
				t.Error(err)
			}
		}
		slot := state.FirstStream(s.Move()).Name()
		err = pg.Wait(ctx, "the walsender to end", 5*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
			return !pgtest.Value[bool](t, s.from, `select active from pg_replication_slots where slot_name = $1`, slot), "", nil
		})
		if err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, s.from, `select pg_drop_replication_slot('`+slot+`')`)
		left, err := state.Leftovers(ctx, s.Server, []uint32{sub.OID})
		if want := "[schema pgcutover]"; err != nil || fmt.Sprint(left) != want {
			t.Errorf("left: %v, %v, want only %s", left, err, want)
		}
	})
}

// marks sends a marker through the stream.
func (s *stream) marks(t *testing.T) {
	t.Helper()
	if err := subscriber.FlushMarker(t.Context(), s.Server, state.Forward, 7); !errors.Is(err, subscriber.ErrMarkerLost) {
		t.Errorf("flushing a marker that is not there: %v", err)
	}
	err := subscriber.WaitMarker(t.Context(), s.Server, state.Forward, 7, 100*time.Millisecond, nil)
	if !errors.Is(err, pg.ErrTimeout) || hint.Of(err) == "" {
		t.Errorf("waiting for it: %v", err)
	}
	pgtest.Exec(t, s.from, `insert into public.t values (101); insert into pgcutover.marker_forward (attempt, stream) values (7, 0)`)
	if err := subscriber.WaitMarker(t.Context(), s.Server, state.Forward, 7, 30*time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.Value[int](t, s.to, `select count(*) from public.t`); n != 101 {
		t.Errorf("%d rows came with the marker, want 101", n)
	}
	for range 2 {
		if err := subscriber.FlushMarker(t.Context(), s.Server, state.Forward, 7); err != nil {
			t.Error(err)
		}
	}
	if err := subscriber.FlushMarker(t.Context(), s.Server, state.Forward, 8); !errors.Is(err, subscriber.ErrMarkerLost) {
		t.Errorf("flushing another attempt's marker: %v", err)
	}
}

// The old server's password must be found neither in errors nor, where the tool
// may keep it out, in the new server's log.
func TestPasswordStaysSecret(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			const password = `s3cr3t'\ word`
			logged := map[string]string{"log_statement": "all", "log_min_duration_statement": "0", "log_min_error_statement": "error", "log_duration": "on"}
			if major >= 12 {
				logged["log_transaction_sample_rate"] = "1"
			}
			if major >= 13 {
				logged["log_min_duration_sample"] = "0"
				logged["log_statement_sample_rate"] = "1"
			}
			cluster := pgtest.Cluster(t, pgserver.Options{Major: major, Settings: logged})
			s := newStream(t, cluster)
			secret := s.conninfo + ` password='s3cr3t\'\\ word'`
			if pg.Keyword(secret, "password") != password {
				t.Fatalf("the conninfo's password is %q", pg.Keyword(secret, "password"))
			}
			unreachable := strings.Replace(secret, fmt.Sprintf("port='%d'", cluster.Port()), "port='1'", 1)
			err := subscriber.Ensure(t.Context(), s.Server, forward(s.Server), unreachable, "postgres")
			if err == nil {
				t.Fatal("a subscription to nowhere was made")
			}
			if text := err.Error() + hint.Of(err); strings.Contains(text, "s3cr3t") {
				t.Errorf("the error tells the password: %s", text)
			}
			if err := subscriber.Ensure(t.Context(), s.Server, forward(s.Server), secret, "postgres"); err != nil {
				t.Fatal(err)
			}
			// What the server has logged before is in the file when it has answered.
			if n := pgtest.Value[int](t, s.to, `select count(*) from pg_subscription where position('s3cr3t' in subconninfo) > 0`); n != 1 {
				t.Fatal("the password did not reach the subscription")
			}
			text, err := os.ReadFile(cluster.LogPath())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), "create table public.t") {
				t.Fatal("the log does not show statements")
			}
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, "s3cr3t") && !strings.Contains(line, "position('s3cr3t'") {
					t.Errorf("the log tells the password: %s", line)
				}
			}
			if _, err := subscriber.Drop(t.Context(), s.Server, forward(s.Server)); err != nil {
				t.Error(err)
			}
		})
	}
}
