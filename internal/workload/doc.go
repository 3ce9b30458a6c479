// Package workload is a small shop that writes while its database moves, and
// the proof that it lost nothing.
//
// Create makes the schema "SHOP" and fills it. Start lets a few writers insert,
// update and delete through connection strings that name both servers, as
// applications do. Whatever a server acknowledged stands in the Ledger, in the
// client's memory, where no server can lose it. After Stop, Prove reads the
// serving server and compares: every acknowledged write is there exactly once,
// every value of a sequence was handed out once, and no server took a write
// after the next one had.
//
// A Prober asks beside that, every few milliseconds and without any failover in
// the client, which of the two servers takes writes: never both, and how long
// neither.
//
// Terms:
//
//   - nonce: sixteen bytes chosen by the client, the first eight of them the
//     run's. Each written row carries the nonce of its insert and, in touched,
//     the nonce of its last update. So the rows of a run can be told from loaded
//     ones (nonce null) and from those of other runs.
//   - acknowledged: the server answered the COMMIT. Such a write must exist.
//   - unknown: the connection broke while a COMMIT was under way. Such a write
//     may exist or not, whole; Prove looks which.
//   - refused: the server answered with an error, or the connection broke before
//     the COMMIT was sent. Such a write must not exist. The writer tries another
//     one, with a new nonce.
//   - server: system identifier and port as told by the transaction itself, so
//     that it is right behind poolers, too.
//
// The demo and the end-to-end tests use this package; nothing in a move does.
package workload
