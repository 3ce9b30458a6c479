// Package step runs a procedure that is written down as a list.
//
// A [Step] says what it does, how that is taken back, how long it may take and
// which statements it runs. The same list is executed by a [Runner], shown by
// [Plan], and remembered by a [journal.Log], so that what is documented, what
// is shown before and what happens cannot drift apart.
//
// # Forward and back
//
//	Run:  started(1) Do(1) succeeded(1)+started(2) Do(2) ... succeeded(n)
//	                 |
//	                 | error, veto of a hook, soft or hard cancel, Bound over
//	                 v
//	      before the final step has begun:  failed, then Undo of every step
//	                                        that was started, last one first,
//	                                        UndoLast steps after all others
//	      in the final step:                ErrUndecided -> nothing is undone
//	                                        other error  -> refuted, Undo of all
//	      after the final step:             nothing is undone; Run again goes on
//
// Intent is journaled before action. The end of one step and the start of the
// next are one write, because the steps of a cutover run while writers wait.
//
// # Two contexts
//
// Run takes a soft context, which ends with the first signal or with the lock
// that allows the run, and a hard one, which ends with the second signal.
// Before the final step has begun, either stops the run and undoes it. From
// the final step on, soft is ignored: the quickest way out is through; hard
// stops waiting and leaves the rest to a later Run. Undo listens to neither:
// it has its own bound.
//
// # What steps must promise
//
//   - Do may be called again after it was interrupted anywhere, also in another
//     process, and must then bring about the same end.
//   - Undo may be called again, and after a Do that did nothing, half or all.
//   - Both return soon after their context ends; the runner waits for them.
//   - The final step's Do returns an error that wraps ErrUndecided unless it is
//     certain that the step did not happen.
package step
