// Package schema moves a database's schema with pg_dump and pg_restore,
// compares the schemas of two servers, and takes a moved schema back.
//
// [Dump] writes an archive of the old database's schema. It is restored in
// three sections, because data arrives in between:
//
//	PreData    schemas, types, functions, tables, views, extensions
//	           -- the tables' data is copied --
//	Identity   primary keys and the indexes that serve as replica identity:
//	           all that an apply worker needs to find a row
//	           -- the subscription is enabled --
//	PostData   the other indexes and constraints, foreign keys, triggers,
//	           rules, policies, statistics objects, event triggers
//
// A section is a choice of entries from the archive's table of contents, never
// an edit of SQL text. What the tool itself makes on a server (schema
// pgcutover, triggers whose name starts with pgcutover_) is left out
// everywhere, and so are publications and subscriptions: they describe the
// server's part in a replication, not the application.
//
// Not moved either: roles and their settings, tablespaces, large objects, the
// settings and rights of the database itself, comments on extensions (CREATE
// EXTENSION sets them), and the contents of materialized views. [RolesMissing]
// lists the roles.
//
// [Fingerprint] describes a schema object by object in words that mean the same
// on every major, [Diff] compares two of them, [Missing] says what a move has
// not brought yet. [Snapshot], taken of the new database before the move, lets
// [Remove] bring it back to what it was.
package schema
