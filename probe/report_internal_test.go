package probe

import (
	"testing"
	"time"
)

// The report's sum is what the rounds said, to the last digit: milliseconds
// that are added and taken away as floats are not.
func TestUnavailableIsTheSumOfItsRounds(t *testing.T) {
	var r Report
	began := time.Now()
	failure := &Failure{}
	for i, ms := range []float64{0, 20.11, 40.317, 62.703, 84.224} {
		round := Round{Since: &began, FailingMS: ms, FailedRounds: i + 1, Failure: failure}
		switch i {
		case 0:
			round.Change = Failing
		case 4:
			round.OK, round.Change, round.FailedRounds = true, Recovered, 4
			round.Server = &Server{}
		}
		r.add(round)
	}
	if r.UnavailableMS != 84.224 || len(r.Outages) != 1 || !r.Outages[0].Over {
		t.Errorf("report %+v", r)
	}
}
