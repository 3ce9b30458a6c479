package chaos

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// patience is a bound for what other work on the machine may slow down: twice as
// many processes at work as there are processors are normal here. It is for how
// long something takes, never for what may not happen at all.
func patience(bound time.Duration) time.Duration {
	return stretched(bound, load(), runtime.NumCPU())
}

// load is how many processes were at work in the last minute; 0 where nobody
// says.
func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var n float64
	if _, err := fmt.Sscan(string(text), &n); err != nil {
		return 0
	}
	return n
}

// maxStretch keeps what hangs from being taken for what is slow.
const maxStretch = 4

func stretched(bound time.Duration, load float64, processors int) time.Duration {
	factor := min(max(load/float64(2*processors), 1), maxStretch)
	return time.Duration(float64(bound) * factor)
}

// TestPatience checks that only a busy machine gets more time.
func TestPatience(t *testing.T) {
	for _, test := range []struct {
		load float64
		want time.Duration
	}{{0, 10 * time.Second}, {4, 10 * time.Second}, {8, 20 * time.Second}, {1000, 40 * time.Second}} {
		if got := stretched(10*time.Second, test.load, 2); got != test.want {
			t.Errorf("at a load of %v: %s, want %s", test.load, got, test.want)
		}
	}
}
