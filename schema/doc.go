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
// pgcutover, triggers that call a function of it) is left out
// everywhere, and so are publications and subscriptions: they describe the
// server's part in a replication, not the application.
//
// Around the archive, since pg_dump leaves them out or to the new server's
// choice, come
//
//	MakeRoles        before everything: the roles that the database needs, with
//	                 attributes, memberships, settings, passwords where readable
//	MakeExtensions   before PreData: extensions at a version that both servers have
//	CarryDatabase    after PostData: settings, privileges, connection limit,
//	                 comment and security labels of the database itself
//
// Each returns notices of what is not on new as it is on old, takes nothing of
// an operator's away, may be called again, and can be taken back (DropRoles,
// ReturnDatabase; extensions by Remove).
//
// Not moved: tablespaces, large objects, the contents of materialized views, rows
// in extensions' configuration tables, comments on extensions (CREATE EXTENSION
// sets them).
//
// [Fingerprint] describes a schema object by object in words that mean the same
// on every major, [Diff] compares two of them, [Missing] says what a move has
// not brought yet.
//
// What majors print differently (expressions, views, bodies that the server has
// parsed) cannot be told in such words: [Baseline] keeps, from the restore, the
// pairs of texts that mean the same. Normalizing the texts would need a parser of
// every major's SQL, and asking one server to print what the other one printed
// would have to create objects on it. [Fixes] derives from the catalogs what brings
// the new server in line with a change, and [Archive.Choose] what is restored for
// it. [Snapshot], taken of the new database before the move, lets
// [Remove] bring it back to what it was.
package schema
