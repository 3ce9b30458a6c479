package warmup

import (
	"fmt"
	"io"
	"strings"
)

// WriteText prints the report for people: what is grave, not explained or changed,
// with its reasons; of the others the number.
func (r PlansReport) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Plans on old (%s, %s) and new (%s, %s)\n", r.OldServer, r.OldVersion, r.NewServer, r.NewVersion)
	for _, s := range r.Statements {
		if s.Verdict != PlanSame {
			s.write(&b)
		}
	}
	if len(r.Settings) > 0 {
		b.WriteString("planner settings that differ:\n")
		for _, s := range r.Settings {
			fmt.Fprintf(&b, "    %s: %s on old, %s on new\n", s.Name, s.Old, s.New)
		}
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	fmt.Fprintf(&b, "%d statements: %d same, %d changed and not dearer, %d dearer, %d lack an index, %d not explained",
		len(r.Statements), r.Counts[PlanSame], r.Counts[PlanChanged], r.Counts[PlanDearer], r.Counts[PlanIndexMissing], r.Counts[PlanUnexplained])
	if r.LeftOut > 0 {
		fmt.Fprintf(&b, "; %d others read no table of the application", r.LeftOut)
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

// write prints one statement.
func (c PlanComparison) write(b *strings.Builder) {
	mark := "    "
	if c.Verdict.Grave() {
		mark = "WARN"
	}
	fmt.Fprintf(b, "%s %-13s", mark, strings.ToUpper(string(c.Verdict)))
	if c.CostRatio > 0 {
		fmt.Fprintf(b, " cost %s -> %s (%sx)", short(c.Old.Cost), short(c.New.Cost), short(c.CostRatio))
	}
	if c.Calls > 0 {
		fmt.Fprintf(b, ", %d calls, mean %s ms on old", c.Calls, short(c.MeanMS))
	}
	fmt.Fprintf(b, "  [%s]\n", c.ID)
	fmt.Fprintf(b, "       %s\n", oneLine(c.Text))
	for _, index := range c.Missing {
		fmt.Fprintf(b, "     - missing or not valid on new: index %s\n", index)
	}
	for _, change := range c.Changes {
		fmt.Fprintf(b, "     - %s\n", change)
	}
	if c.Reason != "" {
		fmt.Fprintf(b, "     - on %s: %s\n", c.Unexplained, c.Reason)
	}
	for _, note := range c.Notes {
		fmt.Fprintf(b, "     - %s\n", note)
	}
}

// short writes a number with three digits that count.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

const widest = 160

// oneLine puts a statement into one line of bearable length, without control
// characters.
func oneLine(sql string) string {
	runes := []rune(strings.Join(strings.Fields(sql), " "))
	for i, r := range runes {
		if r < ' ' || r == 0x7f {
			runes[i] = ' '
		}
	}
	if len(runes) > widest {
		return string(runes[:widest]) + "..."
	}
	return string(runes)
}

// WriteText says how many plans were read, for people.
func (p PlanSet) WriteText(w io.Writer) error {
	planned := 0
	for _, s := range p.Statements {
		if s.Plan != nil {
			planned++
		}
	}
	var b strings.Builder
	for _, s := range p.Statements {
		if s.Plan == nil {
			fmt.Fprintf(&b, "     not explained: %s  [%s]\n       %s\n", s.Reason, s.ID, oneLine(s.Text))
		}
	}
	for _, warning := range p.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	fmt.Fprintf(&b, "%d plans of %s kept, %d statements not explained\n", planned, p.Server, len(p.Statements)-planned)
	_, err := io.WriteString(w, b.String())
	return err
}
