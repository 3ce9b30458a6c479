package pgserver

import (
	"slices"
	"testing"
)

func TestVersionsAreOrderedAsTheRegistryDoes(t *testing.T) {
	ascending := []string{
		"14.3.0-alpha.2", "14.3.0-alpha.14", "14.3.0-beta", "14.3.0-beta.6", "14.3.0-beta.6.1", "14.3.0-rc.1", "14.3.0",
		"14.9.0-beta.9", "14.11.0-beta.11", "14.11.0-beta.12", "14.11.1-beta.2", "15.0.0-beta.1",
	}
	for i, a := range ascending {
		for j, b := range ascending {
			v, errV := parseVersion(a)
			w, errW := parseVersion(b)
			if errV != nil || errW != nil {
				t.Fatal(errV, errW)
			}
			if got := v.compare(w); sign(got) != sign(i-j) {
				t.Errorf("compare(%s, %s) = %d, want the sign of %d", a, b, got, i-j)
			}
		}
	}
}

func sign(n int) int { return max(-1, min(1, n)) }

func TestNewestIsOfTheMajor(t *testing.T) {
	list := []string{"17.9.0-beta.17", "17.10.0-beta.9", "17.10.0-beta.17", "17.2.0-beta.15", "18.0.0-beta.15", "latest", "17"}
	for major, want := range map[int]string{17: "17.10.0-beta.17", 18: "18.0.0-beta.15"} {
		got, ok := newest(list, major)
		if !ok || got.text != want {
			t.Errorf("newest %d = %q, %v, want %q", major, got.text, ok, want)
		}
	}
	slices.Reverse(list)
	if got, ok := newest(list, 17); !ok || got.text != "17.10.0-beta.17" {
		t.Errorf("newest 17 of the reversed list = %q, %v", got.text, ok)
	}
	if got, ok := newest(list, 16); ok {
		t.Errorf("newest 16 = %q, want none", got.text)
	}
}

func TestNoVersions(t *testing.T) {
	for _, text := range []string{"", "17", "17.1", "17.1.0.0", "a.b.c", "17.-1.0", "17..0"} {
		if v, err := parseVersion(text); err == nil {
			t.Errorf("parseVersion(%q) = %v, want an error", text, v)
		}
	}
}
