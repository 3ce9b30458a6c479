package workload

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrRunning is returned by Prove while writers still write.
var ErrRunning = errors.New("the writers are still running: stop them first")

// ErrBroken is wrapped by Proof.Err when a promise was broken.
var ErrBroken = errors.New("the proof fails")

// Proof is the comparison of a ledger with the serving server. Counts of
// writes count rows: a transaction of three inserts has three.
type Proof struct {
	Server       string `json:"server"`       // that was read
	Transactions int    `json:"transactions"` // acknowledged
	Acknowledged int    `json:"acknowledged"` // writes in these
	// Lost are acknowledged writes without effect: inserted rows that are
	// not there (one each, whatever updates it had), updates missing in a
	// row's version, deleted rows that are there.
	Lost int `json:"lost"`
	// Duplicated are rows that are there once more, and updates applied
	// once more.
	Duplicated int `json:"duplicated"`
	// WrongContent are rows there once, in the right version, whose columns
	// differ from what was written.
	WrongContent int `json:"wrong_content"`
	// Phantoms are rows or updates of this run that no server acknowledged:
	// what was refused and happened all the same.
	Phantoms int `json:"phantoms"`
	// Torn are transactions of unknown outcome of which a part is there.
	Torn int `json:"torn"`
	// Unknown are the writes whose COMMIT was not answered, UnknownApplied
	// those of them that are there. Either is right.
	Unknown        int `json:"unknown"`
	UnknownApplied int `json:"unknown_applied"`
	// LoadedMissing are rows loaded before the run that are not there (or,
	// negative, came to be there twice).
	LoadedMissing int64 `json:"loaded_missing"`
	// Stale counts statements that found an acknowledged row missing, or
	// older, on a server that took writes at that time.
	Stale int `json:"stale"`

	SequenceValuesChecked int `json:"sequence_values_checked"` // drawn and committed
	// SequenceValuesDuplicated are values handed out twice, handed out
	// although given before the run, or refused by a unique index because
	// somebody had them.
	SequenceValuesDuplicated int `json:"sequence_values_duplicated"`
	// SequenceValuesReissued are values handed out again after the
	// transaction that drew them failed. Postgres allows that after a crash,
	// and only then.
	SequenceValuesReissued int `json:"sequence_values_reissued"`
	SequencesChecked       int `json:"sequences_checked"`
	// SequencesBehind name the sequences of the server that would hand out
	// values which a client already has.
	SequencesBehind []string `json:"sequences_behind,omitempty"`

	SplitBrain []SplitBrain `json:"-"`
	// SplitBrains is len(SplitBrain).
	SplitBrains int `json:"split_brain"`

	// Details tell the first findings in words.
	Details []string `json:"details,omitempty"`
}

const maxDetails = 40

func (p *Proof) detail(format string, args ...any) {
	if len(p.Details) < maxDetails {
		p.Details = append(p.Details, fmt.Sprintf(format, args...))
	}
}

// Err is nil when every promise was kept, and otherwise wraps ErrBroken and
// says which was not. Unknown outcomes and values reissued after a failed
// transaction break none.
func (p Proof) Err() error {
	var broken []string
	for _, c := range []struct {
		n    int
		what string
	}{
		{p.Lost, "acknowledged writes lost"},
		{p.Duplicated, "writes duplicated"},
		{p.WrongContent, "rows with wrong content"},
		{p.Phantoms, "refused writes that happened"},
		{p.Torn, "transactions torn"},
		{int(p.LoadedMissing), "loaded rows missing"},
		{p.Stale, "statements on a server without acknowledged rows"},
		{p.SequenceValuesDuplicated, "sequence values handed out twice"},
		{len(p.SequencesBehind), "sequences behind"},
		{len(p.SplitBrain), "writes taken out of turn"},
	} {
		if c.n != 0 {
			broken = append(broken, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	if len(broken) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s; %s", ErrBroken, strings.Join(broken, ", "), strings.Join(p.Details, "; "))
}

// String is the proof in one line.
func (p Proof) String() string {
	return fmt.Sprintf("%d acknowledged writes in %d transactions: %d lost, %d duplicated, %d with wrong content; "+
		"%d of unknown outcome, %d of them applied; %d values of %d sequences: %d handed out twice; %d writes out of turn",
		p.Acknowledged, p.Transactions, p.Lost, p.Duplicated, p.WrongContent,
		p.Unknown, p.UnknownApplied, p.SequenceValuesChecked, p.SequencesChecked, p.SequenceValuesDuplicated, len(p.SplitBrain))
}

// Prove compares the ledger with the server that conn reaches, in one read-only
// snapshot: it works on a fenced server, too. The writers must have been
// stopped (ErrRunning), and the server must have everything that it is to get:
// what is still on its way, in the stream or in a session whose client is gone,
// counts as missing.
// The error says that it could not compare; what it found is in the Proof, see
// Proof.Err. It may be called again, on either server.
func Prove(ctx context.Context, conn *pgx.Conn, l *Ledger) (Proof, error) {
	splits := l.SplitBrain()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running {
		return Proof{}, ErrRunning
	}
	p := Proof{
		Transactions: l.stats.Transactions, Acknowledged: l.stats.Writes,
		SplitBrain: splits, SplitBrains: len(splits), Stale: len(l.stale),
	}
	for _, s := range splits {
		p.detail("%s", s)
	}
	for _, s := range l.stale {
		p.detail("stale: %s", s)
	}
	for _, s := range l.collided {
		p.SequenceValuesDuplicated++
		p.detail("collision: %s", s)
	}
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, identifySQL).Scan(&p.Server); err != nil {
			return fmt.Errorf("identifying the server: %w", err)
		}
		return l.compare(ctx, tx, &p)
	})
	if err != nil {
		return p, fmt.Errorf("proving the ledger: %w", err)
	}
	return p, nil
}

func (l *Ledger) compare(ctx context.Context, tx pgx.Tx, p *Proof) error {
	low, high := l.bounds()
	there := map[Nonce][]found{}
	for _, t := range tables {
		if err := readRows(ctx, tx, t, low, high, there); err != nil {
			return err
		}
		var loaded int64
		if err := tx.QueryRow(ctx, t.loaded).Scan(&loaded); err != nil {
			return fmt.Errorf("counting the rows of %s: %w", t.name, err)
		}
		if missing := l.base[t.name] - loaded; missing != 0 {
			p.LoadedMissing += missing
			p.detail("%s: %d loaded rows, %d before the run", t.name, loaded, l.base[t.name])
		}
	}
	applied := map[*record]bool{}
	for _, r := range l.records {
		p.compareRecord(r, there[r.nonce])
		if r.unknown != nil {
			applied[r] = r.is(r.unknown.after, there[r.nonce])
		}
		delete(there, r.nonce)
	}
	for nonce, rows := range there {
		p.Phantoms += len(rows)
		p.detail("%s: row %s is there, its insert was refused", rows[0].table.name, nonce)
	}
	landed := p.resolve(l, applied)
	p.checkValues(l, landed)
	return p.checkSequences(ctx, tx, l, landed)
}
