// Package cutover turns the clients' writes from the old server to the new one.
//
// It is one literal list of steps (see Steps), each in a file of its own, run
// and journaled by package step. Before the step decide, nothing durable has
// happened to the old server but triggers that do nothing; whatever fails is
// undone in reverse order. decide is one COMMIT on the old server: it closes
// the fence there and records the decision, in one instant. After it there is
// only forward, and resume finishes what a crash interrupted.
//
//	gates      is everything ready? take the number of this attempt
//	ahead      what need not be in the pause: fence triggers, sequences
//	guard      arm: the decision's arrival opens the new server
//	lease      one-tool lock, turn, keep DDL out
//	           (pause: poolers have their place here)
//	freeze     writers wait at the gate
//	drain      the marker arrives on new and is made durable there
//	unreplicated unlogged tables and large objects, if there are any
//	sequences  those that outran what was set ahead
//	           (reverse: the stream back has its place here)
//	decide     POINT OF NO RETURN
//	open       new takes writes
//	switch     sessions on old end, clients move
//	follow     forward stream dropped, statistics, write probe
//
// Who holds what when the tool dies:
//
//   - before decide: the lease's session ends, its locks go, the waiting
//     writers continue on old without an error;
//   - while COMMIT is under way: the decision's row, seen on either server,
//     says yes; its absence says no only to one who holds the one-tool lock,
//     which the lease's session holds until the COMMIT has landed or died;
//   - after decide: the decision travels the stream that was drained a moment
//     ago, and the guard opens new inside the transaction that delivers it.
//
// docs/cutover.md tells the whole argument.
package cutover
