package doctor_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var findingID = regexp.MustCompile(`ID(?:: |, f\.Severity(?:, f\.\w+)? = |\s*= )"([a-z]+[a-z.-]*)"|finding\("([a-z.-]+)"`)

// Whoever looks a finding up in the documentation finds it.
func TestDocumentationNamesEveryFinding(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range findingID.FindAllStringSubmatch(string(source), -1) {
			seen[m[1]+m[2]] = true
		}
	}
	for id := range seen {
		if !strings.Contains(string(docs), "`"+id+"`") {
			t.Errorf("docs/doctor.md does not name %s", id)
		}
	}
	if len(seen) < 50 {
		t.Errorf("only %d kinds of findings were recognised in the source", len(seen))
	}
}
