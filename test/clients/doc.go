// Package clients holds the tests of what others write to databases with: real
// client programs and drivers, each with a connection string that names both
// servers, write while a cutover turns from one to the other. Each must write on
// the old server before, find the new one by itself after, and lose nothing that
// it was told is committed.
//
// psql, pgbench, pgx and pgxpool are always tested. Others are tested when
// PGCUTOVER_TEST_CLIENTS names them, separated by commas: psycopg2, psycopg,
// jdbc, jdbc-reconnect, postgres.js. testdata holds their programs and says what each needs.
package clients
