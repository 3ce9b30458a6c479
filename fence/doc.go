// Package fence decides which of the two servers takes client writes.
//
// Every table of a fenced database has one statement trigger of ours. It does
// two things: it takes a shared lock on the empty table pgcutover.gate, and it
// calls pgcutover.check(). While check() is open it does nothing; closed, it
// refuses the statement with SQLSTATE 25006.
//
//   - To freeze a server, the lease locks the gate exclusively: statements in
//     transactions that have passed the gate go on, others wait in their
//     trigger. No table lock is needed, so nothing can deadlock with the
//     application.
//   - To close it for good, check() is replaced in the same transaction. A
//     waiter that gets its lock afterwards runs the new check(), in every
//     isolation level, because waiting for a relation lock processes
//     invalidations.
//
// The gate must be a relation lock and closing must be CREATE OR REPLACE of
// check(): behind an advisory lock, a sequence or a flag in a table waiters
// slip through (see docs/cutover.md).
//
// The trigger is ENABLE ALWAYS, so that session_replication_role = replica
// does not bypass it, and lets replication through by asking whether the
// session is a client backend.
//
// Closing a server for good (Close) also sets the read-only default that
// multihost clients go by, comments the database with why it refuses writes, and
// may take CONNECT from its clients; what that replaces is kept in
// pgcutover.kept and put back when the server is opened, or by Revert. Prove
// looks afterwards whether the server really takes no writes.
//
// On the new server the guard, an ENABLE REPLICA row trigger on the decision
// table, opens the fence inside the apply transaction that delivers the
// decision. It needs no session and has no deadline.
package fence
