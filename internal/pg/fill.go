package pg

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
)

var parameter = regexp.MustCompile(`\$([1-9][0-9]?)\b`)

// Fill puts values in the place of a statement's parameters, for people to read
// and paste: numbers and truth values as they are, texts and everything else (as
// JSON) as literals. The statement must have no dollar quotes with digits. Nothing
// is sent this way: the tool's own sessions use parameters.
func Fill(sql string, values ...any) string {
	return parameter.ReplaceAllStringFunc(sql, func(p string) string {
		n, err := strconv.Atoi(p[1:])
		if err != nil || n > len(values) {
			return p
		}
		switch v := values[n-1].(type) {
		case bool, int, int32, int64, uint32:
			return fmt.Sprint(v)
		case string:
			return Literal(v)
		default:
			text, err := json.Marshal(v)
			if err != nil { // plain data always can be
				return p
			}
			return Literal(string(text))
		}
	})
}

// Literal quotes text as an SQL string whose meaning no setting changes.
func Literal(text string) string {
	quoted := "'" + strings.ReplaceAll(text, "'", "''") + "'"
	if strings.ContainsRune(text, '\\') {
		return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
	}
	return quoted
}

// TryLockSQL takes the one-tool lock in a session, and answers true if it was to
// be had, for the plan.
const TryLockSQL = tryLockSQL

// UnlockSQL gives it back, for the plan.
const UnlockSQL = unlockSQL

// SessionSettings are what the tool's ordinary sessions set at their beginning,
// for the plan.
func (s *Server) SessionSettings() map[string]string {
	out := maps.Clone(baseSettings())
	if s.Major() >= 14 {
		out["idle_session_timeout"] = "0"
	}
	if s.Major() >= 17 {
		out["transaction_timeout"] = "0"
	}
	out["application_name"] = s.ApplicationName("")
	return out
}
