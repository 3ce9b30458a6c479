package sequences

// Left is left, for tests that compute what is right by themselves.
func (s Sequence) Left() uint64 { return s.left() }
