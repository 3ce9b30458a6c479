package upgrade

import (
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/sequences"
)

// turnedRound checks that sequences are compared the other way once the clients are
// on new: old is behind until a rollback, and that new's rows have come there is
// nothing to be told.
func turnedRound(t *testing.T, m *Move) {
	t.Helper()
	differences, err := m.SequenceDiff(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, d := range differences {
		if d.Name == "item_id_seq" {
			found = d.Target == pg.Old && d.Status == sequences.Behind && len(d.Beyond) == 0
		}
	}
	if !found {
		t.Errorf("after a cutover the comparison says:\n%s", sequences.Text(differences, true))
	}
}
