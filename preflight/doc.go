// Package preflight looks for every reason why a move would fail or surprise,
// before anything is changed.
//
// A Check is data: a name, one line about it, and a function that looks at both
// servers and returns findings. A Finding is a problem with its evidence, its
// consequence and the SQL or setting that mends it; an error is a check that
// could not be made, which Run turns into a blocker of its own. All is the
// whole list, Gates the short part that is looked at again at the cutover.
//
// Nothing here changes a server. Every query runs in a read-only transaction
// and covers the whole catalog at once, never one table at a time. The one
// exception in form is the probe of the path between the servers: a CREATE
// SUBSCRIPTION that connects, in a transaction that is always rolled back.
package preflight
