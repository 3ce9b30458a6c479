package cutover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/traffic"
)

// pauseBound is how long all attempts to pause the poolers may take together;
// each driver has bounds of its own.
const pauseBound = time.Minute

func (c *Cutover) pauseStep() step.Step {
	return step.Step{
		Name:       "pause",
		About:      "make the poolers hold their clients; a watchdog ends that should the tool vanish",
		Bound:      pauseBound + leaseBound, // which may have to be begun anew
		UndoBound:  pauseBound,
		Do:         c.pausePoolers,
		Undo:       c.endPause,
		Statements: c.planning(c.pauseStatements),
	}
}

func (c *Cutover) poolers() []traffic.Pauser {
	var out []traffic.Pauser
	for _, d := range c.Drivers {
		if p, ok := d.(traffic.Pauser); ok {
			out = append(out, p)
		}
	}
	return out
}

type pauseFacts struct {
	Poolers []string `json:"poolers,omitempty"`
	TookMS  float64  `json:"took_ms"`
	// Again are the sequences that were set again before the poolers were paused.
	Again Again `json:"again,omitempty"`
}

// pausePoolers pauses all of them or none. A pooler, unlike a lock, stays paused
// when the tool dies: so the watchdog comes first.
func (c *Cutover) pausePoolers(ctx context.Context) (any, error) {
	// What was committed since the gates may take long to arrive: better refused
	// by name now than drained while clients wait.
	if _, err := c.gateLag(ctx); err != nil {
		return nil, err
	}
	// What the session of the sequences has cached may be invalid since the lease.
	if err := c.meetSequences(ctx); err != nil {
		return nil, err
	}
	now, err := c.reader.ReadCalled(ctx)
	if err != nil {
		return nil, c.unread(err)
	}
	// Busy ones have used up much since step ahead: what is set now need not be
	// while clients wait.
	again, err := c.followSequences(ctx, now, c.Settings.Margin-c.Settings.Margin/4)
	if err != nil {
		return nil, err
	}
	facts := pauseFacts{Again: again}
	poolers := c.poolers()
	if len(poolers) == 0 {
		return facts, nil
	}
	if c.Watch != nil && c.unwatch == nil {
		stop, err := c.Watch(ctx, Watched{Direction: c.Direction, Attempt: c.attempt})
		if err != nil {
			return nil, fmt.Errorf("starting the watchdog of the poolers' pause: %w", err)
		}
		c.unwatch = stop
	}
	began := time.Now()
	c.pausedAt = began
	for _, p := range poolers {
		facts.Poolers = append(facts.Poolers, p.Name())
	}
	if err := c.pauseAll(ctx, poolers); err != nil {
		return nil, err
	}
	facts.TookMS = ms(time.Since(began))
	return facts, nil
}

// pauseAll begins the lease anew when clients cannot end their transactions,
// which pausing a pooler waits for, because of it.
func (c *Cutover) pauseAll(ctx context.Context, poolers []traffic.Pauser) error {
	pause := func(ctx context.Context) error {
		return together(poolers, func(p traffic.Pauser) error {
			if err := p.Pause(ctx, c.situation()); err != nil {
				return hint.With(fmt.Errorf("pausing %s: %w", p.Name(), err), hint.Of(err))
			}
			return nil
		})
	}
	for {
		var err error
		if c.yields() {
			err = c.lease.Yielding(ctx, true, pause)
		} else {
			err = pause(ctx)
		}
		if err == nil {
			return nil
		}
		if resumed := c.resumePoolers(ctx); resumed != nil {
			return errors.Join(err, resumed)
		}
		if again, err := c.giveWay(ctx, err); !again {
			return err
		}
		if _, err := c.beginLease(ctx); err != nil {
			return err
		}
	}
}

// resumePoolers lets the clients go on to where they were. A tool that woke up
// late must not end the pause of a newer attempt; when that cannot be asked the
// pause ends, which is always safe: the fences protect.
func (c *Cutover) resumePoolers(ctx context.Context) error {
	if len(c.poolers()) == 0 {
		return nil
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), pauseBound)
	defer cancel()
	ask, done := context.WithTimeout(limit, time.Second)
	turn, err := state.ReadTurn(ask, c.source().Pool())
	done()
	if err == nil && turn.Attempt != c.attempt {
		return nil
	}
	err = together(c.poolers(), func(p traffic.Pauser) error {
		if err := p.Resume(limit, c.situation()); err != nil {
			return hint.With(fmt.Errorf("ending the pause of %s: %w", p.Name(), err), hint.Of(err))
		}
		return nil
	})
	// Once more: this process may have slept in between, and led the clients to
	// where others have turned the writes away from.
	ask, done = context.WithTimeout(limit, time.Second)
	defer done()
	if turn, asked := state.ReadTurn(ask, c.source().Pool()); asked == nil && turn.Attempt != c.attempt {
		err = errors.Join(err, c.mendPoolers(limit))
	}
	return err
}

// endPause is the undo: the clients go on, then the watchdog is not needed.
func (c *Cutover) endPause(ctx context.Context) error {
	if err := c.resumePoolers(ctx); err != nil {
		return err
	}
	c.dismissWatch()
	return nil
}

func (c *Cutover) dismissWatch() {
	if c.unwatch != nil {
		c.unwatch()
		c.unwatch = nil
	}
}
