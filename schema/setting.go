package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Setting is a parameter that was set on a role or a database: one entry of
// pg_db_role_setting.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"` // as the catalog has it
}

// readOnlyDefault is the parameter that the tool itself sets on a server to keep
// clients from writing to it; what the old server has of it is not carried over.
const readOnlyDefault = "default_transaction_read_only"

// sql is the statement that sets it: target is what stands between ALTER and
// SET, such as ROLE "app" IN DATABASE "shop".
func (s Setting) sql(target string) string {
	return fmt.Sprintf("alter %s set %s to %s", target, settingName(s.Name), s.literal())
}

// sensitiveName matches parameters of the application's own that seem to hold a
// secret, such as app.settings.jwt_secret.
var sensitiveName = regexp.MustCompile(`(?i)\..*(secret|passw|token|key|credential)`)

func (s Setting) sensitive() bool { return sensitiveName.MatchString(s.Name) && s.Value != "" }

// shown is the value for people.
func (s Setting) shown() string {
	if s.sensitive() {
		return hidden
	}
	return s.Value
}

// shownSQL is the statement for people.
func (s Setting) shownSQL(target string) string { return s.statement("", target).text() }

// statement is the one that sets it. Libraries that cannot be loaded must not be
// set: every session, or every one of the role, would fail from then on.
func (s Setting) statement(object, target string) statement {
	out := statement{object: object, sql: s.sql(target)}
	if s.sensitive() {
		out.secret = s.literal()
	}
	if strings.HasSuffix(strings.ToLower(s.Name), "_preload_libraries") {
		out.needs = splitIdentifiers(s.Value)
	}
	return out
}

func resetSQL(target, name string) string {
	return fmt.Sprintf("alter %s reset %s", target, settingName(name))
}

// settingName quotes each part of a name like app.tenant.
func settingName(name string) string {
	return pgx.Identifier(strings.Split(name, ".")).Sanitize()
}

// quotedLists are the parameters whose value in the catalog is a list of quoted
// identifiers (GUC_LIST_QUOTE): given back as one literal, it would be taken for
// a single name. Extensions cannot have any. The list is pg_dump's own.
// https://www.postgresql.org/docs/current/sql-set.html
var quotedLists = []string{
	"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries",
	"temp_tablespaces", "unix_socket_directories",
}

func (s Setting) literal() string {
	if !slices.Contains(quotedLists, strings.ToLower(s.Name)) {
		return quoteLiteral(s.Value)
	}
	names := splitIdentifiers(s.Value)
	for i, name := range names {
		names[i] = quoteLiteral(name)
	}
	if len(names) == 0 {
		return "''"
	}
	return strings.Join(names, ", ")
}

// splitIdentifiers takes a list such as "$user", public apart. Names that are
// not quoted are kept as they are: the server folded them when they were set.
func splitIdentifiers(list string) []string {
	var (
		out    []string
		name   strings.Builder
		quoted bool
	)
	for i := 0; i < len(list); i++ {
		c := list[i]
		switch {
		case c == '"' && quoted && i+1 < len(list) && list[i+1] == '"':
			name.WriteByte('"')
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			out = append(out, name.String())
			name.Reset()
		case (c == ' ' || c == '\t' || c == '\n') && !quoted:
		default:
			name.WriteByte(c)
		}
	}
	if list != "" {
		out = append(out, name.String())
	}
	return out
}

// quoteLiteral is a string as it stands in SQL.
func quoteLiteral(s string) string { return pg.Literal(s) }

// quoteName is an identifier as it stands in SQL.
func quoteName(name string) string { return pgx.Identifier{name}.Sanitize() }

// shellQuote is a word as it stands in a shell's command line.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
