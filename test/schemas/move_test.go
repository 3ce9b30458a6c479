package schemas

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// TestSchemas moves every case between every pair of majors, from the first
// check to complete, and compares both sides.
func TestSchemas(t *testing.T) {
	cases, err := filepath.Glob("testdata/*")
	if err != nil || len(cases) < 4 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, pair := range pairs {
		for _, folder := range cases {
			name := filepath.Base(folder)
			t.Run(fmt.Sprintf("%s/%s", name, pair), func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				t.Cleanup(func() { <-slots })
				m := newMove(t, name, pair)
				m.load(t, folder)
				before := dumped(t, m.oldURL)
				rows, sequences, needed := contents(t, m.oldURL), sequenceValues(t, m.oldURL), operators(t, m.oldURL)
				roles := rolesOf(t, m.oldURL)
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("the new server's last lines:\n%s", pgtest.Server(t, pair.New).LogTail(20))
					}
				})
				m.run(t)
				compareDumps(t, m, before, dumped(t, m.newURL))
				compareContents(t, rows, contents(t, m.newURL))
				compareSequences(t, sequences, sequenceValues(t, m.newURL))
				compareOperators(t, m, needed, operators(t, m.newURL))
				compareRoles(t, roles, m.newURL)
				if diff := pgtest.Diff(before.text(), dumped(t, m.oldURL).text()); diff != "" {
					t.Errorf("the old server's schema is not what it was before the move:\n%s", diff)
				}
			})
		}
	}
}

// move is one case between two servers.
type move struct {
	name           string // of the case
	pair           pgtest.Pair
	oldURL, newURL string
}

func newMove(t *testing.T, name string, pair pgtest.Pair) *move {
	t.Helper()
	return &move{name: name, pair: pair, oldURL: database(t, pair.Old), newURL: database(t, pair.New)}
}

var (
	durableMu sync.Mutex
	durable   = map[*pgserver.Cluster]bool{}
)

// database makes a database on the shared server of a major, which is made
// durable first: the tool refuses to cut over where an acknowledged write can
// be lost, while pgtest's servers are made for speed.
func database(t *testing.T, major int) string {
	t.Helper()
	c := pgtest.Server(t, major)
	durableMu.Lock()
	defer durableMu.Unlock()
	if !durable[c] {
		admin := c.URL("postgres")
		pgtest.Exec(t, admin, "alter system set fsync = on", "alter system set full_page_writes = on", "select pg_reload_conf()")
		const set = `select current_setting('fsync') = 'on' and current_setting('full_page_writes') = 'on'`
		for deadline := time.Now().Add(time.Minute); !pgtest.Value[bool](t, admin, set); {
			if time.Now().After(deadline) {
				t.Fatal("the server did not take its settings")
			}
		}
		durable[c] = true
	}
	return pgtest.Database(t, c)
}

// load runs the case's files that the old server's major can run.
func (m *move) load(t *testing.T, folder string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.sql"))
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, file := range files {
		number, _, _ := strings.Cut(filepath.Base(file), "-")
		major, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("%s: the name does not begin with a major: %v", file, err)
		}
		if major > m.pair.Old {
			continue
		}
		psql(t, m.oldURL, file)
		loaded++
	}
	if loaded == 0 {
		t.Fatalf("no file of %s is for PostgreSQL %d", folder, m.pair.Old)
	}
}

// moveBound ends a move that waits for something that does not come.
const moveBound = 10 * time.Minute

// watcher keeps the last that the move said, to be shown when it fails.
type watcher struct {
	step.NopObserver
	t    *testing.T
	last string
}

// Progress keeps the text.
func (w *watcher) Progress(name, text string) { w.last = name + ": " + text }

// StepFailed shows it.
func (w *watcher) StepFailed(s step.Step, err error, _ time.Duration) {
	w.t.Logf("step %s: %v; before that: %s", s.Name, err, w.last)
}

// Warning shows what the operator is told and what did not stop the move.
func (w *watcher) Warning(name string, err error) { w.t.Logf("warning of step %s: %v", name, err) }

// run does the whole move.
func (m *move) run(t *testing.T) {
	t.Helper()
	u, err := upgrade.Open(t.Context(), upgrade.Options{
		Name: m.name, Old: upgrade.Endpoint{URL: m.oldURL}, New: upgrade.Endpoint{URL: m.newURL}, Margin: 100, IndexJobs: 2,
		Analyze: warmup.AnalyzeOptions{Stages: warmup.Stages()[:1], Jobs: 1}, Warm: warmup.WarmOptions{Jobs: 1}, WALSample: 10 * time.Millisecond,
		Cutover: cutover.Settings{
			MaxLag: 16 << 20, MaxPause: time.Minute, LockTimeout: time.Second, Attempts: 20,
			OnClosed: fence.Error, WayBack: true, ProveWithin: 100 * time.Millisecond,
		},
		Traffic: []traffic.Driver{traffic.Multihost{}},
	}, &watcher{t: t})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	ctx, cancel := context.WithTimeout(t.Context(), moveBound)
	defer cancel()
	if report, err := u.Start(ctx, ctx, ""); err != nil {
		t.Fatalf("start: %v\n%s\n%+v", err, hint.Of(err), report.Blockers())
	}
	turn, err := u.NewCutover(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := turn.Run(ctx, ctx); err != nil {
		t.Fatalf("cutover: %v\n%s", err, hint.Of(err))
	}
	if err := u.Complete(ctx, ctx, upgrade.RemoveOptions{}); err != nil {
		t.Fatalf("complete: %v\n%s", err, hint.Of(err))
	}
}
