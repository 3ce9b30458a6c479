package config

import (
	"fmt"
	"hash/fnv"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// maxDatabases is how many databases one move takes.
const maxDatabases = 500

// maxDatabaseName is the length of an identifier in Postgres, in bytes.
const maxDatabaseName = 63

// databases checks the list of databases. With one name, or none, the
// connection strings name the database; with several they name the servers.
func (v *validator) databases(c *Config, from, to *pgx.ConnConfig) {
	if len(c.Databases) > maxDatabases {
		v.problem("databases", "names %d databases, at most %d go together", len(c.Databases), maxDatabases)
	}
	for i, name := range c.Databases {
		key := fmt.Sprintf("databases[%d]", i)
		switch {
		case name == "" || len(name) > maxDatabaseName || strings.ContainsRune(name, 0):
			v.problem(key, "%s is not the name of a database", v.show(key, name))
		case slices.Contains(c.Databases[:i], name):
			v.problem(key, "%s is given twice", v.show(key, name))
		}
		for _, other := range c.Databases[:i] {
			if other != name && databaseMove(c.Name, other) == databaseMove(c.Name, name) {
				v.problem(key, "%s and %s would have the same name on the servers; give the move a shorter name", v.show(key, name), v.show(key, other))
			}
		}
	}
	if len(c.Databases) != 1 {
		return
	}
	for i, u := range []*pgx.ConnConfig{from, to} {
		if u.Database != c.Databases[0] {
			v.problem("databases[0]", "%s is not the database that %s names",
				v.show("databases[0]", c.Databases[0]), []string{"old.url", "new.url"}[i])
		}
	}
}

// sharedEntries checks what several databases cannot have in common.
func (v *validator) sharedEntries(c *Config) {
	for i, t := range c.Traffic {
		if t.PgBouncer == nil {
			continue
		}
		key := fmt.Sprintf("traffic[%d].pgbouncer", i)
		if f := t.PgBouncer.For; f != "" && !slices.Contains(c.Databases, f) {
			v.problem(key+".for", "%s is not in the list of databases", v.show(key+".for", f))
		}
		if len(c.Databases) < 2 {
			continue
		}
		for j, name := range t.PgBouncer.Databases {
			if t.PgBouncer.For == "" && !slices.Contains(c.Databases, name) {
				at := key + ".database"
				if len(t.PgBouncer.Databases) > 1 {
					at = fmt.Sprintf("%s[%d]", at, j)
				}
				v.problem(at, "%s is not in the list of databases; where the pooler's name differs from the database's, make an entry of the list with for: DATABASE", v.show(at, name))
			}
		}
		for side, s := range map[string]PoolerServer{"old": t.PgBouncer.Old, "new": t.PgBouncer.New} {
			if s.DBName != "" {
				v.problem(key+"."+side+".dbname", "cannot be given for several databases: each entry keeps its own")
			}
		}
		if !t.PgBouncer.ProbeURL.Empty() && len(t.PgBouncer.Databases) > 1 {
			v.problem(key+".probe_url", "leads to one database, and this pooler has several: leave it out, or make an entry of the list for each")
		}
	}
}

// ForDatabase returns the description of that part of the move that concerns
// one database of the list: the connection strings lead there, the poolers' names
// are those of this database, and the name is one of its own, since replication
// slots and roles belong to the whole server. With a list of one, or none, it is
// c itself.
func (c *Config) ForDatabase(database string) (*Config, error) {
	if len(c.Databases) < 2 {
		return c, nil
	}
	if !slices.Contains(c.Databases, database) {
		return nil, fmt.Errorf("database %q is not in the list of databases", database)
	}
	out := *c
	out.Name = databaseMove(c.Name, database)
	out.Databases = []string{database}
	for _, s := range []*Secret{&out.Old.URL, &out.Old.PeerURL, &out.New.URL, &out.New.PeerURL} {
		if s.Empty() {
			continue
		}
		*s = NewSecret(withDatabase(s.Reveal(), database))
	}
	out.Traffic = nil
	for _, t := range c.Traffic {
		if t.PgBouncer != nil {
			pooler := *t.PgBouncer
			pooler.Databases = slices.DeleteFunc(slices.Clone(pooler.Databases), func(name string) bool {
				return pooler.For != database && (pooler.For != "" || name != database)
			})
			if len(pooler.Databases) == 0 {
				continue
			}
			pooler.Shared, t.PgBouncer = true, &pooler
		}
		out.Traffic = append(out.Traffic, t)
	}
	return &out, nil
}

// plainName is a database's name that can be part of a move's as it is.
var plainName = regexp.MustCompile(`^[a-z0-9_]+$`)

// maxFamily leaves room behind a move's name for what stands for a database.
const maxFamily = maxName - len("_x00000000")

// Family is how the names of all databases' parts of a move begin, before an
// underscore.
func Family(move string) string { return move[:min(len(move), maxFamily)] }

// databaseMove is what one database's part of a move is called: the move's name
// and the database's, or, where these do not make a name, eight digits that
// stand for the database.
func databaseMove(move, database string) string {
	name := move + "_" + database
	if plainName.MatchString(database) && len(name) <= maxName && len(move) <= maxFamily && !numbered.MatchString(name) {
		return name
	}
	sum := fnv.New32a()
	sum.Write([]byte(database))
	return Family(move) + fmt.Sprintf("_x%08x", sum.Sum32())
}

// withDatabase returns the connection string with another database: in a URL
// its path, otherwise the last word about dbname. A URL may name several hosts
// with ports, which net/url does not take; its password is percent-encoded.
// Postgres manual: 32.1.1, Connection Strings.
func withDatabase(conninfo, database string) string {
	scheme, rest, isURL := strings.Cut(conninfo, "://")
	if !isURL || (scheme != "postgres" && scheme != "postgresql") {
		return conninfo + " dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database) + "'"
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, _, _ := strings.Cut(rest, "/")
	parameters := slices.DeleteFunc(strings.Split(query, "&"), func(p string) bool {
		return p == "" || strings.HasPrefix(p, "dbname=")
	})
	out := scheme + "://" + authority + "/" + url.PathEscape(database)
	if len(parameters) > 0 {
		out += "?" + strings.Join(parameters, "&")
	}
	return out
}
