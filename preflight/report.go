package preflight

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// Result is what became of one check.
type Result struct {
	ID       string        `json:"id"`
	Group    Group         `json:"group"`
	About    string        `json:"about"`
	Ran      bool          `json:"ran"` // false: it could not be made
	Findings int           `json:"findings"`
	Took     time.Duration `json:"took_ns"`
}

// Report is what a run found: the checks in their order, the findings in the
// order of their checks, and how many of each severity. Ignored ones are in
// none of these.
type Report struct {
	Checks   []Result  `json:"checks"`
	Findings []Finding `json:"findings"`
	Ignored  []Finding `json:"ignored,omitempty"`
	Blocking int       `json:"blockers"`
	Warnings int       `json:"warnings"`
	Notes    int       `json:"notes"`
}

// Blockers returns the findings that stand in the way.
func (r Report) Blockers() []Finding {
	var out []Finding
	for _, f := range r.Findings {
		if f.Severity == Blocker {
			out = append(out, f)
		}
	}
	return out
}

// defaultJobs keeps a run well inside the pools of the two servers.
const defaultJobs = 4

// Run makes the checks, at most jobs at a time (less than one means four), and
// keeps their order in the report. A check that could not be made becomes a
// blocker that names the cause; the others go on. The only error is the end of
// ctx.
func Run(ctx context.Context, pair *Pair, checks []Check, jobs int) (Report, error) {
	if jobs < 1 {
		jobs = defaultJobs
	}
	found := make([][]Finding, len(checks))
	results := make([]Result, len(checks))
	var group errgroup.Group
	group.SetLimit(jobs)
	for i, check := range checks {
		group.Go(func() error {
			began := time.Now()
			findings, err := check.Run(ctx, pair)
			if err != nil {
				findings = append(findings, couldNotRun(check, pair, err))
			}
			for j := range findings {
				findings[j].Group, findings[j].Docs = check.Group, docsOf(check.Group, findings[j].ID)
			}
			found[i] = findings
			results[i] = Result{ID: check.ID, Group: check.Group, About: check.About, Ran: err == nil, Findings: len(findings), Took: time.Since(began)}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return Report{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return Report{}, fmt.Errorf("checking the servers: %w", err)
	}
	all := slices.Concat(found...)
	openSessions(ctx, pair, all)
	return newReport(results, all), nil
}

// docsBase is where the pages about findings are: one for each group, with a
// heading for each finding.
const docsBase = "https://github.com/pgcutover/pgcutover/blob/main/docs/check/"

// couldNotRunSuffix ends the ID of a check that could not be made.
const couldNotRunSuffix = ".could-not-run"

// docsOf is the place that explains a finding. The anchor is what GitHub makes
// of the heading.
func docsOf(g Group, id string) string {
	if strings.HasSuffix(id, couldNotRunSuffix) {
		id = "could-not-run"
	}
	return docsBase + string(g) + ".md#" + strings.ReplaceAll(id, ".", "")
}

func newReport(results []Result, findings []Finding) Report {
	r := Report{Checks: results, Findings: findings}
	r.count()
	return r
}

func (r *Report) count() {
	if r.Findings == nil {
		r.Findings = []Finding{} // an empty list in JSON, not null
	}
	r.Blocking, r.Warnings, r.Notes = 0, 0, 0
	for _, f := range r.Findings {
		switch f.Severity {
		case Blocker:
			r.Blocking++
		case Warning:
			r.Warnings++
		default:
			r.Notes++
		}
	}
}

func couldNotRun(c Check, p *Pair, err error) Finding {
	return Finding{
		ID: c.ID + couldNotRunSuffix, Severity: Blocker, Server: Both, Object: "check " + c.ID,
		Seen: p.New.Redacted(p.Old.Redacted(err)).Error(),
		Why:  "The check could not run, so nobody knows whether " + c.About + ".",
		Fix:  hint.Of(err),
	}
}

// shownPerKind is how many findings of one kind the text names; the rest is
// counted.
const shownPerKind = 12

// WriteText writes the report for people: blockers first, then warnings and
// notes, findings of one kind together.
func (r Report) WriteText(w io.Writer) error {
	ordered := slices.Clone(r.Findings)
	rank := map[Severity]int{Blocker: 0, Warning: 1, Note: 2}
	groups := Groups()
	first := map[kind]int{} // one query may find several kinds, ordered by object
	for i, f := range ordered {
		if _, seen := first[kindOf(f)]; !seen {
			first[kindOf(f)] = i
		}
	}
	slices.SortStableFunc(ordered, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(rank[a.Severity], rank[b.Severity]),
			cmp.Compare(slices.Index(groups, a.Group), slices.Index(groups, b.Group)),
			cmp.Compare(first[kindOf(a)], first[kindOf(b)]))
	})
	var b strings.Builder
	for len(ordered) > 0 {
		same := 1
		for same < len(ordered) && kindOf(ordered[0]) == kindOf(ordered[same]) {
			same++
		}
		writeKind(&b, ordered[:same])
		ordered = ordered[same:]
	}
	fmt.Fprintf(&b, "%s: %s, %s, %s", plural(len(r.Checks), "check"),
		plural(r.Blocking, "blocker"), plural(r.Warnings, "warning"), plural(r.Notes, "note"))
	if n := len(r.Ignored); n > 0 {
		fmt.Fprintf(&b, "; ignored: %s", list(ids(r.Ignored)))
	}
	b.WriteByte('\n')
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// kind is what findings that are told together have in common.
type kind struct {
	id, server, database, why string
	severity                  Severity
}

func kindOf(f Finding) kind {
	return kind{id: f.ID, server: f.Server, database: f.Database, why: f.Why, severity: f.Severity}
}

// writeKind writes findings that are alike: the consequence once, then each.
func writeKind(b *strings.Builder, same []Finding) {
	f := same[0]
	where := f.Server
	if f.Database != "" {
		where += ", database " + quote(f.Database)
	}
	fmt.Fprintf(b, "%s  %s  (%s)\n", strings.ToUpper(string(f.Severity)), f.ID, where)
	fmt.Fprintf(b, "  %s\n", f.Why)
	for i, f := range same {
		if i == shownPerKind {
			fmt.Fprintf(b, "  - and %d more; all of them with --json\n", len(same)-i)
			break
		}
		line := f.Seen
		if f.Object != "" {
			line = f.Object + ": " + f.Seen
		}
		fmt.Fprintf(b, "  - %s\n", indent(line, "    "))
		if f.Fix != "" {
			fmt.Fprintf(b, "      %s\n", indent(f.Fix, "      "))
		}
	}
	if f.Docs != "" {
		fmt.Fprintf(b, "  see %s\n", f.Docs)
	}
	b.WriteByte('\n')
}

func indent(text, by string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// listed is how many names a finding about several objects spells out.
const listed = 10

// list joins names, counting what is past the tenth.
func list(names []string) string {
	if len(names) <= listed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:listed], ", "), len(names)-listed)
}
