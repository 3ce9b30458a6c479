package unreplicated

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgcutover/pgcutover/internal/pg"
)

// Empty leaves a server's unlogged tables without rows, and the server without
// large objects unless these are to be ignored. Nobody may be writing there. It
// may be called again.
func Empty(ctx context.Context, s *pg.Server, there Inventory, o Options) error {
	o.Tables = EmptyTables
	m := &Mover{source: s, target: s, inventory: there, options: o, lanes: make(chan *lane, 1)}
	var err error
	if m.groups, err = m.group(ctx); err != nil {
		return err
	}
	if m.quiet, err = mayQuiet(ctx, s); err != nil {
		return err
	}
	conn, err := s.Connect(ctx, "unreplicated", settings(o))
	if err != nil {
		return err
	}
	defer pg.Close(ctx, conn)
	l := &lane{to: conn}
	for _, g := range m.groups {
		if _, err := m.moveGroup(ctx, l, g); err != nil {
			return err
		}
	}
	if o.Objects == IgnoreObjects {
		return nil
	}
	rows, err := s.Pool().Query(ctx, targetObjectsSQL)
	if err != nil {
		return fmt.Errorf("listing the large objects of the %s server: %w", s.Side(), err)
	}
	oids, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return fmt.Errorf("listing the large objects of the %s server: %w", s.Side(), err)
	}
	for _, c := range cut(nil, oids) {
		if _, err := m.moveChunk(ctx, l, c); err != nil {
			return err
		}
	}
	return nil
}
