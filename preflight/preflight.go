package preflight

import (
	"context"
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
	ID       string   `json:"id"` // stable, for example "tables.replica-identity"
	Severity Severity `json:"severity"`
	Server   string   `json:"server"`           // old, new or both
	Object   string   `json:"object,omitempty"` // what it is about: a table, a role, a setting
	Seen     string   `json:"seen"`             // the evidence
	Why      string   `json:"why"`              // what it leads to
	Fix      string   `json:"fix,omitempty"`    // SQL, setting or action that mends it
}

// Check is one thing to look at. Run returns the problems it found; an error
// means that it could not look.
type Check struct {
	ID    string
	About string // one line for people
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
	// TerminateBlockers says that sessions in the way of the freeze are to be
	// ended.
	TerminateBlockers bool
	// LongTransaction is the age from which a transaction counts as long; zero
	// means a minute.
	LongTransaction time.Duration
	// PeerTimeout is how long one server may take to connect to the other; zero
	// means ten seconds.
	PeerTimeout time.Duration
}

func (s Settings) streams() int { return max(s.Streams, 1) }

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
	return []Check{
		{"versions", "both majors are supported and the new one is not older", checkVersions},
		{"identity", "the two servers are two databases, and neither is a standby", checkIdentity},
		{"session", "the connection strings reach the servers themselves, and both run PL/pgSQL", checkSession},
		{"leftovers", "no other move stands on either server", checkLeftovers},
		{"rights", "the tool's roles have the rights that the move needs", checkRights},
		{"ownership", "the tool's roles may alter and read every table", checkOwnership},
		{"publisher", "WAL level, replication slots and walsenders suffice", checkPublisher},
		{"subscriber", "replication workers and origins suffice", checkSubscriber},
		{"replication", "the tool may open a replication connection", checkReplication},
		{"peer", "each server that subscribes reaches the one that publishes", checkPeer},
		{"clients", "pg_dump and pg_restore are here and new enough", checkClients},
		{"target", "the new database is empty", checkTarget},
		{"locale", "encodings and collations of the two databases agree", checkLocale},
		{"extensions", "the new server has every extension of the old one", checkExtensions},
		{"roles", "the new server has every role that the old database names", checkRoles},
		{"replica-identity", "UPDATE and DELETE on every published table can be replicated", checkReplicaIdentity},
		{"row-security", "row-level security hides no row from the copy and stops no apply", checkRowSecurity},
		{"sequences", "every sequence can be read", checkSequences},
		{"types", "no column uses what the new major has removed", checkTypes},
		{"triggers", "triggers that fire during replication, and event triggers", checkTriggers},
		{"not-carried", "what logical replication leaves behind", checkNotCarried},
		{"large-objects", "large objects, which stay behind", checkLargeObjects},
		{"locks", "the lock table has room for all tables", checkLocks},
		{"transactions", "no prepared and no long transactions", transactionsCheck(Warning)},
		{"vacuum", "no VACUUM that will not give way", vacuumCheck(Warning)},
		{"neighbours", "publications, subscriptions and slots of others", neighboursCheck(Warning)},
		{"role-settings", "no setting of a role or database gets round the fence", roleSettingsCheck(Warning)},
		{"durability", "fsync and full_page_writes are on", durabilityCheck(Warning)},
		{"standbys", "standbys of the old server cannot be promoted unfenced", standbysCheck(Warning)},
	}
}

// Gates returns the checks that are made again right before a cutover. What was
// a warning while there was time is a blocker now. For a rollback the pair's Old
// is the server that the move calls new: it is the one to be closed.
func Gates() []Check {
	return []Check{
		{"transactions", "no prepared and no long transactions", transactionsCheck(Blocker)},
		{"vacuum", "no VACUUM that will not give way", vacuumCheck(Blocker)},
		{"neighbours", "no subscription of others writes the tables on old", neighboursCheck(Blocker)},
		{"role-settings", "no setting of a role or database gets round the fence", roleSettingsCheck(Blocker)},
		{"durability", "fsync and full_page_writes are on", durabilityCheck(Blocker)},
		{"standbys", "standbys of the old server cannot be promoted unfenced", standbysCheck(Blocker)},
		{"large-objects", "large objects, which stay behind", checkLargeObjects},
	}
}
