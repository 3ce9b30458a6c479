package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Load reads, completes and validates a file. Relative paths in it start at its
// folder. The error joins an *Error for everything that is wrong; one that
// wraps fs.ErrNotExist says that there is no such file.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return Parse(path, data, os.LookupEnv)
}

// Parse is Load for a file that was read already; lookup finds environment
// variables.
func Parse(path string, data []byte, lookup func(string) (string, bool)) (*Config, error) {
	c := Default()
	d := &decoder{file: path, lookup: lookup, places: map[string]place{}}
	d.decode(data, &c)
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	folder, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("finding the folder of the configuration: %w", err)
	}
	v := &validator{problem: d.fail, written: d.written}
	v.validate(&c)
	v.resolve(&c, folder)
	if len(d.errs) > 0 {
		return nil, errors.Join(d.errs...)
	}
	return &c, nil
}

// FromURLs makes a configuration of two connection strings and a name, all else
// as by default. An empty name means one made of the old database's name.
func FromURLs(oldURL, newURL, name string) (*Config, error) {
	c := Default()
	c.Old.URL, c.New.URL, c.Name = NewSecret(oldURL), NewSecret(newURL), name
	if name == "" {
		c.Name = nameOf(c.Old.URL)
	}
	var errs []error
	v := &validator{
		problem: func(key, format string, args ...any) {
			errs = append(errs, &Error{Key: key, Problem: fmt.Sprintf(format, args...)})
		},
		written: func(_, value string) string { return value },
	}
	v.validate(&c)
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &c, nil
}

// nameOf makes a move's name of the database that a connection string names.
func nameOf(url Secret) string {
	c, err := parseURL(url)
	if err != nil {
		return "move"
	}
	name := strings.Map(func(r rune) rune {
		if (r >= 'a' && r <= 'z') || (r >= '0' && r <= '9') {
			return r
		}
		return '_'
	}, strings.ToLower(c.Database))
	if len(name) > maxName {
		name = name[:maxName]
	}
	if !nameRule.MatchString(name) {
		return "move"
	}
	return name
}

// Error is one thing that is wrong with a configuration.
type Error struct {
	// File is the file as it was named to Load; empty for FromURLs.
	File string
	// Line and Column are where in it, from 1; 0 for FromURLs.
	Line, Column int
	// Key is the key concerned, such as "cutover.max_lag"; empty for mistakes
	// in the file's syntax.
	Key string
	// Problem says what is wrong and what would be right.
	Problem string
}

// Error writes "file:line:column: key: problem".
func (e *Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "%s:%d:%d: ", e.File, e.Line, e.Column)
	}
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	return b.String() + e.Problem
}
