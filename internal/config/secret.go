package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// hidden stands for a connection string of which not even a part is known to be
// free of its password.
const hidden = "(redacted)"

// Secret is a connection string. However it is printed, logged or marshaled, it
// shows only user, host, port and database; Reveal returns all of it.
type Secret struct {
	// A pointer, because fmt prints the contents of unexported fields without
	// asking them, but not what lies behind a pointer.
	text  *string
	shown string
}

// NewSecret keeps a connection string.
func NewSecret(text string) Secret { return Secret{text: &text, shown: show(text)} }

// Reveal returns the connection string with its password.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty tells whether there is no connection string.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// String shows the connection string without its password.
func (s Secret) String() string { return s.shown }

// GoString is String, for %#v.
func (s Secret) GoString() string { return strconv.Quote(s.shown) }

// Format writes String whatever the verb.
func (s Secret) Format(f fmt.State, verb rune) {
	text := s.shown
	if verb == 'q' || f.Flag('#') {
		text = s.GoString()
	}
	_, _ = io.WriteString(f, text) // a Formatter has nowhere to report an error
}

// LogValue is String, for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.shown) }

// MarshalText is String; JSON and YAML use it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.shown), nil }

// UnmarshalText keeps the text. Whether it is a connection string is checked
// with the rest of the configuration.
func (s *Secret) UnmarshalText(text []byte) error {
	*s = NewSecret(string(text))
	return nil
}

// show builds the text to print from what was understood, rather than cutting
// the password out of what was written: what is not understood is not shown.
func show(text string) string {
	if text == "" {
		return ""
	}
	c, err := pgx.ParseConfig(text)
	if err != nil {
		return hidden
	}
	// A password with a character that should have been percent-encoded ends up
	// in another part, together with the @ or : that surrounded it.
	if strings.ContainsAny(c.User+c.Database, "@:/?#") || strings.ContainsAny(c.Host, "@?#") {
		return hidden
	}
	var hosts []string
	for _, e := range endpoints(c) {
		hosts = append(hosts, e.String())
	}
	u := url.URL{Scheme: "postgres", Host: strings.Join(hosts, ","), Path: "/" + c.Database}
	if c.User != "" {
		u.User = url.User(c.User)
	}
	if strings.HasPrefix(c.Host, "/") { // a Unix-domain socket
		u.Host, u.RawQuery = "", "host="+c.Host+"&port="+strconv.Itoa(int(c.Port))
	}
	return u.String()
}

// endpoint is one place where a server listens.
type endpoint struct {
	host string
	port uint16
}

func (e endpoint) String() string {
	return net.JoinHostPort(e.host, strconv.Itoa(int(e.port)))
}

// endpoints lists where a connection string leads, each place once.
func endpoints(c *pgx.ConnConfig) []endpoint {
	found := []endpoint{{strings.ToLower(c.Host), c.Port}}
	for _, f := range c.Fallbacks {
		e := endpoint{strings.ToLower(f.Host), f.Port}
		known := false
		for _, other := range found {
			known = known || other == e
		}
		if !known {
			found = append(found, e)
		}
	}
	return found
}

// parseURL reads a connection string. Its error never holds a part of it: in a
// string that cannot be read any part may be the password.
func parseURL(s Secret) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(s.Reveal())
	if err == nil {
		return c, nil
	}
	var file *fs.PathError
	if errors.As(err, &file) {
		return nil, fmt.Errorf("names a file that cannot be read (sslrootcert, sslcert, sslkey, service file): %w", file.Err)
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if known, ok := understood[inner.Error()]; ok {
			return nil, errors.New(known)
		}
	}
	return nil, errors.New("is not a connection string that libpq would take, such as " +
		"postgres://user@host:5432/database or host=... dbname=...; " +
		"in a URL, special characters of the password must be percent-encoded")
}

// understood are the complaints of pgx that hold nothing of the connection
// string, and what to tell the operator.
var understood = map[string]string{
	"sslmode is invalid":                                   "has an sslmode that does not exist",
	`both "sslcert" and "sslkey" are required`:             "needs sslcert and sslkey together",
	"unable to add CA to cert pool":                        "names an sslrootcert that holds no certificate",
	"failed to decode sslkey":                              "names an sslkey that holds no key",
	"unable to find sslpassword":                           "names an encrypted sslkey and has no sslpassword",
	"unterminated quoted string in connection info string": "has a quote that is not closed",
}
