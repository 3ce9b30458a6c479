package preflight

import (
	"context"
	"fmt"
	"maps"
	osexec "os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgclient"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// trap is one thing that breaks or surprises moves: it is laid on a clean pair
// of servers, and check has to report it once and nothing else. Then the fix is
// carried out as the finding says, and check has to be content.
type trap struct {
	finds string // the ID of the one finding
	name  string // tells traps with the same ID apart; may be empty
	// about is in the finding's Object, on is its Server ("" for old).
	about string
	on    pg.Side
	// when says for which pairs the trap can be laid; nil for all. It is laid on
	// the first pair under test that suits.
	when func(pgtest.Pair) bool
	// old and new are statements that lay the trap. What they make outside of
	// the database (roles, slots, prepared transactions) is taken away by tidy.
	old, new         []string
	tidyOld, tidyNew []string
	// oldSettings and newSettings are set by ALTER SYSTEM and a restart, and
	// reset at the end.
	oldSettings, newSettings map[string]string
	// seed lays what statements cannot.
	seed func(t *testing.T, w *world)
	// also are IDs that come with the trap by its nature, with a reason.
	also map[string]string
	// shared says that trap and fix leave the databases as they are, so that they
	// can be those of other traps too, which saves their making.
	shared bool
	// byHand mends what Fix tells in words (FixAction), as a person would; a
	// trap without it must have a Fix that psql runs.
	byHand func(t *testing.T, w *world, f Finding)
}

func (tr trap) String() string {
	if tr.name == "" {
		return tr.finds
	}
	return tr.finds + "/" + tr.name
}

// world is a pair of databases on two servers that belong to the test of traps.
type world struct {
	*Pair
	majors         pgtest.Pair
	oldURL, newURL string
	older, newer   *pgserver.Cluster
}

// cleanSettings are those of servers that nobody needs to be warned of.
var cleanSettings = map[string]string{
	"wal_retrieve_retry_interval": "1s",
	"max_prepared_transactions":   "0",
}

// cleanTables is an application that has nothing wrong with it.
const cleanTables = `create table plain (id bigserial primary key, t text)`

// servers boots a pair of clusters as a careful person would set them up.
func servers(t *testing.T, p pgtest.Pair) (older, newer *pgserver.Cluster) {
	t.Helper()
	o := pgserver.Options{Durable: true, Settings: cleanSettings}
	o.Major, o.Name = p.Old, "trapold"
	older = pgtest.Cluster(t, o)
	o.Major, o.Name = p.New, "trapnew"
	return older, pgtest.Cluster(t, o)
}

func newWorld(t *testing.T, p pgtest.Pair, older, newer *pgserver.Cluster) *world {
	t.Helper()
	w := &world{majors: p, older: older, newer: newer}
	w.oldURL, w.newURL = pgtest.Database(t, older), pgtest.Database(t, newer)
	pgtest.Exec(t, w.oldURL, cleanTables)
	w.connect(t)
	return w
}

// again is the same databases for another test.
func (w *world) again(t *testing.T) *world {
	t.Helper()
	other := &world{majors: w.majors, older: w.older, newer: w.newer, oldURL: w.oldURL, newURL: w.newURL}
	other.connect(t)
	return other
}

// connect opens the tool's connections anew, after a restart too.
func (w *world) connect(t *testing.T) {
	t.Helper()
	settings := Settings{Rollback: true, PeerTimeout: 10 * time.Second, Sample: 10 * time.Millisecond}
	if w.Pair != nil {
		settings = w.Settings
		w.Old.Close()
		w.New.Close()
	}
	w.Pair = pairOf(t, w.oldURL, w.newURL)
	w.Settings = settings
}

// look runs every check. Sessions that a test closed a moment ago may still be
// ending on the server; those who share the tool's role are a note that only
// they would bring.
func (w *world) look(t *testing.T) []Finding {
	t.Helper()
	r, err := Run(t.Context(), w.Pair, All(), 4)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, c := range All() {
		for _, id := range c.Finds {
			known[id] = true
		}
	}
	return slices.DeleteFunc(r.Findings, func(f Finding) bool {
		if !known[f.ID] {
			t.Errorf("finding %s is in the list of no check:\n%s", f.ID, text([]Finding{f}))
		}
		if f.Group == "" || f.Docs == "" || f.Seen == "" || f.Why == "" || (f.Fix == "") != (f.FixKind == "") {
			t.Errorf("incomplete finding: %+v", f)
		}
		return f.ID == "rights.shared-role" && f.Severity == Note
	})
}

func (w *world) cluster(side pg.Side) (*pgserver.Cluster, string) {
	if side == pg.New {
		return w.newer, w.newURL
	}
	return w.older, w.oldURL
}

// set changes settings as the file of a server would have them.
func (w *world) set(t *testing.T, side pg.Side, settings map[string]string) {
	t.Helper()
	if len(settings) == 0 {
		return
	}
	c, url := w.cluster(side)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		pgtest.Exec(t, url, fmt.Sprintf("alter system set %s = %s", name, literal(settings[name])))
	}
	restart(t, c)
	t.Cleanup(func() {
		pgtest.Exec(t, url, "alter system reset all")
		restart(t, c)
	})
}

func restart(t *testing.T, c *pgserver.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 3*time.Minute)
	defer cancel()
	if err := c.Restart(ctx); err != nil {
		t.Fatalf("restarting the server: %v", err)
	}
}

// lay lays the trap.
func (w *world) lay(t *testing.T, tr trap) {
	t.Helper()
	w.set(t, pg.Old, tr.oldSettings)
	w.set(t, pg.New, tr.newSettings)
	t.Cleanup(func() {
		pgtest.Exec(t, w.oldURL, tr.tidyOld...)
		pgtest.Exec(t, w.newURL, tr.tidyNew...)
	})
	pgtest.Exec(t, w.oldURL, tr.old...)
	pgtest.Exec(t, w.newURL, tr.new...)
	if len(tr.oldSettings)+len(tr.newSettings) > 0 {
		w.connect(t)
	}
	if tr.seed != nil {
		tr.seed(t, w)
	}
}

// mend does what the finding advises.
func (w *world) mend(t *testing.T, tr trap, f Finding) {
	t.Helper()
	side := f.FixOn
	if side == "" {
		side = pg.Side(f.Server)
	}
	switch {
	case tr.byHand != nil:
		if f.FixKind != FixAction {
			t.Errorf("the fix is said to be %q, but the test does it by hand", f.FixKind)
		}
		tr.byHand(t, w, f)
		return
	case f.FixKind == FixSQL || f.FixKind == FixRestart:
	default:
		t.Fatalf("the fix is no SQL (%q):\n%s", f.FixKind, f.Fix)
	}
	c, url := w.cluster(side)
	before := pgtest.Value[time.Time](t, url, `select pg_conf_load_time()`)
	psql(t, url, f.Fix)
	if f.FixKind == FixRestart {
		restart(t, c)
		w.connect(t)
	} else if strings.Contains(f.Fix, "pg_reload_conf") {
		reloaded(t, url, before)
		w.connect(t)
	}
}

// reloaded waits until new sessions have what the server has read again.
func reloaded(t *testing.T, url string, before time.Time) {
	t.Helper()
	for !pgtest.Value[time.Time](t, url, `select pg_conf_load_time()`).After(before) {
		if t.Context().Err() != nil {
			t.Fatal("the server does not read its files again")
		}
	}
}

// psql runs a text as a person who pastes it.
func psql(t *testing.T, url, sql string) {
	t.Helper()
	program, _, err := pgclient.FindClient(t.Context(), "psql", 10)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := osexec.CommandContext(ctx, program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", "-")
	cmd.Stdin = strings.NewReader(sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("psql refuses the fix: %v\n%s\n%s", err, sql, out)
	}
}

// judge compares what was found with what the trap has to bring.
func (tr trap) judge(t *testing.T, found []Finding) Finding {
	t.Helper()
	var its []Finding
	for _, f := range found {
		if f.ID == tr.finds {
			its = append(its, f)
		} else if tr.also[f.ID] == "" {
			t.Errorf("the trap brings another finding too:\n%s", text([]Finding{f}))
		}
	}
	if len(its) != 1 {
		t.Fatalf("%d findings %s, want 1; all of them:\n%s", len(its), tr.finds, text(found))
	}
	f, on := its[0], tr.on
	if on == "" {
		on = pg.Old
	}
	if !strings.Contains(f.Object, tr.about) || (f.Server != string(on) && f.Server != Both) {
		t.Errorf("the finding is about %q on %s, want %q on %s", f.Object, f.Server, tr.about, on)
	}
	return f
}

func allTraps() []trap {
	return slices.Concat(serverTraps, rightsTraps, tableTraps, objectTraps, spaceTraps, targetTraps)
}

// Each trap is reported by one finding, whose fix makes it disappear; looking
// changes nothing, and a clean pair of servers has no finding at all.
func TestTraps(t *testing.T) {
	laid := map[string]bool{}
	for _, p := range pgtest.Pairs(t) {
		var here []trap
		for _, tr := range allTraps() {
			if !laid[tr.String()] && (tr.when == nil || tr.when(p)) {
				laid[tr.String()] = true
				here = append(here, tr)
			}
		}
		t.Run(p.String(), func(t *testing.T) { layAll(t, p, here) })
	}
}

func layAll(t *testing.T, p pgtest.Pair, traps []trap) {
	older, newer := servers(t, p)
	fakeClients(t, max(p.Old, p.New), "pg_dump", "pg_restore", "pg_dumpall") // checkClients has a test of its own
	var always map[string]bool                                               // what the majors themselves bring
	t.Run("clean", func(t *testing.T) {
		always = map[string]bool{}
		for _, f := range newWorld(t, p, older, newer).look(t) {
			if !ofMajors[f.ID] {
				t.Errorf("a clean pair has\n%s", text([]Finding{f}))
			}
			always[f.ID] = true
		}
	})
	var common *world
	for _, tr := range traps {
		if tr.shared && common == nil {
			common = newWorld(t, p, older, newer)
		}
		t.Run(tr.String(), func(t *testing.T) {
			var w *world
			if tr.shared {
				w = common.again(t)
			} else {
				w = newWorld(t, p, older, newer)
			}
			w.lay(t, tr)
			beforeOld, beforeNew := pgtest.Catalog(t, w.oldURL), pgtest.Catalog(t, w.newURL)
			found := w.look(t)
			changed(t, "old", beforeOld, w.oldURL)
			changed(t, "new", beforeNew, w.newURL)
			f := tr.judge(t, slices.DeleteFunc(found, func(f Finding) bool { return always[f.ID] && f.ID != tr.finds }))
			if f.Fix == "" {
				t.Fatalf("finding %s says nothing of what mends it", f.ID)
			}
			w.mend(t, tr, f)
			for _, f := range w.look(t) {
				if f.ID == tr.finds && !always[f.ID] {
					t.Errorf("after the fix there still is\n%s", text([]Finding{f}))
				}
			}
		})
	}
}

// ofMajors are the findings that a clean pair of older majors has.
var ofMajors = map[string]bool{
	"versions.end-of-life": true, // 10 and 13
	"not-carried.truncate": true, // 10
}

func changed(t *testing.T, side, before, url string) {
	t.Helper()
	if d := pgtest.Diff(before, pgtest.Catalog(t, url)); d != "" {
		t.Errorf("looking changed the %s server:\n%s", side, d)
	}
}

// Every ID that a check can return has a trap, or a reason to have none.
func TestEveryFindingHasATrap(t *testing.T) {
	trapped := map[string]bool{}
	for _, tr := range allTraps() {
		trapped[tr.finds] = true
	}
	for _, c := range All() {
		for _, id := range c.Finds {
			switch reason := withoutTrap[id]; {
			case trapped[id] && reason != "":
				t.Errorf("%s has a trap, and a reason to have none: %s", id, reason)
			case !trapped[id] && reason == "":
				t.Errorf("no trap finds %s (check %s)", id, c.ID)
			}
		}
	}
}
