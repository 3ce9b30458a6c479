// Package pgtest gives tests real PostgreSQL servers: one shared server per
// major and test binary, a database of its own for each test, clusters of their
// own for tests that break things, a text snapshot of everything that a tool
// may leave behind in a database, and a proxy that cuts connections at a chosen
// message of the protocol.
//
// A package that uses it calls [Main] from its TestMain:
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
// The environment variable PGCUTOVER_TEST_PAIRS chooses the majors, see
// [Pairs].
package pgtest
