// Package pg reaches the two PostgreSQL servers of a move: connections that
// say who they are and carry their own timeouts, ordinary and replication
// sessions, versions, waits with a name and a bound, the one-tool lock, and
// errors from which passwords have been taken out.
//
// It knows servers and roles, no procedure: what is said to a server stands in
// the packages that say it.
package pg
