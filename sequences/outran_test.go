package sequences_test

import (
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/sequences"
)

func TestOutran(t *testing.T) {
	at := func(last int64, called bool) sequences.Value {
		return sequences.Value{Ref: sequences.Ref{Schema: "public", Name: "s"}, LastValue: last, IsCalled: called}
	}
	type want struct {
		value   int64
		overlap sequences.Range // zero: none
		warning string
	}
	small := bounds(1, 100)
	for _, tt := range []struct {
		name            string
		old, new        sequences.Sequence
		now             sequences.Value
		margin, reserve int64
		want            *want // nil: nothing to do
	}{
		{"stood still", seq(41, true), seq(1, false), at(41, true), 100, 0, nil},
		{"used its margin up to the last", seq(41, true), seq(1, false), at(141, true), 100, 0, nil},
		{"one further", seq(41, true), seq(1, false), at(142, true), 100, 0, &want{243, sequences.Range{From: 142, To: 142}, "old has handed out 142 to 142"}},
		{"far further", seq(41, true), seq(1, false), at(500, true), 100, 0, &want{601, sequences.Range{From: 142, To: 500}, "142 to 500"}},
		{"the reserve is there", seq(41, true), seq(1, false), at(91, true), 100, 50, nil},
		{"the reserve is not there", seq(41, true), seq(1, false), at(92, true), 100, 50, &want{193, sequences.Range{}, ""}},
		{"set forward by hand, nothing handed out", seq(41, true), seq(1, false), at(142, false), 100, 0, nil},
		{"set further by hand, nothing handed out", seq(41, true), seq(1, false), at(200, false), 100, 0, &want{300, sequences.Range{}, ""}},
		{"set back by hand", seq(41, true), seq(1, false), at(1, false), 100, 50, nil},
		{"new was ahead and still is", seq(41, true), seq(1000, true), at(900, true), 100, 0, nil},
		{"new was ahead and no longer is", seq(41, true), seq(1000, true), at(1001, true), 100, 0, &want{1102, sequences.Range{From: 1001, To: 1001}, "1001"}},
		{"no margin", seq(41, true), seq(1, false), at(42, true), 0, 0, &want{43, sequences.Range{From: 42, To: 42}, "42 to 42"}},
		{"to its end", seq(41, true, small), seq(1, false, small), at(100, true), 10, 0, &want{100, sequences.Range{From: 52, To: 100}, "exhausted"}},
		{"no room for the reserve", seq(95, true, small), seq(1, false, small), at(95, true), 100, 50, nil},
		{"little room for the reserve", seq(95, true, small), seq(1, false, small), at(96, true), 100, 50, &want{99, sequences.Range{}, "room for only 4 numbers"}},
		{"past what new can hold", seq(41, true), seq(1, false, small), at(500, true), 10, 0, &want{100, sequences.Range{From: 52, To: 500}, "new is set to its end"}},
		{"round the cycle", seq(41, true, small, cyclic), seq(1, false, small, cyclic), at(5, true), 10, 0, &want{16, sequences.Range{From: 52, To: 100}, "new cycle"}},
		{"nearly round the cycle", seq(41, true, small, cyclic), seq(1, false, small, cyclic), at(40, true), 10, 0, &want{51, sequences.Range{From: 52, To: 100}, "new cycle"}},
		{"both at the start of a cycle", seq(100, true, small, cyclic), seq(1, false, small, cyclic), at(1, true), 0, 0, &want{2, sequences.Range{}, "new cycle"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			given, problems := sequences.Plan([]sequences.Sequence{tt.old}, []sequences.Sequence{tt.new}, tt.margin)
			if len(problems) != 0 {
				t.Fatal(problems)
			}
			again := sequences.Outran([]sequences.Value{tt.now}, given, tt.margin, tt.reserve)
			if tt.want == nil {
				if len(again) != 0 {
					t.Errorf("changes %+v, want none", again)
				}
				return
			}
			if len(again) != 1 {
				t.Fatalf("changes %+v, want one", again)
			}
			c := again[0]
			overlap := sequences.Range{}
			if c.Overlap != nil {
				overlap = *c.Overlap
			}
			if c.Value != tt.want.value || overlap != tt.want.overlap || !strings.Contains(strings.Join(c.Warnings, "; "), tt.want.warning) {
				t.Errorf("value %d, overlap %v, warnings %q; want %+v", c.Value, overlap, c.Warnings, *tt.want)
			}
			// Once that is given, there is nothing more to do.
			if more := sequences.Outran([]sequences.Value{tt.now}, sequences.Merge(given, again), tt.margin, 0); len(more) != 0 {
				t.Errorf("and again %+v", more)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	change := func(name string, value int64) sequences.Change {
		return sequences.Change{Ref: sequences.Ref{Schema: "public", Name: name}, Value: value}
	}
	var got strings.Builder
	for _, c := range sequences.Merge([]sequences.Change{change("a", 1), change("b", 2)}, []sequences.Change{change("c", 3), change("b", 4)}) {
		got.WriteString(c.Name)
		got.WriteByte(byte('0' + c.Value))
	}
	if got.String() != "a1b4c3" {
		t.Errorf("merged %s", got.String())
	}
}

// TestFollowRoundTheCycle sets new back over the bound with both means, and
// does not when new has gone round by itself and further.
func TestFollowRoundTheCycle(t *testing.T) {
	eachMajor(t, func(t *testing.T, major int) {
		s := open(t, major)
		for _, fast := range []bool{false, true} {
			for _, down := range []bool{false, true} {
				s.exec(t, `drop sequence if exists s; create sequence s maxvalue 100 cycle`)
				at := func(n int64) int64 { return n }
				if down {
					s.exec(t, `drop sequence s; create sequence s increment -1 minvalue 1 maxvalue 100 cycle`)
					at = func(n int64) int64 { return 101 - n }
				}
				fresh := s.readOne(t, "s")
				old := fresh
				old.LastValue, old.IsCalled = at(41), true
				given, _ := sequences.Plan([]sequences.Sequence{old}, []sequences.Sequence{fresh}, 10)
				mustMake(t, s.apply(t, given, fast), 1)
				now := sequences.Value{Ref: old.Ref, LastValue: at(5), IsCalled: true}
				again := sequences.Outran([]sequences.Value{now}, given, 10, 0)
				if len(again) != 1 || !again[0].Wrapped {
					t.Fatalf("changes %+v", again)
				}
				s.exec(t, `select nextval('s') from generate_series(1, 3)`)
				mustMake(t, s.apply(t, again, fast), 1)
				if got := s.readOne(t, "s"); got.LastValue != at(16) || got.IsCalled {
					t.Errorf("fast %t, down %t: stands at %+v", fast, down, got.Value)
				}
				mustMake(t, s.apply(t, again, fast), 0)
				s.exec(t, `select nextval('s') from generate_series(1, 3)`)
				mustMake(t, s.apply(t, again, fast), 0)
				if got := s.readOne(t, "s"); got.LastValue != at(18) || !got.IsCalled {
					t.Errorf("fast %t, down %t: stands at %+v", fast, down, got.Value)
				}
			}
		}
	})
}
