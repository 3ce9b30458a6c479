package traffic

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
	"github.com/pgcutover/pgcutover/internal/step"
)

// ErrNotPaused is wrapped when a pooler's clients could not be made to wait
// within the attempts, mostly because of a transaction that did not end.
var ErrNotPaused = errors.New("the pooler could not be paused")

// errHeldUp is the cause when a PAUSE was not answered in its time.
var errHeldUp = errors.New("transactions did not end in time")

// Pause makes the clients wait. PgBouncer lets running transactions end first
// and meanwhile holds up everybody else, so that each attempt is short; after
// one that failed the clients go on, and have at least as much time as they
// were held up for.
func (d *PgBouncer) Pause(ctx context.Context, to Target) error {
	if d.o.PauseAttempts == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var last error
	for attempt := 1; attempt <= d.o.PauseAttempts; attempt++ {
		if attempt > 1 {
			step.Progress(ctx, "%s: attempt %d of %d: %v", d.Name(), attempt, d.o.PauseAttempts, last)
			if err := d.rest(ctx); err != nil {
				return d.clean(err)
			}
		}
		var touched bool
		if touched, last = d.pauseOnce(ctx); last == nil {
			return nil
		}
		// Whatever went wrong, the clients must go on, also when ctx is over.
		if touched {
			if err := d.giveUp(ctx); err != nil {
				return d.clean(errors.Join(last, fmt.Errorf("ending the pause: %w", err)))
			}
		}
		if !errors.Is(last, errHeldUp) || ctx.Err() != nil {
			return d.clean(last)
		}
	}
	return d.clean(hint.With(fmt.Errorf("%w in %d attempts: %w", ErrNotPaused, d.o.PauseAttempts, last),
		"wait for that transaction or end it (pg_terminate_backend with the pid, on the server that serves), or raise pause_timeout"))
}

// rest waits between two attempts, with jitter, so that several poolers and
// tools do not keep step.
func (d *PgBouncer) rest(ctx context.Context) error {
	timer := time.NewTimer(d.o.PauseTimeout + rand.N(d.o.PauseTimeout))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pauseOnce tries a PAUSE of every database at the same time. When touched is
// true, some may be paused and settings changed, error or not.
func (d *PgBouncer) pauseOnce(ctx context.Context) (touched bool, err error) {
	watch, err := d.open(ctx, false)
	if err != nil {
		return false, err
	}
	defer watch.close()
	shown, err := d.show(ctx, watch)
	if err != nil || d.allPaused(shown) {
		return false, err
	}
	// All connections first, so that the pause is as short as can be.
	consoles := make([]*console, len(d.o.Databases))
	defer func() {
		for _, c := range consoles {
			c.close()
		}
	}()
	for i := range consoles {
		if consoles[i], err = d.open(ctx, false); err != nil {
			return false, err
		}
	}
	if err := d.overrideSettings(ctx, watch); err != nil {
		return true, err
	}
	if err := d.noLogins(ctx, watch); err != nil {
		return true, err
	}
	return true, d.pauseAll(ctx, watch, consoles)
}

// pauseAll sends the PAUSEs, one on each console, and waits for what they do.
func (d *PgBouncer) pauseAll(ctx context.Context, watch *console, consoles []*console) error {
	limit, cancel := context.WithTimeoutCause(ctx, d.o.PauseTimeout, errHeldUp)
	defer cancel()
	pausing, limited := errgroup.WithContext(limit)
	for i, name := range d.o.Databases {
		pausing.Go(func() error {
			_, err := consoles[i].query(limited, "PAUSE "+quoteName(name))
			return err
		})
	}
	err := pausing.Wait()
	if err == nil {
		return d.reallyPaused(ctx, watch)
	}
	if !errors.Is(context.Cause(limit), errHeldUp) {
		return err
	}
	return d.heldUp(ctx, watch)
}

// allPaused reports whether every database is paused and no connection to its
// server left.
func (d *PgBouncer) allPaused(shown map[string]status) bool {
	return !slices.ContainsFunc(d.o.Databases, func(name string) bool {
		return !shown[name].paused || shown[name].connections > 0
	})
}

// reallyPaused waits, not for long, until the pooler itself says so: a PAUSE is
// also answered when somebody else's PAUSE, of another database, is done.
func (d *PgBouncer) reallyPaused(ctx context.Context, c *console) error {
	err := waitFor(ctx, "the pause to show", time.Millisecond, d.o.PauseTimeout, func() (bool, string, error) {
		shown, err := d.show(ctx, c)
		return err == nil && d.allPaused(shown), "", err
	})
	if errors.Is(err, pg.ErrTimeout) {
		return d.heldUp(ctx, c)
	}
	return err
}

// noLogins waits, not for long, until the pooler opens no connections: a PAUSE
// would cut them off, see overrides.
func (d *PgBouncer) noLogins(ctx context.Context, c *console) error {
	err := waitFor(ctx, "logins to end", 2*time.Millisecond, 300*time.Millisecond, func() (bool, string, error) {
		pools, err := d.pools(ctx, c)
		busy := slices.ContainsFunc(pools, func(pool row) bool { return pool["sv_login"] != "0" })
		return err == nil && !busy, "", err
	})
	if errors.Is(err, pg.ErrTimeout) {
		return nil // a busy pooler always opens some
	}
	return err
}

// pools returns the rows of SHOW POOLS for the databases.
func (d *PgBouncer) pools(ctx context.Context, c *console) ([]row, error) {
	rows, err := d.ask(ctx, c, "SHOW POOLS")
	return d.ours(rows), err
}

// ours keeps the rows about the databases.
func (d *PgBouncer) ours(rows []row) []row {
	return slices.DeleteFunc(rows, func(r row) bool { return !slices.Contains(d.o.Databases, r["database"]) })
}

// heldUp says whom a PAUSE waited for.
func (d *PgBouncer) heldUp(ctx context.Context, c *console) error {
	who, err := d.blockers(ctx, c, func(server row) bool { return server["state"] != "idle" && server["state"] != "used" })
	if err != nil {
		return errors.Join(errHeldUp, err)
	}
	if len(who) == 0 {
		return errHeldUp
	}
	return fmt.Errorf("%w (%s): %s", errHeldUp, d.o.PauseTimeout, strings.Join(who, "; "))
}

// shownBlockers is how many an error tells.
const shownBlockers = 5

// blockers describes the connections to servers that which chooses, and the
// clients that hold them.
func (d *PgBouncer) blockers(ctx context.Context, c *console, which func(server row) bool) ([]string, error) {
	servers, err := d.ask(ctx, c, "SHOW SERVERS")
	if err != nil {
		return nil, err
	}
	servers = slices.DeleteFunc(d.ours(servers), func(server row) bool { return !which(server) })
	if len(servers) == 0 {
		return nil, nil
	}
	rows, err := d.ask(ctx, c, "SHOW CLIENTS")
	if err != nil {
		return nil, err
	}
	clients := map[string]row{}
	for _, r := range rows {
		clients[r["ptr"]] = r
	}
	var texts []string
	for _, s := range servers {
		if len(texts) == shownBlockers {
			texts = append(texts, fmt.Sprintf("and %d more", len(servers)-shownBlockers))
			break
		}
		texts = append(texts, describe(s, clients[s["link"]]))
	}
	return texts, nil
}

// describe names a connection to a server, and its client when there is one.
func describe(server, client row) string {
	text := fmt.Sprintf("%s@%s pid %s on %s:%s (%s)", server["user"], server["database"], server["remote_pid"], server["addr"], server["port"], server["state"])
	if client == nil {
		return text
	}
	name := client["application_name"]
	if name == "" {
		name = "no application_name"
	}
	return fmt.Sprintf("%s for the client %s:%s (%s), last request %s", text, client["addr"], client["port"], name, client["request_time"])
}

const (
	resumeAttempts = 5
	// giveUpBound is how long ending a failed pause may take.
	giveUpBound = 20 * time.Second
	// flowBound is how long waiting clients may take to get a connection after
	// a pause before the settings are put back all the same.
	flowBound = 2 * time.Second
)

// giveUp ends what an attempt has paused, whether or not the caller still
// waits.
func (d *PgBouncer) giveUp(ctx context.Context) error {
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpBound)
	defer cancel()
	if err := d.resume(limit); err != nil && !errors.Is(err, errNotRunning) {
		return hint.With(err, d.inConsole(d.resumeCommands()))
	}
	return nil
}

func (d *PgBouncer) resumeCommands() string {
	commands := make([]string, len(d.o.Databases))
	for i, name := range d.o.Databases {
		commands[i] = "RESUME " + quoteName(name) + ";"
	}
	return strings.Join(commands, " ")
}

// resume ends the pause of every database, proves it, and ends the overrides
// when the clients flow.
func (d *PgBouncer) resume(ctx context.Context) error {
	var last error
	for range resumeAttempts {
		c, err := d.open(ctx, false)
		if err != nil {
			return errors.Join(last, err)
		}
		last = d.resumeOn(ctx, c, true)
		c.close()
		if last == nil || ctx.Err() != nil {
			return last
		}
	}
	return last
}

// resumeOn resumes what is paused, by a connection that was made after every
// earlier PAUSE was sent, so that the pooler has read those before. That a
// RESUME is refused is no error when the pause is over: somebody else was
// faster. With restore it ends the overrides, too.
func (d *PgBouncer) resumeOn(ctx context.Context, c *console, restore bool) error {
	shown, err := d.show(ctx, c)
	if err != nil {
		return err
	}
	paused := slices.DeleteFunc(slices.Clone(d.o.Databases), func(name string) bool { return !shown[name].paused })
	if len(paused) > 0 || !restore {
		if err := d.overrideSettings(ctx, c); err != nil {
			return err
		}
	}
	var refused error
	for _, name := range paused {
		_, err := d.ask(ctx, c, "RESUME "+quoteName(name))
		if err != nil && pg.Code(err) == "" {
			return err
		}
		refused = errors.Join(refused, err)
	}
	if shown, err = d.show(ctx, c); err != nil {
		return err
	}
	for _, name := range paused {
		if shown[name].paused {
			return errors.Join(fmt.Errorf("%s is still paused after RESUME", name), refused)
		}
	}
	if !restore {
		return nil
	}
	if err := d.flowing(ctx, c); err != nil {
		return err
	}
	return d.restoreSettings(ctx, c)
}

// flowing waits, not for long, until no client waits for a connection.
func (d *PgBouncer) flowing(ctx context.Context, c *console) error {
	err := waitFor(ctx, "clients to go on", pollEvery, flowBound, func() (bool, string, error) {
		pools, err := d.pools(ctx, c)
		stuck := slices.ContainsFunc(pools, func(pool row) bool { return pool["cl_waiting"] != "0" && pool["sv_active"] == "0" })
		return err == nil && !stuck, "", err
	})
	if errors.Is(err, pg.ErrTimeout) {
		return nil // their server does not let them in, which is no matter of the pause
	}
	return err
}
