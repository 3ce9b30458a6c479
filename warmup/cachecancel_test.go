package warmup

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// TestCancelWarm is not parallel, so that the goroutines are its own.
func TestCancelWarm(t *testing.T) {
	for _, major := range pgtest.Majors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) { testCancelWarm(t, pgtest.Server(t, major)) })
	}
}

func testCancelWarm(t *testing.T, c *pgserver.Cluster) {
	url := pgtest.Database(t, c)
	pgtest.Exec(t, url, "create table a as select 1 as n", "create table b as select generate_series(1, 100000) as n")
	s := open(t, url)
	ignore := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stop := errors.New("enough")
	ended := make(chan error, 1)
	locked := make(chan struct{})
	go func() {
		_, err := Warm(ctx, s, WarmOptions{Jobs: 1, LockTimeout: time.Hour, Progress: func(p WarmProgress) {
			if p.Done == 1 {
				lock(t, url, "lock table a in access exclusive mode")
				close(locked)
			}
		}})
		ended <- err
	}()
	<-locked
	err := pg.Wait(t.Context(), "the session to wait for the lock", 20*time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) {
		return pgtest.Value[bool](t, url, `select count(*) = 1 from pg_stat_activity
			where application_name = 'pgcutover/shop/warm' and wait_event_type = 'Lock' and datname = current_database()`), "", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	cancel(stop)
	err = <-ended
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it ended after %s", took)
	}
	if !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
	noSessions(t, url)
	goleak.VerifyNone(t, ignore)
}

// TestSilentServer: a session of a server that answers nothing any more is given
// up soon when the time is over, before the bound that it has otherwise.
func TestSilentServer(t *testing.T) {
	c := pgtest.Server(t, pgtest.Majors(t)[0])
	address, err := url.Parse(pgtest.Database(t, c))
	if err != nil {
		t.Fatal(err)
	}
	proxy := pgtest.NewProxy(t, address.Host)
	s := open(t, proxy.URL(t, address.String()))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stalled := make(chan time.Time, 1)
	pgtest.Exec(t, address.String(), "create table a as select 1 as n", "create table b as select 2 as n")
	_, err = Warm(ctx, s, WarmOptions{Jobs: 1, Progress: func(p WarmProgress) {
		if p.Done == 1 {
			proxy.Stall()
			time.AfterFunc(100*time.Millisecond, func() { // it waits for an answer by then
				stalled <- time.Now()
				cancel()
			})
		}
	}})
	if took := time.Since(<-stalled); err == nil || took >= closeBound {
		t.Errorf("it ended %s after its time was over, with %v", took, err)
	}
	proxy.Restore(t)
}

func TestDivide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		budget := rapid.Int64Range(0, 1<<50).Draw(t, "budget")
		wants := rapid.SliceOfN(rapid.Int64Range(0, 1<<48), 0, 50).Draw(t, "wants")
		weights := make([]float64, len(wants))
		for i := range weights {
			weights[i] = 1
		}
		parts := divide(budget, wants, weights)
		var sum, all, least int64
		least = 1 << 62
		for i, part := range parts {
			sum += part
			all += wants[i]
			if part < 0 || part > wants[i] {
				t.Fatalf("%d gets %d", wants[i], part)
			}
			if part < wants[i] {
				least = min(least, part)
			}
		}
		if sum > budget || sum < min(budget, all)-int64(len(wants)) {
			t.Fatalf("%d of %d given to wants of %d", sum, budget, all)
		}
		for i, part := range parts {
			if part > least+int64(len(parts)) {
				t.Fatalf("%d gets %d, more than one that got %d of what it wanted", wants[i], part, least)
			}
		}
	})
}
