package preflight

// What the checks find that are gates too.
var (
	durabilityIDs = []string{"durability.fsync", "durability.full_page_writes"}
	standbyIDs    = []string{"standbys.unfenced", "standbys.sync-missing", "standbys.sync-apply"}
)

// serverChecks looks at the two servers: versions, settings, what is free, and the ways between them.
func serverChecks() []Check {
	return []Check{
		{
			"versions", Servers, "both majors are supported and the new one is not older",
			[]string{"versions.unsupported", "versions.untested", "versions.end-of-life", "versions.downgrade", "versions.minor"},
			checkVersions,
		},
		{
			"identity", Servers, "the two servers are two databases, and neither is a standby",
			[]string{"identity.same-database", "identity.same-cluster", "identity.standby"},
			checkIdentity,
		},
		{
			"session", Servers, "the connection strings reach the servers themselves, and both run PL/pgSQL",
			[]string{"session.pooler", "session.plpgsql"},
			checkSession,
		},
		{
			"publisher", Servers, "WAL level, replication slots and walsenders suffice",
			[]string{"publisher.wal-level", "publisher.slots", "publisher.senders", "publisher.slot-limit", "publisher.slot-timeout", "publisher.sender-timeout", "publisher.output-plugin"},
			checkPublisher,
		},
		{
			"subscriber", Servers, "replication workers and origins suffice",
			[]string{"subscriber.workers", "subscriber.processes", "subscriber.sync-workers", "subscriber.origins", "subscriber.receiver-timeout", "subscriber.status-interval", "subscriber.retry-interval"},
			checkSubscriber,
		},
		{
			"peer", Servers, "each server that subscribes reaches the one that publishes",
			[]string{"peer.hba", "peer.timeout", "peer.statement-log", "peer.role", "peer.rights", "peer.password-missing", "peer.elsewhere", "peer.tls", "peer.failed", "peer.refused", "peer.password", "peer.full", "peer.database", "peer.address"},
			checkPeer,
		},
		{"timeouts", Servers, "no timeout ends the copy or the apply workers", []string{"timeouts.copy", "timeouts.apply"}, checkTimeouts},
		{
			"connections", Servers, "there is room for the tool's sessions, and on the new server for the clients",
			[]string{"connections.room", "connections.limit", "connections.fewer"},
			checkConnections,
		},
		{"access", Servers, "the new server lets those in who are connected to the old one", []string{"access.refused", "access.md5"}, checkAccess},
		{"network", Servers, "both servers are near, and the clocks agree", []string{"network.latency", "network.clock"}, checkNetwork},
		{"tls", Servers, "TLS is there where it is used", []string{"tls.off", "tls.plain"}, checkTLS},
		{"clients", Servers, "pg_dump and pg_restore are here and new enough", []string{"clients.missing"}, checkClients},
		{"locale", Servers, "encodings and collations of the two databases agree", []string{"locale.encoding", "locale.collation", "locale.version"}, checkLocale},
		{"formats", Servers, "clients get the same settings from both servers", []string{"settings.differ", "settings.xmloption", "settings.money"}, checkFormats},
		{
			"resources", Servers, "the new server has as much of what is set once as the old one",
			[]string{"settings.prepared-transactions", "settings.shared-buffers"},
			checkResources,
		},
		{"server-libraries", Servers, "the new server loads the libraries of the old one", []string{"preload.missing"}, checkServerLibraries},
		{"locks", Servers, "the lock table has room for all tables", []string{"locks.room"}, checkLocks},
		{"autovacuum", Servers, "autovacuum on the new server keeps up", []string{"autovacuum.off", "autovacuum.timid", "autovacuum.workers", "autovacuum.rare"}, checkAutovacuum},
		{"bulk", Servers, "the new server is set to load many rows", []string{"bulk.max-wal-size", "bulk.maintenance-work-mem"}, checkBulk},
		{"checksums", Servers, "the new cluster guards its pages as the old one does", []string{"checksums.off"}, checkChecksums},
		{"durability", Servers, "fsync and full_page_writes are on", durabilityIDs, durabilityCheck(Warning)},
		{"standbys", Servers, "standbys of the old server cannot be promoted unfenced", standbyIDs, standbysCheck(Warning)},
	}
}
