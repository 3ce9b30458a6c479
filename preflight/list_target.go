package preflight

// targetChecks looks at the new database.
func targetChecks() []Check {
	return []Check{
		{"leftovers", Target, "no other move stands on either server", []string{"leftovers.move", "leftovers.swapped", "leftovers.object"}, checkLeftovers},
		{"target", Target, "the new database is empty", []string{"target.not-empty"}, checkTarget},
		{"target-sessions", Target, "no client works with the new database yet", []string{"target.sessions"}, checkStrangers},
		{
			"target-database", Target, "the new database lets clients in and write",
			[]string{"target.connection-limit", "target.template", "target.read-only", "target.replica-role"},
			checkTargetDatabase,
		},
		{"target-triggers", Target, "no event trigger of the new database hinders the restore", []string{"target.event-trigger"}, checkTargetTriggers},
		{"target-constraints", Target, "constraints that are there already are valid", []string{"target.not-valid"}, checkTargetConstraints},
	}
}
