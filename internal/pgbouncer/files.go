package pgbouncer

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pgcutover/pgcutover/internal/pgserver"
)

// databasesFile is the included file, sorted by name.
func (o Options) databasesFile() string {
	var text strings.Builder
	text.WriteString("[databases]\n")
	for _, name := range slices.Sorted(maps.Keys(o.Databases)) {
		fmt.Fprintf(&text, "%s = %s\n", name, o.Databases[name])
	}
	return text.String()
}

// String is the endpoint as the value of an entry, password included.
func (e Endpoint) String() string {
	text := fmt.Sprintf("host=%s port=%d dbname=%s user=%s", e.Host, e.Port, quote(e.Database), quote(cmp.Or(e.User, "postgres")))
	if e.Password != "" {
		text += " password=" + quote(e.Password)
	}
	return text
}

func quote(value string) string { return "'" + strings.ReplaceAll(value, "'", "''") + "'" }

// mainFile is the file that PgBouncer is started with.
func (o Options) mainFile(databases string, port int) string {
	settings := map[string]string{
		"listen_addr":       pgserver.Loopback,
		"listen_port":       strconv.Itoa(port),
		"unix_socket_dir":   "",
		"auth_type":         "any",
		"admin_users":       adminUser,
		"pool_mode":         cmp.Or(o.PoolMode, "transaction"),
		"default_pool_size": strconv.Itoa(cmp.Or(o.PoolSize, 20)),
		"max_client_conn":   strconv.Itoa(cmp.Or(o.MaxClients, 1000)),
		// A refused login would otherwise keep clients waiting for 15 s.
		"server_login_retry": "1",
		// JDBC and others send it; PgBouncer cannot keep it per client.
		"ignore_startup_parameters": "extra_float_digits",
	}
	maps.Copy(settings, o.Settings)
	var text strings.Builder
	fmt.Fprintf(&text, "%%include %s\n\n[pgbouncer]\n", databases)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&text, "%s = %s\n", name, settings[name])
	}
	return text.String()
}
