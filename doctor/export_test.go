package doctor

import "testing"

// QuietBound sets how long a tool may say nothing, for one test.
func QuietBound(t *testing.T, seconds float64) {
	was := quietBound
	quietBound = seconds
	t.Cleanup(func() { quietBound = was })
}
