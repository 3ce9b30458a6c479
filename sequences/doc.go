// Package sequences carries the positions of sequences from the old server to
// the new one. Logical replication carries rows only: without this, nextval on
// the new server would hand out numbers that the old one has handed out
// already (Postgres manual: Logical Replication, Restrictions).
//
// The parts, each usable by itself:
//
//	Read, ReadValues  definitions and exact positions, 10,000 in a fraction of a second
//	Compare, AddRows  how the two servers differ from each other and from their rows (sequences diff)
//	Rooms             how much of the margin is left (status)
//	Plan              what each sequence on new is to be set to; a pure function
//	Script            the plan as a script for review and for the record (sequences sql)
//	Apply             the plan, carried out; never moves a sequence back
//	Readers           old's positions once more, by several sessions that know the
//	                  sequences already: the short reading while clients wait
//	Outran            which sequences have used up what new was given, since
//
// # Position
//
// The position of a sequence is the pair (last_value, is_called). When
// is_called is true, last_value is the highest number handed out, counted to
// the end of the block that a session has cached (CACHE), and nextval returns
// last_value + increment. When it is false, nextval returns last_value itself:
// the sequence was never used, or it was set by setval(..., false) or
// ALTER SEQUENCE ... RESTART. The view pg_sequences shows null for all of
// these, and null for a sequence that the role may not read, so it is not
// used here.
//
// # Margin
//
// nextval passes every lock and every fence of a move, so the old server may
// hand out numbers after its positions were read. Therefore new is set past
// old by a margin: a number of steps of the sequence, at least one cache block.
// A margin of 0 carries the position exactly. With a margin a sequence that
// was never used is moved too, since its first numbers may be taken on old at
// any time.
//
// A bounded sequence may have no room for the margin. Then:
//
//   - if new's bound lies farther than old's, new continues past old's bound;
//   - else the margin is cut to half of the numbers that are left, so that
//     neither side is left with nothing, and the change carries a warning;
//   - a sequence that has nothing left on old has nothing left on new either:
//     it is set to (bound, true), where nextval fails, or, with CYCLE, wraps.
//
// # Never backwards
//
// No position on new is ever moved against the direction of its sequence:
// neither by Plan, which keeps what is ahead already, nor by Apply, which
// looks again at the moment of the change. The one exception is a sequence
// with CYCLE that was seen to pass its end on old (see Outran), for there
// forward leads over the bound.
package sequences
