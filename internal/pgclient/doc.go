// Package pgclient finds the PostgreSQL client programs pg_dump, pg_restore and
// psql on this machine. pg_dump refuses a server newer than itself, so that the
// major matters: a move needs client programs at least as new as its newer
// server. The package runs the programs it finds only to ask their version.
package pgclient
