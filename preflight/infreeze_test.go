package preflight

import (
	"strings"
	"testing"
	"time"
)

// What does not fit into the budget keeps the move from starting, and is named by
// what takes most of it.
func TestInFreeze(t *testing.T) {
	for name, c := range map[string]struct {
		in              *InFreeze
		tables, objects Severity
		text            string
	}{
		"unknown":          {nil, Warning, Warning, "copies them while writes are frozen"},
		"both fit":         {&InFreeze{Tables: time.Second, Objects: time.Second, Budget: 2 * time.Second}, Warning, Warning, "about 1s of unreplicated.budget (2s)"},
		"tables do not":    {&InFreeze{Tables: 4 * time.Second, Objects: time.Second, Budget: 2 * time.Second}, Blocker, Warning, "takes about 4s: more than"},
		"objects do not":   {&InFreeze{Tables: time.Second, Objects: 90 * time.Second, Budget: 2 * time.Second}, Warning, Blocker, "takes about 1m30s: more than"},
		"not together":     {&InFreeze{Tables: 1500 * time.Millisecond, Objects: time.Second, Budget: 2 * time.Second}, Blocker, Warning, "takes about 1.5s: more than"},
		"are to be empty":  {&InFreeze{Budget: time.Second, EmptyTables: true}, Warning, Warning, "unreplicated.unlogged: empty"},
		"are left behind":  {&InFreeze{Budget: time.Second, IgnoreObjects: true}, Warning, Warning, "unreplicated.large_objects: ignore"},
		"only the objects": {&InFreeze{Objects: 3 * time.Second, Budget: time.Second, EmptyTables: true}, Warning, Blocker, "takes about 3s: more than"},
	} {
		t.Run(name, func(t *testing.T) {
			tables, why, fix := c.in.unloggedTables()
			objects, whyObjects, fixObjects := c.in.largeObjects()
			if tables != c.tables || objects != c.objects || fix == "" || fixObjects == "" {
				t.Errorf("tables %s, objects %s: %s %s", tables, objects, why, whyObjects)
			}
			if !strings.Contains(why+whyObjects, c.text) {
				t.Errorf("neither %q nor %q says %q", why, whyObjects, c.text)
			}
		})
	}
}
