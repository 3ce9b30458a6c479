package config

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	maxName = 30
	maxJobs = 64
)

// nameRule keeps every name made from a move's name within Postgres' 63 bytes
// and free of quoting.
var nameRule = regexp.MustCompile(`^[a-z][a-z0-9_]{0,29}$`)

// numbered is what a stream of an attempt looks like: the move's name and the
// attempt's number.
var numbered = regexp.MustCompile(`_[0-9]{8,}$`)

// validator checks the values of a Config.
type validator struct {
	// problem reports what is wrong with a key.
	problem func(key, format string, args ...any)
	// written returns what may be shown of a key's value.
	written func(key, value string) string
}

func (v *validator) validate(c *Config) {
	switch {
	case c.Name == "":
		v.problem("name", "is missing: a name for the move, such as shop")
	case !nameRule.MatchString(c.Name):
		v.problem("name", "%s is not a small letter followed by at most %d small letters, digits and underscores", v.show("name", c.Name), maxName-1)
	case numbered.MatchString(c.Name):
		v.problem("name", "%s ends like the streams of a cutover attempt, in an underscore and a long number; take another name", v.show("name", c.Name))
	}
	v.servers(c)
	v.failover("old.failover", c.Old.Failover)
	v.failover("new.failover", c.New.Failover)
	v.patterns("tables.include", c.Tables.Include)
	v.patterns("tables.exclude", c.Tables.Exclude)
	if len(c.Tables.Include) == 0 {
		v.problem("tables.include", "is empty; leave it out to move every table")
	}
	v.copying(c)
	v.atLeast("sequences.margin", c.Sequences.Margin, 0)
	v.warm(&c.Warm)
	v.jobs("analyze.jobs", c.Analyze.Jobs)
	v.between("analyze.per_table", c.Analyze.PerTable, time.Second, 24*time.Hour)
	if len(c.Analyze.Stages) == 0 {
		v.problem("analyze.stages", "is empty; give at least one, such as [default]")
	}
	v.wal(c)
	v.cutover(&c.Cutover)
	v.unreplicated(c)
	for i, t := range c.Traffic {
		v.traffic(fmt.Sprintf("traffic[%d]", i), t)
	}
	v.sharedEntries(c)
	v.sharedPoolers(c.Traffic)
	for i, t := range c.Traffic {
		if t.MultiHost != nil && c.Cutover.RevokeConnect {
			v.problem("cutover.revoke_connect", "cannot go with traffic[%d]: a multihost client that may not connect to one host does not try the other one", i)
		}
	}
	v.probe(&c.Probe)
}

func (v *validator) warm(w *Warm) {
	v.jobs("warm.jobs", w.Jobs)
	if w.Prewarm != "auto" && w.Prewarm != "never" {
		v.problem("warm.prewarm", "%s is not a way; use auto or never", v.show("warm.prewarm", w.Prewarm))
	}
	if w.Rate != 0 {
		v.atLeast("warm.rate", w.Rate.Bytes(), 1<<20)
	}
	v.between("warm.every", w.Every, time.Second, 24*time.Hour)
	v.between("warm.before_cutover", w.BeforeCutover, 0, time.Hour)
	for i, column := range w.Columns {
		if parts := strings.Split(column, "."); len(parts) != 3 || slices.Contains(parts, "") {
			key := fmt.Sprintf("warm.columns[%d]", i)
			v.problem(key, "%s is not a column such as public.orders.created_at", v.show(key, column))
		}
	}
}

func (v *validator) failover(key, value string) {
	if value != "" && value != "paused" {
		v.problem(key, "%s is not something to declare; use paused, or remove it", v.show(key, value))
	}
}

// servers checks the connection strings and what they have to do with each
// other. None of its messages shows any of them.
func (v *validator) servers(c *Config) {
	parse := func(key string, s Secret) *pgx.ConnConfig {
		parsed, err := parseURL(s)
		if err != nil {
			v.problem(key, "%v", err)
		}
		return parsed
	}
	need := func(key string, s Server) *pgx.ConnConfig {
		if !s.PeerURL.Empty() {
			parse(key+".peer_url", s.PeerURL)
		}
		if s.URL.Empty() {
			v.problem(key+".url", "is missing: the connection string of the %s server", key)
			return nil
		}
		return parse(key+".url", s.URL)
	}
	from, to := need("old", c.Old), need("new", c.New)
	if from == nil || to == nil {
		return
	}
	v.databases(c, from, to)
	for _, e := range endpoints(from) {
		if slices.Contains(endpoints(to), e) && (from.Database == to.Database || len(c.Databases) > 1) {
			v.problem("new.url", "names the same host, port and database as old.url")
			return
		}
	}
}

// patterns checks "schema.table" patterns.
func (v *validator) patterns(key string, patterns []string) {
	for i, p := range patterns {
		schema, table, dotted := strings.Cut(p, ".")
		if p == "" || p != strings.TrimSpace(p) || (dotted && (schema == "" || table == "")) {
			item := fmt.Sprintf("%s[%d]", key, i)
			v.problem(item, "%s is not a pattern such as public.*, audit.log_* or invoices", v.show(item, p))
		}
	}
}

// copying checks how the copy and the streams are made.
func (v *validator) copying(c *Config) {
	switch c.Copy.Mode {
	case "native":
	case "snapshot", "existing":
		v.problem("copy.mode", "%s is not available in this version; use native", c.Copy.Mode)
	default:
		v.problem("copy.mode", "%s is not a mode; use native", v.show("copy.mode", c.Copy.Mode))
	}
	v.jobs("copy.jobs", c.Copy.Jobs)
	switch {
	case c.Streams > 1:
		v.problem("streams", "more than 1 is not available in this version; use 1")
	case c.Streams < 1:
		v.problem("streams", "must be 1")
	}
}

func (v *validator) wal(c *Config) {
	switch c.WAL.OnLimit {
	case "warn":
	case "pause", "drop-slot":
		v.problem("wal.on_limit", "%s is not available in this version; use warn", c.WAL.OnLimit)
	default:
		v.problem("wal.on_limit", "%s is not something to do; use warn", v.show("wal.on_limit", c.WAL.OnLimit))
	}
}

func (v *validator) cutover(c *Cutover) {
	if c.MaxLag == 0 {
		v.problem("cutover.max_lag", "must be more than 0: a busy server is never without lag")
	}
	v.between("cutover.max_pause", c.MaxPause, 100*time.Millisecond, 10*time.Minute)
	v.between("cutover.lock_timeout", c.LockTimeout, 10*time.Millisecond, 10*time.Second)
	if c.Attempts < 1 || c.Attempts > 1000 {
		v.problem("cutover.attempts", "must be from 1 to 1000")
	}
	if c.OnClosed != "error" && c.OnClosed != "disconnect" {
		v.problem("cutover.on_closed", "%s is not something to do; use error or disconnect", v.show("cutover.on_closed", c.OnClosed))
	}
	if c.TerminateBlockersAfter != 0 {
		v.between("cutover.terminate_blockers_after", c.TerminateBlockersAfter, time.Second, time.Hour)
	}
}

func (v *validator) unreplicated(c *Config) {
	u := &c.Unreplicated
	v.between("unreplicated.budget", u.Budget, 10*time.Millisecond, 10*time.Minute)
	if u.Budget > c.Cutover.MaxPause && u.Budget != Default().Unreplicated.Budget { // which gives way to a short pause
		v.problem("unreplicated.budget", "is more than cutover.max_pause (%s), of which it is a part", c.Cutover.MaxPause)
	}
	if u.Unlogged != "copy" && u.Unlogged != "empty" {
		v.problem("unreplicated.unlogged", "%s is not something to do; use copy or empty", v.show("unreplicated.unlogged", u.Unlogged))
	}
	if !slices.Contains([]string{"copy", "idle", "ignore"}, u.LargeObjects) {
		v.problem("unreplicated.large_objects", "%s is not something to do; use copy, idle (nobody writes them during the cutover) or ignore", v.show("unreplicated.large_objects", u.LargeObjects))
	}
	v.between("refresh.bound", c.Refresh.Bound, time.Second, 7*24*time.Hour)
}

func (v *validator) traffic(key string, t Traffic) {
	ways := 0
	for _, given := range []bool{t.PgBouncer != nil, t.MultiHost != nil, t.Hook != nil} {
		if given {
			ways++
		}
	}
	switch {
	case ways == 0:
		v.problem(key, "names no way of moving clients; use pgbouncer, multihost or hook")
	case ways > 1:
		v.problem(key, "names %d ways of moving clients; make an entry of the list for each", ways)
	case t.PgBouncer != nil:
		v.pgbouncer(key+".pgbouncer", t.PgBouncer)
	case t.Hook != nil && (len(t.Hook.Command) == 0 || t.Hook.Command[0] == ""):
		v.problem(key+".hook.command", `is missing: the program and its arguments, such as ["./move-dns.sh"]`)
	}
}

// probe checks where to and how failures are told.
func (v *validator) probe(p *Probe) {
	if !p.URL.Empty() {
		if _, err := parseURL(p.URL); err != nil {
			v.problem("probe.url", "%v", err)
		}
	}
	if p.Webhook.Empty() {
		return
	}
	if u, err := url.Parse(p.Webhook.Reveal()); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		v.problem("probe.webhook", "is not an address such as https://example.org/hook")
	}
}

// show quotes a value for a message, as it stands in the file, unless it looks
// like a connection string in the wrong place.
func (v *validator) show(key, value string) string {
	value = v.written(key, value)
	if len(value) > 60 || strings.ContainsAny(value, ":@=") {
		return "the value"
	}
	return strconv.Quote(value)
}

func (v *validator) jobs(key string, jobs int) {
	if jobs < 1 || jobs > maxJobs {
		v.problem(key, "must be from 1 to %d", maxJobs)
	}
}

func (v *validator) atLeast(key string, n, least int64) {
	if n < least {
		v.problem(key, "must be at least %d", least)
	}
}

func (v *validator) between(key string, d Duration, least, most time.Duration) {
	if d.Std() < least || d.Std() > most {
		v.problem(key, "must be from %s to %s", Duration(least), Duration(most))
	}
}

// resolve makes paths absolute, starting at the folder of the file, and checks
// that the hooks' folder is there: hooks that are not found would not run.
func (v *validator) resolve(c *Config, folder string) {
	for _, t := range c.Traffic {
		if p := t.PgBouncer; p != nil && p.Config != "" && !filepath.IsAbs(p.Config) {
			p.Config = filepath.Join(folder, p.Config)
		}
		if t.Hook == nil || len(t.Hook.Command) == 0 {
			continue
		}
		if program := t.Hook.Command[0]; strings.Contains(program, "/") && !filepath.IsAbs(program) {
			t.Hook.Command[0] = filepath.Join(folder, program)
		}
	}
	if c.Hooks.Dir == "" {
		return
	}
	if !filepath.IsAbs(c.Hooks.Dir) {
		c.Hooks.Dir = filepath.Join(folder, c.Hooks.Dir)
	}
	if info, err := os.Stat(c.Hooks.Dir); err != nil || !info.IsDir() {
		v.problem("hooks.dir", "there is no folder %s", v.show("hooks.dir", c.Hooks.Dir))
	}
}
