package pg_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgcutover/pgcutover/internal/pg"
)

func TestPause(t *testing.T) {
	began := time.Now()
	if err := pg.Pause(t.Context(), 5*time.Millisecond); err != nil || time.Since(began) < 5*time.Millisecond {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if err := pg.Pause(ctx, time.Hour); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

func TestWait(t *testing.T) {
	var said []string
	n := 0
	err := pg.Wait(t.Context(), "three", time.Millisecond, time.Minute, func(s string) { said = append(said, s) }, func(context.Context) (bool, string, error) {
		n++
		return n == 5, fmt.Sprint(n / 2), nil
	})
	if err != nil || !slices.Equal(said, []string{"0", "1", "2"}) {
		t.Errorf("%v, said %q: want each news once", err, said)
	}

	never := func(context.Context) (bool, string, error) { return false, "still 3 left", nil }
	err = pg.Wait(t.Context(), "the marker", time.Millisecond, 20*time.Millisecond, nil, never)
	if !errors.Is(err, pg.ErrTimeout) || !strings.Contains(err.Error(), "the marker") || !strings.Contains(err.Error(), "still 3 left") || !strings.Contains(err.Error(), "20ms") {
		t.Errorf("a bound that passed: %v", err)
	}

	// A question that hangs is cut off, and its error is the timeout.
	err = pg.Wait(t.Context(), "an answer", time.Millisecond, 20*time.Millisecond, nil, func(ctx context.Context) (bool, string, error) {
		<-ctx.Done()
		return false, "", ctx.Err()
	})
	if !errors.Is(err, pg.ErrTimeout) {
		t.Errorf("a question that hangs: %v", err)
	}

	stop := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(10*time.Millisecond, func() { cancel(stop) })
	if err := pg.Wait(ctx, "for ever", time.Millisecond, 0, nil, never); !errors.Is(err, stop) || errors.Is(err, pg.ErrTimeout) {
		t.Errorf("cancelled: %v", err)
	}

	failure := errors.New("no")
	err = pg.Wait(t.Context(), "luck", time.Millisecond, time.Minute, nil, func(context.Context) (bool, string, error) { return false, "", failure })
	if !errors.Is(err, failure) || !strings.Contains(err.Error(), "luck") {
		t.Errorf("failed: %v", err)
	}
}

func TestLost(t *testing.T) {
	code := func(c string) error { return fmt.Errorf("x: %w", &pgconn.PgError{Code: c}) }
	for _, test := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{io.ErrUnexpectedEOF, true},
		{context.DeadlineExceeded, true},
		{code(pg.AdminShutdown), true},
		{code(pg.CrashShutdown), true},
		{code(pg.CannotConnectNow), true},
		{code(pg.IdleInTransaction), true},
		{code(pg.ConnectionFailure), true},
		{code("08P01"), true},
		{code(pg.UniqueViolation), false},
		{code(pg.QueryCanceled), false},
		{code(pg.SerializationFailure), false},
		{code("40003"), false},
	} {
		if got := pg.Lost(test.err); got != test.want {
			t.Errorf("Lost(%v) = %t", test.err, got)
		}
	}
}
