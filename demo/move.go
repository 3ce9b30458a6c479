package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/workload"
	"github.com/pgcutover/pgcutover/upgrade"
	"github.com/pgcutover/pgcutover/warmup"
)

// settle is how long the writers run before the cutover and between phases.
const settle = 2 * time.Second

// arrival is how long the clients may take to write to new after the cutover.
const arrival = 30 * time.Second

// move does the move while the writers write, and proves it.
func (r *run) move(soft, hard context.Context) (err error) {
	both, err := workload.Multihost(asApp(r.old), asApp(r.new))
	if err != nil {
		return err
	}
	r.Say("== %d clients write from now on, to whichever server takes writes", r.Writers)
	writers, err := workload.Start(soft, workload.Options{URL: both, Writers: r.Writers})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopWithin(soft, writers.Stop)) }()

	m, err := upgrade.Open(soft, r.options(), r.Observer)
	if err != nil {
		return err
	}
	defer m.Close()
	r.Say("== pgcutover start: checks, schema, copy, catch-up, warm, analyze")
	report, err := m.Start(soft, hard, "")
	if err != nil {
		if errors.Is(err, upgrade.ErrBlockers) {
			err = errors.Join(err, report.WriteText(&sayWriter{r}))
		}
		return err
	}
	prober, err := workload.StartProber(soft, workload.ProberOptions{OldURL: asApp(r.old), NewURL: asApp(r.new)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopWithin(soft, prober.Stop)) }()
	if err := pg.Pause(soft, settle); err != nil {
		return err
	}
	if err := r.cutover(soft, hard, m, writers.Ledger()); err != nil {
		return err
	}
	if err := errors.Join(stopWithin(soft, writers.Stop), stopWithin(soft, prober.Stop)); err != nil {
		return err
	}
	if err := r.prove(soft, m, writers.Ledger(), prober); err != nil {
		return err
	}
	r.Say("== pgcutover complete: removes everything of the move, and proves it")
	return m.Complete(soft, hard, upgrade.RemoveOptions{})
}

// cutover turns the writes and lets the clients write on.
func (r *run) cutover(soft, hard context.Context, m *upgrade.Move, ledger *workload.Ledger) error {
	r.Say("== pgcutover cutover")
	c, err := m.NewCutover(soft)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := c.Run(soft, hard); err != nil {
		return err
	}
	// On a busy machine the clients may take longer than After to come over. Who
	// does not come at all is found by prove.
	err = pg.Wait(soft, "a client to write to new", 10*time.Millisecond, arrival, nil, func(context.Context) (bool, string, error) {
		return ledger.Sides().TransactionsOnNew > 0, "", nil
	})
	if err != nil && !errors.Is(err, pg.ErrTimeout) {
		return err
	}
	r.Say("== writing on for %s", r.After)
	if err := pg.Pause(soft, r.After); err != nil {
		return err
	}
	r.result.WritePauseMS = milliseconds(ledger.LongestGap(began, time.Now()))
	r.result.HeldMS = milliseconds(c.Pause())
	return nil
}

// prove compares what the clients were told with what new has.
func (r *run) prove(ctx context.Context, m *upgrade.Move, ledger *workload.Ledger, prober *workload.Prober) error {
	r.Say("== proving that nothing was lost or doubled")
	proof, err := r.compare(ctx, ledger)
	if err != nil {
		return err
	}
	without, err := warmup.WithoutStatistics(ctx, m.New)
	if err != nil {
		return err
	}
	stats, sides, violations := ledger.Stats(), ledger.Sides(), prober.Violations()
	x := &r.result
	x.Acknowledged, x.Lost, x.Duplicated = proof.Acknowledged, proof.Lost, proof.Duplicated
	x.FailedWrites, x.Unknown = stats.Failed, proof.Unknown
	x.SequencesChecked, x.SequenceValuesChecked = proof.SequencesChecked, proof.SequenceValuesChecked
	x.SequenceValuesTwice = proof.SequenceValuesDuplicated
	x.TablesWithoutStatistics = len(without)
	x.BothWritable = len(violations)
	x.AcknowledgedOnOld, x.AcknowledgedOnNew = sides.OnOld, sides.OnNew
	if err := proof.Err(); err != nil {
		x.Problems = append(x.Problems, err.Error())
	}
	for _, v := range violations {
		x.Problems = append(x.Problems, v.String())
	}
	if len(without) > 0 {
		x.Problems = append(x.Problems, fmt.Sprintf("tables without statistics: %v", without))
	}
	if sides.OnOld == 0 || sides.OnNew == 0 {
		x.Problems = append(x.Problems, fmt.Sprintf("the clients did not write on both servers: %d writes on old, %d on new", sides.OnOld, sides.OnNew))
	}
	return nil
}

func (r *run) compare(ctx context.Context, ledger *workload.Ledger) (workload.Proof, error) {
	conn, err := pgx.Connect(ctx, asApp(r.new))
	if err != nil {
		return workload.Proof{}, fmt.Errorf("connecting to the new server: %w", err)
	}
	defer pg.Close(ctx, conn)
	return workload.Prove(ctx, conn, ledger)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// stopWithin ends clients also after ctx was cancelled.
func stopWithin(ctx context.Context, stop func(context.Context) error) error {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 35*time.Second)
	defer cancel()
	return stop(limit)
}

// sayWriter sends a text to Say.
type sayWriter struct{ run *run }

var _ io.Writer = (*sayWriter)(nil)

func (w *sayWriter) Write(p []byte) (int, error) {
	w.run.Say("%s", p)
	return len(p), nil
}
