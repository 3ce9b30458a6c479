// Package rights moves a database with roles that are superuser nowhere: the
// binary as it is, on servers of its own that ask for passwords, with writers of
// a further, ordinary role. What the roles are granted is what `pgcutover check
// --grants` prints, run by psql as the role that administers such a server, and
// nothing else.
//
// Its majors are its own: PGCUTOVER_TEST_PAIRS does not change them, because
// what a role that is no superuser may do differs with the major.
package rights
