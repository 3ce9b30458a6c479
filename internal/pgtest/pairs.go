package pgtest

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// PairsVariable names the environment variable that chooses the majors.
const PairsVariable = "PGCUTOVER_TEST_PAIRS"

// defaultPairs holds a server that many machines have installed and the newest.
const defaultPairs = "15:18"

// Pair is a move to test: the majors of its two servers.
type Pair struct{ Old, New int }

// String returns old:new, which also names a subtest well.
func (p Pair) String() string { return fmt.Sprintf("%d:%d", p.Old, p.New) }

// Pairs returns the pairs in PGCUTOVER_TEST_PAIRS, written as "15:18,13:17";
// without it the one pair 15:18.
func Pairs(t testing.TB) []Pair {
	t.Helper()
	text := os.Getenv(PairsVariable)
	if text == "" {
		text = defaultPairs
	}
	pairs, err := parsePairs(text)
	if err != nil {
		t.Fatalf("reading %s: %v", PairsVariable, err)
	}
	return pairs
}

// Majors returns the distinct majors of [Pairs], ascending.
func Majors(t testing.TB) []int {
	t.Helper()
	var majors []int
	for _, p := range Pairs(t) {
		majors = append(majors, p.Old, p.New)
	}
	slices.Sort(majors)
	return slices.Compact(majors)
}

func parsePairs(text string) ([]Pair, error) {
	var pairs []Pair
	for field := range strings.SplitSeq(text, ",") {
		before, after, ok := strings.Cut(strings.TrimSpace(field), ":")
		old, errOld := strconv.Atoi(before)
		new, errNew := strconv.Atoi(after)
		if !ok || errOld != nil || errNew != nil {
			return nil, fmt.Errorf("%q is no pair: want old:new, such as 15:18", field)
		}
		for _, major := range []int{old, new} {
			if major < pgserver.MinMajor || major > pgserver.MaxMajor {
				return nil, fmt.Errorf("%q: the major must be from %d to %d", field, pgserver.MinMajor, pgserver.MaxMajor)
			}
		}
		pairs = append(pairs, Pair{Old: old, New: new})
	}
	return pairs, nil
}
