package upgrade

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/state"
	"github.com/pgcutover/pgcutover/warmup"
)

// Warm reads on new what old keeps in its cache, and the newest rows. After the
// cutover, when old tells nothing about the clients any more, the newest rows of
// new only.
func (m *Move) Warm(ctx context.Context) (warmup.Round, error) {
	if served, err := m.served(ctx); err == nil && served {
		report, err := warmup.Warm(ctx, m.New, m.warmOptions())
		return warmup.Round{N: 1, Hot: warmup.HotSet{Tables: []warmup.HotTable{}}, Report: report, Problems: []string{"new serves: what old keeps in its cache does not matter any more"}}, err
	}
	return warmup.WarmByOld(ctx, m.Old, m.New, warmup.HotSetOptions{}, m.warmOptions())
}

// warmOptions are those of this database, which shares new's cache with others.
func (m *Move) warmOptions() warmup.WarmOptions {
	o := m.Options.Warm
	o.Beside = m.Options.Beside
	return o
}

// served tells whether new takes the writes. Before start it is an error: there
// is nothing that says.
func (m *Move) served(ctx context.Context) (bool, error) {
	pos, err := state.Locate(ctx, m.Old, m.New)
	return err == nil && pos.Serving() == pg.New, err
}

// KeepWarm repeats Warm every Options.WarmEvery until the cutover is decided,
// which returns nil, or ctx ends. done is called after each round.
func (m *Move) KeepWarm(ctx context.Context, done func(warmup.Round)) error {
	return warmup.KeepWarm(ctx, m.Old, m.New, warmup.RoundOptions{
		Warm: m.warmOptions(), Every: m.Options.WarmEvery, Until: m.served, Done: done,
	})
}

// errWarmEnough ends the round before a cutover.
var errWarmEnough = errors.New("warm.before_cutover is over")

// shortRound is a bound that leaves no time for counting block rates as long as
// otherwise.
const shortRound = 15 * time.Second

// WarmBeforeCutover warms new once more, for Options.WarmBeforeCutover at the
// most, without the one-tool lock and before anything waits. Its error is nothing
// that a cutover should fail for; nil when it was not over in time.
func (m *Move) WarmBeforeCutover(ctx context.Context) (warmup.Round, error) {
	bound := m.Options.WarmBeforeCutover
	if bound <= 0 {
		return warmup.Round{}, nil
	}
	// Of a server that is silent the sessions take two seconds to be given up.
	work := bound - min(2*time.Second, bound/4)
	end := time.Now().Add(work)
	limit, cancel := context.WithDeadlineCause(ctx, end, errWarmEnough)
	defer cancel()
	o := m.warmOptions()
	o.Total = work * 9 / 10 // what is under way then is to end in time
	hot := warmup.HotSetOptions{Bound: bound / 3}
	if bound < shortRound {
		hot.Sample = bound / 5
	}
	r, err := warmup.WarmByOld(limit, m.Old, m.New, hot, o)
	switch {
	case ctx.Err() != nil:
		return r, context.Cause(ctx)
	// A connection that is being made may end just before the context does.
	case err != nil && (errors.Is(context.Cause(limit), errWarmEnough) || !time.Now().Before(end)):
		r.Problems = append(r.Problems, fmt.Sprintf("the time that it has (warm.before_cutover, %s) was over before it was done", bound))
		return r, nil
	case err != nil:
		return r, fmt.Errorf("warming new before the cutover: %w", err)
	}
	return r, nil
}

// KeepWarm keeps all databases warm, see Move.KeepWarm; done is called by one
// goroutine for each of them.
func (c *Cluster) KeepWarm(ctx context.Context, done func(database string, r warmup.Round)) error {
	return together(len(c.Moves), len(c.Moves), func(i int) error {
		m := c.Moves[i]
		return named(m.Database, m.KeepWarm(ctx, func(r warmup.Round) { done(m.Database, r) }))
	})
}

// WarmBeforeCutover does the round of all databases, see Move.WarmBeforeCutover.
func (c *Cluster) WarmBeforeCutover(ctx context.Context) (map[string]warmup.Round, error) {
	rounds := make([]warmup.Round, len(c.Moves))
	err := together(len(c.Moves), atOnce, func(i int) error {
		var err error
		rounds[i], err = c.Moves[i].WarmBeforeCutover(ctx)
		return named(c.Moves[i].Database, err)
	})
	byName := make(map[string]warmup.Round, len(rounds))
	for i, r := range rounds {
		byName[c.Moves[i].Database] = r
	}
	return byName, err
}
