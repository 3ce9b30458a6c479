package pg

import (
	"context"
	"strings"
)

// mayQuietSQL tells whether the role may keep event triggers from firing for
// its own statements.
const mayQuietSQL = `select rolsuper from pg_roles where rolname = current_user`

// mayQuiet15SQL is the same from 15 on, where that is a right that can be
// granted.
const mayQuiet15SQL = `select has_parameter_privilege(current_user, 'session_replication_role', 'set')`

// mayQuiet17SQL is the same from 17 on, where they have a setting of their own.
const mayQuiet17SQL = `
select has_parameter_privilege(current_user, 'session_replication_role', 'set')
   and has_parameter_privilege(current_user, 'event_triggers', 'set')`

func (s *Server) readQuiet(ctx context.Context) error {
	sql := mayQuietSQL
	switch {
	case s.Major() >= 17:
		sql = mayQuiet17SQL
	case s.Major() >= 15:
		sql = mayQuiet15SQL
	}
	if err := s.pool.QueryRow(ctx, sql).Scan(&s.quiet); err != nil {
		return s.wrap("asking for the role's rights on", err)
	}
	return nil
}

// QuietSettings are the settings under which DDL fires no event trigger of the
// application's; none where the role may not set them. Before 17 those that
// are enabled ALWAYS or REPLICA fire all the same.
// Postgres manual: 20.11.1 (session_replication_role, event_triggers).
func (s *Server) QuietSettings() []string {
	switch {
	case !s.quiet:
		return nil
	case s.Major() >= 17:
		return []string{"session_replication_role = replica", "event_triggers = off"}
	}
	return []string{"session_replication_role = replica"}
}

// QuietSession is QuietSettings for a session of its own, see Connect.
func (s *Server) QuietSession() map[string]string {
	settings := map[string]string{}
	for _, setting := range s.QuietSettings() {
		name, value, _ := strings.Cut(setting, " = ")
		settings[name] = value
	}
	return settings
}

// Quiet puts DDL between settings that keep the application's event triggers
// from firing for it: one that writes a table, as an audit of DDL does, would be
// refused by the closed fence, and the tool could neither close nor open, nor
// clean up. The settings are back to what they were behind it. The text must be
// sent as one simple query, without parameters.
func (s *Server) Quiet(ddl string) string {
	var before, after strings.Builder
	for _, setting := range s.QuietSettings() {
		name, _, _ := strings.Cut(setting, " ")
		before.WriteString("set local " + setting + ";\n")
		after.WriteString(";\nset local " + name + " to default")
	}
	return before.String() + ddl + after.String()
}
