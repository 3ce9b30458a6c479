package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// RoundOptions say how new is kept warm.
type RoundOptions struct {
	Hot  HotSetOptions
	Warm WarmOptions // Hot is set by each round
	// Every is the time from the beginning of a round to that of the next, if the
	// round is over by then; 0 means 5 minutes.
	Every time.Duration
	// Until reports that there is no more need, such as when the cutover is
	// decided; it is asked about every second, and a round that is under way then
	// ends. Its errors are not the end. Nil: until ctx ends.
	Until func(ctx context.Context) (bool, error)
	// Done, which may be nil, is called after each round.
	Done func(Round)
}

// Round is one time that new was warmed by what is hot on old.
type Round struct {
	N      int        `json:"round"`
	Hot    HotSet     `json:"hot_set"`
	Report WarmReport `json:"report"`
	Warmth Warmth     `json:"warmth"` // afterwards
	// Problems are what kept the round from being what it should be: without old
	// new is warmed all the same.
	Problems []string `json:"problems,omitempty"`
}

// Line says in one line what became of a round.
func (r Round) Line() string {
	text := fmt.Sprintf("round %d: %s", r.N, r.Summary())
	if n := len(r.Problems) + len(r.Report.Warnings); n > 0 {
		text += fmt.Sprintf("; %d warnings", n)
	}
	return text
}

// Summary says what was read, by what, and how warm the cache is.
func (r Round) Summary() string {
	text := r.Warmth.String()
	if r.Hot.Source != "" {
		text += fmt.Sprintf("; by %s of old", r.Hot.Source)
	}
	with := "by queries"
	if r.Report.Prewarm {
		with = "by pg_prewarm"
	}
	return text + fmt.Sprintf("; %s warmed, %s read for it %s in %s",
		size(r.Report.Bytes), size(r.Report.Read), with, r.Report.Took.Round(100*time.Millisecond))
}

// Advice is what would make the next round better or cheaper, with the server
// that it is for.
func (r Round) Advice() []string {
	advice := []string{}
	if r.Hot.Advice != "" {
		advice = append(advice, fmt.Sprintf("what is hot was read from %s; to look into old's cache, on old: %s", r.Hot.Source, r.Hot.Advice)+onBoth(r.Hot.Advice))
	}
	if r.Warmth.Advice != "" {
		advice = append(advice, "to see how warm new's cache is, and to spare what is hot there, on new: "+writable(r.Warmth.Advice))
	}
	if r.Report.Advice != "" {
		advice = append(advice, "pg_prewarm would read blocks at a fraction of the cost, on new: "+writable(r.Report.Advice))
	}
	return advice
}

// making is how advice begins that changes a schema.
const making = "create extension "

// writable lets a person make an extension on new while it is closed for clients.
func writable(advice string) string {
	if strings.HasPrefix(advice, making) {
		return "begin read write; " + advice + " commit;" // in one, as psql -c takes it
	}
	return advice
}

// onBoth reminds that an extension on old belongs to what has to be on new.
func onBoth(advice string) string {
	if strings.HasPrefix(advice, making) {
		return " and the same on new, unless start is yet to come: a cutover wants the same schema on both"
	}
	return ""
}

// String says how much of the hot set is in the cache.
func (w Warmth) String() string {
	about := ""
	switch {
	case !w.Known && !w.Estimated:
		return "how warm it is cannot be seen"
	case w.Estimated:
		about = "about "
	}
	return fmt.Sprintf("%s%.0f %% of what is hot on old is in the cache (%s of %s)", about, 100*w.Fraction(), size(w.Warm), size(w.Hot))
}

// WarmByOld reads what is hot on old, warms new by it, and looks how warm it is
// then. Old that cannot be asked is a problem of the round, no error: the newest
// rows are read all the same. The error is that of Warm.
func WarmByOld(ctx context.Context, old, s *pg.Server, hot HotSetOptions, o WarmOptions) (Round, error) {
	r := Round{N: 1, Problems: []string{}}
	var err error
	if r.Hot, err = ReadHotSet(ctx, old, hot); err != nil {
		if ctx.Err() != nil {
			return r, err
		}
		r.Problems = append(r.Problems, err.Error())
	} else {
		o.Hot = &r.Hot
	}
	if r.Report, err = Warm(ctx, s, o); err != nil {
		return r, err
	}
	if r.Warmth, err = ReadWarmth(ctx, s, r.Hot); err != nil {
		if ctx.Err() != nil {
			return r, err
		}
		r.Problems = append(r.Problems, err.Error())
	}
	if !r.Warmth.Known && o.Hot != nil {
		advice := r.Warmth.Advice
		r.Warmth = EstimateWarmth(r.Hot, r.Report)
		r.Warmth.Advice = advice
	}
	return r, nil
}

// untilEvery is how often it is asked whether there is still need, and untilAnswer how
// long for: a server that says nothing must not keep the question from being asked
// again.
const (
	untilEvery  = time.Second
	untilAnswer = 2 * time.Minute
)

// errNoNeed ends a round that is under way.
var errNoNeed = errors.New("there is no more need")

// KeepWarm warms new by what is hot on old, again and again, until o.Until says
// that it is enough, which returns nil, or ctx ends, whose cause is returned. A
// round that fails is told to o.Done, and the next one comes.
func KeepWarm(ctx context.Context, old, s *pg.Server, o RoundOptions) error {
	o.Every = cmp.Or(max(o.Every, 0), 5*time.Minute)
	g, rounds := errgroup.WithContext(ctx)
	if o.Until != nil {
		g.Go(func() error { return o.watch(rounds) })
	}
	g.Go(func() error {
		for n := 1; ; n++ {
			next := time.Now().Add(o.Every)
			r, err := WarmByOld(rounds, old, s, o.Hot, o.Warm)
			if rounds.Err() != nil {
				return context.Cause(rounds)
			}
			if err != nil {
				r.Problems = append(r.Problems, err.Error())
			}
			if r.N = n; o.Done != nil {
				o.Done(r)
			}
			if err := pause(rounds, time.Until(next)); err != nil {
				return err
			}
		}
	})
	err := g.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errNoNeed):
		return nil
	}
	return err
}

// watch returns errNoNeed when there is no more need.
func (o RoundOptions) watch(ctx context.Context) error {
	for {
		asking, cancel := context.WithTimeout(ctx, untilAnswer)
		enough, err := o.Until(asking)
		cancel()
		if err == nil && enough {
			return errNoNeed
		}
		if err := pause(ctx, untilEvery); err != nil {
			return err
		}
	}
}
