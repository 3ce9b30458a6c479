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
		fmt.Fprintf(&b, "  sequences   %d compared, %d behind (the cutover sets them), %d missing", s.Sequences.Checked, s.Sequences.Behind, s.Sequences.Missing)
		if n := s.Sequences.Unreadable; n > 0 {
			fmt.Fprintf(&b, ", %d that the role may not read", n)
		}
		b.WriteByte('\n')
	}
	if s.Condition != nil && s.EachTable {
		if err := s.Condition.WriteText(&b); err != nil {
			return err
		}
	} else if s.Condition != nil {
		for _, line := range s.Condition.Summary() {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	if v := s.Views; v != nil {
		again := ""
		if v.Again {
			again = "; the cutover refreshes them before it begins"
		}
		fmt.Fprintf(&b, "  views       %d materialized, as of %s%s\n", v.Filled, v.At.Format("2006-01-02 15:04Z"), again)
	}
	for _, t := range s.NoStats {
		fmt.Fprintf(&b, "  statistics  missing on %s\n", t)
	}
	if s.Tool != "" {
		fmt.Fprintf(&b, "  at work     %s\n", s.Tool)
	}
	s.writeDrift(&b)
	for _, text := range s.Warnings {
		fmt.Fprintf(&b, "  WARNING     %s\n", text)
	}
	b.WriteString(notAsOnOldText(s.NotAsOnOld))
	if err := s.Verdict.writeText(&b, ""); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeText answers the two questions, below a heading.
func (v Verdict) writeText(w io.Writer, heading string) error {
	var b strings.Builder
	b.WriteString(heading)
	answer := "no"
	if v.CanCutOver {
		answer = "yes"
	}
	fmt.Fprintf(&b, "  can I cut over now?   %s\n", answer)
	for _, r := range v.Reasons {
		fmt.Fprintf(&b, "      %s\n", r)
	}
	fmt.Fprintf(&b, "  can I still go back?  %s\n", v.CanGoBack)
	fmt.Fprintf(&b, "  next:                 %s\n", v.Next)
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
