package preflight

// What the checks find that are gates too.
var (
	largeObjectIDs = []string{"not-carried.large-object"}
	transactionIDs = []string{"transactions.prepared", "transactions.prepared-possible", "transactions.long"}
	vacuumIDs      = []string{"vacuum.running"}
	neighbourIDs   = []string{"neighbours.publication", "neighbours.publication-state", "neighbours.published-sequences", "neighbours.sequence-sync", "neighbours.subscription", "neighbours.subscription-state", "neighbours.subscription-writes", "neighbours.slot-consumer", "neighbours.slot-inactive", "neighbours.slot-lagging"}
	roleSettingIDs = []string{"role-settings.replica", "role-settings.read-only-off", "role-settings.read-only-database", "role-settings.replica-right"}
)

// objectChecks looks at what else is in the database and at who else uses it.
func objectChecks() []Check {
	return []Check{
		{
			"extensions", Objects, "the new server has every extension of the old one",
			[]string{"extensions.missing", "extensions.version", "extensions.superuser"},
			checkExtensions,
		},
		{"preload", Objects, "the new server loads the libraries that extensions need", []string{"extensions.preload"}, checkPreload},
		{"extension-rows", Objects, "rows in the tables of extensions, which stay behind", []string{"extensions.own-rows"}, checkOwnRows},
		{"removed", Objects, "the new major can make what 14 has removed", []string{"objects.removed"}, checkRemoved},
		{"views", Objects, "views over the system's catalogs can be made on the new major", []string{"objects.view"}, checkViews},
		{"operators", Objects, "nothing loses its operator on the way", []string{"objects.operator"}, checkOperators},
		{"files", Objects, "files that functions and dictionaries are made of", []string{"libraries.missing", "text-search.file"}, checkFiles},
		{"labels", Objects, "security labels and their providers", []string{"security-labels.provider"}, checkLabels},
		{"sequences", Objects, "every sequence can be read", []string{"sequences.unreadable"}, checkSequences},
		{"sequence-limits", Objects, "no sequence comes to its end", []string{"sequences.near-limit", "sequences.cycle"}, checkSequenceLimits},
		{"large-objects", Objects, "large objects, which are copied in the freeze", largeObjectIDs, checkLargeObjects},
		{"foreign", Objects, "where foreign servers lead, and with which passwords", []string{"foreign.mapping", "foreign.self", "foreign.elsewhere"}, checkForeign},
		{"functions", Objects, "functions that a cutover surprises", []string{"functions.swallow", "functions.dblink"}, checkFunctions},
		{"jobs", Objects, "schedulers that write without a client", []string{"jobs.scheduler"}, checkJobs},
		{"sessions", Objects, "what sessions share through one server", []string{"sessions.advisory-lock", "sessions.listen"}, checkSessions},
		{"transactions", Objects, "no prepared and no long transactions", transactionIDs, transactionsCheck(Warning)},
		{"vacuum", Objects, "no VACUUM that will not give way", vacuumIDs, vacuumCheck(Warning)},
		{"neighbours", Objects, "publications, subscriptions and slots of others", neighbourIDs, neighboursCheck(Warning)},
		{"role-settings", Objects, "no setting of a role or database gets round the fence", roleSettingIDs, roleSettingsCheck(Warning)},
		{"settings", Objects, "the new major has the settings of roles, databases and functions", []string{"role-settings.unknown", "functions.setting"}, checkSettings},
	}
}
