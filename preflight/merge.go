package preflight

import (
	"fmt"
	"slices"
	"strings"
)

// IDs returns the IDs of all findings that the checks can return, sorted.
func IDs() []string {
	var out []string
	for _, c := range All() {
		out = append(out, c.Finds...)
		out = append(out, c.ID+couldNotRunSuffix)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Unknown returns an error that names those of the IDs that no finding has.
func Unknown(ids []string) error {
	known := IDs()
	unknown := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return slices.Contains(known, id) })
	if len(unknown) == 0 {
		return nil
	}
	return fmt.Errorf("there is no finding %s; check shows the ID of each finding, such as %s", strings.Join(unknown, ", "), known[0])
}

// Ignore sets the findings with these IDs aside: they are counted no more, and
// listed in Ignored.
func (r *Report) Ignore(ids []string) {
	var kept []Finding
	for _, f := range r.Findings {
		if slices.Contains(ids, f.ID) {
			r.Ignored = append(r.Ignored, f)
			continue
		}
		kept = append(kept, f)
	}
	r.Findings = kept
	r.count()
}

func ids(findings []Finding) []string {
	var out []string
	for _, f := range findings {
		if !slices.Contains(out, f.ID) {
			out = append(out, f.ID)
		}
	}
	return out
}

// Merge makes one report of those of several databases of the same servers. A
// finding that all databases have, word for word, concerns the servers and is
// there once; every other one names its database.
func Merge(databases []string, reports []Report) Report {
	if len(reports) == 0 {
		return newReport(nil, nil)
	}
	out := Report{Checks: slices.Clone(reports[0].Checks)}
	for _, r := range reports[1:] {
		for i, c := range r.Checks {
			out.Checks[i].Ran = out.Checks[i].Ran && c.Ran
			out.Checks[i].Findings += c.Findings
			out.Checks[i].Took += c.Took
		}
	}
	out.Findings = merged(databases, reports, func(r Report) []Finding { return r.Findings })
	out.Ignored = merged(databases, reports, func(r Report) []Finding { return r.Ignored })
	out.count()
	return out
}

func merged(databases []string, reports []Report, of func(Report) []Finding) []Finding {
	times := map[Finding]int{}
	for _, r := range reports {
		for _, f := range of(r) {
			times[f]++
		}
	}
	var out []Finding
	seen := map[Finding]bool{}
	for i, r := range reports {
		for _, f := range of(r) {
			if times[f] < len(reports) {
				f.Database = databases[i]
			} else if seen[f] {
				continue
			}
			seen[f] = true
			out = append(out, f)
		}
	}
	return out
}
