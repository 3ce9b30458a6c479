package subscriber

import (
	"slices"
	"testing"
)

// A copy that fails again and again is seen now and then at its next attempt: when
// the wait is given up its table is named all the same.
func TestUncopied(t *testing.T) {
	begun, waiting := TableState{Schema: "public", Name: "begun", State: "d"}, TableState{Schema: "public", Name: "waiting", State: "i"}
	again, ready := TableState{Schema: "public", Name: "again", State: "d"}, TableState{Schema: "public", Name: "ready", State: "r"}
	running := []Copying{{Schema: "public", Name: "again"}}
	for _, c := range []struct {
		states []TableState
		last   bool
		want   []TableState
	}{
		{[]TableState{begun, waiting, again, ready}, false, []TableState{begun}},
		{[]TableState{begun, waiting, again, ready}, true, []TableState{begun, again}},
		{[]TableState{waiting, again, ready}, false, []TableState{waiting}},
		{[]TableState{waiting, again, ready}, true, []TableState{again}},
		{[]TableState{ready}, true, nil},
	} {
		if got := uncopied(c.states, running, c.last); !slices.Equal(got, c.want) {
			t.Errorf("of %v, at last %t: %v, want %v", c.states, c.last, got, c.want)
		}
	}
}
