// Package upgrade is where to start reading: it is the whole move, from two
// servers to one that serves and one that is left as it was.
//
// A move has phases (see Phases), done by Start and resumable by running Start
// again:
//
//	preflight   every reason why the move would fail or surprise (package preflight)
//	prepare     schema pgcutover on both servers; new is closed for client writes
//	roles       the roles that the database needs, on new
//	schema      extensions, then pg_dump of old into new: tables, then their identity indexes
//	publish     publication, then slot, on old
//	subscribe   subscription on new, with an owner of its own
//	copy        Postgres copies the tables
//	index       the rest of the schema: indexes, foreign keys, triggers
//	statistics  old's planner statistics, where new takes them (18 and later)
//	database    settings, privileges and comment of the database itself
//	catch-up    the stream is close behind
//	refresh     materialized views
//	warm        recent rows into new's cache
//	analyze     planner statistics, in stages
//
// What is changed in old's schema meanwhile is shown by Status, keeps a cutover
// from beginning, and is brought to new by SyncSchema.
//
// Then Cutover turns the writes (package cutover), and Complete removes what
// the move made; before the cutover, Abort does.
//
// The catalogs are the truth: every phase looks there first and adopts only
// what is ours. The journal on new remembers what they cannot say.
package upgrade
