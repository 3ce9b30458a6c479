package hint_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pgcutover/pgcutover/internal/hint"
)

func TestOf(t *testing.T) {
	cause := errors.New("cause")
	one := hint.With(cause, "do this")
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{cause, ""},
		{one, "do this"},
		{fmt.Errorf("doing: %w", one), "do this"},
		{hint.With(fmt.Errorf("doing: %w", one), "first that"), "first that\ndo this"},
		{hint.With(one, "do this"), "do this"},
		{errors.Join(cause, one, hint.With(cause, "or that")), "do this\nor that"},
		{fmt.Errorf("%w, %w", hint.With(cause, "a"), fmt.Errorf("x: %w", errors.Join(one, hint.With(cause, "a")))), "a\ndo this"},
	} {
		if got := hint.Of(test.err); got != test.want {
			t.Errorf("hints of %v: %q, want %q", test.err, got, test.want)
		}
	}
	if err := hint.With(nil, "do this"); err != nil {
		t.Errorf("a hint made an error: %v", err)
	}
	if !errors.Is(one, cause) || one.Error() != "cause" {
		t.Errorf("%q is not its cause any more", one)
	}
}
