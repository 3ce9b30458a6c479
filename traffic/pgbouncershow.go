package traffic

import (
	"context"
	"fmt"
	"strconv"
)

// PoolerDatabase is what a running PgBouncer says of one of its databases.
type PoolerDatabase struct {
	Name   string
	Leads  PoolerEndpoint
	Paused bool
}

// PoolerDatabases asks the admin console at a connection string for the
// pooler's databases, within three seconds. It changes nothing.
// https://www.pgbouncer.org/usage.html#show-databases
func PoolerDatabases(ctx context.Context, adminURL string) ([]PoolerDatabase, error) {
	limit, cancel := context.WithTimeout(ctx, answerBound)
	defer cancel()
	c, err := openConsole(limit, adminURL)
	if err != nil {
		return nil, err
	}
	defer c.close()
	rows, err := c.query(limit, "SHOW DATABASES")
	if err != nil {
		return nil, err
	}
	out := make([]PoolerDatabase, 0, len(rows))
	for _, r := range rows {
		port, err := strconv.Atoi(r["port"])
		if err != nil {
			return nil, fmt.Errorf("reading SHOW DATABASES: %w", err)
		}
		out = append(out, PoolerDatabase{
			Name: r["name"], Paused: r["paused"] == "1",
			Leads: PoolerEndpoint{Host: r["host"], Port: port, Database: r["database"]},
		})
	}
	return out, nil
}
