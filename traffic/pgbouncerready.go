package traffic

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pgcutover/pgcutover/internal/hint"
)

// Ready proves that this pooler can take part in a cutover: that its admin
// console takes commands, that it leads to the server that serves, and nobody
// has paused it, that its entries can be rewritten, and that a probe reaches
// that server through it. It tells all that it finds and changes nothing.
func (d *PgBouncer) Ready(ctx context.Context, to Target) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	want, err := d.endpoint(to, to.Serving)
	if err != nil {
		return d.clean(err)
	}
	c, err := d.open(ctx, false)
	if err != nil {
		return d.clean(err)
	}
	defer c.close()
	shown, err := d.show(ctx, c)
	if err != nil {
		return d.clean(err)
	}
	errs := []error{d.mayAdminister(ctx, c), d.unpaused(shown), d.mayPause(ctx, c, shown), d.mayShare(shown)}
	if wrong := d.leads(shown, want); wrong != nil {
		errs = append(errs, d.elsewhere(to, wrong, shown))
	} else {
		errs = append(errs, d.mayRewrite(ctx, want))
	}
	if errors.Join(errs...) == nil {
		errs = append(errs, d.probe(ctx, to, readyBound))
	}
	return d.clean(errors.Join(errs...))
}

// unpaused finds databases that somebody has paused.
func (d *PgBouncer) unpaused(shown map[string]status) error {
	var errs []error
	for _, name := range d.o.Databases {
		if shown[name].paused {
			errs = append(errs, hint.With(fmt.Errorf("%s is paused already", name),
				"if nobody needs that, "+d.inConsole("RESUME "+quoteName(name)+";")))
		}
	}
	return errors.Join(errs...)
}

// mayShare finds databases whose pools the pooler fills by itself, also while
// they are paused: see pausingSettings.
func (d *PgBouncer) mayShare(shown map[string]status) error {
	if !d.o.Shared {
		return nil
	}
	var errs []error
	for _, name := range d.o.Databases {
		if n := shown[name].minPoolSize; n > 0 {
			errs = append(errs, hint.With(fmt.Errorf("%s has min_pool_size %d, and several databases of this pooler turn together", name, n),
				"set min_pool_size = 0 in the pooler's configuration and RELOAD, until the cutover is done"))
		}
	}
	return errors.Join(errs...)
}

// elsewhere adds to the finding that the entries do not lead to the address
// that the tool uses what to write into the configuration if they do lead to
// that server.
func (d *PgBouncer) elsewhere(to Target, wrong error, shown map[string]status) error {
	is := shown[d.o.Databases[0]].endpoint
	if is.Host == "" {
		return hint.With(wrong, fmt.Sprintf("an entry without host means the pooler's folder of Unix sockets: write the host out, RELOAD, and give the same as host under pgbouncer: %s", to.Serving))
	}
	return hint.With(wrong, fmt.Sprintf(
		"if that is the %s server by another name, write under pgbouncer: %s: { host: %q, port: %d, dbname: %q }",
		to.Serving, to.Serving, is.Host, is.Port, is.Database))
}

// mayPause finds session pooling, which keeps a PAUSE from ending. Databases and
// users may have a pool mode of their own.
func (d *PgBouncer) mayPause(ctx context.Context, c *console, shown map[string]status) error {
	if d.o.PauseAttempts == 0 {
		return nil
	}
	values, err := d.config(ctx, c)
	if err != nil {
		return err
	}
	pools, err := d.pools(ctx, c)
	if err != nil {
		return err
	}
	const session = "session"
	var errs []error
	for _, name := range d.o.Databases {
		mode := cmp.Or(shown[name].poolMode, values["pool_mode"])
		of := func(pool row) bool { return pool["database"] == name && pool["pool_mode"] == session }
		if mode == session || slices.ContainsFunc(pools, of) {
			errs = append(errs, hint.With(fmt.Errorf("%s has session pooling, where a PAUSE ends when the last client has left", name),
				"write pause_attempts: 0 under pgbouncer; clients are then disconnected at the switch"))
		}
	}
	return errors.Join(errs...)
}

// mayRewrite proves that the file says what runs, and that a new version of it
// can be put beside it.
func (d *PgBouncer) mayRewrite(ctx context.Context, runs PoolerEndpoint) error {
	before, after, err := d.edited(runs)
	if err != nil {
		return fmt.Errorf("reading %s: %w", d.o.File, err)
	}
	if !bytes.Equal(before, after) {
		return hint.With(fmt.Errorf("%s and the running pooler lead to different servers", d.o.File),
			"correct the entry or RELOAD; or config names a file that this pooler does not include")
	}
	staged, err := stage(ctx, d.o.File, before, after)
	if err != nil {
		return fmt.Errorf("preparing to rewrite %s: %w", d.o.File, err)
	}
	return staged.discard()
}

// edited returns the file as it is and as it would be with the entries leading
// to an endpoint.
func (d *PgBouncer) edited(to PoolerEndpoint) (before, after []byte, err error) {
	if before, err = os.ReadFile(d.o.File); err != nil {
		return nil, nil, err
	}
	after = before
	for _, name := range d.o.Databases {
		f, err := readIni(after)
		if err == nil {
			after, err = f.rewritten(name, to)
		}
		if errors.Is(err, errNoEntry) {
			err = missing(f, name)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return before, after, nil
}

// missing says where the entry of a database may be instead.
func missing(f ini, name string) error {
	err := fmt.Errorf("%w %s = ... in a section [%s]", errNoEntry, name, databasesSection)
	if e, ok := f.find("*"); ok {
		return hint.With(fmt.Errorf("%w; the entry * in line %d stands for it, and for others", err, e.line),
			"give "+name+" an entry of its own, with the keys of that one, and RELOAD")
	}
	if len(f.includes) > 0 {
		var files []string
		for _, i := range f.includes {
			files = append(files, i.path+" (line "+strconv.Itoa(i.line)+")")
		}
		return hint.With(fmt.Errorf("%w; it includes %s", err, strings.Join(files, ", ")), "name the file with the entry as config")
	}
	return err
}

// Warnings tells what is not wrong, but may cost some clients an error during
// a cutover.
func (d *PgBouncer) Warnings(ctx context.Context) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.open(ctx, false)
	if err != nil {
		return nil, d.clean(err)
	}
	defer c.close()
	shown, err := d.show(ctx, c)
	if err != nil {
		return nil, d.clean(err)
	}
	values, err := d.config(ctx, c)
	if err != nil {
		return nil, d.clean(err)
	}
	return d.warnings(shown, values), nil
}

// shortWait is a query_wait_timeout that a pause may reach, in seconds.
const shortWait = 30

func (d *PgBouncer) warnings(shown map[string]status, values map[string]string) []string {
	var texts []string
	if d.o.PauseAttempts == 0 {
		return append(texts, d.Name()+": clients are not made to wait but disconnected at the switch, for pause_attempts is 0")
	}
	for _, name := range d.o.Databases {
		if n := shown[name].minPoolSize; n > 0 && strconv.Itoa(n) != values["min_pool_size"] {
			texts = append(texts, fmt.Sprintf("%s: the entry of %s has min_pool_size=%d: PgBouncer opens connections while it is paused and turns some clients away right afterwards; take it out for the cutover", d.Name(), name, n))
		}
	}
	if wait, err := strconv.ParseFloat(values["query_wait_timeout"], 64); err == nil && wait > 0 && wait < shortWait {
		texts = append(texts, fmt.Sprintf("%s: query_wait_timeout is %v s: clients that wait longer are disconnected", d.Name(), wait))
	}
	return texts
}
