// Package load is the open-loop client of the benches: it writes at a fixed
// rate, whatever the server does, and remembers what it was told.
//
// Arrivals follow a schedule that is fixed beforehand, so that a server that
// stands still does not slow the clients that measure it: transactions queue
// up, and latency counts from the scheduled time. Half of the transactions are
// small ones in the manner of TPC-B (begin, three updates, an insert, commit:
// six round trips), half are one insert with RETURNING of a bigserial.
//
// Each transaction carries a token of its own and gets an id from the server.
// Both are in the Ledger, with which [Prove] looks every acknowledged
// transaction up afterwards.
package load
