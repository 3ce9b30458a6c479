// Package journal is the memory of a procedure: an intent log of its steps.
//
// Before a step acts, "started" is written; after it, "succeeded" with its
// facts or "failed". Before a step is taken back, "undo_started"; after it,
// "undone". After a crash nobody knows whether the step that is "started"
// without an end has happened, so steps must be idempotent, and whoever
// resumes redoes that one step or takes it back. The journal decides nothing
// that can be looked up where the step acted; it remembers facts, and whether
// the point of no return was passed.
//
// # Terms
//
//   - list: the name of an ordered list of steps ("cutover", "start").
//   - run: one pass through a list. A cutover's run is its attempt number; the
//     phases of the move are run 0.
//   - final step: the point of no return. At most one in a list.
//   - undecided: the final step was started, and whether it happened is not
//     known here (a crash, a lost answer).
//
// # States of one step
//
//	                +---- started (redo) ----+
//	                v                        |
//	(nothing) -> started --> succeeded ------+
//	                |  \                     |
//	                |   +--> failed ---------+  (failed -> started: tried again)
//	                |          |             |
//	                +----+-----+-------------+
//	                     v
//	               undo_started <--+  (undo redone)
//	                     |  +------+
//	                     v
//	                  undone --> started   only in a Rerunnable list
//
// The final step differs. Once it has succeeded nothing follows it but the
// steps after it: it is neither redone nor undone. While it is started or
// failed the run is undecided, and nothing at all may be undone until somebody
// who looked it up writes "refuted", a definitive no:
//
//	started, failed -> refuted -> undo_started -> undone
//
// # Rules across steps
//
//   - A step may start only when every earlier step has succeeded.
//   - A run that goes back (some step undo_started or undone, or the final step
//     refuted) does not go forward again: a new attempt is a new run. In a
//     Rerunnable list it may, once no undo is left unfinished.
//   - Undo goes backwards: the undo of a step may start only when no later step
//     is started, succeeded or failed. Steps marked UndoLast are left out of
//     that order, they are undone after all others. An undo that did not
//     finish (undo_started) does not keep earlier steps from being undone.
//   - After the final step has succeeded nothing may be undone.
//
// A [Log] enforces all this when it appends and again when it replays what is
// stored, so a journal that was edited, mixed up or written by two processes
// is refused instead of being believed.
//
// # When a write fails
//
// An Append that returned an error may have landed all the same (the answer
// was lost). The Log therefore keeps such records in its own view, and sends
// them again, in front of the next ones, after looking which of them are
// there. Every record carries its place in the run (Seq), which a [Store] must
// keep unique: so nothing is stored twice, and a second process that appends
// to the same run is told [ErrConflict].
package journal
