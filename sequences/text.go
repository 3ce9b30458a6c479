package sequences

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// group is one part of the text: what is the matter, and the sequences that it is
// the matter with.
type group struct {
	title string
	in    func(Difference) bool
	// granted says that the statements are rights, which are written for all
	// sequences of the group together.
	granted bool
}

// groups are in the order of how much they hinder; each sequence is in one.
var groups = []group{
	{"MISSING on {target}: a {turning} refuses to begin", func(d Difference) bool { return d.Status == Missing && d.member() == "" }, false},
	{"UNREADABLE: where it stands is not known, and a {turning} refuses to begin", func(d Difference) bool { return d.Status == Unreadable && d.member() == "" }, true},
	{"MEMBERS OF EXTENSIONS that a {turning} leaves as they are: tables of the extension use them", func(d Difference) bool {
		return d.member() != "" && (d.Status == Missing || d.Status == Unreadable)
	}, false},
	{"DEFINED OTHERWISE on {target}", func(d Difference) bool { return d.there() && len(d.Definition) > 0 }, false},
	{"ROWS BEYOND the sequence: it will come to numbers that rows have already", func(d Difference) bool { return d.there() && len(d.Definition) == 0 && len(d.Beyond) > 0 }, false},
	{"ONLY on {target}: left alone", func(d Difference) bool { return d.Status == Extra }, false},
	{"BEHIND on {target}: it would hand out again what {source} has handed out, until a {turning} sets it", func(d Difference) bool {
		return d.Status == Behind && len(d.Definition)+len(d.Beyond) == 0
	}, false},
}

// there reports whether the sequence is on both servers and readable.
func (d Difference) there() bool {
	return d.Status == Equal || d.Status == Ahead || d.Status == Behind
}

// member returns the extension that the sequence is a member of on the source.
func (d Difference) member() string {
	if o := d.source(); o != nil {
		return o.Extension
	}
	return ""
}

// mended reports whether a statement for the target stands below the sequence. Between
// start and complete that server takes nothing from a session as it is.
func (d Difference) mended() bool {
	return slices.ContainsFunc(d.Mend, func(m Mend) bool { return m.Server == d.Target })
}

// words are what the titles name the servers, and the way between them.
func words(target pg.Side) *strings.Replacer {
	turning := "cutover"
	if target == pg.Old {
		turning = "rollback"
	}
	return strings.NewReplacer("{target}", string(target), "{source}", string(target.Other()), "{turning}", turning)
}

// Text lists what differs for people, by what is the matter, with the statements
// that mend it. Those that are well are only counted, unless all is true.
func Text(differences []Difference, all bool) string {
	var b strings.Builder
	target := pg.New
	if len(differences) > 0 {
		target = differences[0].Target
	}
	fill := words(target)
	well, unlooked := 0, 0
	for _, d := range differences {
		if !d.Differs() {
			well++
		}
		unlooked += len(d.NotLooked)
	}
	fmt.Fprintf(&b, "%s compared: %d equal or ahead on %s, %d to look at.\n", plural(len(differences), "sequence"), well, target, len(differences)-well)
	for _, g := range groups {
		write(&b, fill.Replace(g.title), differences, g.in)
		if g.granted {
			writeGrants(&b, differences, g.in)
		}
	}
	if slices.ContainsFunc(differences, Difference.mended) {
		b.WriteString("\nA server that is closed for clients takes statements after: set default_transaction_read_only = off;\n")
	}
	if all {
		write(&b, fill.Replace("EQUAL OR AHEAD on {target}"), differences, func(d Difference) bool { return !d.Differs() })
	}
	if unlooked == 0 {
		return b.String()
	}
	if !all {
		fmt.Fprintf(&b, "\nWhether rows are beyond their sequence was not looked at for %s (named with --all): it needs an index that begins with the column, and the right to read it.\n", plural(unlooked, "column"))
		return b.String()
	}
	b.WriteString("\nNOT LOOKED AT, whether rows are beyond the sequence\n")
	for _, d := range differences {
		for _, n := range d.NotLooked {
			fmt.Fprintf(&b, "  %s on %s: %s\n", oneLine(d.Ident()), n.Server, oneLine(n.Text))
		}
	}
	return b.String()
}

func write(b *strings.Builder, title string, differences []Difference, in func(Difference) bool) {
	first := true
	for _, d := range differences {
		if !in(d) {
			continue
		}
		if first {
			fmt.Fprintf(b, "\n%s\n", title)
			first = false
		}
		d.write(b)
	}
}

// writeGrants writes the rights to read the sequences of a group, each once, and by
// schema when they are many.
func writeGrants(b *strings.Builder, differences []Difference, in func(Difference) bool) {
	for _, side := range []pg.Side{pg.Old, pg.New} {
		hidden := UnreadableError{}
		for _, d := range differences {
			s := d.Old
			if side == pg.New {
				s = d.New
			}
			if in(d) && s != nil && !s.Readable {
				hidden.Role, hidden.Sequences = s.Role, append(hidden.Sequences, s.Ref)
			}
		}
		for _, sql := range hidden.Grants() {
			writeSQL(b, Mend{side, sql})
		}
	}
}

func (d Difference) write(b *strings.Builder) {
	fmt.Fprintf(b, "  %s: %s\n", oneLine(d.Ident()), oneLine(d.Text))
	for _, m := range d.Mend {
		if d.Status != Unreadable || d.member() != "" || !strings.HasPrefix(m.SQL, "GRANT ") {
			writeSQL(b, m)
		}
	}
	for _, r := range d.Beyond {
		fmt.Fprintf(b, "    rows: %s\n", oneLine(r.Text))
		if r.Mend != "" {
			writeSQL(b, Mend{r.Server, r.Mend})
		}
	}
}

// writeSQL writes a statement that can be copied as it stands.
func writeSQL(b *strings.Builder, m Mend) {
	shown := oneLine(m.SQL)
	if shown != m.SQL {
		shown = "-- a name in it holds control characters: take the statement from --json: " + shown
	}
	fmt.Fprintf(b, "    on %s: %s\n", m.Server, shown)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
