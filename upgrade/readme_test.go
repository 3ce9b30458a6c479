package upgrade

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/internal/step"
)

// table is how the README shows a list of steps.
func table(steps []step.Step) string {
	var b strings.Builder
	b.WriteString("| step | does |\n|---|---|\n")
	for _, s := range steps {
		name := s.Name
		if s.Final {
			name = "**" + name + "**"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, s.About)
	}
	return b.String()
}

// The README's procedure is the code's: the lists are the only source.
func TestReadmeShowsTheLists(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"phases": table((&Move{}).Phases()),
		"steps":  table((&cutover.Cutover{}).Steps()),
	} {
		if !strings.Contains(string(readme), want) {
			t.Errorf("the README's table of the %s is not that of the code, which is:\n%s", name, want)
		}
	}
}

// Steps and phases can be run: names, bounds, one final step.
func TestListsAreSound(t *testing.T) {
	settings := cutover.Settings{MaxPause: 1, Attempts: 1, LockTimeout: 1}
	if err := step.Check((&cutover.Cutover{Settings: settings}).Steps()); err != nil {
		t.Error(err)
	}
	if err := step.Check((&Move{}).Phases()); err != nil {
		t.Error(err)
	}
	finals := 0
	for _, s := range (&cutover.Cutover{}).Steps() {
		if s.Final {
			finals++
		}
	}
	if finals != 1 {
		t.Errorf("the cutover has %d points of no return, want one", finals)
	}
}
