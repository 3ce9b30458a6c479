package schema

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// richSchemas hold what each major adds: rich15.sql is for 15 and later.
//
//go:embed testdata/rich*.sql
var richSchemas embed.FS

// makeRoles makes the roles that the rich schema needs, once on each server.
const makeRoles = `
do $$ begin
    if to_regrole('pgct_reader') is null then create role pgct_reader; end if;
    if to_regrole('"pgct Odd ""role"""') is null then create role "pgct Odd ""role""" login connection limit 5; end if;
end $$`

// pair is a move to test: two empty databases.
type pair struct {
	old, new               *pg.Server
	oldURL, newURL         string
	oldCluster, newCluster *pgserver.Cluster
}

func eachPair(t *testing.T, test func(t *testing.T, p pair)) {
	for _, majors := range pgtest.Pairs(t) {
		t.Run(strings.ReplaceAll(majors.String(), ":", "to"), func(t *testing.T) {
			p := pair{oldCluster: pgtest.Server(t, majors.Old), newCluster: pgtest.Server(t, majors.New)}
			p.oldURL, p.newURL = pgtest.Database(t, p.oldCluster), pgtest.Database(t, p.newCluster)
			p.old, p.new = open(t, pg.Old, p.oldURL), open(t, pg.New, p.newURL)
			test(t, p)
		})
	}
}

func open(t *testing.T, side pg.Side, url string) *pg.Server {
	t.Helper()
	s, err := pg.Open(t.Context(), pg.Options{Side: side, URL: url, Move: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// loadRich makes the roles on both servers and the rich schema on the old one.
func (p pair) loadRich(t *testing.T) {
	t.Helper()
	pgtest.Exec(t, p.oldURL, makeRoles)
	pgtest.Exec(t, p.newURL, makeRoles)
	for _, major := range []int{10, 11, 12, 14, 15, 17} {
		if major > p.old.Major() {
			break
		}
		text, err := richSchemas.ReadFile(fmt.Sprintf("testdata/rich%d.sql", major))
		if err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, p.oldURL, string(text))
	}
}

func (p pair) dump(t *testing.T) *Archive {
	t.Helper()
	a, err := Dump(t.Context(), p.old, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// move restores all sections.
func (p pair) move(t *testing.T, o RestoreOptions) *Archive {
	t.Helper()
	a := p.dump(t)
	for _, section := range Sections() {
		if err := a.Restore(t.Context(), p.new, section, o); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

func (p pair) diff(t *testing.T) []Difference {
	t.Helper()
	old, err := Fingerprint(t.Context(), p.old)
	if err != nil {
		t.Fatal(err)
	}
	new, err := Fingerprint(t.Context(), p.new)
	if err != nil {
		t.Fatal(err)
	}
	return Diff(old, new)
}

func (p pair) missing(t *testing.T, sections ...Section) []Object {
	t.Helper()
	missing, err := Missing(t.Context(), p.old, p.new, sections...)
	if err != nil {
		t.Fatal(err)
	}
	return missing
}

func (p pair) wantSame(t *testing.T) {
	t.Helper()
	for _, d := range p.diff(t) {
		t.Errorf("after the move: %s", d)
	}
}

func snapshotOf(t *testing.T, s *pg.Server) State {
	t.Helper()
	state, err := Snapshot(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func inventoryOf(t *testing.T, s *pg.Server) []Object {
	t.Helper()
	objects, err := Inventory(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func wantCatalog(t *testing.T, url, want string) {
	t.Helper()
	if diff := pgtest.Diff(want, pgtest.Catalog(t, url)); diff != "" {
		t.Errorf("the catalog changed:\n%s", diff)
	}
}

func describe(objects []Object) []string {
	var out []string
	for _, o := range objects {
		out = append(out, o.String())
	}
	slices.Sort(out)
	return out
}
