package sequences_test

import (
	"math"
	"reflect"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/sequences"
)

func TestRooms(t *testing.T) {
	end := bounds(1, 100)
	down := func(s *sequences.Sequence) { s.Increment, s.Min, s.Max, s.Start = -1, math.MinInt64, -1, -1 }
	hidden := func(s *sequences.Sequence) { s.Readable = false }
	const most = math.MaxInt64
	for name, tt := range map[string]struct {
		old, new sequences.Sequence
		want     *sequences.Room
	}{
		"set ahead":             {seq(41, true), seq(142, false), &sequences.Room{Left: 100, Wanted: 100, End: most - 41}},
		"half used":             {seq(92, true), seq(142, false), &sequences.Room{Left: 49, Wanted: 100, End: most - 92}},
		"used up to the last":   {seq(141, true), seq(142, false), &sequences.Room{Left: 0, Wanted: 100, End: most - 141}},
		"outrun":                {seq(142, true), seq(142, false), &sequences.Room{Behind: true, Wanted: 100, End: most - 142}},
		"never set":             {seq(41, true), seq(1, false), &sequences.Room{Behind: true, Wanted: 100, End: most - 41}},
		"never used on either":  {seq(1, false), seq(1, false), &sequences.Room{Left: 0, Wanted: 100, End: most}},
		"descending":            {seq(-41, true, down), seq(-142, false, down), &sequences.Room{Left: 100, Wanted: 100, End: math.MaxInt64 - 40}},
		"steps":                 {seq(40, true, by(10)), seq(540, false, by(10)), &sequences.Room{Left: 49, Wanted: 100, End: (most - 40) / 10}},
		"a cache block is more": {seq(0, true, bounds(0, most), cache(500)), seq(501, false, bounds(0, most), cache(500)), &sequences.Room{Left: 500, Wanted: 500, End: most}},
		"near the end":          {seq(90, true, end), seq(96, false, end), &sequences.Room{Left: 5, Wanted: 100, End: 10, Short: true}},
		"new's end is nearer":   {seq(90, true), seq(96, false, end), &sequences.Room{Left: 5, Wanted: 100, End: 10, Short: true}},
		"both at the end":       {seq(100, true, end), seq(100, true, end), &sequences.Room{Unbounded: true, Wanted: 100, Short: true}},
		"old at the end":        {seq(100, true, end), seq(150, false), &sequences.Room{Unbounded: true, Wanted: 100, Short: true}},
		"new at the end":        {seq(5, true, end), seq(100, true, end), &sequences.Room{Unbounded: true, Wanted: 100, End: 95, Short: true}},
		"unreadable":            {seq(0, false, hidden), seq(1, false), nil},
		"the other direction":   {seq(5, true), seq(-5, false, down), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := sequences.Rooms([]sequences.Sequence{tt.old}, []sequences.Sequence{tt.new}, 100)
			if tt.want == nil {
				if len(got) != 0 {
					t.Errorf("got %+v", got)
				}
				return
			}
			tt.want.Ref = tt.old.Ref
			if len(got) != 1 || got[0] != *tt.want {
				t.Errorf("got %+v, want %+v", got, *tt.want)
			}
		})
	}
}

func TestSumRooms(t *testing.T) {
	rooms := []sequences.Room{
		{Left: 100, Wanted: 100},
		{Left: 40, Wanted: 100},
		{Left: 60, Wanted: 1000},
		{Behind: true, Wanted: 100},
		{Unbounded: true, Wanted: 100, Short: true},
		{Left: 5, Wanted: 100, Short: true, End: 10},
	}
	got := sequences.SumRooms(rooms)
	want := sequences.RoomLeft{Sequences: 6, Behind: 1, Low: 2, Short: 2, Least: &rooms[5]}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := sequences.SumRooms(nil); got.Least != nil || got.Sequences != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestRoomOnServers sets new ahead, lets old draw numbers, and counts what is left.
func TestRoomOnServers(t *testing.T) {
	p := pgtest.Pairs(t)[0]
	old, fresh := open(t, p.Old), open(t, p.New)
	for _, s := range []side{old, fresh} {
		s.exec(t, `create sequence a; create sequence b increment -3 cache 4`)
	}
	changes, _ := sequences.Plan(old.read(t), fresh.read(t), 40)
	fresh.apply(t, changes, false)
	rooms := func() []sequences.Room { return sequences.Rooms(old.read(t), fresh.read(t), 40) }
	for _, r := range rooms() {
		if r.Left != 40 || r.Wanted != 40 || r.Behind {
			t.Errorf("set ahead: %+v", r)
		}
	}
	old.exec(t, `select nextval('a'), nextval('b') from generate_series(1, 25)`)
	got := rooms()
	if got[0].Left != 15 || got[1].Left != 12 { // b takes blocks of 4
		t.Errorf("after 25: %+v", got)
	}
	if sum := sequences.SumRooms(got); sum.Low != 2 || sum.Least == nil || sum.Least.Name != "b" {
		t.Errorf("after 25: %+v", sum)
	}
	old.exec(t, `select nextval('a') from generate_series(1, 16)`)
	if sum := sequences.SumRooms(rooms()); sum.Behind != 1 {
		t.Errorf("outrun: %+v", sum)
	}
}
