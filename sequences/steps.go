package sequences

import "math"

// The functions here compute with positions over the whole range of bigint.
// A distance between two int64 fits into a uint64, and two's complement makes
// uint64(a)-uint64(b) that distance whenever a >= b, so nothing overflows.

// beyond reports whether a lies strictly past b in the direction of increment.
func beyond(a, b, increment int64) bool {
	if increment < 0 {
		return a < b
	}
	return a > b
}

// magnitude returns |increment|; it is right for the lowest int64, too.
func magnitude(increment int64) uint64 {
	if increment < 0 {
		return -uint64(increment)
	}
	return uint64(increment)
}

// distance returns |a-b|.
func distance(a, b int64) uint64 {
	if a < b {
		return uint64(b) - uint64(a)
	}
	return uint64(a) - uint64(b)
}

// left is how many numbers nextval returns from position v on up to bound,
// bound included.
func left(v Value, increment, bound int64) uint64 {
	if beyond(v.LastValue, bound, increment) {
		return 0
	}
	n := distance(bound, v.LastValue) / magnitude(increment)
	if !v.IsCalled && n < math.MaxUint64 {
		n++
	}
	return n
}

// before is how many numbers nextval returns from position v on that lie
// strictly before limit.
func before(v Value, increment, limit int64) uint64 {
	if !beyond(limit, v.LastValue, increment) {
		return 0
	}
	n := (distance(limit, v.LastValue) - 1) / magnitude(increment)
	if !v.IsCalled && n < math.MaxUint64 {
		n++
	}
	return n
}

// ahead returns what nextval returns from position v after steps calls of it.
// The caller has made sure with left that this number exists.
func ahead(v Value, increment int64, steps uint64) int64 {
	if v.IsCalled {
		steps++
	}
	way := steps * magnitude(increment)
	if increment < 0 {
		return int64(uint64(v.LastValue) - way)
	}
	return int64(uint64(v.LastValue) + way)
}
