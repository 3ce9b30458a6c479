package clients

import (
	"context"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// until waits for a condition, within a minute. state tells how things stand.
func until(t *testing.T, what string, met func() (bool, string)) {
	t.Helper()
	err := pg.Wait(t.Context(), what, 20*time.Millisecond, 2*time.Minute, nil, func(context.Context) (bool, string, error) {
		ok, state := met()
		return ok, state, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
