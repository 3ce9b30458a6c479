package traffic

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/pgcutover/pgcutover/internal/hint"
	"github.com/pgcutover/pgcutover/internal/pg"
)

// settings that the running pooler gets by SET for the time of a pause. They
// stand in no file: RELOAD puts the configured values back, and so does the
// tool. All have markerSetting among them.
//
// A PAUSE closes connections whose login is under way, and PgBouncer (1.18, and
// the code of 1.25) takes that for a server that refuses logins: after the
// RESUME it opens no connection and turns clients away until server_login_retry
// (15 s) has passed since that login began. With min_pool_size it begins such
// logins by itself, three times a second, while a database is paused.
var (
	pausingSettings = map[string]string{markerSetting: markerValue, "min_pool_size": "0"}
	// With session pooling a connection stays with its client, and so would
	// clients on a server that no longer serves.
	leavingSettings = map[string]string{markerSetting: markerValue, "server_fast_close": "1"}
)

// markerSetting tells by its value, which nobody configures, that the overrides
// are in place.
const (
	markerSetting = "server_login_retry"
	markerValue   = "0.0125"
)

// overrides are the settings that suit this pooler.
func (d *PgBouncer) overrides() map[string]string {
	if d.o.PauseAttempts > 0 {
		return pausingSettings
	}
	return leavingSettings
}

// config returns the settings of the running pooler.
func (d *PgBouncer) config(ctx context.Context, c *console) (map[string]string, error) {
	rows, err := d.ask(ctx, c, "SHOW CONFIG")
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, r := range rows {
		values[r["key"]] = r["value"]
	}
	return values, nil
}

// overrideSettings sets the overrides and remembers what was there. The marker
// comes first and is put back last.
func (d *PgBouncer) overrideSettings(ctx context.Context, c *console) error {
	wanted := d.overrides()
	// Known from before, they are not asked for again while clients wait.
	before := d.saved
	if before == nil {
		values, err := d.config(ctx, c)
		if err != nil || values[markerSetting] == markerValue {
			return err
		}
		before = map[string]string{}
		for key := range wanted {
			before[key] = values[key]
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(wanted), markerFirst) {
		if before[key] == wanted[key] {
			continue
		}
		if err := d.set(ctx, c, key, wanted[key]); err != nil {
			return err
		}
		d.saved = before
	}
	return nil
}

func markerFirst(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == markerSetting:
		return -1
	case b == markerSetting:
		return 1
	}
	return strings.Compare(a, b)
}

func (d *PgBouncer) set(ctx context.Context, c *console, key, value string) error {
	_, err := d.ask(ctx, c, "SET "+key+" = "+quoteText(value))
	return err
}

// restoreSettings ends the overrides: with the values that this process has
// seen, else, when another one set them, with those of the pooler's files.
func (d *PgBouncer) restoreSettings(ctx context.Context, c *console) error {
	values, err := d.config(ctx, c)
	if err != nil {
		return err
	}
	if values[markerSetting] != markerValue {
		d.saved = nil // a restart or a RELOAD was faster
		return nil
	}
	if len(d.saved) == 0 {
		_, err := d.ask(ctx, c, "RELOAD")
		return err
	}
	keys := slices.SortedFunc(maps.Keys(d.saved), markerFirst)
	for _, key := range slices.Backward(keys) {
		if err := d.set(ctx, c, key, d.saved[key]); err != nil {
			return err
		}
	}
	d.saved = nil
	return nil
}

// mayAdminister proves, by setting a setting to the value it has, that the
// console takes commands from this user: stats_users may only look. And that
// all commands reach the same process.
func (d *PgBouncer) mayAdminister(ctx context.Context, c *console) error {
	values, err := d.config(ctx, c)
	if err != nil {
		return err
	}
	_, unix := c.conn.RemoteAddr().(*net.UnixAddr)
	if values["so_reuseport"] == "1" && !unix {
		return hint.With(errors.New("with so_reuseport several PgBouncer processes share this port, and each command reaches another one"),
			"make an entry of traffic for each process, with its Unix socket in admin_url: host=/run/pgbouncer1 port=6432 dbname=pgbouncer")
	}
	err = d.set(ctx, c, markerSetting, values[markerSetting])
	if pg.Code(err) != "" {
		err = errors.Join(errors.New("the user of admin_url may look, but not command: name it in the pooler's admin_users"), err)
	}
	return err
}
