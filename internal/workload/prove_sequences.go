package workload

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// checkValues looks whether every value drawn was handed out once, by whichever
// server. landed are the transactions of unknown outcome that were committed.
func (p *Proof) checkValues(l *Ledger, landed map[*Commit]bool) {
	type value struct {
		sequence string
		value    int64
	}
	drawn := map[value][]Draw{}
	for _, d := range l.draws {
		d.Committed = d.Committed || landed[d.commit]
		if d.Committed {
			p.SequenceValuesChecked++
		}
		v := value{d.Sequence, d.Value}
		drawn[v] = append(drawn[v], d)
	}
	for v, draws := range drawn {
		committed := 0
		for _, d := range draws {
			if d.Committed {
				committed++
			}
		}
		if len(draws) > 1 {
			p.SequenceValuesDuplicated += max(committed-1, 0)
			p.SequenceValuesReissued += len(draws) - max(committed, 1)
			first, second := draws[0], draws[1]
			p.detail("%s handed out %d at %s on server %s and at %s on server %s", v.sequence, v.value,
				first.At.Format(clock), first.Server, second.At.Format(clock), second.Server)
		}
		if last, ok := l.given[v.sequence]; ok && !past(v.sequence, v.value, last) {
			p.SequenceValuesDuplicated++
			p.detail("%s handed out %d on server %s, although it had come to %d before the run",
				v.sequence, v.value, draws[0].Server, last)
		}
	}
}

// past says whether value comes after last in the named sequence.
func past(name string, value, last int64) bool {
	for _, s := range sequences {
		if s.name == name && !s.ascending {
			return value < last
		}
	}
	return value > last
}

// checkSequences looks whether the server's sequences stand past every value
// that a client received and that it may have used.
func (p *Proof) checkSequences(ctx context.Context, tx pgx.Tx, l *Ledger, landed map[*Commit]bool) error {
	for _, s := range sequences {
		last, called, err := readSequence(ctx, tx, s)
		if err != nil {
			return err
		}
		p.SequencesChecked++
		furthest, ok := l.given[s.name]
		for _, d := range l.draws {
			if d.Sequence == s.name && (d.Committed || landed[d.commit]) && (!ok || past(s.name, d.Value, furthest)) {
				furthest, ok = d.Value, true
			}
		}
		if !ok || past(s.name, last, furthest) || called && last == furthest {
			continue
		}
		p.SequencesBehind = append(p.SequencesBehind, s.name)
		p.detail("%s stands at %d (is_called %t), %d was handed out", s.name, last, called, furthest)
	}
	return nil
}
