package sequences

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Querier is what this package needs of a connection. *pgxpool.Pool and
// *pgx.Conn fit. For reading a pgx.Tx fits too, but then the locks that Postgres
// takes for reading thousands of sequences gather in that transaction and may
// overflow the lock table (max_locks_per_transaction).
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	Begin(ctx context.Context) (pgx.Tx, error)
}

// chunk is how many sequences are read in one transaction, or set in the write
// pause. Each one takes an entry in the server's lock table until it ends; the table
// holds max_locks_per_transaction * max_connections of them (6,400 by
// default) for everybody, and 10,000 at once did overflow it.
const chunk = 1000

// Ref names a sequence by schema and name, both unquoted.
type Ref struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// Ident returns the name quoted for SQL: "schema"."name".
func (r Ref) Ident() string { return pgx.Identifier{r.Schema, r.Name}.Sanitize() }

// Value is the position of one sequence, see the package comment.
type Value struct {
	Ref
	LastValue int64 `json:"last_value"`
	IsCalled  bool  `json:"is_called"`
}

// position says in words where the sequence stands.
func (v Value) position() string {
	if v.IsCalled {
		return fmt.Sprintf("%d (handed out)", v.LastValue)
	}
	return fmt.Sprintf("%d (not handed out yet)", v.LastValue)
}

// Sequence is one sequence of a database: its definition, its position, and
// what the role that read it may do with it.
// Postgres manual: CREATE SEQUENCE, and catalog pg_sequence.
type Sequence struct {
	Value
	Type      string `json:"type"` // smallint, integer or bigint
	Start     int64  `json:"start"`
	Increment int64  `json:"increment"`
	Min       int64  `json:"min"`
	Max       int64  `json:"max"`
	Cache     int64  `json:"cache"`
	Cycle     bool   `json:"cycle"`
	// OwnedBy is the column that the sequence belongs to, quoted as
	// "schema"."table"."column"; empty when it belongs to none.
	OwnedBy string `json:"owned_by,omitempty"`
	// Identity says that the column is an identity column (not serial).
	Identity bool `json:"identity,omitempty"`
	// Extension names the extension that the sequence is a member of.
	Extension string `json:"extension,omitempty"`
	// Role is the role that read the sequence. Readable says that it has
	// SELECT on the sequence and USAGE on its schema; without these, LastValue
	// and IsCalled are not known. Alterable says that it owns the sequence,
	// itself or through a membership; Settable, that it has UPDATE.
	Role      string `json:"role"`
	Readable  bool   `json:"readable"`
	Alterable bool   `json:"alterable"`
	Settable  bool   `json:"settable"`
}

// numbers counts in words.
func numbers(n uint64) string {
	if n == 1 {
		return "1 number"
	}
	return fmt.Sprintf("%d numbers", n)
}

// end returns the bound towards which the sequence runs.
func (s Sequence) end() int64 {
	if s.Increment < 0 {
		return s.Min
	}
	return s.Max
}

// left is how many numbers nextval can still return before the bound.
func (s Sequence) left() uint64 {
	return left(s.Value, s.Increment, s.end())
}

// next returns what nextval returns now; false when the bound is reached, so
// that nextval fails or, with CYCLE, begins again at the other bound.
func (s Sequence) next() (int64, bool) {
	if s.left() == 0 {
		return 0, false
	}
	return ahead(s.Value, s.Increment, 0), true
}

// grantRead returns the statements that make s readable for its Role.
func (s Sequence) grantRead() []string { return grantRead(s.Ref, s.Role) }

func grantRead(r Ref, role string) []string {
	to := pgx.Identifier{role}.Sanitize()
	return []string{
		fmt.Sprintf("GRANT USAGE ON SCHEMA %s TO %s;", pgx.Identifier{r.Schema}.Sanitize(), to),
		fmt.Sprintf("GRANT SELECT ON SEQUENCE %s TO %s;", r.Ident(), to),
	}
}

func grantSet(r Ref, role string) string {
	return fmt.Sprintf("GRANT UPDATE ON SEQUENCE %s TO %s;", r.Ident(), pgx.Identifier{role}.Sanitize())
}
