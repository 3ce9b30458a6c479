// Package schemas moves demanding databases between servers and compares what
// arrived with what was there: the schema by pg_dump, every row by its text,
// every sequence.
//
// Each folder of testdata is a case: SQL files that are run on the old server in
// the order of their names. A name begins with the lowest major that knows what
// the file uses. To add a case, add a folder; to add to a case, add a file.
//
// The dump of the new server after the move must be that of the old one before
// it, but for what explained_test.go lists, each difference with its object, its
// exact form and its reason. An explanation that nothing needs fails the test.
package schemas
