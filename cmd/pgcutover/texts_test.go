package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/warmup"
)

// A table that could not be analyzed need not have had any statistics.
func TestUnfinishedAnalysis(t *testing.T) {
	table := func(name string, o warmup.Outcome, targets ...string) warmup.TableAnalysis {
		return warmup.TableAnalysis{Table: warmup.Table{Schema: "public", Name: name}, Outcome: o, Targets: targets}
	}
	var b bytes.Buffer
	err := writeAnalysis(&b, warmup.AnalyzeReport{Tables: []warmup.TableAnalysis{
		table("a", warmup.Analyzed, "default"), table("b", warmup.Locked), table("c", warmup.TimedOut, "1", "10"),
	}})
	want := `"public"."b" stays as it was: locked
"public"."c" has rough statistics, of target 10: timed out
1 tables analyzed in 0s, 2 not
`
	if err != nil || b.String() != want {
		t.Errorf("%q, want %q (%v)", b.String(), want, err)
	}
}

// What stays on new after a rollback may be a thousand tables.
func TestFirstLines(t *testing.T) {
	var lines []string
	for i := range 21 {
		if got := first(lines); len(got) != i {
			t.Errorf("%d lines of %d", len(got), i)
		}
		lines = append(lines, fmt.Sprint(i))
	}
	got := first(lines)
	if len(got) != 21 || got[19] != "19" || !strings.HasPrefix(got[20], "and 1 more") || lines[20] != "20" {
		t.Errorf("%q of %q", got, lines)
	}
}
