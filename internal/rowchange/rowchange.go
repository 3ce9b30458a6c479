// Package rowchange describes a change of one row as logical replication carries
// it, so that what a subscriber fails at can be named and tried again as SQL. It
// knows no server.
package rowchange

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
)

// Operation is what is done to a row.
type Operation string

// The operations that a stream carries.
const (
	Insert   Operation = "INSERT"
	Update   Operation = "UPDATE"
	Delete   Operation = "DELETE"
	Truncate Operation = "TRUNCATE"
)

// Value is one column of a row, as text.
type Value struct {
	Column string
	Text   *string // nil for NULL
	Key    bool    // part of what the row is found by
}

// Change is one change of one row.
type Change struct {
	Operation Operation
	Schema    string
	Table     string
	Columns   []string // all that the publisher sends of the table
	Full      bool     // rows are found by all columns
	New       []Value  // of an insert or update; large values that did not change are left out
	Old       []Value  // by which the row is found, of an update or delete
}

// Identifier is the table's name, quoted.
func (c Change) Identifier() string { return pgx.Identifier{c.Schema, c.Table}.Sanitize() }

// String names the table and the operation.
func (c Change) String() string {
	return fmt.Sprintf("table %s.%s, %s", c.Schema, c.Table, c.Operation)
}

// Transaction is the beginning of a transaction of the stream.
type Transaction struct {
	XID       uint32
	Committed time.Time     // on the publisher
	End       pglogrepl.LSN // behind its commit
	Changes   []Change      // the first ones
}

// literal is a text that the server reads as the column's type, as an apply
// worker does.
func literal(v Value) string {
	if v.Text == nil {
		return "null"
	}
	if strings.ContainsRune(*v.Text, '\\') {
		return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(*v.Text) + "'"
	}
	return "'" + strings.ReplaceAll(*v.Text, "'", "''") + "'"
}

// SQL returns the statement that does what an apply worker does; empty for
// TRUNCATE, which is not tried.
func (c Change) SQL() string {
	switch c.Operation {
	case Insert:
		names, values := make([]string, len(c.New)), make([]string, len(c.New))
		for i, v := range c.New {
			names[i], values[i] = pgx.Identifier{v.Column}.Sanitize(), literal(v)
		}
		if len(names) == 0 {
			return "insert into " + c.Identifier() + " default values"
		}
		return fmt.Sprintf("insert into %s (%s) overriding system value values (%s)", c.Identifier(), strings.Join(names, ", "), strings.Join(values, ", "))
	case Update:
		set := make([]string, len(c.New))
		for i, v := range c.New {
			set[i] = pgx.Identifier{v.Column}.Sanitize() + " = " + literal(v)
		}
		if len(set) == 0 {
			return ""
		}
		return fmt.Sprintf("update only %s set %s where %s", c.Identifier(), strings.Join(set, ", "), where(c.found()))
	case Delete:
		return fmt.Sprintf("delete from only %s where %s", c.Identifier(), where(c.found()))
	}
	return ""
}

// found is by what the row is looked up: the old values, or, where the key did
// not change, those of the new row.
func (c Change) found() []Value {
	if len(c.Old) > 0 {
		return c.Old
	}
	var keys []Value
	for _, v := range c.New {
		if v.Key {
			keys = append(keys, v)
		}
	}
	return keys
}

func where(values []Value) string {
	if len(values) == 0 {
		return "false"
	}
	parts := make([]string, len(values))
	for i, v := range values {
		name := pgx.Identifier{v.Column}.Sanitize()
		if v.Text == nil {
			parts[i] = name + " is null"
		} else {
			parts[i] = name + " = " + literal(v)
		}
	}
	return strings.Join(parts, " and ")
}
