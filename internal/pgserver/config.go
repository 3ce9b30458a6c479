package pgserver

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// defaultSettings make a cluster that can be either side of a logical
// replication, small enough that several run on one machine.
func defaultSettings(o Options) map[string]string {
	settings := map[string]string{
		"wal_level":                       "logical",
		"max_replication_slots":           "20",
		"max_wal_senders":                 "20",
		"max_logical_replication_workers": "16",
		"max_worker_processes":            "24",
		"shared_buffers":                  "64MB",
		"password_encryption":             "scram-sha-256",
		"timezone":                        "UTC",
		"log_timezone":                    "UTC",
		"log_line_prefix":                 "%m [%p] %q%u@%d/%a ",
		"log_lock_waits":                  "on",
		"log_min_messages":                "warning",
	}
	if o.Major >= 18 {
		settings["max_active_replication_origins"] = "20" // before, max_replication_slots said so
	}
	if !o.Durable {
		// synchronous_commit stays on: then a killed server loses nothing that
		// it acknowledged; only a crash of the machine would.
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
	}
	if o.Name != "" {
		settings["cluster_name"] = o.Name
	}
	maps.Copy(settings, o.Settings)
	return settings
}

// ownConfig is the file in the data folder that holds the cluster's settings.
// postgresql.conf includes it, so that ALTER SYSTEM still overrides it, as it
// would not override the command line.
const ownConfig = "pgcutover.conf"

// writeConfig writes the settings file.
func (c *Cluster) writeConfig() error {
	settings := defaultSettings(c.options)
	settings["listen_addresses"] = Loopback
	settings["port"] = strconv.Itoa(c.port.Number)
	if _, ok := c.options.Settings["unix_socket_directories"]; !ok {
		settings["unix_socket_directories"] = ""
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	return c.writeFile(ownConfig, text.String())
}

// writeAccess writes pg_hba.conf: the socket trusts everyone, TCP does too
// unless the cluster has a password.
// https://www.postgresql.org/docs/current/auth-pg-hba-conf.html
func (c *Cluster) writeAccess() error {
	method := "trust"
	if c.options.Password != "" {
		method = "scram-sha-256"
		if strings.EqualFold(c.options.Settings["password_encryption"], "md5") {
			method = "md5"
		}
	}
	lines := slices.Clone(c.options.HBA)
	lines = append(lines, "local all all trust")
	for _, database := range []string{"all", "replication"} {
		lines = append(lines, fmt.Sprintf("host %s all %s/32 %s", database, Loopback, method))
	}
	return c.writeFile("pg_hba.conf", strings.Join(lines, "\n")+"\n")
}

// includeConfig makes postgresql.conf read the settings file, once.
func (c *Cluster) includeConfig() error {
	main := filepath.Join(c.DataDir(), "postgresql.conf")
	text, err := os.ReadFile(main)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("include '%s'\n", ownConfig)
	if strings.HasSuffix(string(text), line) {
		return nil
	}
	return c.writeFile("postgresql.conf", string(text)+"\n"+line)
}

// writeFile writes a file of the data folder and gives it to the server's user.
func (c *Cluster) writeFile(name, text string) error {
	path := filepath.Join(c.DataDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	return c.own(path)
}

// own gives a file to the user who runs the server.
func (c *Cluster) own(path string) error {
	if c.who == nil {
		return nil
	}
	return os.Chown(path, int(c.who.Uid), int(c.who.Gid))
}

// serverEnviron is this process's environment without what changes the server
// programs' behaviour: libpq's variables, locale and time zone. TZ is set, so
// that initdb does not search the machine's time zones.
func serverEnviron() []string {
	env := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "LC_") ||
			name == "LANG" || name == "LANGUAGE" || name == "TZ"
	})
	return append(env, "LC_ALL=C", "TZ=UTC")
}
