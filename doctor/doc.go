// Package doctor finds what is stuck or orphaned on the two servers of a move:
// closed fences and leftover triggers, armed guards, read-only defaults,
// replication slots that keep WAL, subscriptions that do not run, origins,
// publications, roles, comments and prepared transactions. It says whose each
// thing is and gives the SQL that mends it.
//
// It needs nothing but the servers: no local state, no journal, no schema
// pgcutover, and not even both servers. What it knows it reads from the
// catalogs, one query for each kind of thing; where schema pgcutover stands it
// reads that as well.
//
//	look    every kind on both servers, at the same time          (server.go)
//	place   what the move's state says: who serves, which stream  (place.go)
//	judge   what is there against what should be there            (one file a kind)
//	again   after a moment, keeping what was seen twice: things
//	        that mend themselves are no findings                  (doctor.go)
//	mend    with the one-tool lock held on both servers, after
//	        looking once more, ours only                          (mend.go)
//
// # Whose is it?
//
// Objects carry the name of their move. Ours are those of the move that the
// state on the servers, or the caller, names; other moves' are told apart by
// their name, or by the database they belong to. A schema pgcutover that came
// with a dump into another database is a copy: the identity that it records is
// not that of the database in which it stands.
//
// # What is mended
//
// Only what is certain and cannot hurt: leftovers of this move that nothing
// uses, fences that should be closed and have a gap, and copies. Never is a
// server opened, a stream that may still be needed dropped, or anything done
// while a tool is at work or a cutover is unfinished: that is resume's task.
package doctor
