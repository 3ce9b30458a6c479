// Package hint attaches to an error the advice that an operator needs next:
// a command to run, a grant to make, a setting to change. Packages below cmd
// return hints inside their errors; only cmd prints them.
package hint

import (
	"errors"
	"strings"
)

type hinted struct {
	err  error
	text string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// With returns err carrying text as its hint. It returns nil when err is nil.
func With(err error, text string) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, text: text}
}

// Of returns all hints found in err's tree, outermost first, joined by
// newlines, each one once; an empty string when there is none.
func Of(err error) string {
	var texts []string
	collect(err, &texts)
	return strings.Join(texts, "\n")
}

func collect(err error, texts *[]string) {
	if err == nil {
		return
	}
	var h *hinted
	if e, ok := err.(*hinted); ok { //nolint:errorlint // walking the tree node by node, joined branches included
		h = e
		if !contains(*texts, h.text) {
			*texts = append(*texts, h.text)
		}
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			collect(e, texts)
		}
		return
	}
	collect(errors.Unwrap(err), texts)
}

func contains(texts []string, text string) bool {
	for _, t := range texts {
		if t == text {
			return true
		}
	}
	return false
}
