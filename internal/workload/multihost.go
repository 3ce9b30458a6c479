package workload

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Multihost makes the connection string of a client that finds the writable
// one of two servers by itself: both hosts, target_session_attrs=read-write,
// as libpq keywords. User, password, database and TLS options are those of
// oldURL; newURL must have the same user and database, since a connection
// string has room for one of each. The result holds the password: do not print
// it. Postgres manual: 34.1.1.3, Specifying Multiple Hosts.
func Multihost(oldURL, newURL string) (string, error) {
	a, err := pgx.ParseConfig(oldURL)
	if err != nil {
		return "", fmt.Errorf("reading the connection string of the old server: %w", pg.Redact(err, oldURL))
	}
	b, err := pgx.ParseConfig(newURL)
	if err != nil {
		return "", fmt.Errorf("reading the connection string of the new server: %w", pg.Redact(err, newURL))
	}
	if a.User != b.User || a.Password != b.Password || a.Database != b.Database {
		return "", errors.New("making a connection string for both servers: they need the same user, password and database")
	}
	values := map[string]string{
		"host":                 a.Host + "," + b.Host,
		"port":                 strconv.Itoa(int(a.Port)) + "," + strconv.Itoa(int(b.Port)),
		"user":                 a.User,
		"dbname":               a.Database,
		"target_session_attrs": "read-write",
	}
	if a.Password != "" {
		values["password"] = a.Password
	}
	for _, key := range []string{"sslmode", "sslrootcert", "sslcert", "sslkey"} {
		if v := pg.Keyword(oldURL, key); v != "" {
			values[key] = v
		}
	}
	var words []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		words = append(words, key+"='"+strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(values[key])+"'")
	}
	return strings.Join(words, " "), nil
}
