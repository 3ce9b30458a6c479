package warmup

import (
	"slices"
	"sync"
)

// queue gives out the tasks of two lists to several sessions: those of one table
// in order and never two at the same time, since ANALYZE waits for ANALYZE.
type queue struct {
	mu    sync.Mutex
	freed *sync.Cond
	lanes [2][]task
	half  int // of the second list
	busy  map[uint32]bool
}

func newQueue(long, short []task) *queue {
	q := &queue{lanes: [2][]task{slices.Clone(long), slices.Clone(short)}, half: len(short) / 2, busy: map[uint32]bool{}}
	q.freed = sync.NewCond(&q.mu)
	return q
}

// next takes a task of the second list, or, early, of the first one as soon as
// half of the second is taken; when there is none, of the other list. It waits
// while all that is left are tasks of tables that are being worked on.
func (q *queue) next(early bool) (task, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.lanes[0])+len(q.lanes[1]) > 0 {
		lane := 1
		if early && len(q.lanes[1]) <= q.half {
			lane = 0
		}
		for _, l := range []int{lane, 1 - lane} {
			at := slices.IndexFunc(q.lanes[l], func(t task) bool { return !q.busy[t.OID] })
			if at >= 0 {
				t := q.lanes[l][at]
				q.lanes[l] = slices.Delete(q.lanes[l], at, at+1)
				q.busy[t.OID] = true
				return t, true
			}
		}
		q.freed.Wait()
	}
	return task{}, false
}

// done gives a task back. After an error nothing more is given out.
func (q *queue) done(t task, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.busy, t.OID)
	if err != nil {
		q.lanes = [2][]task{}
	}
	q.freed.Broadcast()
}
