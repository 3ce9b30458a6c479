package rounds

import (
	"slices"
	"testing"
)

func TestEveryRoundBeginsWithAnother(t *testing.T) {
	ways := []string{"a", "b", "c"}
	for round, want := range [][]string{{"a", "b", "c"}, {"b", "c", "a"}, {"c", "a", "b"}, {"a", "b", "c"}} {
		if got := Order(ways, round); !slices.Equal(got, want) {
			t.Errorf("round %d: %v", round, got)
		}
	}
	if got := Order([]string{}, 1); len(got) != 0 || !slices.Equal(ways, []string{"a", "b", "c"}) {
		t.Errorf("%v, %v", got, ways)
	}
}

func TestWhatIsMeasuredIsChecked(t *testing.T) {
	pairs, err := ParsePairs("15:18,10:18")
	if err != nil || !slices.Equal(pairs, []Pair{{15, 18}, {10, 18}}) || pairs[1].String() != "10:18" {
		t.Errorf("%v, %v", pairs, err)
	}
	for _, bad := range []string{"", "15", "15:18,", "15:18,x"} {
		if _, err := ParsePairs(bad); err == nil {
			t.Errorf("pairs %q are fine", bad)
		}
	}
	if names, err := ParseVariants("b,a", []string{"a", "b"}); err != nil || !slices.Equal(names, []string{"b", "a"}) {
		t.Errorf("%v, %v", names, err)
	}
	if _, err := ParseVariants("a,c", []string{"a", "b"}); err == nil {
		t.Error("an unknown variant is fine")
	}
}
