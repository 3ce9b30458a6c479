package upgrade

import (
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/warmup"
)

// New is kept warm until the cutover is decided, and not a round longer. The
// round before it never fails it.
func TestKeepWarmUntilDecided(t *testing.T) {
	m, oldURL, _ := opened(t, "keepwarm")
	pgtest.Exec(t, oldURL, `do $$ begin for i in 1..50 loop perform count(name) from public.item; end loop; end $$`)
	m.startedForTest(t)
	m.Options.WarmBeforeCutover = 2 * time.Minute
	round, err := m.WarmBeforeCutover(t.Context())
	if err != nil || round.Hot.Find(warmup.Table{Schema: "public", Name: "item"}) == nil || round.Report.Bytes == 0 {
		t.Errorf("%+v, %v", round, err)
	}
	for _, bound := range []time.Duration{time.Nanosecond, 20 * time.Millisecond, 0} {
		m.Options.WarmBeforeCutover = bound
		began := time.Now()
		r, err := m.WarmBeforeCutover(t.Context())
		if err != nil || time.Since(began) > time.Minute {
			t.Errorf("bound %s: %v after %s", bound, err, time.Since(began))
		}
		if bound == time.Nanosecond && (len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "was over")) {
			t.Errorf("nothing is said of the time: %q", r.Problems)
		}
	}

	m.Options.WarmEvery = 50 * time.Millisecond
	rounds := make(chan warmup.Round, 1)
	done := func(r warmup.Round) {
		select {
		case rounds <- r:
		default: // the first one is looked at
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- m.KeepWarm(t.Context(), done) }()
	if first := <-rounds; len(first.Problems) != 0 || first.Report.Bytes == 0 {
		t.Errorf("%+v", first)
	}
	c, err := m.NewCutover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Gates = nil
	if err := c.Run(t.Context(), t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, hint.Of(err))
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on after the cutover")
	}
	after, err := m.Warm(t.Context())
	if err != nil || len(after.Problems) != 1 || !strings.Contains(after.Problems[0], "new serves") || len(after.Hot.Tables) != 0 || after.Report.Bytes == 0 {
		t.Errorf("%+v, %v", after, err)
	}
}
