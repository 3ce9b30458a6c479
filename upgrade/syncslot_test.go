package upgrade

import (
	"fmt"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/state"
)

// An abort that was killed after it had dropped the subscription has forgotten
// its OID. The next one still finds the slots that would keep WAL on old.
func TestAbortFindsForgottenSyncSlots(t *testing.T) {
	m, oldURL, _ := opened(t, "rev9")
	m.startedForTest(t)
	id, err := state.Identify(t.Context(), m.New)
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, oldURL, fmt.Sprintf("select pg_create_logical_replication_slot('pg_1_sync_2_%s', 'pgoutput')", id.System))
	if err := m.Abort(t.Context(), t.Context(), RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := pgtest.Value[int](t, oldURL, `select count(*) from pg_replication_slots where database = current_database()`); n != 0 {
		t.Errorf("%d slots are left on old", n)
	}
}
