package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgcutover/pgcutover/internal/config"
)

// with returns the least file with lines added.
func with(lines string) string { return least + lines + "\n" }

// console is an admin console.
const console = "postgres://u@h:5432/pgbouncer"

// pooler returns a file with a pooler.
func pooler(adminURL, database, more string) string {
	return least + fmt.Sprintf("traffic:\n  - pgbouncer: { admin_url: %q,\n      database: %s,\n      config: z,\n      %s }", adminURL, database, more)
}

// Everything that can be wrong, with the whole message.
func TestErrors(t *testing.T) {
	const (
		url      = "is not a connection string that libpq would take, such as postgres://user@host:5432/database or host=... dbname=...; in a URL, special characters of the password must be percent-encoded"
		ends     = "is not a small letter followed by at most 29 small letters, digits and underscores"
		duration = "expects a duration such as 300ms, 10s or 24h"
		size     = "expects a size such as 512kB, 16MiB or 20GiB"
	)
	for name, c := range map[string]struct{ text, want string }{
		"empty": {"", `1:1: name: is missing: a name for the move, such as shop
1:1: old.url: is missing: the connection string of the old server
1:1: new.url: is missing: the connection string of the new server`},
		"only a comment": {"# nothing\n", `1:1: name: is missing: a name for the move, such as shop
1:1: old.url: is missing: the connection string of the old server
1:1: new.url: is missing: the connection string of the new server`},
		"a list":           {"- name: shop", "1:1: expects a mapping with the keys analyze, check, copy, cutover, databases, hooks, name, new, old, probe, refresh, rollback, sequences, streams, tables, traffic, unreplicated, wal, warm"},
		"two documents":    {least + "---\nname: x\n", "5:1: has a second YAML document; there may be one"},
		"syntax":           {with("copy: { jobs: 1"), "4:7: is not YAML: could not find flow mapping end token '}'"},
		"tab":              {with("copy:\n\tjobs: 1"), "5:1: is not YAML: found character '\t' that cannot start any token"},
		"too large":        {with("# " + strings.Repeat("x", 1<<16)), "1:1: is larger than 64kB: not a configuration"},
		"anchor":           {with("copy: &a { jobs: 1 }"), "4:7: copy: anchors, aliases and tags are not supported here"},
		"alias":            {"name: &a shop\n" + least[11:] + "databases: [*a]\n", "1:7: name: anchors, aliases and tags are not supported here\n4:13: databases[0]: anchors, aliases and tags are not supported here"},
		"tag":              {with("streams: !!int 1"), "4:10: streams: anchors, aliases and tags are not supported here"},
		"merge":            {with("copy:\n  <<: { jobs: 1 }"), "5:3: copy: has a key that is not a plain word with the keys jobs, mode"},
		"unknown key":      {with("colour: red"), "4:1: colour: unknown key; this is a mapping with the keys analyze, check, copy, cutover, databases, hooks, name, new, old, probe, refresh, rollback, sequences, streams, tables, traffic, unreplicated, wal, warm"},
		"near key":         {with("cutover:\n  max_lagg: 1MiB"), "5:3: cutover.max_lagg: unknown key; did you mean max_lag?"},
		"misplaced key":    {with("margin: 5"), "4:1: margin: unknown key; did you mean sequences.margin?"},
		"far key":          {with("warm: { speed: 1 }"), "4:9: warm.speed: unknown key; this is a mapping with the keys before_cutover, budget, columns, every, jobs, prewarm, rate, recent"},
		"key in a list":    {with("traffic:\n  - hook: { comand: [x] }"), "5:13: traffic[0].hook.comand: unknown key; did you mean command?"},
		"key of multihost": {with("traffic: [ { multihost: { a: 1 } } ]"), "4:27: traffic[0].multihost.a: unknown key; this is a mapping without keys"},
		"short key":        {with("no: 1"), "4:1: no: unknown key; this is a mapping with the keys analyze, check, copy, cutover, databases, hooks, name, new, old, probe, refresh, rollback, sequences, streams, tables, traffic, unreplicated, wal, warm"},
		"number as key":    {with("1: 2"), "4:1: 1: unknown key; this is a mapping with the keys analyze, check, copy, cutover, databases, hooks, name, new, old, probe, refresh, rollback, sequences, streams, tables, traffic, unreplicated, wal, warm"},
		"url as key":       {"name: a\nold: { postgres://u:s3cret@h/d: }\nnew: { url: postgres://h/b }", "2:8: old.(not shown): unknown key; this is a mapping with the keys failover, peer_url, url"},
		"key twice":        {with("streams: 1\nstreams: 1"), "5:1: streams: is given twice, first in line 4"},
		"inner key twice":  {with("warm: { jobs: 1, jobs: 2 }"), "4:18: warm.jobs: is given twice, first in line 4"},

		"scalar for mapping": {"name: a\nold: postgres://u:s3cret@h/d\nnew: { url: postgres://h/b }", "2:6: old: expects a mapping with the keys failover, peer_url, url"},
		"mapping for scalar": {with("streams: { a: 1 }"), "4:10: streams: expects a single value"},
		"scalar for list":    {with("databases: shop"), "4:12: databases: expects a list, such as [a, b]"},
		"null for list":      {with("databases:"), "4:12: databases: expects a list, such as [a, b]"},
		"null for scalar":    {with("streams:"), "4:10: streams: has no value"},
		"null in a list":     {with("databases: [~]"), "4:13: databases[0]: has no value"},
		"list for scalar":    {with("streams: [1]"), "4:10: streams: expects a single value"},
		"text for number":    {with("streams: one"), "4:10: streams: expects a whole number"},
		"fraction":           {with("streams: 1.5"), "4:10: streams: expects a whole number"},
		"huge number":        {with("sequences: { margin: 9223372036854775808 }"), "4:22: sequences.margin: expects a whole number"},
		"text for bool":      {with("rollback: { keep: maybe }"), "4:19: rollback.keep: expects true or false"},

		"unset variable":   {with("copy: { mode: \"${NO_SUCH}\" }"), "4:15: copy.mode: the environment variable NO_SUCH is not set"},
		"open variable":    {with("copy: { mode: \"${NO\" }"), "4:15: copy.mode: ${ must be followed by the name of an environment variable and }; write $$ for a dollar sign"},
		"bad variable":     {with("copy: { mode: \"${A-B}\" }"), "4:15: copy.mode: ${ must be followed by the name of an environment variable and }; write $$ for a dollar sign"},
		"bad variable too": {with("copy: { mode: \"${1A}\" }"), "4:15: copy.mode: ${ must be followed by the name of an environment variable and }; write $$ for a dollar sign"},
		"empty variable":   {with("copy: { mode: \"${}\" }"), "4:15: copy.mode: ${ must be followed by the name of an environment variable and }; write $$ for a dollar sign"},
		"variable's value": {with("copy: { mode: \"${PW}\" }"), "4:15: copy.mode: \"${PW}\" is not a mode; use native"},
		"variable in kind": {with("streams: ${PW}"), "4:10: streams: expects a whole number"},

		"name with capitals":  {strings.Replace(least, "shop", "Shop", 1), `1:7: name: "Shop" ` + ends},
		"name with digit":     {strings.Replace(least, "shop", "1shop", 1), `1:7: name: "1shop" ` + ends},
		"name too long":       {strings.Replace(least, "shop", strings.Repeat("a", 31), 1), `1:7: name: "` + strings.Repeat("a", 31) + `" ` + ends},
		"name far too long":   {strings.Replace(least, "shop", strings.Repeat("a", 61), 1), "1:7: name: the value " + ends},
		"url as name":         {strings.Replace(least, "shop", "postgres://u:s3cret@h/d", 1), "1:7: name: the value " + ends},
		"no old":              {"name: a\nnew: { url: postgres://h/b }", "1:1: old.url: is missing: the connection string of the old server"},
		"unknown failover":    {"name: a\nold: { url: postgres://h/a, failover: off-ish }\nnew: { url: postgres://h/b }", "2:39: old.failover: \"off-ish\" is not something to declare; use paused, or remove it"},
		"failover of new":     {"name: a\nold: { url: postgres://h/a }\nnew: { url: postgres://h/b, failover: stopped }", "3:39: new.failover: \"stopped\" is not something to declare; use paused, or remove it"},
		"numbered name":       {"name: a_28000000\nold: { url: postgres://h/a }\nnew: { url: postgres://h/b }", "1:7: name: \"a_28000000\" ends like the streams of a cutover attempt, in an underscore and a long number; take another name"},
		"no connection":       {"name: a\nold: { url: postgres://h/a }\nnew: { url: postgres://h/b }\ntraffic:\n  - multihost: {}\ncutover: { revoke_connect: true }", "6:28: cutover.revoke_connect: cannot go with traffic[0]: a multihost client that may not connect to one host does not try the other one"},
		"no old.url":          {"name: a\nold: { peer_url: postgres://h/a }\nnew: { url: postgres://h/b }", "2:1: old.url: is missing: the connection string of the old server"},
		"empty old.url":       {"name: a\nold: { url: \"\" }\nnew: { url: postgres://h/b }", "2:13: old.url: is missing: the connection string of the old server"},
		"url not parseable":   {"name: a\nold: { url: \"postgres://u:s3cret@h:port/a\" }\nnew: { url: postgres://h/b }", "2:13: old.url: " + url},
		"other scheme":        {"name: a\nold: { url: \"mysql://u:s3cret@h/a\" }\nnew: { url: postgres://h/b }", "2:13: old.url: " + url},
		"peer not parseable":  {"name: a\nold: { url: postgres://h/a }\nnew: { url: postgres://h/b, peer_url: \"host\" }", "3:39: new.peer_url: " + url},
		"sslmode":             {"name: a\nold: { url: \"postgres://u:s3cret@h/a?sslmode=never\" }\nnew: { url: postgres://h/b }", "2:13: old.url: has an sslmode that does not exist"},
		"root certificate":    {"name: a\nold: { url: \"postgres://u:s3cret@h/a?sslmode=verify-full&sslrootcert=/s3cret\" }\nnew: { url: postgres://h/b }", "2:13: old.url: names a file that cannot be read (sslrootcert, sslcert, sslkey, service file): no such file or directory"},
		"open quote":          {"name: a\nold: { url: \"host=h password='s3cret\" }\nnew: { url: postgres://h/b }", "2:13: old.url: has a quote that is not closed"},
		"same server":         {"name: a\nold: { url: postgres://u:s3cret@h/a }\nnew: { url: \"host=H port=5432 dbname=a user=x\" }", "3:13: new.url: names the same host, port and database as old.url"},
		"same, without TLS":   {"name: a\nold: { url: \"postgres://H/a?sslmode=disable\" }\nnew: { url: \"postgres://h/a?sslmode=disable\" }", "3:13: new.url: names the same host, port and database as old.url"},
		"same, several hosts": {"name: a\nold: { url: \"postgres://h1,h2:5433/a\" }\nnew: { url: postgres://h2:5433/a }", "3:13: new.url: names the same host, port and database as old.url"},

		"databases twice":   {with("databases: [a, b, a]"), "4:19: databases[2]: \"a\" is given twice"},
		"databases unnamed": {with("databases: [a, '']"), "4:16: databases[1]: \"\" is not the name of a database"},
		"another database":  {with("databases: [billing]"), "4:13: databases[0]: \"billing\" is not the database that old.url names\n4:13: databases[0]: \"billing\" is not the database that new.url names"},
		"no include":        {with("tables: { include: [] }"), "4:11: tables.include: is empty; leave it out to move every table"},
		"bad include":       {with("tables: { include: [\"public.\"] }"), `4:21: tables.include[0]: "public." is not a pattern such as public.*, audit.log_* or invoices`},
		"bad exclude":       {with("tables: { exclude: [\"a.b\", \" a.b\"] }"), `4:28: tables.exclude[1]: " a.b" is not a pattern such as public.*, audit.log_* or invoices`},
		"empty exclude":     {with("tables: { exclude: [\"\"] }"), `4:21: tables.exclude[0]: "" is not a pattern such as public.*, audit.log_* or invoices`},
		"copy.mode":         {with("copy: { mode: fast }"), `4:15: copy.mode: "fast" is not a mode; use native`},
		"copy.mode later":   {with("copy: { mode: snapshot }"), "4:15: copy.mode: snapshot is not available in this version; use native"},
		"copy.mode later 2": {with("copy: { mode: existing }"), "4:15: copy.mode: existing is not available in this version; use native"},
		"copy.jobs":         {with("copy: { jobs: 0 }"), "4:15: copy.jobs: must be from 1 to 64"},
		"warm.jobs":         {with("warm: { jobs: 65 }"), "4:15: warm.jobs: must be from 1 to 64"},
		"warm.rate":         {with("warm: { rate: 1kB }"), "4:15: warm.rate: must be at least 1048576"},
		"warm.prewarm":      {with("warm: { prewarm: install }"), `4:18: warm.prewarm: "install" is not a way; use auto or never`},
		"warm.columns":      {with("warm: { columns: [orders.at] }"), `4:19: warm.columns[0]: "orders.at" is not a column such as public.orders.created_at`},
		"warm.every":        {with("warm: { every: 10ms }"), "4:16: warm.every: must be from 1s to 24h"},
		"analyze.jobs":      {with("analyze: { jobs: -1 }"), "4:18: analyze.jobs: must be from 1 to 64"},
		"streams later":     {with("streams: 2"), "4:10: streams: more than 1 is not available in this version; use 1"},
		"streams":           {with("streams: 0"), "4:10: streams: must be 1"},
		"margin":            {with("sequences: { margin: -1 }"), "4:22: sequences.margin: must be at least 0"},
		"recent":            {with("warm: { recent: 24 }"), "4:17: warm.recent: " + duration},
		"recent negative":   {with("warm: { recent: -1h }"), "4:17: warm.recent: " + duration},
		"budget":            {with("warm: { budget: all }"), "4:17: warm.budget: expects auto or a size such as 2GiB"},
		"budget zero":       {with("warm: { budget: 0 }"), "4:17: warm.budget: expects auto or a size such as 2GiB"},
		"per_table":         {with("analyze: { per_table: 500ms }"), "4:23: analyze.per_table: must be from 1s to 24h"},
		"stages":            {with("analyze: { stages: [] }"), "4:12: analyze.stages: is empty; give at least one, such as [default]"},
		"stage zero":        {with("analyze: { stages: [1, 0] }"), "4:24: analyze.stages[1]: expects default or a statistics target from 1 to 10000"},
		"stage too high":    {with("analyze: { stages: [10001] }"), "4:21: analyze.stages[0]: expects default or a statistics target from 1 to 10000"},
		"stage a word":      {with("analyze: { stages: [full] }"), "4:21: analyze.stages[0]: expects default or a statistics target from 1 to 10000"},
		"wal.warn":          {with("wal: { warn: 20 }"), "4:14: wal.warn: " + size},
		"wal.warn unit":     {with("wal: { warn: 20Gb }"), "4:14: wal.warn: " + size},
		"wal.warn fraction": {with("wal: { warn: 1.5GiB }"), "4:14: wal.warn: " + size},
		"wal.warn too much": {with("wal: { warn: 9999999999TiB }"), "4:14: wal.warn: is larger than any server"},
		"wal.limit later":   {with("wal: { limit: 100GiB }"), "4:8: wal.limit: is not available in this version; remove it (wal.warn is)"},
		"on_limit later":    {with("wal: { on_limit: drop-slot }"), "4:18: wal.on_limit: drop-slot is not available in this version; use warn"},
		"on_limit":          {with("wal: { on_limit: panic }"), `4:18: wal.on_limit: "panic" is not something to do; use warn`},
		"verify later":      {with("verify: { mode: full, jobs: 2 }"), "4:1: verify: is not available in this version; remove it"},
		"max_lag":           {with("cutover: { max_lag: 0 }"), "4:21: cutover.max_lag: must be more than 0: a busy server is never without lag"},
		"unreplicated":      {with("unreplicated: { budget: 11s, unlogged: skip, large_objects: move }"), "4:25: unreplicated.budget: is more than cutover.max_pause (10s), of which it is a part\n4:40: unreplicated.unlogged: \"skip\" is not something to do; use copy or empty\n4:61: unreplicated.large_objects: \"move\" is not something to do; use copy, idle (nobody writes them during the cutover) or ignore"},
		"refresh":           {with("refresh: { bound: 1ms }"), "4:19: refresh.bound: must be from 1s to 168h"},
		"max_pause low":     {with("cutover: { max_pause: 99ms }"), "4:23: cutover.max_pause: must be from 100ms to 10m"},
		"max_pause high":    {with("cutover: { max_pause: 11m }"), "4:23: cutover.max_pause: must be from 100ms to 10m"},
		"lock_timeout low":  {with("cutover: { lock_timeout: 9ms }"), "4:26: cutover.lock_timeout: must be from 10ms to 10s"},
		"lock_timeout high": {with("cutover: { lock_timeout: 11s }"), "4:26: cutover.lock_timeout: must be from 10ms to 10s"},
		"attempts low":      {with("cutover: { attempts: 0 }"), "4:22: cutover.attempts: must be from 1 to 1000"},
		"attempts high":     {with("cutover: { attempts: 1001 }"), "4:22: cutover.attempts: must be from 1 to 1000"},
		"on_closed":         {with("cutover: { on_closed: hang }"), `4:23: cutover.on_closed: "hang" is not something to do; use error or disconnect`},
		"pgbouncer empty": {with("traffic: [ { pgbouncer: {} } ]"), `4:14: traffic[0].pgbouncer.admin_url: is missing: the connection string of the admin console, such as postgres://admin@pooler:6432/pgbouncer
4:14: traffic[0].pgbouncer.database: is missing: the pooler's name of the database, or a list of them
4:14: traffic[0].pgbouncer.config: is missing: the file with the entry of the database, pgbouncer.ini or one that it includes`},
		"pgbouncer console":   {pooler("postgres://u:s3cret@h/shop", "x", ""), "5:29: traffic[0].pgbouncer.admin_url: does not name the database pgbouncer, which is the admin console"},
		"pgbouncer url":       {pooler("postgres://u:s3cret:h/pgbouncer", "x", ""), "5:29: traffic[0].pgbouncer.admin_url: " + url},
		"pgbouncer hosts":     {pooler("postgres://a,b/pgbouncer", "x", ""), "5:29: traffic[0].pgbouncer.admin_url: names several hosts; make an entry of the list for each pooler"},
		"pgbouncer wildcard":  {pooler(console, `"*"`, ""), "6:17: traffic[0].pgbouncer.database: * stands for every database; give this one an entry of its own in the pooler's file, and its name here"},
		"pgbouncer no names":  {pooler(console, "[]", ""), "6:7: traffic[0].pgbouncer.database: is missing: the pooler's name of the database, or a list of them"},
		"pgbouncer names":     {pooler(console, `[a, "", pgbouncer, a]`, ""), "6:21: traffic[0].pgbouncer.database[1]: is empty\n6:25: traffic[0].pgbouncer.database[2]: is the admin console; name the database that clients use\n6:36: traffic[0].pgbouncer.database[3]: \"a\" is given twice"},
		"pgbouncer mapping":   {pooler(console, "{ a: b }", ""), "6:17: traffic[0].pgbouncer.database: expects a list, such as [a, b]"},
		"pgbouncer long name": {pooler(console, strings.Repeat("x", 64), ""), "6:17: traffic[0].pgbouncer.database: the value is not a name of at most 63 bytes in one line"},
		"pgbouncer probe":     {pooler(console, "x", `probe_url: "postgres://u:s3cret@h/pgbouncer"`), "8:18: traffic[0].pgbouncer.probe_url: names the admin console; give a connection string for clients"},
		"pgbouncer probe url": {pooler(console, "x", `probe_url: "postgres://u:s3cret:h"`), "8:18: traffic[0].pgbouncer.probe_url: " + url},
		"pgbouncer port":      {pooler(console, "x", "old: { port: 65536 }"), "8:20: traffic[0].pgbouncer.old.port: must be from 1 to 65535"},
		"pgbouncer host":      {pooler(console, "x", `new: { host: "a\nb" }`), "8:20: traffic[0].pgbouncer.new.host: must be one line"},
		"pgbouncer timeout":   {pooler(console, "x", "pause_timeout: 2m"), "8:22: traffic[0].pgbouncer.pause_timeout: must be from 50ms to 1m"},
		"pgbouncer attempts":  {pooler(console, "x", "pause_attempts: -1"), "8:23: traffic[0].pgbouncer.pause_attempts: must be from 0 (clients are not made to wait) to 100"},
		"pgbouncer key":       {pooler(console, "x", "databases: y"), "8:7: traffic[0].pgbouncer.databases: unknown key; did you mean database?"},
		"pgbouncer twice":     {pooler(console, "[x, y]", "") + "\n  - pgbouncer: { admin_url: \"host=h dbname=pgbouncer\", database: y, config: z }", "9:66: traffic[1].pgbouncer.database: \"y\" of this pooler is in traffic[0].pgbouncer already"},
		"webhook":             {with("probe: { webhook: s3cret }"), "4:19: probe.webhook: is not an address such as https://example.org/hook"},
		"probe url":           {with(`probe: { url: "postgres://u:s3cret:h" }`), "4:15: probe.url: " + url},
		"terminate soon":      {with("cutover: { terminate_blockers_after: 10ms }"), "4:38: cutover.terminate_blockers_after: must be from 1s to 1h"},
		"revoke maybe":        {with("cutover: { revoke_connect: maybe }"), "4:28: cutover.revoke_connect: expects true or false"},
		"traffic empty":       {with("traffic: [ {} ]"), "4:12: traffic[0]: names no way of moving clients; use pgbouncer, multihost or hook"},
		"traffic null":        {with("traffic: [ ~ ]"), "4:12: traffic[0]: names no way of moving clients; use pgbouncer, multihost or hook"},
		"traffic both":        {with("traffic:\n  - multihost: {}\n    hook: { command: [x] }"), "5:5: traffic[0]: names 2 ways of moving clients; make an entry of the list for each"},
		"hook empty":          {with("traffic: [ { hook: {} } ]"), `4:14: traffic[0].hook.command: is missing: the program and its arguments, such as ["./move-dns.sh"]`},
		"hook nameless":       {with("traffic: [ { hook: { command: [\"\"] } } ]"), `4:22: traffic[0].hook.command: is missing: the program and its arguments, such as ["./move-dns.sh"]`},
		"hooks.dir":           {with("hooks: { dir: ./nowhere }"), `4:15: hooks.dir: there is no folder "./nowhere"`},

		"several at once": {
			"name: A\nold: { url: postgres://h/a }\nnew: { url: postgres://h/b }\nstreams: 3\ncutover: { attempts: 0 }",
			`1:7: name: "A" ` + ends + "\n4:10: streams: more than 1 is not available in this version; use 1\n5:22: cutover.attempts: must be from 1 to 1000",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := config.Parse("f.yaml", []byte(c.text), env("PW", "hunter2"))
			if err == nil {
				t.Fatal("accepted")
			}
			want := "f.yaml:" + strings.ReplaceAll(c.want, "\n", "\nf.yaml:")
			if err.Error() != want {
				t.Errorf("\n got %s\nwant %s", err, want)
			}
			for _, secret := range []string{"s3cret", "hunter2"} {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
					t.Errorf("the message holds a password: %s", err)
				}
			}
			var e *config.Error
			if !errors.As(err, &e) || e.File != "f.yaml" || e.Line < 1 || e.Column < 1 {
				t.Errorf("the error has no place: %+v", e)
			}
		})
	}
}

// A file in the place of the hooks' folder is no folder.
func TestHooksDirMustBeAFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pgcutover.yaml")
	if err := os.WriteFile(path, []byte(with("hooks: { dir: pgcutover.yaml }")), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := config.Load(path)
	if want := path + `:4:15: hooks.dir: there is no folder "pgcutover.yaml"`; err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
}

// FuzzParse: no input makes the loader panic, every error has a place, and none
// shows what came from the environment.
func FuzzParse(f *testing.F) {
	f.Add([]byte(least))
	f.Add([]byte(with("cutover: { max_lag: 16MiB, max_pause: 10s }\ntraffic:\n  - multihost: {}\n  - hook: { command: [a] }")))
	f.Add([]byte("name: a${PW}\nold: { url: \"postgres://u:${PW}@h/a\" }\nnew:\n  url: |\n    host=h dbname=b password=${PW}\n"))
	f.Add([]byte("&a [*a]: {<<: ? !!x\n"))
	f.Add([]byte("name: \"\\xff\"\n---\n%YAML 1.2\n"))
	f.Add([]byte("old: [[[[{{{{"))
	f.Fuzz(func(t *testing.T, text []byte) {
		const password = "correct-horse-battery-staple"
		c, err := config.Parse("f.yaml", text, env("PW", password))
		if err == nil {
			if c.Name == "" || c.Old.URL.Empty() || c.New.URL.Empty() {
				t.Fatalf("accepted: %s", c)
			}
			return
		}
		for _, e := range flatten(err) {
			var place *config.Error
			if !errors.As(e, &place) || place.Line < 1 || place.Column < 1 || place.Problem == "" {
				t.Fatalf("an error without a place: %v", e)
			}
		}
		if strings.Contains(err.Error(), password) {
			t.Fatalf("a password is shown: %v", err)
		}
	})
}
