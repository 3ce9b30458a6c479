package preflight

// tableChecks looks at the tables that are replicated, and at what is bound to
// them.
func tableChecks() []Check {
	return []Check{
		{
			"replica-identity", Tables, "UPDATE and DELETE on every published table can be replicated",
			[]string{"tables.replica-identity", "tables.replica-identity-full", "tables.replica-identity-slow"},
			checkReplicaIdentity,
		},
		{
			"generated-identity", Tables, "no table is identified by generated columns, which are not sent",
			[]string{"tables.generated-identity"},
			checkGeneratedIdentity,
		},
		{"wide-rows", Tables, "no table of long values sends whole old rows", []string{"tables.replica-identity-wide"}, checkWideRows},
		{"hash-partitions", Tables, "rows belong into the same partitions on both servers", []string{"tables.hash-enum"}, checkHashPartitions},
		{"exclusions", Tables, "pg_restore can make the exclusion constraints", []string{"tables.partitioned-exclusion"}, checkExclusions},
		{"inherited-not-null", Tables, "inherited columns are as strict as their parents'", []string{"tables.inherited-not-null"}, checkInheritedNotNull},
		{"partition-identity", Tables, "partitions have no identity columns of their own", []string{"tables.partition-identity"}, checkPartitionIdentity},
		{"owner-usage", Tables, "owners of tables may use the schemas that these are in", []string{"tables.owner-usage"}, checkOwnerUsage},
		{"outside", Tables, "no foreign key leads out of what is moved", []string{"tables.outside-reference"}, checkOutside},
		{"not-valid", Tables, "constraints that not every row keeps", []string{"tables.not-valid"}, checkNotValid},
		{"invalid-indexes", Tables, "indexes that are left over", []string{"tables.invalid-index"}, checkInvalidIndexes},
		{
			"row-security", Tables, "row-level security hides no row from the copy and stops no apply",
			[]string{"row-security.apply", "row-security.copy"},
			checkRowSecurity,
		},
		{"types", Tables, "no column uses what the new major has removed", []string{"types.removed", "types.with-oids"}, checkTypes},
		{"names", Tables, "no column names objects of the server in its values", []string{"types.reg"}, checkNameTypes},
		{"compression", Tables, "the new server can compress as columns ask for", []string{"tables.compression"}, checkCompression},
		{"collations", Tables, "the new server has the collations that columns name", []string{"collations.missing"}, checkCollations},
		{"triggers", Tables, "triggers that fire during replication, and event triggers", []string{"triggers.replica", "triggers.event", "triggers.event-writes"}, checkTriggers},
		{
			"code", Tables, "functions that run while tables are filled find what they name",
			[]string{"functions.unqualified", "functions.check-reads"},
			checkCode,
		},
		{
			"not-carried", Tables, "what logical replication leaves behind",
			[]string{"not-carried.unlogged-table", "not-carried.materialized-view", "not-carried.foreign-table", "not-carried.partitioned-table", "not-carried.inheritance-parent", "not-carried.truncate"},
			checkNotCarried,
		},
	}
}
