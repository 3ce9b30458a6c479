package plan

import (
	"bufio"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// block is a code block of the runbook, with what the text says about it.
type block struct {
	part, step      string
	server, session string
	kind            string // setup, undo, or empty for the way forward
	sql             string
	expect          string
	wait            time.Duration
	runOn           string
	optional        bool
}

// window is a session as the runbook describes it.
type window struct {
	connect string // the shell command
	setup   string
}

// runbook is the plan as a reader of the markdown sees it: nothing but the text
// is used.
type runbook struct {
	windows map[[2]string]*window
	blocks  []block
}

var (
	stepHeading    = regexp.MustCompile(`^## (\w+) \d+: (.*)$`)
	sessionHeading = regexp.MustCompile(`^### Session: (old|new)(?:, session (\w+))?$`)
	fenceLine      = regexp.MustCompile("^(```+)(.*)$")
	waitLine       = regexp.MustCompile("^Wait until it answers `(.*)`, at most (.*)\\.$")
	onlyLine       = regexp.MustCompile("^Go on only if it answers `(.*)`\\.$")
	runLine        = regexp.MustCompile(`^Run each row that it answers on (old|new)\.$`)
)

// read takes a runbook apart.
func read(t *testing.T, text string) runbook {
	t.Helper()
	r := runbook{windows: map[[2]string]*window{}}
	var part, step, fence, info string
	var session [2]string
	var code strings.Builder
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case fence != "" && line == fence:
			r.block(t, part, step, session, info, strings.TrimSuffix(code.String(), "\n"))
			fence = ""
		case fence != "":
			code.WriteString(line + "\n")
		case fenceLine.MatchString(line):
			found := fenceLine.FindStringSubmatch(line)
			fence, info = found[1], found[2]
			code.Reset()
		case stepHeading.MatchString(line):
			found := stepHeading.FindStringSubmatch(line)
			part, step = found[1], found[2]
		case sessionHeading.MatchString(line):
			found := sessionHeading.FindStringSubmatch(line)
			session = [2]string{found[1], found[2]}
		default:
			r.remark(t, line)
		}
	}
	if err := lines.Err(); err != nil || fence != "" {
		t.Fatalf("the runbook ends within a code block, or cannot be read: %v", err)
	}
	return r
}

func (r *runbook) block(t *testing.T, part, step string, session [2]string, info, code string) {
	t.Helper()
	if info == "sh" {
		r.windows[session] = &window{connect: code}
		return
	}
	words := append(strings.Fields(info), "")
	if len(words) < 4 || words[0] != "sql" {
		t.Fatalf("a code block is labelled %q", info)
	}
	b := block{part: part, step: step, server: words[1], session: strings.TrimPrefix(words[2], "-"), kind: words[3], sql: code}
	if b.kind == "setup" {
		r.windows[[2]string{b.server, b.session}].setup = code
		return
	}
	r.blocks = append(r.blocks, b)
}

// remark is a line of text behind a code block.
func (r *runbook) remark(t *testing.T, line string) {
	t.Helper()
	if len(r.blocks) == 0 {
		return
	}
	last := &r.blocks[len(r.blocks)-1]
	if found := waitLine.FindStringSubmatch(line); found != nil {
		last.expect, last.wait = found[1], bound(t, found[2])
	} else if found := onlyLine.FindStringSubmatch(line); found != nil {
		last.expect = found[1]
	} else if found := runLine.FindStringSubmatch(line); found != nil {
		last.runOn = found[1]
	} else if strings.HasPrefix(line, "May be left out: ") {
		last.optional = true
	}
}

func bound(t *testing.T, text string) time.Duration {
	t.Helper()
	var days int
	if _, err := fmt.Sscanf(text, "%d days", &days); err == nil {
		return time.Duration(days) * 24 * time.Hour
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("a wait has the bound %q", text)
	}
	return d
}

// of returns the blocks of one step's way forward, or of its undo.
func (r runbook) of(part, step, kind string) []block {
	var out []block
	for _, b := range r.blocks {
		if b.part == part && (step == "" || b.step == step) && b.kind == kind {
			out = append(out, b)
		}
	}
	return out
}
