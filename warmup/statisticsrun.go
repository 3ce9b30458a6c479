package warmup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// carrying is one call of CarryStatistics.
type carrying struct {
	from, to *pg.Server
	options  CarryOptions
	old, new *side

	mu     sync.Mutex
	done   map[Table]*TableCarry
	locked []*parcel
}

// parcel is what is written of one table, in one transaction.
type parcel struct {
	carry    *TableCarry
	old, new *statRelation
	rows     []*statRow
	indexes  []*statRelation // of the source
}

// pair is a session on each server.
type pair struct{ from, to *pgx.Conn }

func (p *pair) close(ctx context.Context) {
	endSession(ctx, p.from)
	endSession(ctx, p.to)
}

func (c *carrying) open(ctx context.Context) (*pair, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.options.Answer, c.silence())
	defer cancel()
	p := &pair{}
	var g errgroup.Group
	g.Go(func() (err error) { p.from, err = c.from.Connect(ctx, "statistics", readSettings()); return err })
	g.Go(func() (err error) { p.to, err = c.to.Connect(ctx, "statistics", writeSettings()); return err })
	err := g.Wait()
	if err == nil {
		err = prepareSessions(ctx, p)
	}
	if err != nil {
		p.close(ctx)
		return nil, fmt.Errorf("opening sessions to carry statistics: %w", silent(ctx, err))
	}
	return p, nil
}

// quietSQL keeps the values out of the target's log, where the role may say so: a
// server that logs statements logs their parameters, too. bytesSQL makes a
// database without an encoding hand its bytes over as they are, instead of
// refusing what is no UTF8.
const (
	quietSQL = `
select set_config('log_parameter_max_length', '0', false)
 where has_parameter_privilege('log_parameter_max_length', 'set')`
	bytesSQL = `
select set_config('client_encoding', 'SQL_ASCII', false)
 where current_setting('server_encoding') = 'SQL_ASCII'`
)

func prepareSessions(ctx context.Context, p *pair) error {
	if _, err := p.to.Exec(ctx, quietSQL); err != nil {
		return err
	}
	for _, conn := range []*pgx.Conn{p.from, p.to} {
		if _, err := conn.Exec(ctx, bytesSQL); err != nil {
			return err
		}
	}
	return nil
}

func (c *carrying) run(ctx context.Context) error {
	first, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer first.close(ctx)
	answer, cancel := context.WithTimeoutCause(ctx, c.options.Answer, c.silence())
	defer cancel()
	g, reading := errgroup.WithContext(answer)
	g.Go(func() (err error) { c.old, err = readSide(reading, first.from, c.from); return err })
	g.Go(func() (err error) { c.new, err = readSide(reading, first.to, c.to); return err })
	if err := g.Wait(); err != nil {
		return silent(answer, err)
	}
	parcels := c.choose()
	if len(parcels) == 0 {
		return nil
	}
	if err := c.work(ctx, first, parcels); err != nil {
		return err
	}
	retrying, end := context.WithTimeoutCause(ctx, c.options.Answer, c.silence())
	defer end()
	return silent(retrying, c.retry(retrying, first))
}

// slices are so many that every pair of sessions has several and that none fills
// the memory, and so few that reading them, each by a look through all of
// pg_statistic, stays cheap.
const (
	slicesEach = 3
	smallSlice = 24
	sliceBytes = 32 << 20 // of pg_statistic; as text it may be several times as much
)

// sliceSize is how many of the tables are read at once, where pg_statistic has
// that many bytes.
func sliceSize(tables, jobs int, bytes int64) int {
	n := max(jobs*slicesEach, int(bytes/sliceBytes))
	return max(smallSlice, (tables-1)/n+1)
}

// work hands the tables out to the pairs of sessions.
func (c *carrying) work(ctx context.Context, first *pair, parcels []*parcel) error {
	size := sliceSize(len(parcels), c.options.Jobs, c.old.bytes)
	todo := make(chan []*parcel, len(parcels)/size+1)
	n := 0
	for part := range slices.Chunk(parcels, size) {
		todo <- part
		n++
	}
	close(todo)
	g, ctx := errgroup.WithContext(ctx)
	for i := range min(c.options.Jobs, n) {
		g.Go(func() error {
			p := first
			if i > 0 {
				var err error
				if p, err = c.open(ctx); pg.IsCode(err, pg.TooManyConnections) {
					return nil // the first pair does it all
				} else if err != nil {
					return err
				}
				defer p.close(ctx)
			}
			for part := range todo {
				if err := c.carry(ctx, p, part); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// errSilent is the cause of a context that waited for a server for too long.
var errSilent = errors.New("a server has not answered for too long")

// silence is that of this call, of whose two servers it is not known which.
func (c *carrying) silence() error {
	return fmt.Errorf("%w, %s", errSilent, c.options.Answer)
}

// silent says in place of an error that the bound of ctx was its reason.
func silent(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errSilent) {
		return cause
	}
	return err
}

// carry reads and writes the statistics of some tables.
func (c *carrying) carry(ctx context.Context, p *pair, part []*parcel) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.options.Answer, c.silence())
	defer cancel()
	return silent(ctx, c.carrySlice(ctx, p, part))
}

func (c *carrying) carrySlice(ctx context.Context, p *pair, part []*parcel) error {
	var relations []*statRelation
	for _, t := range part {
		relations = append(append(relations, t.old), t.indexes...)
	}
	found, err := readStats(ctx, p.from, c.old, relations)
	if err != nil {
		return err
	}
	if err := c.translate(ctx, p.to, part, found); err != nil {
		return err
	}
	return c.write(ctx, p.to, part)
}

// retryBound is how long all tables together are waited for that were locked.
const retryBound = 20 * time.Second

// retry tries again what was locked, one table after the other.
func (c *carrying) retry(ctx context.Context, p *pair) error {
	if len(c.locked) == 0 {
		return nil
	}
	if _, err := p.to.Exec(ctx, "select set_config('lock_timeout', $1, false)", milliseconds(c.options.LockTimeout)); err != nil {
		return fmt.Errorf("trying locked tables again: %w", err)
	}
	again := c.locked
	until := time.Now().Add(retryBound)
	for _, t := range again {
		if time.Now().After(until) {
			return nil
		}
		if err := c.write(ctx, p.to, []*parcel{t}); err != nil {
			return err
		}
	}
	return nil
}

// choose decides by the catalogs which tables are worth reading, and notes what
// becomes of the others.
func (c *carrying) choose() []*parcel {
	indexes := map[Table][]*statRelation{}
	var tables []*statRelation
	for _, r := range c.old.relations {
		if r.Of != "" {
			indexes[r.table()] = append(indexes[r.table()], r)
		} else {
			tables = append(tables, r)
		}
	}
	slices.SortFunc(tables, func(a, b *statRelation) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	var parcels []*parcel
	for _, r := range tables {
		t := &TableCarry{Table: r.table()}
		c.done[t.Table] = t
		p := &parcel{carry: t, old: r, new: c.new.relations[t.Table], indexes: indexes[t.Table]}
		if t.Outcome = c.outcome(p); t.Outcome == "" {
			parcels = append(parcels, p)
		}
	}
	return parcels
}

// outcome returns what becomes of a table whose statistics are not even read.
func (c *carrying) outcome(p *parcel) CarryOutcome {
	old, to := p.old, p.new
	if to == nil || to.Kind != old.Kind {
		return NotOnTarget
	}
	p.carry.Extended = to.Extended
	countable, visible := false, false
	for _, column := range old.columns {
		countable, visible = countable || column.Countable, visible || column.Visible
	}
	wanted := c.wants(old, to)
	for _, index := range p.indexes {
		wanted = wanted || c.wants(index, c.new.relations[Table{index.Schema, index.Name}])
	}
	switch {
	case !countable:
		return NothingToCarry
	case !wanted && (old.Own || old.Tree):
		return Kept
	case !wanted:
		if !visible {
			p.carry.Reason = "this role may not read the table on the source"
		}
		return NoneOnSource
	case old.Analyzed && float64(old.Changed) > 50+c.options.Stale*float64(max(old.Tuples, 0)):
		return StaleOnSource
	}
	return ""
}

// wants tells whether the source has statistics that the target does not have.
func (c *carrying) wants(old, to *statRelation) bool {
	return to != nil && (old.Own && !c.keeps(to, false) || old.Tree && !c.keeps(to, true))
}

// keeps tells whether the target's own statistics stay. Where this role cannot
// see them, the server's memory of an ANALYZE counts.
func (c *carrying) keeps(to *statRelation, inherited bool) bool {
	if c.options.Overwrite {
		return false
	}
	if inherited && to.Tree || !inherited && to.Own {
		return true
	}
	for _, column := range to.columns {
		if column.Visible {
			return false
		}
	}
	return to.Analyzed
}
