package cutover

import "testing"

// A thousand tables are not all named.
func TestFew(t *testing.T) {
	for n, want := range map[int]string{0: "", 2: "0, 1", 10: "0, 1, 2, 3, 4, 5, 6, 7, 8, 9", 1001: "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and 991 more"} {
		list := make([]int, n)
		for i := range list {
			list[i] = i
		}
		if got := few(list); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}
