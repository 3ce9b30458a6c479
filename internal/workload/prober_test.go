package workload

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgtest"
)

// closeProbe refuses writes as a fence does; openProbe ends that.
const (
	closeProbe = `
		create or replace function "SHOP".refuse() returns trigger language plpgsql as $$
		begin raise exception 'closed' using errcode = '25006'; end $$;
		create trigger refuse before insert on "SHOP".probe for each statement execute procedure "SHOP".refuse()`
	openProbe = `drop trigger refuse on "SHOP".probe`
)

func startProber(t *testing.T, o ProberOptions) *Prober {
	t.Helper()
	if o.Every == 0 {
		o.Every = 5 * time.Millisecond
	}
	p, err := StartProber(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopProber(t, p) })
	return p
}

func stopProber(t *testing.T, p *Prober) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// moreProbes waits for n more attempts on a side with an outcome.
func moreProbes(t *testing.T, p *Prober, side pg.Side, outcome Outcome, n int) {
	t.Helper()
	count := func() int {
		found := 0
		for _, a := range p.Attempts() {
			if a.Side == side && a.Outcome == outcome {
				found++
			}
		}
		return found
	}
	before := count()
	until(t, string(side)+" "+string(outcome), func() bool { return count() >= before+n })
}

func TestProberSeesBothWritable(t *testing.T) {
	majors := pgtest.Majors(t)
	oldURL, newURL := newShop(t, majors[0], 10), newShop(t, majors[len(majors)-1], 10)
	checkLeaks(t)
	p := startProber(t, ProberOptions{OldURL: oldURL, NewURL: newURL})
	moreProbes(t, p, pg.Old, Accepted, 10)
	moreProbes(t, p, pg.New, Accepted, 10)
	moreProbes(t, p, pg.Old, Accepted, 20)
	stopProber(t, p)
	v := p.Violations()
	if len(v) < 10 || v[0].Write.Side != pg.Old || v[0].After.Side != pg.New {
		t.Errorf("two servers that both take writes: %d violations, %v", len(v), v)
	}
	if err := p.Err(); !errors.Is(err, ErrBothWritable) {
		t.Errorf("Err is %v", err)
	}
	missing, err := p.Missing(t.Context(), connect(t, newURL))
	if err != nil || len(missing) < 20 {
		t.Errorf("%d rows missing on new, %v; want all those of old", len(missing), err)
	}
}

func TestProberFollowsAHandover(t *testing.T) {
	majors := pgtest.Majors(t)
	oldURL, newURL := newShop(t, majors[0], 10), newShop(t, majors[len(majors)-1], 10)
	pgtest.Exec(t, newURL, closeProbe)
	checkLeaks(t)
	p := startProber(t, ProberOptions{OldURL: oldURL, NewURL: newURL, Timeout: time.Second})
	moreProbes(t, p, pg.Old, Accepted, 10)
	moreProbes(t, p, pg.New, Refused, 3)

	// A writer that waits at a lock longer than Timeout counts as refused.
	conn := connect(t, oldURL)
	if _, err := conn.Exec(t.Context(), `begin; lock table "SHOP".probe in exclusive mode`); err != nil {
		t.Fatal(err)
	}
	moreProbes(t, p, pg.Old, Refused, 2)
	if _, err := conn.Exec(t.Context(), `commit`); err != nil {
		t.Fatal(err)
	}
	moreProbes(t, p, pg.Old, Accepted, 1)
	pgtest.Exec(t, oldURL, closeProbe)
	moreProbes(t, p, pg.Old, Refused, 2)
	between := time.Now()
	moreProbes(t, p, pg.New, Refused, 5)
	pgtest.Exec(t, newURL, openProbe)
	moreProbes(t, p, pg.New, Accepted, 10)
	stopProber(t, p)

	if err := p.Err(); err != nil {
		t.Error(err)
	}
	if gap := p.NeitherFor(); gap < 2*time.Second || gap > 2*time.Minute {
		t.Errorf("neither took writes for %s, want at least the two refusals of a second", gap)
	}
	if gap := p.NeitherBetween(between, between.Add(time.Millisecond)); gap != time.Millisecond {
		t.Errorf("of a millisecond in the pause %s were without writes", gap)
	}
	var codes string
	for _, i := range p.Intervals(pg.Old) {
		codes += string(i.Outcome) + " " + i.Code + ";"
	}
	// More waits that were too long may come from a busy machine, at any time; but
	// once it is closed it accepts nothing.
	const slow = `(refused|unknown) (57014|[a-z]+);`
	want := strings.ReplaceAll(`^(SLOW)*accepted ;(SLOW|accepted ;)*refused 57014;(SLOW|accepted ;)*accepted ;(SLOW)*refused 25006;(SLOW|refused 25006;)*$`, "SLOW", slow)
	if !regexp.MustCompile(want).MatchString(codes) {
		t.Errorf("old's intervals: %s", codes)
	}
	missing, err := p.Missing(t.Context(), connect(t, oldURL))
	if err != nil || len(missing) == 0 || missing[0].Side != pg.New {
		t.Errorf("missing on old: %v, %v; want those of new alone", missing, err)
	}
	p.Expect(pg.New, pg.Old)
	if p.Err() == nil {
		t.Error("no violation although the order is the other one")
	}
	p.Expect(pg.Old)
	if p.Err() == nil {
		t.Error("no violation although new is not to serve")
	}
}

func TestProberWithoutServers(t *testing.T) {
	checkLeaks(t)
	p := startProber(t, ProberOptions{
		OldURL: "postgres://postgres@127.0.0.1:1/x", NewURL: "postgres://postgres@127.0.0.1:2/x?sslmode=disable",
	})
	moreProbes(t, p, pg.Old, Refused, 2)
	moreProbes(t, p, pg.New, Refused, 2)
	stopProber(t, p)
	if p.Err() != nil || p.Attempts()[0].Code != "connection" {
		t.Errorf("%v, %v", p.Err(), p.Attempts()[0])
	}
	if _, err := StartProber(t.Context(), ProberOptions{OldURL: "postgres://u:secret@h:notaport/d", NewURL: ""}); err == nil {
		t.Error("a prober started with a malformed connection string")
	}
}
