package demo

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// The demonstration proves itself, small.
func TestDemo(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	result, err := Run(t.Context(), t.Context(), Options{
		Old: pair.Old, New: pair.New, Rows: 300, Writers: 2, After: time.Second,
		Observer: step.NopObserver{}, Say: t.Logf,
	})
	if err != nil {
		t.Fatalf("%v\n%+v", err, result)
	}
	if result.Acknowledged == 0 || result.AcknowledgedOnOld == 0 || result.AcknowledgedOnNew == 0 {
		t.Errorf("nobody wrote on one of the servers: %+v", result)
	}
	if result.SequencesChecked < 5 || result.SequenceValuesChecked == 0 {
		t.Errorf("sequences were not looked at: %+v", result)
	}
	if result.WritePauseMS <= 0 || result.WritePauseMS > 10000 || result.HeldMS <= 0 || result.HeldMS > result.WritePauseMS+1000 {
		t.Errorf("a write pause of %.1f ms, held for %.1f ms", result.WritePauseMS, result.HeldMS)
	}
}

// A demonstration whose clients never reach new must not call itself a success.
func TestDemoWithoutAMove(t *testing.T) {
	pair := pgtest.Pairs(t)[0]
	interrupted, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stop := errors.New("stopped by the test")
	_, err := Run(interrupted, t.Context(), Options{
		Old: pair.Old, New: pair.New, Rows: 50, Writers: 1, After: time.Second,
		Observer: &cancelAt{at: "drain", cancel: func() { cancel(stop) }}, Say: t.Logf,
	})
	if !errors.Is(err, stop) {
		t.Errorf("%v, want the cutover undone because of the interruption", err)
	}
}

type cancelAt struct {
	step.NopObserver
	at     string
	cancel func()
}

func (c *cancelAt) StepStarted(s step.Step, _, _ int) {
	if s.Name == c.at {
		c.cancel()
	}
}
