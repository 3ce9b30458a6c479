// Package demo moves a small shop between two throwaway local clusters while
// clients write, and proves at the end that nothing was lost or doubled.
//
// The servers are real, the writers reconnect by multihost connection strings
// as an application would, and the move is the same code that every other
// command runs.
package demo

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/cutover"
	"github.com/pgcutover/pgcutover/fence"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/pgserver"
	"github.com/pgcutover/pgcutover/internal/step"
	"github.com/pgcutover/pgcutover/internal/workload"
	"github.com/pgcutover/pgcutover/traffic"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// Options say how large the demonstration is.
type Options struct {
	Old, New int           // major versions
	Rows     int           // orders in the shop
	Writers  int           // concurrent clients
	After    time.Duration // how long to write on after the cutover
	Observer step.Observer
	Say      func(format string, args ...any)
}

// Result is what the demonstration found.
type Result struct {
	OldVersion              string   `json:"old_version"`
	NewVersion              string   `json:"new_version"`
	Acknowledged            int      `json:"acknowledged"`
	Lost                    int      `json:"lost"`
	Duplicated              int      `json:"duplicated"`
	FailedWrites            int      `json:"failed_writes"`
	WritePauseMS            float64  `json:"write_pause_ms"` // longest gap between two acknowledged writes across the cutover
	HeldMS                  float64  `json:"held_ms"`        // from the frozen gate to the open new server, by the tool's clock
	SequencesChecked        int      `json:"sequences_checked"`
	SequenceValuesChecked   int      `json:"sequence_values_checked"`
	SequenceValuesTwice     int      `json:"sequence_values_twice"`
	TablesWithoutStatistics int      `json:"tables_without_statistics"`
	BothWritable            int      `json:"both_writable"` // moments in which both servers took writes
	AcknowledgedOnOld       int      `json:"acknowledged_on_old"`
	AcknowledgedOnNew       int      `json:"acknowledged_on_new"`
	Unknown                 int      `json:"unknown"` // writes whose COMMIT was not answered; they are looked up
	Rows                    int      `json:"rows"`
	Writers                 int      `json:"writers"`
	DurationS               float64  `json:"duration_s"`
	Problems                []string `json:"problems"`
}

// ErrProof means that a proof failed; Result.Problems says which.
var ErrProof = errors.New("the demonstration's proof failed")

const (
	moveName = "shop"
	database = "shop"
	appRole  = "shop_app"
)

// run is one demonstration.
type run struct {
	Options
	old, new *pgserver.Cluster
	result   Result
}

// Run does the whole move and returns what it found. An error that wraps
// ErrProof comes with a Result. The clusters are stopped and removed.
func Run(soft, hard context.Context, o Options) (Result, error) {
	began := time.Now()
	r := &run{Options: o, result: Result{Rows: o.Rows, Writers: o.Writers, Problems: []string{}}}
	defer r.stop()
	if err := r.boot(soft); err != nil {
		return r.result, err
	}
	if err := r.prepare(soft); err != nil {
		return r.result, err
	}
	if err := r.move(soft, hard); err != nil {
		return r.result, err
	}
	r.result.DurationS = time.Since(began).Seconds()
	if len(r.result.Problems) > 0 {
		return r.result, fmt.Errorf("%w: %v", ErrProof, r.result.Problems)
	}
	return r.result, nil
}

// boot starts both clusters, with durable settings.
func (r *run) boot(ctx context.Context) error {
	r.Say("== starting PostgreSQL %d (old) and %d (new)", r.Old, r.New)
	if err := pgserver.Install(ctx, func(text string) { r.Say("   %s", text) }, r.Old, r.New); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range []struct {
		major int
		name  string
		into  **pgserver.Cluster
	}{{r.Old, "old", &r.old}, {r.New, "new", &r.new}} {
		group.Go(func() error {
			cluster, err := pgserver.Start(ctx, pgserver.Options{Major: c.major, Name: "demo-" + c.name, Durable: true})
			*c.into = cluster
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	r.result.OldVersion, r.result.NewVersion = r.old.Version(), r.new.Version()
	r.Say("   old: PostgreSQL %s on %s", r.old.Version(), r.old.Addr())
	r.Say("   new: PostgreSQL %s on %s", r.new.Version(), r.new.Addr())
	return nil
}

func (r *run) stop() {
	for _, c := range []*pgserver.Cluster{r.old, r.new} {
		if c == nil {
			continue
		}
		if err := c.Close(); err != nil {
			r.Say("   stopping PostgreSQL %d: %v", c.Major(), err)
		}
	}
}

const createRoleSQL = `create role shop_app login`

const createDatabaseSQL = `create database shop owner shop_app`

// prepare makes the role and the database on both servers, as an operator
// would, and the shop on old.
func (r *run) prepare(ctx context.Context) error {
	for _, c := range []*pgserver.Cluster{r.old, r.new} {
		if err := pgserver.Execute(ctx, c.URL("postgres"), createRoleSQL, createDatabaseSQL); err != nil {
			return err
		}
	}
	r.Say("== loading a shop of %d orders into old", r.Rows)
	conn, err := pgx.Connect(ctx, asApp(r.old))
	if err != nil {
		return fmt.Errorf("connecting to the old server: %w", err)
	}
	defer pg.Close(ctx, conn)
	return workload.Create(ctx, conn, workload.LoadOptions{Rows: r.Rows})
}

// asApp is the application's connection string: an ordinary role.
func asApp(c *pgserver.Cluster) string {
	u, err := url.Parse(c.URL(database))
	if err != nil {
		return c.URL(database)
	}
	u.User = url.User(appRole)
	return u.String()
}

// options are those of an operator who gave two URLs and multihost clients.
func (r *run) options() upgrade.Options {
	return upgrade.Options{
		Name:    moveName,
		Old:     upgrade.Endpoint{URL: r.old.URL(database)},
		New:     upgrade.Endpoint{URL: r.new.URL(database)},
		Margin:  100,
		Analyze: warmup.AnalyzeOptions{Stages: warmup.Stages(), Jobs: 2},
		Warm:    warmup.WarmOptions{Jobs: 2},
		Cutover: cutover.Settings{MaxLag: 16 << 20, MaxPause: 10 * time.Second, LockTimeout: 300 * time.Millisecond, Attempts: 20, OnClosed: fence.Error, WayBack: true},
		Traffic: []traffic.Driver{traffic.Multihost{}},
	}
}
