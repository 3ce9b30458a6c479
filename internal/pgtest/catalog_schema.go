package pgtest

// The queries of this file list what is in a database's schemas. Object ids
// from 16384 on are those of objects made after initdb; relations of temporary
// and TOAST schemas are left out.

const schemaLines = `
SELECT format('%s owner=%s acl=%s',
              nspname, pg_get_userbyid(nspowner),
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(nspacl, acldefault('n', nspowner))) AS a))
FROM pg_namespace
WHERE nspname !~ '^pg_(toast|temp)'`

const relationLines = `
SELECT format('%s kind=%s persistence=%s owner=%s replica_identity=%s row_security=%s/%s options=%s tablespace=%s method=%s key=%s bound=%s view=%s acl=%s',
              c.oid::regclass, c.relkind, c.relpersistence, pg_get_userbyid(c.relowner), c.relreplident,
              c.relrowsecurity, c.relforcerowsecurity, c.reloptions, s.spcname, m.amname,
              CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END,
              pg_get_expr(c.relpartbound, c.oid),
              CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(c.relacl,
                    acldefault(CASE WHEN c.relkind = 'S' THEN 's'::"char" ELSE 'r'::"char" END, c.relowner))) AS a))
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_tablespace AS s ON s.oid = c.reltablespace
LEFT JOIN pg_am AS m ON m.oid = c.relam
WHERE c.oid >= 16384
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
  AND n.nspname !~ '^pg_(toast|temp)'`

// attgenerated came with 12, attcompression with 14: read through JSON they are
// null before.
const columnLines = `
SELECT format('%s.%s #%s %s not_null=%s default=%s identity=%s generated=%s collation=%s storage=%s compression=%s target=%s options=%s/%s acl=%s',
              a.attrelid::regclass, a.attname,
              (SELECT count(*)
               FROM pg_attribute AS before
               WHERE before.attrelid = a.attrelid
                 AND before.attnum BETWEEN 1 AND a.attnum
                 AND NOT before.attisdropped),
              format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid),
              a.attidentity, to_jsonb(a) ->> 'attgenerated',
              (SELECT collname FROM pg_collation WHERE oid = a.attcollation),
              a.attstorage, to_jsonb(a) ->> 'attcompression', a.attstattarget, a.attoptions, a.attfdwoptions,
              (SELECT string_agg(i::text, ' ' ORDER BY i::text) FROM unnest(a.attacl) AS i))
FROM pg_attribute AS a
JOIN pg_class AS c ON c.oid = a.attrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.oid >= 16384
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
  AND a.attnum > 0
  AND NOT a.attisdropped
  AND n.nspname !~ '^pg_(toast|temp)'`

const constraintLines = `
SELECT format('%s on %s %s',
              conname,
              CASE WHEN conrelid <> 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END,
              pg_get_constraintdef(oid))
FROM pg_constraint
WHERE oid >= 16384`

const indexLines = `
SELECT format('%s valid=%s ready=%s clustered=%s replica_identity=%s owner=%s options=%s',
              pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisready, i.indisclustered, i.indisreplident,
              pg_get_userbyid(c.relowner), c.reloptions)
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.oid >= 16384
  AND n.nspname !~ '^pg_(toast|temp)'`

const triggerLines = `
SELECT format('%s enabled=%s', pg_get_triggerdef(oid), tgenabled)
FROM pg_trigger
WHERE NOT tgisinternal`

// The names of internal triggers hold object ids; what matters is whether
// someone disabled them.
const internalTriggerLines = `
SELECT format('%s on %s of %s enabled=%s', t.tgfoid::regproc, t.tgrelid::regclass, c.conname, t.tgenabled)
FROM pg_trigger AS t
LEFT JOIN pg_constraint AS c ON c.oid = t.tgconstraint
WHERE t.tgisinternal`

const ruleLines = `
SELECT format('%s enabled=%s', pg_get_ruledef(oid), ev_enabled)
FROM pg_rewrite
WHERE ev_class >= 16384
  AND rulename <> '_RETURN'`

const policyLines = `
SELECT format('%s on %s command=%s permissive=%s roles=%s using=%s check=%s',
              polname, polrelid::regclass, polcmd, polpermissive,
              (SELECT string_agg(CASE WHEN r = 0 THEN 'public' ELSE pg_get_userbyid(r)::text END, ',' ORDER BY r)
               FROM unnest(polroles) AS r),
              pg_get_expr(polqual, polrelid),
              pg_get_expr(polwithcheck, polrelid))
FROM pg_policy`

const sequenceLines = `
SELECT format('%s type=%s start=%s increment=%s max=%s min=%s cache=%s cycle=%s owned_by=%s',
              s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart, s.seqincrement, s.seqmax, s.seqmin,
              s.seqcache, s.seqcycle,
              (SELECT pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
               FROM pg_depend AS d
               WHERE d.classid = 'pg_class'::regclass
                 AND d.objid = s.seqrelid
                 AND d.refclassid = 'pg_class'::regclass
                 AND d.deptype IN ('a', 'i')))
FROM pg_sequence AS s
JOIN pg_class AS c ON c.oid = s.seqrelid
WHERE c.relpersistence <> 't'`

const inheritanceLines = `
SELECT format('%s of %s #%s', i.inhrelid::regclass, i.inhparent::regclass, i.inhseqno)
FROM pg_inherits AS i`

const statisticsLines = `
SELECT format('%s owner=%s', pg_get_statisticsobjdef(oid), pg_get_userbyid(stxowner))
FROM pg_statistic_ext`

// Version 10 marks aggregates in proisagg; pg_get_functiondef refuses them.
const functionLines = `
SELECT format('%s result=%s owner=%s definition=%s acl=%s',
              p.oid::regprocedure, pg_get_function_result(p.oid), pg_get_userbyid(p.proowner),
              md5(CASE WHEN p.proisagg
                       THEN (SELECT concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.agginitval)
                             FROM pg_aggregate AS a WHERE a.aggfnoid = p.oid)
                       ELSE pg_get_functiondef(p.oid) END),
              (SELECT string_agg(i::text, ' ' ORDER BY i::text)
               FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) AS i))
FROM pg_proc AS p
WHERE p.oid >= 16384`

const functionLines11 = `
SELECT format('%s kind=%s result=%s owner=%s definition=%s acl=%s',
              p.oid::regprocedure, p.prokind, pg_get_function_result(p.oid), pg_get_userbyid(p.proowner),
              md5(CASE WHEN p.prokind = 'a'
                       THEN (SELECT concat_ws(' ', a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.agginitval)
                             FROM pg_aggregate AS a WHERE a.aggfnoid = p.oid)
                       ELSE pg_get_functiondef(p.oid) END),
              (SELECT string_agg(i::text, ' ' ORDER BY i::text)
               FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) AS i))
FROM pg_proc AS p
WHERE p.oid >= 16384`

// Array types and the row types of tables come and go with their owners.
const typeLines = `
SELECT format('%s type=%s owner=%s base=%s not_null=%s default=%s labels=%s range=%s acl=%s',
              t.oid::regtype, t.typtype, pg_get_userbyid(t.typowner),
              format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typnotnull, t.typdefault,
              (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder)
               FROM pg_enum AS e WHERE e.enumtypid = t.oid),
              (SELECT r.rngsubtype::regtype FROM pg_range AS r WHERE r.rngtypid = t.oid),
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(t.typacl, acldefault('T', t.typowner))) AS a))
FROM pg_type AS t
JOIN pg_namespace AS n ON n.oid = t.typnamespace
LEFT JOIN pg_class AS c ON c.oid = t.typrelid
WHERE t.oid >= 16384
  AND t.typcategory <> 'A'
  AND (t.typrelid = 0 OR c.relkind = 'c')
  AND n.nspname !~ '^pg_(toast|temp)'`
