package preflight

import (
	"context"
	"slices"
	"time"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Severity says what a finding means for the move.
type Severity string

const (
	// Blocker means that the move would fail or lose something.
	Blocker Severity = "blocker"
	// Warning means a surprise that a person should have seen beforehand.
	Warning Severity = "warning"
	// Note is for the record.
	Note Severity = "note"
)

// Both is the value of Finding.Server for what concerns the pair.
const Both = "both"

// Finding is one problem: where, what was seen, what it leads to, what mends
// it.
type Finding struct {
	ID       string   `json:"id"`    // stable, for example "tables.replica-identity"
	Group    Group    `json:"group"` // filled in by Run
	Severity Severity `json:"severity"`
	Server   string   `json:"server"` // old, new or both
	// Database is the one concerned, in a report about several.
	Database string `json:"database,omitempty"`
	Object   string `json:"object,omitempty"` // what it is about: a table, a role, a setting
	Seen     string `json:"seen"`             // the evidence
	Why      string `json:"why"`              // what it leads to
	Fix      string `json:"fix,omitempty"`    // SQL, setting or action that mends it
	// FixKind says what Fix is: statements that psql runs as they stand, or words.
	FixKind FixKind `json:"fix_kind,omitempty"`
	// FixOn is the server that Fix is for, where it is not Server.
	FixOn pg.Side `json:"fix_on,omitempty"`
	// Undo takes Fix back. Fixes that have one are safe: they are what `check
	// --fix` runs by itself, and what the end of the move takes back.
	Undo string `json:"undo,omitempty"`
	Docs string `json:"docs"` // where more is said about it; filled in by Run
}

// FixKind is how a fix is carried out.
type FixKind string

const (
	// FixSQL is a fix that psql runs as it stands, and that works at once.
	FixSQL FixKind = "sql"
	// FixRestart is SQL too, and works when the server was restarted.
	FixRestart FixKind = "sql, then restart"
	// FixAction is told in words, or is SQL with something left to fill in.
	FixAction FixKind = "action"
)

// Group is what a finding belongs to, and the page of the documentation that
// explains it.
type Group string

// The groups, in the order in which a person reads them.
const (
	Servers Group = "servers" // versions, settings, capacity, connections between the servers
	Rights  Group = "rights"  // roles and privileges
	Tables  Group = "tables"  // what is replicated
	Objects Group = "objects" // what else is in the database, and who else uses it
	Space   Group = "space"   // WAL and disk
	Target  Group = "target"  // the new database
)

// Groups returns them in that order.
func Groups() []Group { return []Group{Servers, Rights, Tables, Objects, Space, Target} }

// Check is one thing to look at. Run returns the problems it found; an error
// means that it could not look.
type Check struct {
	ID    string
	Group Group
	About string   // one line for people
	Finds []string // the IDs of all findings that it can return
	Run   func(context.Context, *Pair) ([]Finding, error)
}

// Pair is what checks look at: the two servers and what the move is going to
// ask of them. Checks only read it and may run at the same time.
type Pair struct {
	Old, New *pg.Server
	Scope    Scope
	Settings Settings
}

// Settings are what the move is going to do, as far as checks depend on it.
// The zero value is a move with one stream, copied by the tool, without
// rollback.
type Settings struct {
	// Streams is the number of subscriptions that the move spreads over; less
	// than one means one.
	Streams int
	// Databases is the number of databases that move at the same time from the
	// one server to the other; less than one means one. The other numbers are for
	// each of them.
	Databases int
	// Family is how the names of those databases' moves begin, before an
	// underscore; empty for a database that moves alone.
	Family string
	// SyncWorkers is the number of table synchronisation workers that Postgres'
	// own copy is to use; zero when the tool copies.
	SyncWorkers int
	// DataPresent says that the tables and their rows already are on the new
	// server, so that it must not be empty.
	DataPresent bool
	// Rollback says that a reverse stream is wanted: then the new server must
	// be able to publish, the old one to subscribe, and reach it.
	Rollback bool
	// FailoverPaused says that the operator has paused the failover of the old
	// server's standbys.
	FailoverPaused bool
	// ClosedDisconnects says that clients of the closed server are disconnected,
	// where otherwise they get an error.
	ClosedDisconnects bool
	// TerminateBlockers says that sessions in the way of the freeze are to be
	// ended.
	TerminateBlockers bool
	// InFreeze says what a cutover from that server is going to do about what
	// logical replication does not carry; nil: unknown.
	InFreeze func(context.Context, *pg.Server) (*InFreeze, error)
	// LongTransaction is the age from which a transaction counts as long; zero
	// means a minute.
	LongTransaction time.Duration
	// WALWarn is the amount of retained WAL, in bytes, that the old server is
	// meant to have room for; zero means that nobody said so.
	WALWarn int64
	// Pause is the longest time for which writers may be held up; zero means
	// that nobody said so.
	Pause time.Duration
	// Sample is how long the growth of WAL is watched; zero means a second.
	Sample time.Duration
	// PeerTimeout is how long one server may take to connect to the other; zero
	// means ten seconds.
	PeerTimeout time.Duration
}

// ours is the beginning of what the move of s, and of the databases that move
// with it, make on a server.
func (p *Pair) ours(s *pg.Server) string {
	if p.Settings.Family != "" {
		return streamName(p.Settings.Family)
	}
	return streamName(s.Move())
}

func (s Settings) databases() int { return max(s.Databases, 1) }

// streams and syncWorkers are those of all databases together.
func (s Settings) streams() int     { return max(s.Streams, 1) * s.databases() }
func (s Settings) syncWorkers() int { return s.SyncWorkers * s.databases() }

func (s Settings) sample() time.Duration {
	if s.Sample <= 0 {
		return time.Second
	}
	return s.Sample
}

func (s Settings) longTransaction() time.Duration {
	if s.LongTransaction <= 0 {
		return time.Minute
	}
	return s.LongTransaction
}

func (s Settings) peerTimeout() time.Duration {
	if s.PeerTimeout <= 0 {
		return 10 * time.Second
	}
	return s.PeerTimeout
}

// All returns every check, in the order in which a person would want to read
// their findings.
func All() []Check {
	return slices.Concat(serverChecks(), rightsChecks(), tableChecks(), objectChecks(), spaceChecks(), targetChecks())
}

// Gates returns the checks that are made again right before a cutover. What was
// a warning while there was time is a blocker now. For a rollback the pair's Old
// is the server that the move calls new: it is the one to be closed.
func Gates() []Check {
	return []Check{
		{"transactions", Objects, "no prepared and no long transactions", transactionIDs, transactionsCheck(Blocker)},
		{"vacuum", Objects, "no VACUUM that will not give way", vacuumIDs, vacuumCheck(Blocker)},
		{"neighbours", Objects, "no subscription of others writes the tables on old", neighbourIDs, neighboursCheck(Blocker)},
		{"role-settings", Objects, "no setting of a role or database gets round the fence", roleSettingIDs, roleSettingsCheck(Blocker)},
		{"durability", Servers, "fsync and full_page_writes are on", durabilityIDs, durabilityCheck(Blocker)},
		{"standbys", Servers, "standbys of the old server cannot be promoted unfenced", standbyIDs, standbysCheck(Blocker)},
		{"large-objects", Objects, "large objects, which are copied in the freeze", largeObjectIDs, checkLargeObjects},
	}
}
