// Package methods holds the ways to turn the writes that the benches compare,
// behind one interface, and the three kinds of clients that are turned.
//
//	ours              this repository: upgrade.Start, then cutover.Run
//	ours-no-way-back  the same with rollback.keep off
//	poll              what the most used open tool does, from its documented steps
//	poll-no-vacuum    the same without VACUUM ANALYZE before the clients go on
//	poll-no-stream    the same without vacuum, and with streaming = off, which is
//	                  what a subscription gets on a new server before 18
//	floor             the same turn without any safety: nothing is journaled,
//	                  leased, fenced, proved or kept; a lower bound, not a method
//	                  for anybody's data
package methods
