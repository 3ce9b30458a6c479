// Package config reads pgcutover.yaml, the one file that describes a move, or
// makes the same from two connection strings.
//
// The file is read strictly. A key that is not known, or given twice, a value
// of the wrong kind or out of range, and an option that this version does not
// have are errors, each with file, line and column; nothing is ignored. All
// that is wrong is reported at once.
//
// ${NAME} in a value stands for the environment variable NAME, which must be
// set; $$ stands for a dollar sign. Connection strings follow libpq (URL or
// keywords, service file, passfile; Postgres manual 32.1.1). They are kept in a
// Secret, which shows itself without its password wherever it is printed.
package config

import (
	"encoding/json"
	"time"
)

// Config is a validated description of a move. Its fields are those of the
// file, with the defaults filled in.
type Config struct {
	// Name is the move's name; what it makes on the servers is called after it.
	Name string `yaml:"name" json:"name"`
	// Old and New are the two servers, fixed for the whole move.
	Old Server `yaml:"old" json:"old"`
	New Server `yaml:"new" json:"new"`
	// Databases names the databases to move together, which the two urls then
	// need not name; empty means the one in the urls.
	Databases []string  `yaml:"databases" json:"databases,omitempty"`
	Tables    Tables    `yaml:"tables" json:"tables"`
	Check     Check     `yaml:"check" json:"check"`
	Copy      Copy      `yaml:"copy" json:"copy"`
	Streams   int       `yaml:"streams" json:"streams"`
	Sequences Sequences `yaml:"sequences" json:"sequences"`
	Warm      Warm      `yaml:"warm" json:"warm"`
	Analyze   Analyze   `yaml:"analyze" json:"analyze"`
	WAL       WAL       `yaml:"wal" json:"wal"`
	Cutover   Cutover   `yaml:"cutover" json:"cutover"`
	// Unreplicated says what becomes of what logical replication does not carry.
	Unreplicated Unreplicated `yaml:"unreplicated" json:"unreplicated"`
	Refresh      Refresh      `yaml:"refresh" json:"refresh"`
	Traffic      []Traffic    `yaml:"traffic" json:"traffic"`
	Hooks        Hooks        `yaml:"hooks" json:"hooks"`
	Rollback     Rollback     `yaml:"rollback" json:"rollback"`
	Probe        Probe        `yaml:"probe" json:"probe"`
}

// Server says how one of the two servers is reached.
type Server struct {
	// URL is how this tool reaches it.
	URL Secret `yaml:"url" json:"url"`
	// PeerURL is how the other server reaches it; empty means URL.
	PeerURL Secret `yaml:"peer_url" json:"peer_url"`
	// Failover is "paused" when the operator promises that no standby of this
	// server is promoted during a cutover, for new during a rollback; empty
	// otherwise.
	Failover string `yaml:"failover" json:"failover,omitempty"`
}

// Tables says which tables are moved, by patterns "schema.table" or "table" in
// which * stands for any characters. Exclude wins.
type Tables struct {
	Include []string `yaml:"include" json:"include"`
	Exclude []string `yaml:"exclude" json:"exclude"`
}

// Check says what check and start pass over.
type Check struct {
	// Ignore are the IDs of findings to set aside.
	Ignore []string `yaml:"ignore" json:"ignore,omitempty"`
}

// Copy says how the first copy is made.
type Copy struct {
	// Mode is "native": Postgres' own table synchronization.
	Mode string `yaml:"mode" json:"mode"`
	// Jobs is how much is done in parallel.
	Jobs int `yaml:"jobs" json:"jobs"`
}

// Sequences says how sequences are carried over.
type Sequences struct {
	// Margin is how many steps ahead of old they are set on new.
	Margin int64 `yaml:"margin" json:"margin"`
}

// Warm says what is read on new before it gets traffic.
type Warm struct {
	// Recent is the age of the rows to read.
	Recent Duration `yaml:"recent" json:"recent"`
	// Budget is how much may be read into the cache.
	Budget Budget `yaml:"budget" json:"budget"`
	// Jobs is the number of sessions that read.
	Jobs int `yaml:"jobs" json:"jobs"`
	// Rate is how much may be read a second, from outside the cache, by all of
	// them; 0 means as fast as they can.
	Rate Size `yaml:"rate" json:"rate"`
	// Prewarm is "auto" when pg_prewarm is used where it is installed, "never"
	// when everything is read by queries. It is never installed.
	Prewarm string `yaml:"prewarm" json:"prewarm"`
	// Columns are columns, as schema.table.column, that tell how old a row is
	// where their names do not.
	Columns []string `yaml:"columns" json:"columns,omitempty"`
	// Every is the time between two rounds of warm --keep.
	Every Duration `yaml:"every" json:"every"`
	// BeforeCutover bounds the round at the beginning of a cutover; 0 means none.
	BeforeCutover Duration `yaml:"before_cutover" json:"before_cutover"`
}

// Analyze says how planner statistics are made on new.
type Analyze struct {
	// Stages are the statistics targets of the rounds, coarse first. All but the
	// last are for big tables without statistics.
	Stages []Stage `yaml:"stages" json:"stages"`
	// Jobs is the number of sessions that analyze.
	Jobs int `yaml:"jobs" json:"jobs"`
	// PerTable is how long one table may take.
	PerTable Duration `yaml:"per_table" json:"per_table"`
	// Foreign says that foreign tables are analyzed, too.
	Foreign bool `yaml:"foreign" json:"foreign"`
	// Carry is true when old's statistics are carried over where new takes them.
	Carry bool `yaml:"carry" json:"carry"`
}

// WAL says how much WAL the old server may have to keep for the move.
type WAL struct {
	// Warn is the amount from which status warns; 0 means never.
	Warn Size `yaml:"warn" json:"warn"`
	// OnLimit is what is done then: "warn".
	OnLimit string `yaml:"on_limit" json:"on_limit"`
}

// Cutover bounds the cutover.
type Cutover struct {
	// MaxLag is how far new may be behind for a cutover to begin.
	MaxLag Size `yaml:"max_lag" json:"max_lag"`
	// MaxPause is how long writes may have to wait.
	MaxPause Duration `yaml:"max_pause" json:"max_pause"`
	// LockTimeout is how long one attempt at freezing the writes may wait for
	// the gate.
	LockTimeout Duration `yaml:"lock_timeout" json:"lock_timeout"`
	// Attempts is how often freezing is tried.
	Attempts int `yaml:"attempts" json:"attempts"`
	// OnClosed is what a closed fence does to a client that writes: "error"
	// (SQLSTATE 25006) or "disconnect".
	OnClosed string `yaml:"on_closed" json:"on_closed"`
	// TerminateBlockersAfter is how long a session may stand in the way before
	// it is ended; 0 means that none is.
	TerminateBlockersAfter Duration `yaml:"terminate_blockers_after" json:"terminate_blockers_after"`
	// RevokeConnect is true when, beside the fence, the clients' right to
	// connect to the server that no longer serves is revoked.
	RevokeConnect bool `yaml:"revoke_connect" json:"revoke_connect"`
}

// Unreplicated says what becomes of unlogged tables and large objects, which are
// moved while writes are frozen.
type Unreplicated struct {
	// Budget is how much longer writes may wait for it; cutover.max_pause at the
	// most.
	Budget Duration `yaml:"budget" json:"budget"`
	// Unlogged is "copy" when unlogged tables are to have the same rows, and
	// "empty" when they are to have none.
	Unlogged string `yaml:"unlogged" json:"unlogged"`
	// LargeObjects is "copy"; "idle" when the operator promises that nobody writes
	// them during the cutover, so that their writers need not be held; or "ignore".
	LargeObjects string `yaml:"large_objects" json:"large_objects"`
}

// Refresh says when materialized views are refreshed on the new server, besides
// once by start.
type Refresh struct {
	// BeforeCutover is true when a cutover refreshes them before it begins.
	BeforeCutover bool `yaml:"before_cutover" json:"before_cutover"`
	// Bound is how long that may take.
	Bound Duration `yaml:"bound" json:"bound"`
}

// Traffic is one way of moving clients. Exactly one field is set.
type Traffic struct {
	// PgBouncer: a pooler makes them wait and then leads them to new.
	PgBouncer *PgBouncer `yaml:"pgbouncer" json:"pgbouncer,omitempty"`
	// MultiHost: clients name both servers and find the one that takes writes.
	MultiHost *MultiHost `yaml:"multihost" json:"multihost,omitempty"`
	// Hook: a program of the operator moves them.
	Hook *Hook `yaml:"hook" json:"hook,omitempty"`
}

// MultiHost has no settings.
type MultiHost struct{}

// Hook is a program that moves clients to the new server.
type Hook struct {
	// Command is the program and its arguments; no shell is involved. A program
	// with a slash in its name is looked for from the config file's folder.
	Command []string `yaml:"command" json:"command"`
}

// Hooks says where the programs are that run around the steps.
type Hooks struct {
	// Dir is their folder, absolute after loading; empty means no hooks.
	Dir string `yaml:"dir" json:"dir"`
}

// Rollback says whether the way back is kept open.
type Rollback struct {
	// Keep is true when a cutover leaves a stream back to old behind, so that
	// rollback loses nothing.
	Keep bool `yaml:"keep" json:"keep"`
}

// Probe says how it is watched that writes are possible.
type Probe struct {
	// URL is where a write is tried, as a client would reach it.
	URL Secret `yaml:"url" json:"url"`
	// Webhook is the address that a failure is posted to. It often holds a
	// token.
	Webhook Secret `yaml:"webhook" json:"webhook"`
}

// Default returns the defaults of everything that has one.
func Default() Config {
	const gib = 1 << 30
	return Config{
		Databases: []string{},
		Check:     Check{Ignore: []string{}},
		Tables:    Tables{Include: []string{"*.*"}, Exclude: []string{}},
		Copy:      Copy{Mode: "native", Jobs: 4},
		Streams:   1,
		Sequences: Sequences{Margin: 100},
		Warm: Warm{
			Recent: Duration(24 * time.Hour), Jobs: 4, Prewarm: "auto", Columns: []string{},
			Every: Duration(5 * time.Minute), BeforeCutover: Duration(30 * time.Second),
		},
		Analyze: Analyze{Stages: []Stage{1, 10, DefaultTarget}, Jobs: 4, PerTable: Duration(15 * time.Minute), Carry: true},
		WAL:     WAL{Warn: 20 * gib, OnLimit: "warn"},
		Cutover: Cutover{
			MaxLag:      16 << 20,
			MaxPause:    Duration(10 * time.Second),
			LockTimeout: Duration(300 * time.Millisecond),
			Attempts:    20,
			OnClosed:    "error",
		},
		Unreplicated: Unreplicated{Budget: Duration(2 * time.Second), Unlogged: "copy", LargeObjects: "copy"},
		Refresh:      Refresh{BeforeCutover: true, Bound: Duration(time.Hour)},
		Traffic:      []Traffic{},
		Rollback:     Rollback{Keep: true},
	}
}

// String shows the whole configuration as JSON, passwords left out.
func (c Config) String() string {
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		// Every field marshals; a Config that does not is a mistake in here.
		return "config: " + err.Error()
	}
	return string(text)
}
