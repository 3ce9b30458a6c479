package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Template returns a commented pgcutover.yaml for a move between two
// connection strings. Lines that begin with # and no space are options with
// their defaults. Passwords are left out: libpq finds them in a passfile. An
// empty name means one made of the old database's name. What is returned loads.
func Template(oldURL, newURL, name string) ([]byte, error) {
	c, err := FromURLs(oldURL, newURL, name)
	if err != nil {
		return nil, err
	}
	from, errOld := withoutPassword("old.url", c.Old.URL)
	to, errNew := withoutPassword("new.url", c.New.URL)
	if err := errors.Join(errOld, errNew); err != nil {
		return nil, err
	}
	text := fmt.Appendf(nil, template, c.Name, quote(from), quote(to))
	none := func(string) (string, bool) { return "", false }
	if _, err := Parse("pgcutover.yaml", text, none); err != nil {
		return nil, fmt.Errorf("checking the new configuration: %w", err)
	}
	return text, nil
}

const template = `# The configuration of one move. Connection strings are those of libpq: URLs or
# keywords. Leave passwords out and put them into ~/.pgpass (or the file that
# PGPASSFILE names), or write ${OLD_PASSWORD} within the quotes to take one from
# the environment. A dollar sign is written $$.
#
# Lines that begin with # and no space are options with their defaults.

# What the move makes on the servers is called pgcutover_<name>.
name: %s

# The server that takes the writes now, and the one that will. Add peer_url to
# either if the other server reaches it by another address. If old has standbys
# that synchronized_standby_slots does not name, pause their failover for the
# cutover and declare it under old: failover: paused
old:
  url: %s
new:
  url: %s

# Databases to move together, under one freeze, in place of the one in the urls.
#databases: []

# Findings of check, by their IDs, that do not keep the move from starting.
#check:
#  ignore: []

# Tables to move, as schema.table or table; * stands for any characters.
#tables:
#  include: ["*.*"]
#  exclude: []

# The first copy, by Postgres' own table synchronization.
#copy:
#  mode: native
#  jobs: 4

# Sequences on new are set this many steps ahead of old.
#sequences:
#  margin: 100

# What to read on new before it gets traffic: rows of the last 24 hours and what
# old keeps in its cache, into as much memory as new's settings allow (or a size,
# such as 2GiB), at most rate a second (0: no bound). prewarm: never does without
# pg_prewarm, which is not installed but used where it is. columns names columns
# that tell how old a row is, such as public.orders.booked. warm --keep repeats it
# every so often; a cutover does so once more, for before_cutover at the most (0s:
# not at all).
#warm:
#  recent: 24h
#  budget: auto
#  jobs: 4
#  rate: 0
#  prewarm: auto
#  columns: []
#  every: 5m
#  before_cutover: 30s

# Planner statistics on new. Tables of up to 16 MB get them at once, with the last
# of the stages; bigger ones that have none go through all of them, so that each
# soon has rough ones (of the three below the first and the last, unless there are
# more such tables than jobs); what has some only gets the last. One table may
# take per_table. Foreign tables are analyzed only if they are asked for. Where new
# is 18 or later, old's statistics are carried over before all that.
#analyze:
#  stages: [1, 10, default]
#  jobs: 4
#  per_table: 15m
#  foreign: false
#  carry: true

# status warns when old keeps more WAL than this for the move.
#wal:
#  warn: 20GiB

# The cutover begins when new is no further behind than max_lag. Writers wait
# max_pause at the most; past it, all is undone. Each of the attempts to freeze
# the writes may hold them up for lock_timeout. on_closed says what clients get
# that go on writing to old: an error (SQLSTATE 25006), or disconnect. Sessions
# that stand in the way are ended after terminate_blockers_after (0s: never).
# revoke_connect takes away the clients' right to connect to old, too.
#cutover:
#  max_lag: 16MiB
#  max_pause: 10s
#  lock_timeout: 300ms
#  attempts: 20
#  on_closed: error
#  terminate_blockers_after: 0s
#  revoke_connect: false

# Unlogged tables and large objects are not in the stream: they are copied while
# the writes are frozen, if that takes no longer than budget. unlogged: empty
# leaves these tables without rows. large_objects: idle promises that nobody writes
# them during the cutover, where the tool cannot hold their writers; ignore leaves
# them behind.
#unreplicated:
#  budget: 2s
#  unlogged: copy
#  large_objects: copy

# Materialized views that are filled on old are refreshed on new before a cutover.
#refresh:
#  before_cutover: true
#  bound: 1h

# How clients get to new. pgbouncer: a pooler makes them wait, then leads them
# there; admin_url is its admin console, database its name of the database (or a
# list of names; with several databases each name is a database's, or for: says
# whose), config the file with that entry. It must reach the servers by
# the hosts and ports of the urls above; otherwise add how it does, for instance
# old: { host: 10.0.0.1, port: 5432, dbname: shop }. multihost: they name both
# servers and look for the one that takes writes (target_session_attrs=read-write).
# hook: a program of yours moves them.
#traffic:
#  - pgbouncer:
#      admin_url: "postgres://admin@127.0.0.1:6432/pgbouncer"
#      database: shop
#      config: /etc/pgbouncer/pgbouncer.ini
#      pause_timeout: 1s
#      pause_attempts: 5
#  - multihost: {}
#  - hook: { command: ["./move-dns.sh"] }

# Whether a cutover leaves a stream back to old behind, for: pgcutover rollback
#rollback:
#  keep: true

# Where pgcutover probe tries a write, and what a failure is posted to.
#probe:
#  url: "postgres://app@127.0.0.1:6432/shop"
#  webhook: "https://example.org/hook"

# Programs named before-<step> or after-<step> in this folder run around the
# steps of the cutover; one that fails before the point of no return stops it.
#hooks:
#  dir: ./hooks
`

// quote writes a string as YAML with double quotes, safe from expansion.
func quote(text string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	// A string always encodes, and JSON's strings are YAML's.
	_ = e.Encode(strings.ReplaceAll(text, "$", "$$"))
	return strings.TrimSuffix(b.String(), "\n")
}

// withoutPassword returns a connection string without its passwords, or an
// error when it cannot be told for certain that they are gone.
func withoutPassword(key string, s Secret) (string, error) {
	fail := &Error{Key: key, Problem: "give it without its password: it cannot be told where in it the password ends"}
	before, err := parseURL(s)
	if err != nil || s.String() == hidden {
		return "", fail
	}
	text := s.Reveal()
	if strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://") {
		text, err = stripURL(text)
	} else {
		text, err = stripKeywords(text)
	}
	if err != nil {
		return "", fail
	}
	after, err := pgx.ParseConfig(text)
	if err != nil || after.User != before.User || after.Database != before.Database ||
		fmt.Sprint(endpoints(after)) != fmt.Sprint(endpoints(before)) {
		return "", fail
	}
	return text, nil
}

// stripURL cuts the userinfo's password and the password parameters out of a
// URL, leaving the rest as it is written (net/url refuses several hosts).
func stripURL(text string) (string, error) {
	scheme, rest, _ := strings.Cut(text, "://")
	rest, query, hasQuery := strings.Cut(rest, "?")
	authority, path, hasPath := strings.Cut(rest, "/")
	if strings.Contains(path, "@") || strings.Contains(query, "@") || strings.Count(authority, "@") > 1 {
		return "", errors.New("ambiguous")
	}
	if user, hosts, ok := strings.Cut(authority, "@"); ok {
		user, _, _ = strings.Cut(user, ":")
		authority = user + "@" + hosts
	}
	out := scheme + "://" + authority
	if hasPath {
		out += "/" + path
	}
	if !hasQuery {
		return out, nil
	}
	var kept []string
	for _, parameter := range strings.Split(query, "&") {
		name, _, _ := strings.Cut(parameter, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return "", err
		}
		if !isPassword(name) {
			kept = append(kept, parameter)
		}
	}
	if len(kept) > 0 {
		out += "?" + strings.Join(kept, "&")
	}
	return out, nil
}

func isPassword(name string) bool {
	name = strings.ToLower(strings.TrimSpace(name))
	return name == "password" || name == "sslpassword"
}

// stripKeywords leaves the password keywords out of "key=value key='value'".
// Postgres manual 32.1.1.1.
func stripKeywords(text string) (string, error) {
	var kept []string
	for rest := strings.TrimSpace(text); rest != ""; {
		name, after, found := strings.Cut(rest, "=")
		if !found {
			return "", errors.New("no value")
		}
		after = strings.TrimLeft(after, " \t\r\n")
		end, err := valueEnd(after)
		if err != nil {
			return "", err
		}
		// A URL with a slip in its scheme is read as a strange keyword.
		name = strings.TrimSpace(name)
		if !keyword.MatchString(name) || strings.Contains(after[:end], "://") {
			return "", errors.New("ambiguous")
		}
		if !isPassword(name) {
			kept = append(kept, name+"="+after[:end])
		}
		rest = strings.TrimSpace(after[end:])
	}
	return strings.Join(kept, " "), nil
}

var keyword = regexp.MustCompile(`^[A-Za-z_]+$`)

// valueEnd returns where the value that text begins with ends.
func valueEnd(text string) (int, error) {
	quoted := strings.HasPrefix(text, "'")
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			i++
		case quoted && i > 0 && c == '\'':
			return i + 1, nil
		case !quoted && strings.IndexByte(" \t\r\n", c) >= 0:
			return i, nil
		}
	}
	if quoted {
		return 0, errors.New("no closing quote")
	}
	return len(text), nil
}
