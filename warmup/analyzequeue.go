package warmup

import (
	"slices"
	"sync"
)

// queue gives out the tasks of two lists to several sessions:
//
//   - those of one table in order and never two at the same time, since ANALYZE
//     waits for ANALYZE;
//   - none of a parent together with one of a table below it: before 18, ANALYZE of
//     a partitioned table goes on to the partitions, or locks them so that it does
//     not, and would wait there for the other sessions;
//   - the last one of a parent after all of what is below it, which it looks into;
//   - a rough one of a parent before what is below it gets anything better.
type queue struct {
	mu    sync.Mutex
	freed *sync.Cond
	lanes [2][]task
	half  int // from so few tasks of the second list on, early ones take of the first

	above map[uint32][]uint32 // of tables that have tasks: the parents that have, too
	turns map[uint32][]int    // of each table the stages to come, in order
	below map[uint32]int      // of each parent, tasks of what is below it that are not done
	rough map[uint32]int      // of each parent, rough tasks that are not done
	busy  map[uint32]bool     // tables that are being worked on
	under map[uint32]int      // of each parent, how many of what is below it are
	last  int                 // the last stage
}

func (a *analysis) newQueue(long, short []task, half int) *queue {
	q := &queue{
		lanes: [2][]task{slices.Clone(long), slices.Clone(short)}, half: half, last: len(a.options.Stages) - 1,
		above: map[uint32][]uint32{}, turns: map[uint32][]int{}, below: map[uint32]int{}, rough: map[uint32]int{},
		busy: map[uint32]bool{}, under: map[uint32]int{},
	}
	q.freed = sync.NewCond(&q.mu)
	tasks := slices.Concat(short, long)
	for _, t := range tasks {
		if _, seen := q.turns[t.OID]; !seen {
			for _, oid := range t.descendants(a.known) {
				q.above[oid] = append(q.above[oid], t.OID)
			}
		}
		q.turns[t.OID] = append(q.turns[t.OID], t.stage)
	}
	for _, t := range tasks {
		slices.Sort(q.turns[t.OID])
		for _, parent := range q.above[t.OID] {
			q.below[parent]++
		}
		if t.isParent() && t.stage < q.last {
			q.rough[t.OID]++
		}
	}
	return q
}

// next takes a task of the second list, or, early, of the first one as soon as
// few of the second are left; when there is none, of the other list. It waits
// while none of those left may begin.
func (q *queue) next(early bool) (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lanes[0])+len(q.lanes[1]) > 0 {
		if t, ok := q.take(early); ok {
			return t, true
		}
		q.freed.Wait()
	}
	return task{}, false
}

// take is next without waiting. The caller holds q.mu.
func (q *queue) take(early bool) (task, bool) {
	lane := 1
	if early && len(q.lanes[1]) <= q.half {
		lane = 0
	}
	for _, l := range []int{lane, 1 - lane} {
		at := slices.IndexFunc(q.lanes[l], q.free)
		if at >= 0 {
			t := q.lanes[l][at]
			q.lanes[l] = slices.Delete(q.lanes[l], at, at+1)
			q.begin(t)
			return t, true
		}
	}
	return task{}, false
}

// free tells that a task may begin.
func (q *queue) free(t task) bool {
	if q.busy[t.OID] || q.under[t.OID] > 0 || q.turns[t.OID][0] != t.stage {
		return false
	}
	rough := t.stage < q.last
	if !rough && q.below[t.OID] > 0 {
		return false
	}
	return !slices.ContainsFunc(q.above[t.OID], func(parent uint32) bool {
		return q.busy[parent] || q.rough[parent] > 0 && (!rough || t.stage > 0)
	})
}

func (q *queue) begin(t task) {
	q.busy[t.OID] = true
	q.turns[t.OID] = q.turns[t.OID][1:]
	for _, parent := range q.above[t.OID] {
		q.under[parent]++
	}
}

// done gives a task back. After an error nothing more is given out.
func (q *queue) done(t task, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.busy, t.OID)
	if t.isParent() && t.stage < q.last {
		q.rough[t.OID]--
	}
	for _, parent := range q.above[t.OID] {
		q.under[parent]--
		q.below[parent]--
	}
	if err != nil {
		q.lanes = [2][]task{}
	}
	q.freed.Broadcast()
}
