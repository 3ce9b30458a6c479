package workload

import (
	"testing"
	"time"
)

func TestReigns(t *testing.T) {
	at := func(server string, began, ended int) span {
		zero := time.Unix(0, 0)
		return span{server, zero.Add(time.Duration(began)), zero.Add(time.Duration(ended))}
	}
	for _, test := range []struct {
		name  string
		order []string
		spans []span
		late  []int // indices of spans out of turn
	}{
		{"nothing", []string{"old", "new"}, nil, nil},
		{"one after the other", []string{"old", "new"}, []span{at("old", 1, 2), at("old", 3, 4), at("new", 5, 6)}, nil},
		{"crossed", []string{"old", "new"}, []span{at("old", 1, 9), at("new", 2, 10), at("new", 11, 12)}, nil},
		{"old began before new ended", []string{"old", "new"}, []span{at("new", 1, 5), at("old", 5, 6)}, nil},
		{"old began after new ended", []string{"old", "new"}, []span{at("old", 1, 2), at("new", 3, 5), at("old", 6, 7)}, []int{2}},
		{"listed in any order", []string{"old", "new"}, []span{at("old", 6, 7), at("new", 3, 5), at("old", 1, 2)}, []int{0}},
		{"every late one", []string{"old", "new"}, []span{at("new", 1, 2), at("old", 3, 4), at("new", 5, 6), at("old", 7, 8)}, []int{1, 3}},
		{"back again is fine when expected", []string{"old", "new", "old"}, []span{at("old", 1, 2), at("new", 3, 5), at("old", 6, 7)}, nil},
		{"back and forth", []string{"old", "new", "old"}, []span{at("old", 1, 2), at("new", 3, 5), at("old", 6, 7), at("new", 8, 9)}, []int{3}},
		{"long write over both", []string{"old", "new", "old"}, []span{at("old", 1, 20), at("new", 3, 5), at("old", 6, 7)}, nil},
		{"a server not expected", []string{"old"}, []span{at("old", 1, 2), at("new", 3, 4), at("old", 5, 6)}, []int{1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, overlaps := reigns(test.order, test.spans)
			var late []int
			for _, o := range overlaps {
				late = append(late, o.late)
			}
			if len(late) != len(test.late) {
				t.Fatalf("out of turn: %v, want %v", late, test.late)
			}
			for i := range late {
				if late[i] != test.late[i] {
					t.Fatalf("out of turn: %v, want %v", late, test.late)
				}
			}
		})
	}
}

func TestLongestGap(t *testing.T) {
	zero := time.Unix(0, 0)
	sec := func(n int) time.Time { return zero.Add(time.Duration(n) * time.Second) }
	l := &Ledger{commits: []*Commit{
		{Ended: sec(9)}, {Ended: sec(2)}, {Ended: sec(3)}, {Ended: sec(6), Unknown: true}, {Ended: sec(12)},
	}}
	for _, test := range []struct{ from, to, want int }{
		{1, 10, 6},   // 3 to 9: an unknown answer is none
		{0, 3, 2},    // from the beginning to the first
		{8, 11, 2},   // from the last to the end
		{20, 30, 10}, // no answer at all
	} {
		if got := l.LongestGap(sec(test.from), sec(test.to)); got != time.Duration(test.want)*time.Second {
			t.Errorf("from %d to %d: %s, want %d s", test.from, test.to, got, test.want)
		}
	}
}
