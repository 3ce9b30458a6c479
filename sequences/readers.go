package sequences

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Readers reads the positions of the same sequences again and again as a Reader
// does, in several sessions at a time when they are many: one for each 2,500, up
// to 4, each of which knows its own sequences. A session that is lost or does not
// answer in time costs only that time: its sequences are read by other means. The
// methods may be called by one goroutine at a time.
type Readers struct {
	source Source
	parts  []*part
}

// Source is where Readers reads.
type Source struct {
	// Connect opens a session.
	Connect func(context.Context) (*pgx.Conn, error)
	// Rest is asked, by names, in place of sessions that fail, several at a time: a
	// pool.
	Rest Querier
	// Version is the server's server_version_num.
	Version int
	// Patience is how long a session may take before Rest is asked as well; 0
	// means 50 ms, and three times as long as the session took before.
	Patience time.Duration
	// PerSession is for how many sequences a session is opened; 0 means 2,500.
	PerSession int
}

// perReader is how many sequences a session is opened for, mostReaders how many
// sessions at most.
const (
	perReader   = 2500
	mostReaders = 4
)

// part are the sequences of one session.
type part struct {
	refs   []Ref
	reader *Reader // nil when its session is gone
	took   time.Duration
}

// NewReaders opens the sessions and lets them read their sequences once. When the
// server has no room for that many sessions they are fewer.
func NewReaders(ctx context.Context, s Source, refs []Ref) (*Readers, error) {
	each := cmp.Or(s.PerSession, perReader)
	conns, err := s.sessions(ctx, min(max((len(refs)+each-1)/each, 1), mostReaders))
	if err != nil {
		return nil, err
	}
	r := &Readers{source: s}
	n := len(conns)
	for i := range conns {
		r.parts = append(r.parts, &part{refs: refs[len(refs)*i/n : len(refs)*(i+1)/n]})
	}
	group, limit := errgroup.WithContext(ctx)
	for i, p := range r.parts {
		group.Go(func() error { return p.meet(limit, conns[i], s.Version) })
	}
	if err := group.Wait(); err != nil {
		r.Close(ctx)
		return nil, err
	}
	return r, nil
}

// sessions opens up to n sessions, at least one.
func (s Source) sessions(ctx context.Context, n int) ([]*pgx.Conn, error) {
	var conns []*pgx.Conn
	for range n {
		conn, err := s.Connect(ctx)
		if err != nil && (len(conns) == 0 || ctx.Err() != nil) {
			for _, c := range conns {
				pg.Close(ctx, c)
			}
			return nil, err
		}
		if err != nil {
			break // there is no room for more
		}
		conns = append(conns, conn)
	}
	return conns, nil //nolint:nilerr // one session is enough
}

// meet gives the part its session, which it closes when that fails.
func (p *part) meet(ctx context.Context, conn *pgx.Conn, version int) error {
	reader, err := NewReader(ctx, conn, version, p.refs)
	if err == nil {
		began := time.Now()
		if _, err = reader.ReadCalled(ctx); err == nil {
			p.reader, p.took = reader, time.Since(began)
			return nil
		}
	}
	pg.Close(ctx, conn)
	return err
}

// Sessions returns how many sessions there are.
func (r *Readers) Sessions() int {
	n := 0
	for _, p := range r.parts {
		if p.alive() {
			n++
		}
	}
	return n
}

func (p *part) alive() bool { return p.reader != nil && !p.reader.conn.IsClosed() }

// Renew opens those sessions again that were lost. Where the server has no room for
// one, the others do: its sequences are read by other means, which takes longer.
func (r *Readers) Renew(ctx context.Context) error {
	for _, p := range r.parts {
		if p.alive() {
			continue
		}
		conn, err := r.source.Connect(ctx)
		switch {
		case err == nil:
			err = p.meet(ctx, conn, r.source.Version)
		case r.Sessions() > 0 && ctx.Err() == nil:
			err = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Close ends the sessions.
func (r *Readers) Close(ctx context.Context) {
	for _, p := range r.parts {
		if p.reader != nil {
			pg.Close(ctx, p.reader.conn)
		}
	}
}

// ReadCalled returns what the function of this name returns, in the order of the
// sequences. Those that were read in place of a session's are there also when they
// have handed out nothing.
func (r *Readers) ReadCalled(ctx context.Context) ([]Value, error) {
	read := make([][]Value, len(r.parts))
	group, limit := errgroup.WithContext(ctx)
	for i, p := range r.parts {
		group.Go(func() (err error) {
			read[i], err = r.readPart(limit, p)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	values := read[0]
	for _, more := range read[1:] {
		values = append(values, more...)
	}
	return values, nil
}

// answer is what one way of reading a part has brought.
type answer struct {
	values []Value
	err    error
}

// readPart asks the part's session, and Rest when that fails or takes too long; the
// first of them that has read everything is believed.
func (r *Readers) readPart(ctx context.Context, p *part) ([]Value, error) {
	if !p.alive() {
		return ReadValues(ctx, r.source.Rest, r.source.Version, p.refs)
	}
	limit, cancel := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	answers := make(chan answer, 2)
	ask := func(read func(context.Context) ([]Value, error)) {
		asked.Go(func() {
			values, err := read(limit)
			answers <- answer{values, err}
		})
	}
	ask(p.reader.ReadCalled)
	timer := time.NewTimer(r.patience(p))
	defer timer.Stop()
	var failed []error
	for waiting, rest := 1, false; waiting > 0; {
		select {
		case a := <-answers:
			if a.err == nil || !replaceable(a.err) || ctx.Err() != nil {
				return a.values, a.err
			}
			failed = append(failed, a.err)
			waiting--
		case <-timer.C:
		}
		if !rest {
			rest = true
			waiting++
			ask(func(ctx context.Context) ([]Value, error) {
				return ReadValues(ctx, r.source.Rest, r.source.Version, p.refs)
			})
		}
	}
	return nil, errors.Join(failed...)
}

func (r *Readers) patience(p *part) time.Duration {
	if r.source.Patience > 0 {
		return r.source.Patience
	}
	return 50*time.Millisecond + 3*p.took
}

// replaceable tells the errors of a session, or of its waiting for a lock, from
// those that every other session would get.
func replaceable(err error) bool {
	if e := (explained{}); errors.As(err, &e) {
		return false
	}
	return pg.Lost(err) || pg.IsCode(err, pg.LockNotAvailable, pg.QueryCanceled, pg.DeadlockDetected, lockTableFull)
}
