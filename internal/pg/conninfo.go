package pg

import (
	"errors"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Keyword returns one parameter of a libpq connection string, whether it is
// written as URL or as keywords and values, falling back to the environment
// variable that libpq reads (PGSSLMODE and so on). Empty when absent.
func Keyword(conninfo, key string) string {
	if strings.HasPrefix(conninfo, "postgres://") || strings.HasPrefix(conninfo, "postgresql://") {
		if u, err := url.Parse(conninfo); err == nil && u.Query().Get(key) != "" {
			return u.Query().Get(key)
		}
	} else if v, ok := keywords(conninfo)[key]; ok {
		return v
	}
	return os.Getenv("PG" + strings.ToUpper(key))
}

// keywords reads "key = value key='quoted value'" as libpq does.
// Postgres manual: 32.1.1.1, Keyword/Value Connection Strings.
func keywords(s string) map[string]string {
	out := map[string]string{}
	for {
		s = strings.TrimLeft(s, " \t\n\r")
		eq := strings.IndexByte(s, '=')
		if eq < 0 {
			return out
		}
		key := strings.TrimSpace(s[:eq])
		s = strings.TrimLeft(s[eq+1:], " \t\n\r")
		var value string
		value, s = keywordValue(s)
		out[key] = value
	}
}

func keywordValue(s string) (value, rest string) {
	var b strings.Builder
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case quoted && c == '\'':
			return b.String(), s[i+1:]
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			return b.String(), s[i:]
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}

// Redact returns err with the passwords of the given connection strings
// replaced by xxxxx in its text. The chain behind it stays for errors.Is and
// errors.As, which never print it.
func Redact(err error, conninfos ...string) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	clean := text
	for _, c := range conninfos {
		for _, secret := range secrets(c) {
			clean = strings.ReplaceAll(clean, secret, "xxxxx")
		}
	}
	if clean == text {
		return err
	}
	return &redacted{err: err, text: clean}
}

type redacted struct {
	err  error
	text string
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }

// keywordEscaper writes a value as libpq reads it within quotes.
var keywordEscaper = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

// secrets lists the forms in which a connection string's password may appear
// in a message: as written (percent-encoded in a URL, with backslashes among
// keywords) and as sent.
func secrets(conninfo string) []string {
	if conninfo == "" {
		return nil
	}
	var out []string
	add := func(s string) {
		if s != "" {
			out = append(out, s, url.QueryEscape(s), url.PathEscape(s), keywordEscaper.Replace(s))
		}
	}
	if u, err := url.Parse(conninfo); err == nil && u.User != nil {
		if p, ok := u.User.Password(); ok {
			add(p)
			if _, raw, found := strings.Cut(u.User.String(), ":"); found {
				add(raw)
			}
		}
		add(u.Query().Get("password"))
		for pair := range strings.SplitSeq(u.RawQuery, "&") {
			if raw, found := strings.CutPrefix(pair, "password="); found {
				add(raw)
			}
		}
	}
	add(keywords(conninfo)["password"])
	if c, err := pgx.ParseConfig(conninfo); err == nil {
		add(c.Password)
	}
	return out
}

// ErrSameServer is returned when old and new are one and the same database.
var ErrSameServer = errors.New("old and new are the same database")
