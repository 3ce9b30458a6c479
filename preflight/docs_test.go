package preflight

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The link of every finding leads to a heading of its group's page, and no page
// explains what nobody finds.
func TestEveryFindingIsExplained(t *testing.T) {
	want := map[Group][]string{}
	for _, c := range All() {
		want[c.Group] = append(want[c.Group], c.Finds...)
	}
	for _, g := range Groups() {
		want[g] = append(want[g], "could-not-run")
		page := string(g) + ".md"
		text, err := os.ReadFile(filepath.Join("..", "docs", "check", page))
		if err != nil {
			t.Error(err)
			continue
		}
		var have []string
		for line := range strings.Lines(string(text)) {
			if heading, ok := strings.CutPrefix(line, "## "); ok {
				have = append(have, strings.TrimSpace(heading))
			}
		}
		for _, id := range want[g] {
			if !slices.Contains(have, id) {
				t.Errorf("%s has no heading %s", page, id)
			}
		}
		for _, id := range have {
			if !slices.Contains(want[g], id) {
				t.Errorf("%s has a heading %s, which no check of the group finds", page, id)
			}
		}
		if want := docsBase + page + "#tablesreplica-identity"; g == Tables && docsOf(g, "tables.replica-identity") != want {
			t.Errorf("the link is %s, want %s", docsOf(g, "tables.replica-identity"), want)
		}
	}
}
