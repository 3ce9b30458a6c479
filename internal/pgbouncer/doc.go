// Package pgbouncer runs throwaway PgBouncer processes on the loopback
// interface, for tests and benches. It is no part of a production move: nothing
// here touches a pooler that it did not start itself.
//
// A pooler's main file includes the file with its databases, as it often does
// in real installations, so that a tool may rewrite the one and leave the other
// alone. Clients need no password and all log in to the server as the
// entry's user (auth_type any); so does everybody at the admin console, which
// speaks the simple query protocol only.
//
// A pooler dies with the process that started it. PgBouncer refuses to run as
// root, so that under root it runs as the user postgres, or nobody.
// https://www.pgbouncer.org/config.html
package pgbouncer
