package unreplicated

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// pageSize is how many bytes of a large object a row of pg_largeobject holds at
// the most: a quarter of a block of 8 kB (Postgres manual: 52.30).
const pageSize = 2048

const (
	chunkBytes   = 8 << 20 // of large objects moved in one transaction, about
	chunkObjects = 500     // of them, because each takes places in the lock table
	batchBytes   = 1 << 20 // sent in one statement
)

// object is one large object as its catalogs have it.
type object struct {
	OID     uint32
	Pages   int64
	Owner   string
	Rights  bool // has an access list of its own
	Comment *string
}

// sourceObjectsSQL lists them in the order of their OIDs.
const sourceObjectsSQL = `
select m.oid, coalesce(p.pages, 0), pg_get_userbyid(m.lomowner)::text, m.lomacl is not null, obj_description(m.oid, 'pg_largeobject')
  from pg_catalog.pg_largeobject_metadata m
  left join (select l.loid, count(*) as pages from pg_catalog.pg_largeobject l group by l.loid) p on p.loid = m.oid
 order by m.oid`

const targetObjectsSQL = `select m.oid from pg_catalog.pg_largeobject_metadata m order by m.oid`

// chunk is a range of OIDs and what the source has in it.
type chunk struct {
	from, to uint32 // inclusive
	objects  []object
	bytes    int64
}

// lastOID ends the last range.
const lastOID = 1<<32 - 1

// chunks cuts all OIDs into ranges, of which none holds too many objects of
// either server.
func (m *Mover) chunks(ctx context.Context) ([]chunk, error) {
	objects, err := m.sourceObjects(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := m.target.Pool().Query(ctx, targetObjectsSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the large objects of the %s server: %w", m.target.Side(), err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, fmt.Errorf("listing the large objects of the %s server: %w", m.target.Side(), err)
	}
	return cut(objects, there), nil
}

// sourceObjects lists them. Where none were there, one look tells that there are
// none still: listing them takes a right that nobody needs for removing them.
func (m *Mover) sourceObjects(ctx context.Context) ([]object, error) {
	if m.inventory.Stale > 0 {
		if there, err := AnyObjects(ctx, m.source); err != nil || !there {
			return nil, err
		}
	}
	rows, err := m.source.Pool().Query(ctx, sourceObjectsSQL)
	if err != nil {
		return nil, fmt.Errorf("listing the large objects of the %s server: %w", m.source.Side(), err)
	}
	objects, err := pgx.CollectRows(rows, pgx.RowToStructByPos[object])
	if err != nil {
		return nil, fmt.Errorf("listing the large objects of the %s server: %w", m.source.Side(), err)
	}
	return objects, nil
}

// cut makes the ranges of two ordered lists.
func cut(objects []object, there []uint32) []chunk {
	if len(objects) == 0 && len(there) == 0 {
		return nil
	}
	var out []chunk
	now := chunk{from: 1}
	removed := 0
	end := func(at uint32) {
		now.to = at
		out = append(out, now)
		now, removed = chunk{from: at + 1}, 0
	}
	for len(objects) > 0 || len(there) > 0 {
		var at uint32
		if len(there) == 0 || len(objects) > 0 && objects[0].OID <= there[0] {
			at = objects[0].OID
			now.objects = append(now.objects, objects[0])
			now.bytes += objects[0].Pages * pageSize
			objects = objects[1:]
		} else {
			at = there[0]
		}
		if len(there) > 0 && there[0] == at {
			removed++
			there = there[1:]
		}
		if at < lastOID && (len(now.objects) >= chunkObjects || removed >= chunkObjects || now.bytes >= chunkBytes) {
			end(at)
		}
	}
	end(lastOID)
	return out
}

// removeSQL unlinks what the target has in a range.
const removeSQL = `
select count(lo_unlink(m.oid)) from pg_catalog.pg_largeobject_metadata m where m.oid between $1::oid and $2::oid`

// createSQL makes empty large objects of the given OIDs.
const createSQL = `select count(lo_create(x.oid)) from unnest($1::oid[]) as x (oid)`

// pagesSQL reads their pages. A page that is not there reads as zeros.
const pagesSQL = `
select l.loid, l.pageno, l.data from pg_catalog.pg_largeobject l where l.loid between $1::oid and $2::oid order by l.loid, l.pageno`

// putSQL writes runs of pages.
const putSQL = `
select lo_put(x.oid, x.at, x.data) from unnest($1::oid[], $2::bigint[], $3::bytea[]) as x (oid, at, data)`

// moveChunk makes the target have the source's objects of one range, in one
// transaction.
func (m *Mover) moveChunk(ctx context.Context, l *lane, c chunk) (Moved, error) {
	done := Moved{Objects: len(c.objects)}
	rights, err := readRights(ctx, l, c)
	if err != nil {
		return done, fmt.Errorf("reading the rights of large objects on the %s server: %w", m.source.Side(), err)
	}
	err = m.transaction(ctx, l, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, removeSQL, c.from, c.to); err != nil {
			return fmt.Errorf("removing large objects on the %s server: %w", m.target.Side(), err)
		}
		if len(c.objects) == 0 {
			return nil
		}
		oids := make([]uint32, len(c.objects))
		for i, o := range c.objects {
			oids[i] = o.OID
		}
		if _, err := tx.Exec(ctx, createSQL, oids); err != nil {
			return fmt.Errorf("making large objects on the %s server: %w", m.target.Side(), err)
		}
		if err := m.resetRights(ctx, tx, c); err != nil {
			return fmt.Errorf("taking default privileges from large objects on the %s server: %w", m.target.Side(), err)
		}
		n, err := m.pages(ctx, l, tx, c)
		if err != nil {
			return fmt.Errorf("copying large objects: %w", err)
		}
		done.Bytes = n
		if sql := m.ownSQL(c.objects, rights); len(sql) > 0 {
			if _, err := tx.Exec(ctx, strings.Join(sql, ";\n")); err != nil {
				return fmt.Errorf("giving large objects their owners and rights on the %s server: %w", m.target.Side(), err)
			}
		}
		return nil
	})
	return done, err
}

// batch is runs of pages on their way.
type batch struct {
	oids  []uint32
	at    []int64
	data  [][]byte
	bytes int
}

// add joins a page to the run before it where it follows on.
func (b *batch) add(oid uint32, page int32, data []byte) {
	at := int64(page) * pageSize
	b.bytes += len(data)
	if n := len(b.oids); n > 0 && b.oids[n-1] == oid && b.at[n-1]+int64(len(b.data[n-1])) == at {
		b.data[n-1] = append(b.data[n-1], data...)
		return
	}
	b.oids, b.at, b.data = append(b.oids, oid), append(b.at, at), append(b.data, slices.Clone(data))
}

func (b *batch) put(ctx context.Context, tx pgx.Tx) error {
	if len(b.oids) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, putSQL, b.oids, b.at, b.data)
	*b = batch{}
	return err
}

// pages copies the contents and returns how many bytes they were.
func (m *Mover) pages(ctx context.Context, l *lane, tx pgx.Tx, c chunk) (int64, error) {
	if c.bytes == 0 {
		return 0, nil
	}
	rows, err := l.from.Query(ctx, pagesSQL, c.from, c.to)
	if err != nil {
		return 0, err
	}
	var b batch
	var total int64
	var oid uint32
	var page int32
	var data []byte
	_, err = pgx.ForEachRow(rows, []any{&oid, &page, &data}, func() error {
		b.add(oid, page, data)
		total += int64(len(data))
		if b.bytes < batchBytes {
			return nil
		}
		return b.put(ctx, tx)
	})
	if err != nil {
		return total, err
	}
	return total, b.put(ctx, tx)
}

// right is one that somebody has on a large object.
type right struct {
	OID       uint32
	Grantee   string // empty: PUBLIC
	Privilege string
	Grantable bool
}

// rightsSQL lists the access lists of a range. Who granted a right is not kept:
// on the target the owner did. The order is kept.
const rightsSQL = `
select m.oid, coalesce(r.rolname::text, ''), a.privilege_type, a.is_grantable
  from pg_catalog.pg_largeobject_metadata m
 cross join lateral aclexplode(m.lomacl) with ordinality as a (grantor, grantee, privilege_type, is_grantable, n)
  left join pg_roles r on r.oid = a.grantee
 where m.lomacl is not null and m.oid between $1::oid and $2::oid
 order by m.oid, a.n`

func readRights(ctx context.Context, l *lane, c chunk) (map[uint32][]right, error) {
	if !slices.ContainsFunc(c.objects, func(o object) bool { return o.Rights }) {
		return nil, nil
	}
	rows, err := l.from.Query(ctx, rightsSQL, c.from, c.to)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[right])
	out := map[uint32][]right{}
	for _, r := range list {
		out[r.OID] = append(out[r.OID], r)
	}
	return out, err
}

// givenSQL lists who got rights on new large objects of a range by ALTER DEFAULT
// PRIVILEGES, as a name that can be pasted.
const givenSQL = `
select m.oid, coalesce(quote_ident(r.rolname), 'public')
  from pg_catalog.pg_largeobject_metadata m
 cross join lateral aclexplode(m.lomacl) a
  left join pg_roles r on r.oid = a.grantee
 where m.lomacl is not null and m.oid between $1::oid and $2::oid
 group by 1, 2
 order by 1, 2`

// resetRights leaves new objects, which are the tool's role's still, with the
// owner's rights only: large objects have default privileges since 18.
func (m *Mover) resetRights(ctx context.Context, tx pgx.Tx, c chunk) error {
	if m.target.Major() < 18 {
		return nil
	}
	rows, err := tx.Query(ctx, givenSQL, c.from, c.to)
	if err != nil {
		return err
	}
	type given struct {
		OID uint32
		To  string
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[given])
	if err != nil || len(list) == 0 {
		return err
	}
	var out []string
	for i, g := range list {
		out = append(out, fmt.Sprintf("revoke all on large object %d from %s", g.OID, g.To))
		if i+1 == len(list) || list[i+1].OID != g.OID {
			out = append(out, fmt.Sprintf("grant all on large object %d to current_user", g.OID))
		}
	}
	_, err = tx.Exec(ctx, strings.Join(out, ";\n"))
	return err
}

// ownSQL gives new objects what they are to have besides their contents.
func (m *Mover) ownSQL(objects []object, rights map[uint32][]right) []string {
	var out []string
	for _, o := range objects {
		owner := pgx.Identifier{o.Owner}.Sanitize()
		if o.Owner != m.target.User() {
			out = append(out, fmt.Sprintf("alter large object %d owner to %s", o.OID, owner))
		}
		if o.Rights {
			out = append(out, fmt.Sprintf("revoke all on large object %d from public, %s", o.OID, owner))
			for _, r := range rights[o.OID] {
				to, option := "public", ""
				if r.Grantee != "" {
					to = pgx.Identifier{r.Grantee}.Sanitize()
				}
				if r.Grantable {
					option = " with grant option"
				}
				out = append(out, fmt.Sprintf("grant %s on large object %d to %s%s", r.Privilege, o.OID, to, option))
			}
		}
		if o.Comment != nil {
			out = append(out, fmt.Sprintf("comment on large object %d is %s", o.OID, literal(*o.Comment)))
		}
	}
	return out
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
