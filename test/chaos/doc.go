// Package chaos breaks things in the middle of cutovers and rollbacks and looks
// whether the clients notice.
//
// A round takes a move that is ready, lets clients write (through connection
// strings that name both servers, through PgBouncer, and directly to the one that
// serves), runs `pgcutover cutover --yes`, or `pgcutover rollback --yes` where new
// serves, the real binary, and does one thing to it: kills or stops it, cuts a
// network, crashes a server or the pooler, fills a disk, ends a replication
// process. Which one, when and for how long is drawn from a seed. Then it does
// what a person would do: nothing for up to ten seconds, and `pgcutover resume`
// where the tool did not come to its end by itself. At the end of each round
//
//   - exactly one server took writes within ten seconds, without anybody's help,
//     as long as no server was down;
//   - no server took a write after the next one had;
//   - every acknowledged write is on the serving server exactly once, and its
//     sequences stand past every value that a client got;
//   - the pooler is not paused and leads to the serving server, and no watchdog is
//     left.
//
// The next round begins from there.
//
//	go test ./test/chaos                   a short run: each fault once, or what
//	                                       two minutes have room for
//	make chaos N=500                       a long one, with its table on stderr
//	make chaos N=500 SEED=7                the same rounds again
//	make chaos N=500 SEED=7 ROUND=33       round 33 of these alone
//
// PGCUTOVER_TEST_PAIRS chooses the majors, see package pgtest, and
// PGCUTOVER_CHAOS_BINARY another binary to test. The first round that fails ends
// the run; what it left (config, the tool's words, what the servers and clients
// saw) is kept in a folder that its message names.
package chaos
