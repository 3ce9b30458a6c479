package upgrade

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// WriteText writes the status for a terminal.
func (s Status) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "move %s: PostgreSQL %s -> %s, phase: %s, writes go to: %s\n", s.Move, major(s.OldVersion), major(s.NewVersion), s.Phase, s.Serving)
	if s.Lag != nil {
		fmt.Fprintf(&b, "  stream      %s, %s behind, %s of WAL kept on old\n", connected(s.Lag.Connected), bytes(s.Lag.Bytes), bytes(s.Lag.Retained))
	}
	if len(s.Tables) > 0 {
		fmt.Fprintf(&b, "  tables      %d of %d copied and following\n", s.Ready, len(s.Tables))
	}
	for _, c := range s.Copying {
		fmt.Fprintf(&b, "  copying     %s.%s: %d rows, %s\n", c.Schema, c.Name, c.Rows, bytes(c.Bytes))
	}
	if s.Sequences.Checked > 0 {
		fmt.Fprintf(&b, "  sequences   %d compared, %d behind (the cutover sets them), %d missing\n", s.Sequences.Checked, s.Sequences.Behind, s.Sequences.Missing)
	}
	for _, t := range s.NoStats {
		fmt.Fprintf(&b, "  statistics  missing on %s\n", t)
	}
	if s.Tool != "" {
		fmt.Fprintf(&b, "  at work     %s\n", s.Tool)
	}
	for _, text := range s.Warnings {
		fmt.Fprintf(&b, "  WARNING     %s\n", text)
	}
	answer := "no"
	if s.Verdict.CanCutOver {
		answer = "yes"
	}
	fmt.Fprintf(&b, "  can I cut over now?   %s\n", answer)
	for _, r := range s.Verdict.Reasons {
		fmt.Fprintf(&b, "      %s\n", r)
	}
	fmt.Fprintf(&b, "  can I still go back?  %s\n", s.Verdict.CanGoBack)
	fmt.Fprintf(&b, "  next:                 %s\n", s.Verdict.Next)
	_, err := io.WriteString(w, b.String())
	return err
}

// major is a server's major version; 0 is one that could not be asked.
func major(n int) string {
	if n == 0 {
		return "?"
	}
	return strconv.Itoa(n)
}

func connected(yes bool) string {
	if yes {
		return "connected"
	}
	return "NOT connected"
}

// bytes prints a size with binary units.
func bytes(n int64) string {
	const k = 1024
	switch {
	case n < 10*k:
		return fmt.Sprintf("%d bytes", n)
	case n < 10*k*k:
		return fmt.Sprintf("%d kB", n/k)
	case n < 10*k*k*k:
		return fmt.Sprintf("%d MB", n/k/k)
	}
	return fmt.Sprintf("%d GB", n/k/k/k)
}
