package schemas

import (
	"testing"

	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// pairs are the moves of every case: one over five majors, whose dumps are as
// far apart as can be, and one between neighbours. They do not follow
// PGCUTOVER_TEST_PAIRS, because the explanations are made for them.
var pairs = []pgtest.Pair{{Old: 13, New: 18}, {Old: 15, New: 17}}

// slots bounds how many moves run at the same time.
var slots = make(chan struct{}, 2)
