package upgrade

import (
	"context"

	"github.com/pgcutover/pgcutover/internal/rowchange"
	"github.com/pgcutover/pgcutover/publisher"
	"github.com/pgcutover/pgcutover/subscriber"
)

// copyWatch tells the wait for the copy why tables are not copied.
func (m *Move) copyWatch() subscriber.CopyWatch {
	return subscriber.CopyWatch{Stall: m.stall, Why: func(ctx context.Context, tables []subscriber.TableState) ([]subscriber.Reason, error) {
		var out []subscriber.Reason
		for _, t := range tables[:min(len(tables), syncTables)] {
			reason, err := m.explainCopy(ctx, t)
			if err != nil {
				return nil, err
			}
			if reason != nil {
				out = append(out, *reason)
			}
		}
		return out, nil
	}}
}

func (m *Move) explainCopy(ctx context.Context, t subscriber.TableState) (*subscriber.Reason, error) {
	columns, err := publisher.Columns(ctx, m.Old, publisher.Table{Schema: t.Schema, Name: t.Name})
	if err != nil {
		return nil, err
	}
	return subscriber.ExplainCopy(ctx, m.New, rowchange.Change{Operation: "COPY", Schema: t.Schema, Table: t.Name, Columns: columns})
}
