package preflight

// spaceChecks looks at WAL and disk space.
func spaceChecks() []Check {
	return []Check{
		{"wal-rate", Space, "the WAL that piles up during the copy has room", []string{"space.wal-rate"}, checkWALRate},
		{"archiver", Space, "WAL is archived where it should be", []string{"space.archiver"}, checkArchiver},
		{"temp-files", Space, "indexes can be sorted in temporary files", []string{"space.temp-file-limit"}, checkTempFiles},
		{"tablespaces", Space, "the new server has the tablespaces of the old database", []string{"space.tablespace", "space.tablespace-setting"}, checkTablespaces},
	}
}
