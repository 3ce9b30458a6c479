package pgtest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// section is one part of a catalog snapshot: a query that returns lines.
type section struct {
	name  string
	since int // the server major that the query needs; zero: any
	until int // the last major that it is for; zero: any
	sql   string
}

// catalogSections is the snapshot's content, in its order. Where majors differ
// there are two sections of the same name.
var catalogSections = []section{
	{name: "database", sql: databaseLines},
	{name: "setting", sql: settingLines},
	{name: "alter system", sql: systemSettingLines},
	{name: "role", sql: roleLines},
	{name: "member", sql: memberLines},
	{name: "tablespace", sql: tablespaceLines},
	{name: "slot", sql: slotLines},
	{name: "origin", sql: originLines},
	{name: "subscription", sql: subscriptionLines},
	{name: "subscription table", sql: subscriptionTableLines},
	{name: "publication", sql: publicationLines},
	{name: "publication table", until: 14, sql: publicationTableLines},
	{name: "publication table", since: 15, sql: publicationTableLines15},
	{name: "publication schema", since: 15, sql: publicationSchemaLines15},
	{name: "prepared", sql: preparedLines},
	{name: "schema", sql: schemaLines},
	{name: "relation", sql: relationLines},
	{name: "column", sql: columnLines},
	{name: "constraint", sql: constraintLines},
	{name: "index", sql: indexLines},
	{name: "trigger", sql: triggerLines},
	{name: "internal trigger", sql: internalTriggerLines},
	{name: "rule", sql: ruleLines},
	{name: "policy", sql: policyLines},
	{name: "sequence", sql: sequenceLines},
	{name: "inheritance", sql: inheritanceLines},
	{name: "statistics", sql: statisticsLines},
	{name: "function", until: 10, sql: functionLines},
	{name: "function", since: 11, sql: functionLines11},
	{name: "type", sql: typeLines},
	{name: "extension", sql: extensionLines},
	{name: "event trigger", sql: eventTriggerLines},
	{name: "default acl", sql: defaultACLLines},
	{name: "system acl", sql: systemACLLines},
	{name: "object", sql: objectLines},
	{name: "foreign server", sql: foreignServerLines},
	{name: "large object", sql: largeObjectLines},
	{name: "comment", sql: commentLines},
	{name: "label", sql: labelLines},
}

// Catalog returns a snapshot of everything in a database that a tool may leave
// behind, one line for each thing, sorted, without anything that changes by
// itself: two snapshots of one database are equal when nothing was left, and
// [Diff] shows what was. It holds no table data, no sequence values and no
// connection strings. An access list that equals the built-in default counts as
// none, so that GRANT and REVOKE leave no trace.
//
// Roles, their settings and memberships, tablespaces, ALTER SYSTEM settings,
// physical slots and replication origins belong to the whole server: tests that
// run at the same time on the same server and make such things disturb each
// other's snapshots.
func Catalog(t testing.TB, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), statementBound)
	defer cancel()
	text, err := catalog(ctx, url)
	if err != nil {
		t.Fatalf("reading the catalog: %v", err)
	}
	return text
}

func catalog(ctx context.Context, url string) (string, error) {
	config, err := pgconn.ParseConfig(url)
	if err != nil {
		return "", err
	}
	// With no schema in the path every name is written out in full.
	config.RuntimeParams["search_path"] = "pg_catalog"
	config.RuntimeParams["application_name"] = "pgtest catalog"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return "", err
	}
	defer conn.Close(ctx)
	major, err := serverMajor(conn)
	if err != nil {
		return "", err
	}
	sections := slices.DeleteFunc(slices.Clone(catalogSections), func(s section) bool {
		return major < s.since || s.until != 0 && major > s.until
	})
	var queries []string
	for _, s := range sections {
		queries = append(queries, s.sql)
	}
	// One message, hence one transaction: nothing changes between the sections
	// but what the server keeps outside of transactions.
	const begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	results, err := conn.Exec(ctx, begin+";"+strings.Join(queries, ";")+"; COMMIT").ReadAll()
	if err != nil {
		return "", fmt.Errorf("querying the catalog: %w", err)
	}
	var lines []string
	for i, s := range sections {
		var found []string
		for _, row := range results[i+1].Rows {
			found = append(found, s.name+": "+strings.ReplaceAll(string(row[0]), "\n", `\n`))
		}
		slices.Sort(found) // here, since collations differ between servers
		lines = append(lines, found...)
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// serverMajor reads the major from the version that the server told at the
// connection's start, such as 15.18 (Debian 15.18-0+deb12u1) or 18beta1.
func serverMajor(conn *pgconn.PgConn) (int, error) {
	text := conn.ParameterStatus("server_version")
	digits := text[:len(text)-len(strings.TrimLeft(text, "0123456789"))]
	major, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("reading the server version %q: %w", text, err)
	}
	return major, nil
}

// Diff returns the lines that only one of two texts has, in their order: those
// of a marked with "- ", those of b with "+ ". It is empty when both have the
// same lines.
func Diff(a, b string) string {
	var out strings.Builder
	for _, line := range without(a, b) {
		out.WriteString("- " + line + "\n")
	}
	for _, line := range without(b, a) {
		out.WriteString("+ " + line + "\n")
	}
	return out.String()
}

// without returns the lines of a that b lacks; a line that is there more often
// in a than in b is returned that many times more.
func without(a, b string) []string {
	have := map[string]int{}
	for line := range strings.Lines(b) {
		have[strings.TrimSuffix(line, "\n")]++
	}
	var only []string
	for line := range strings.Lines(a) {
		line = strings.TrimSuffix(line, "\n")
		if have[line]--; have[line] < 0 {
			only = append(only, line)
		}
	}
	return only
}
