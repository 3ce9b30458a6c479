package upgrade

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/pgcutover/pgcutover/cutover"
)

// Whoever comes first waits for the others, at each place.
func TestMeetingWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting([]string{"a", "b", "c"})
		var passed atomic.Int32
		third := make(chan struct{})
		for _, name := range []string{"a", "b", "c"} {
			go func() {
				if name == "c" {
					<-third
				}
				for _, at := range cutover.Meetings() {
					if err := m.wait(t.Context(), name, at); err != nil {
						t.Error(err)
					}
				}
				passed.Add(1)
			}()
		}
		synctest.Wait()
		if n := passed.Load(); n > 0 {
			t.Fatalf("%d did not wait", n)
		}
		close(third)
		synctest.Wait()
		if n := passed.Load(); n != 3 {
			t.Fatalf("only %d passed", n)
		}
	})
}

// A gathering waits for those who come, and not for those who have ended.
func TestGathering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGathering(3)
		done := make(chan error, 2)
		for i := range 2 {
			go func() { done <- g.wait(t.Context(), i) }()
		}
		synctest.Wait()
		if len(done) > 0 {
			t.Fatal("nobody waited for the third")
		}
		g.arrive(2)
		g.arrive(2)
		if err := errors.Join(<-done, <-done); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := newGathering(2).wait(ctx, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled wait returned %v", err)
		}
	})
}

// One that fails lets nobody pass, whether the others wait already or come
// later, and names itself; once all may decide it stops nobody.
func TestMeetingEndsWithOneThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("the cause")
		m := newMeeting([]string{"a", "b", "c"})
		waiting := make(chan error, 1)
		go func() { waiting <- m.wait(t.Context(), "a", "freeze") }()
		synctest.Wait()
		if !m.leave("b", cause) {
			t.Error("the others are not to be stopped")
		}
		late := m.wait(t.Context(), "c", "lease")
		for _, err := range []error{<-waiting, late} {
			var other *AnotherDatabaseError
			if !errors.As(err, &other) || other.Database != "b" || !errors.Is(err, cause) {
				t.Errorf("the others are told %v", err)
			}
		}
		if m.leave("c", late); m.failed.Database != "b" {
			t.Errorf("the first cause was replaced by that of %s", m.failed.Database)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting([]string{"a", "b"})
		done := make(chan error, 2)
		for _, name := range []string{"a", "b"} {
			go func() { done <- m.wait(t.Context(), name, "decide") }()
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Fatal(err)
		}
		if m.leave("a", errors.New("late")) {
			t.Error("a failure after all may decide stops the others")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting([]string{"a", "b"})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.wait(ctx, "a", "pause"); !errors.Is(err, context.Canceled) {
			t.Errorf("a cancelled wait returned %v", err)
		}
	})
}

// Whoever cannot wait any longer ends it for all, and nobody passes afterwards.
func TestMeetingEndsWithOneThatTires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting([]string{"a", "b"})
		tired := errors.New("tired")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.wait(ctx, "a", "decide") }()
		synctest.Wait()
		cancel(tired)
		if err := <-done; !errors.Is(err, tired) {
			t.Errorf("a returned %v", err)
		}
		var other *AnotherDatabaseError
		if err := m.wait(t.Context(), "b", "decide"); !errors.As(err, &other) || other.Database != "a" {
			t.Errorf("b, which came later, returned %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := newMeeting([]string{"a"})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.wait(ctx, "a", "decide"); err != nil {
			t.Errorf("the last to come was turned away: %v", err)
		}
	})
}
