package pg

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrTimeout is what a Wait returns, wrapped, when its bound has passed.
var ErrTimeout = errors.New("timeout")

// Wait calls poll every interval until it reports done. name says what is
// waited for ("marker 7 to arrive on the new server"); bound is how long, 0
// for as long as ctx lives. poll's detail describes what is still missing;
// each new detail goes to progress (which may be nil) and the last one into
// the error.
func Wait(ctx context.Context, name string, every, bound time.Duration, progress func(string), poll func(context.Context) (done bool, detail string, err error)) error {
	limit := ctx
	if bound > 0 {
		var cancel context.CancelFunc
		limit, cancel = context.WithTimeoutCause(ctx, bound, ErrTimeout)
		defer cancel()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last string
	for {
		done, detail, err := poll(limit)
		if err != nil {
			if limit.Err() != nil {
				return waitOver(limit, name, bound, last)
			}
			return fmt.Errorf("waiting for %s: %w", name, err)
		}
		if done {
			return nil
		}
		if detail != "" && detail != last {
			last = detail
			if progress != nil {
				progress(detail)
			}
		}
		select {
		case <-limit.Done():
			return waitOver(limit, name, bound, last)
		case <-tick.C:
		}
	}
}

// Pause waits for d, or returns the cause when ctx ends before.
func Pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func waitOver(ctx context.Context, name string, bound time.Duration, detail string) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrTimeout) {
		if detail != "" {
			return fmt.Errorf("waiting for %s: %w after %s (%s)", name, ErrTimeout, bound, detail)
		}
		return fmt.Errorf("waiting for %s: %w after %s", name, ErrTimeout, bound)
	}
	return fmt.Errorf("waiting for %s: %w", name, cause)
}
