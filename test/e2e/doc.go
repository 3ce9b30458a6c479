// Package e2e holds the tests of the program as a whole: the real binary, run
// as a subprocess against real servers, while clients write and a prober asks
// both servers which of them takes writes. The tests kill, stop, interrupt and
// undo it wherever that is possible, and compare at the end every acknowledged
// write with the server that serves.
//
// The binary is built once for all tests; PGCUTOVER_E2E_BINARY names another
// one to test. PGCUTOVER_TEST_PAIRS chooses the majors, see package pgtest:
// the plain move is tested between all pairs, the rest on the first.
package e2e
