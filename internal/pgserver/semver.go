package pgserver

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// version is a version number of the npm registry: three numbers and, after a
// hyphen, the fields of a prerelease. See https://semver.org, items 2, 9, 11.
type version struct {
	text string
	core [3]int
	pre  []string
}

// parseVersion reads a version such as 18.4.0-beta.17.
func parseVersion(text string) (version, error) {
	v := version{text: text}
	rest, _, _ := strings.Cut(text, "+") // build metadata does not order versions
	core, pre, hasPre := strings.Cut(rest, "-")
	if hasPre {
		v.pre = strings.Split(pre, ".")
	}
	numbers := strings.Split(core, ".")
	if len(numbers) != len(v.core) {
		return version{}, fmt.Errorf("parsing version %q: want three numbers", text)
	}
	for i, n := range numbers {
		value, err := strconv.Atoi(n)
		if err != nil || value < 0 {
			return version{}, fmt.Errorf("parsing version %q: %q is not a number", text, n)
		}
		v.core[i] = value
	}
	return v, nil
}

// compare returns a negative number when v is older than w, zero when they are
// of the same age, a positive one when v is newer.
func (v version) compare(w version) int {
	for i := range v.core {
		if c := cmp.Compare(v.core[i], w.core[i]); c != 0 {
			return c
		}
	}
	// A release is newer than each of its prereleases.
	if len(v.pre) == 0 || len(w.pre) == 0 {
		return cmp.Compare(len(w.pre), len(v.pre))
	}
	for i := 0; i < len(v.pre) && i < len(w.pre); i++ {
		if c := comparePre(v.pre[i], w.pre[i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(v.pre), len(w.pre))
}

// comparePre orders two prerelease fields: numbers by value and before words.
func comparePre(a, b string) int {
	m, errA := strconv.Atoi(a)
	n, errB := strconv.Atoi(b)
	switch {
	case errA == nil && errB == nil:
		return cmp.Compare(m, n)
	case errA == nil:
		return -1
	case errB == nil:
		return 1
	}
	return cmp.Compare(a, b)
}

// newest returns the newest of texts that belongs to the PostgreSQL major;
// texts that are no versions are passed over.
func newest(texts []string, major int) (version, bool) {
	var best version
	found := false
	for _, text := range texts {
		v, err := parseVersion(text)
		if err != nil || v.core[0] != major {
			continue
		}
		if !found || v.compare(best) > 0 {
			best, found = v, true
		}
	}
	return best, found
}
