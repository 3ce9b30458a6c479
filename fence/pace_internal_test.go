package fence

import (
	"context"
	"testing"
	"time"
)

// Others who want the processors get longer rests and shorter locks, until the
// work is late.
func TestPace(t *testing.T) {
	const quick, slow = 300 * time.Microsecond, 3 * time.Millisecond
	p := newPace(t.Context(), 30_000)
	for range 10 {
		took := time.Duration(p.size) * quick
		p.saw(p.size, took, 29_000)
		if p.pause != took {
			t.Errorf("idle: a rest of %s after %s", p.pause, took)
		}
	}
	if p.size != mostBatch {
		t.Errorf("idle: batches of %d", p.size)
	}
	p.saw(p.size, 25*slow, 28_000)
	if p.pause <= 2*25*slow || p.pause > mostRest || p.size >= mostBatch || p.size < leastBatch {
		t.Errorf("beside others: a rest of %s, batches of %d", p.pause, p.size)
	}
	p.saw(p.size, time.Duration(p.size)*slow, 2)
	if p.pause == 0 {
		t.Error("no rest although there is time")
	}
	p.saw(10, time.Minute, 30_000)
	if p.pause != 0 || p.size != mostBatch {
		t.Errorf("late: a rest of %s, batches of %d", p.pause, p.size)
	}
	hurried, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if p := newPace(hurried, 30_000); time.Until(p.until) > 30*time.Second {
		t.Errorf("%s of a minute are taken", time.Until(p.until))
	}
	p.until = time.Now()
	p.saw(10, 10*quick, 1)
	if p.pause != 0 {
		t.Errorf("past the time: a rest of %s", p.pause)
	}
}
