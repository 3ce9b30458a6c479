package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

// sourceBound is how long a server that does not answer is waited for where the
// likeliest reason is that it restarts.
const sourceBound = 20 * time.Second

// patiently runs f again while the server of that side does not answer: its
// crash is the likeliest reason for undoing, and no reason to stop half way
// after the decision.
func patiently(ctx context.Context, side pg.Side, f func(context.Context) error) error {
	var last error
	began := time.Now()
	err := pg.Wait(ctx, fmt.Sprintf("the %s server to answer", side), 250*time.Millisecond, 0, func(text string) { step.Progress(ctx, "%s", text) },
		func(ctx context.Context) (bool, string, error) {
			last = f(ctx)
			again := unanswered(last) && time.Since(began) < sourceBound
			return !again, "it cannot be reached", nil
		})
	if err != nil {
		return errors.Join(err, last)
	}
	return last
}

// unanswered tells an error that means that a server did not answer from one
// that this tool or the server has found.
func unanswered(err error) bool {
	for _, found := range []error{
		fence.ErrNotMine, fence.ErrDecided, fence.ErrNotYet, pg.ErrTimeout, pg.ErrLockHeld,
		publisher.ErrNoSlot, subscriber.ErrNone, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, found) {
			return false
		}
	}
	return pg.Lost(err)
}
