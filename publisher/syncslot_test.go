package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/publisher"
)

// What table synchronization left behind goes, whoever forgot the
// subscription's OID; slots of subscriptions that live, and other clusters',
// stay. One that is in use is waited for, not passed over.
func TestDropSyncSlots(t *testing.T) {
	eachMajor(t, func(t *testing.T, s *server) {
		system := fmt.Sprint(time.Now().UnixNano())
		left, used := "pg_111_sync_5_"+system, "pg_112_sync_5_"+system
		living, other := "pg_222_sync_5_"+system, "pg_111_sync_5_9"+system
		for _, name := range []string{left, used, living, other} {
			pgtest.Exec(t, s.url, "select pg_create_logical_replication_slot('"+name+"', 'pgoutput')")
		}
		conn, err := s.Replication(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = pglogrepl.StartReplication(t.Context(), conn, used, 0, pglogrepl.StartReplicationOptions{
			Mode: pglogrepl.LogicalReplication, PluginArgs: []string{"proto_version '1'", "publication_names 'none'"},
		})
		if err != nil {
			t.Fatal(err)
		}
		err = publisher.DropSyncSlots(t.Context(), s.Server, system, []int64{222}, time.Second)
		if !errors.Is(err, pg.ErrTimeout) {
			t.Errorf("with a slot in use: %v, want a timeout", err)
		}
		if err := conn.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := publisher.DropSyncSlots(t.Context(), s.Server, system, []int64{222}, 20*time.Second); err != nil {
				t.Error(err)
			}
		}
		const namesSQL = `select string_agg(slot_name::text, ' ' order by slot_name) from pg_replication_slots where database = current_database()`
		if got := pgtest.Value[string](t, s.url, namesSQL); got != other+" "+living {
			t.Errorf("left are %q, want %q and %q", got, other, living)
		}
		// Of a cluster that is gone, nothing lives.
		if err := publisher.DropSyncSlots(t.Context(), s.Server, system, nil, 20*time.Second); err != nil {
			t.Error(err)
		}
		if got := pgtest.Value[string](t, s.url, namesSQL); got != other {
			t.Errorf("left are %q, want %q", got, other)
		}
	})
}
