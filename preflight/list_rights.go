package preflight

// rightsChecks looks at what the tool's roles may do.
func rightsChecks() []Check {
	return []Check{
		{
			"rights", Rights, "the tool's roles have the rights that the move needs",
			[]string{"rights.create", "rights.database-owner", "rights.public-schema", "rights.subscription", "rights.pg_monitor", "rights.pg_signal_backend", "rights.shared-role"},
			checkRights,
		},
		{
			"ownership", Rights, "the tool's roles may alter and read every table",
			[]string{"rights.table-owner", "rights.extension-table", "rights.schema", "rights.select", "rights.restore-owner", "rights.apply-owner"},
			checkOwnership,
		},
		{
			"restore-rights", Rights, "a role that is no superuser can give every object on the new server its owner",
			[]string{"rights.superuser-owner", "rights.restore-create"},
			checkRestoreRights,
		},
		{"replication", Rights, "the tool may open a replication connection", []string{"rights.replication"}, checkReplication},
		{"roles", Rights, "the new server has every role that the old database names", []string{"roles.missing", "roles.connected"}, checkRoles},
	}
}
