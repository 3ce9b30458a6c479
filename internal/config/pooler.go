package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// PgBouncer describes one pooler; several are several entries of the list.
type PgBouncer struct {
	// AdminURL leads to its admin console, the database pgbouncer.
	AdminURL Secret `yaml:"admin_url" json:"admin_url"`
	// Databases are its names of the database.
	Databases Names `yaml:"database" json:"database"`
	// For is the database of the move that they lead to, where several move
	// together; empty means that each has the same name as its database.
	For string `yaml:"for" json:"for,omitempty"`
	// Config is the file with their entries, absolute after loading.
	Config string `yaml:"config" json:"config"`
	// ProbeURL is a connection string for clients of the pooler; empty means
	// the admin console's host and port with the user of old's url.
	ProbeURL Secret `yaml:"probe_url" json:"probe_url"`
	// Old and New are how the pooler reaches the servers, where that differs
	// from their urls.
	Old PoolerServer `yaml:"old" json:"old"`
	New PoolerServer `yaml:"new" json:"new"`
	// Shared tells that other databases of the same move may be behind this
	// pooler. It stands in no file: ForDatabase sets it.
	Shared bool `yaml:"-" json:"-"`
	// PauseTimeout is how long one PAUSE may hold up clients while it waits for
	// transactions to end.
	PauseTimeout Duration `yaml:"pause_timeout" json:"pause_timeout"`
	// PauseAttempts is how often PAUSE is tried; 0 means that the pooler does
	// not make clients wait.
	PauseAttempts int `yaml:"pause_attempts" json:"pause_attempts"`
}

// setDefaults fills what the file may leave out.
func (p *PgBouncer) setDefaults() {
	p.PauseTimeout, p.PauseAttempts = Duration(time.Second), 5
}

// PoolerServer is how a pooler reaches a server. What is empty is taken from
// the server's url.
type PoolerServer struct {
	Host   string `yaml:"host" json:"host,omitempty"`
	Port   int    `yaml:"port" json:"port,omitempty"`
	DBName string `yaml:"dbname" json:"dbname,omitempty"`
}

// Names are one name, or a list of them.
type Names []string

// consoleDatabase is PgBouncer's reserved name of the admin console.
const consoleDatabase = "pgbouncer"

// maxPoolerName is what a command of the admin console takes, in bytes.
const maxPoolerName = 63

func (v *validator) pgbouncer(key string, p *PgBouncer) {
	v.consoleURL(key+".admin_url", p.AdminURL)
	if !p.ProbeURL.Empty() {
		if c, err := parseURL(p.ProbeURL); err != nil {
			v.problem(key+".probe_url", "%v", err)
		} else if c.Database == consoleDatabase {
			v.problem(key+".probe_url", "names the admin console; give a connection string for clients")
		}
	}
	if len(p.Databases) == 0 {
		v.problem(key+".database", "is missing: the pooler's name of the database, or a list of them")
	}
	for i, name := range p.Databases {
		at := key + ".database"
		if len(p.Databases) > 1 {
			at = fmt.Sprintf("%s[%d]", at, i)
		}
		v.poolerDatabase(at, name)
		if slices.Contains(p.Databases[:i], name) {
			v.problem(at, "%s is given twice", v.show(at, name))
		}
	}
	if p.Config == "" {
		v.problem(key+".config", "is missing: the file with the entry of the database, pgbouncer.ini or one that it includes")
	}
	v.poolerServer(key+".old", p.Old)
	v.poolerServer(key+".new", p.New)
	v.between(key+".pause_timeout", p.PauseTimeout, 50*time.Millisecond, time.Minute)
	if p.PauseAttempts < 0 || p.PauseAttempts > 100 {
		v.problem(key+".pause_attempts", "must be from 0 (clients are not made to wait) to 100")
	}
}

func (v *validator) consoleURL(key string, s Secret) {
	if s.Empty() {
		v.problem(key, "is missing: the connection string of the admin console, such as postgres://admin@pooler:6432/pgbouncer")
		return
	}
	c, err := parseURL(s)
	switch {
	case err != nil:
		v.problem(key, "%v", err)
	case c.Database != consoleDatabase:
		v.problem(key, "does not name the database pgbouncer, which is the admin console")
	case len(endpoints(c)) > 1:
		v.problem(key, "names several hosts; make an entry of the list for each pooler")
	}
}

func (v *validator) poolerDatabase(key, name string) {
	switch {
	case name == "":
		v.problem(key, "is empty")
	case name == "*":
		v.problem(key, "* stands for every database; give this one an entry of its own in the pooler's file, and its name here")
	case name == consoleDatabase:
		v.problem(key, "is the admin console; name the database that clients use")
	case len(name) > maxPoolerName || strings.ContainsAny(name, "\n\r\x00"):
		v.problem(key, "%s is not a name of at most %d bytes in one line", v.show(key, name), maxPoolerName)
	}
}

func (v *validator) poolerServer(key string, s PoolerServer) {
	if s.Port < 0 || s.Port > 65535 {
		v.problem(key+".port", "must be from 1 to 65535")
	}
	for name, value := range map[string]string{"host": s.Host, "dbname": s.DBName} {
		if strings.ContainsAny(value, "\n\r\x00") {
			v.problem(key+"."+name, "must be one line")
		}
	}
}

// sharedPoolers finds a database of a pooler that is named in two entries: they
// would end each other's pause.
func (v *validator) sharedPoolers(list []Traffic) {
	seen := map[string]string{}
	for i, t := range list {
		if t.PgBouncer == nil {
			continue
		}
		c, err := parseURL(t.PgBouncer.AdminURL)
		if err != nil {
			continue // told already
		}
		key := fmt.Sprintf("traffic[%d].pgbouncer", i)
		for _, name := range t.PgBouncer.Databases {
			place := fmt.Sprint(endpoints(c), name)
			if first, ok := seen[place]; ok && first != key {
				v.problem(key+".database", "%s of this pooler is in %s already", v.show(key+".database", name), first)
			}
			seen[place] = key
		}
	}
}
