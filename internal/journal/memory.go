package journal

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Memory is a Store that forgets everything with the process: for tests and
// for rehearsing a list without a server. The zero value is empty and ready;
// it may be used concurrently.
type Memory struct {
	mu      sync.Mutex
	records []Record
}

// Append stores the records; see Store.
func (m *Memory) Append(ctx context.Context, records ...Record) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		taken := func(o Record) bool { return o.List == r.List && o.Run == r.Run && o.Seq == r.Seq }
		if slices.ContainsFunc(m.records, taken) {
			return fmt.Errorf("%w: %s run %d has a record %d", ErrConflict, r.List, r.Run, r.Seq)
		}
	}
	m.records = append(m.records, records...)
	return nil
}

// Load returns the records of one run; see Store.
func (m *Memory) Load(ctx context.Context, list string, run int64) ([]Record, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []Record
	for _, r := range m.records {
		if r.List == list && r.Run == run {
			found = append(found, r)
		}
	}
	slices.SortStableFunc(found, func(a, b Record) int { return int(a.Seq - b.Seq) })
	return found, nil
}
