package pgtest

// The queries of this file list what belongs to a database as a whole or to the
// server. Each returns one column of text, one row for each thing.

const databaseLines = `
SELECT format('%s owner=%s encoding=%s collate=%s ctype=%s template=%s connections=%s limit=%s tablespace=%s acl=%s',
              d.datname, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
              d.datistemplate, d.datallowconn, d.datconnlimit, s.spcname,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(d.datacl, acldefault('d', d.datdba))) AS a))
FROM pg_database AS d
JOIN pg_tablespace AS s ON s.oid = d.dattablespace
WHERE d.datname = current_database()`

const settingLines = `
SELECT format('database=%s role=%s %s',
              coalesce(d.datname, '(all)'),
              coalesce(r.rolname, '(all)'),
              setting)
FROM pg_db_role_setting AS s
LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
CROSS JOIN unnest(s.setconfig) AS setting
WHERE s.setdatabase = 0
   OR d.datname = current_database()`

const systemSettingLines = `
SELECT format('%s = %s', name, setting)
FROM pg_file_settings
WHERE sourcefile LIKE '%/postgresql.auto.conf'`

const roleLines = `
SELECT format('%s %s password=%s',
              rolname,
              to_jsonb(a) - '{oid,rolname,rolpassword}'::text[],
              md5(rolpassword))
FROM pg_authid AS a`

// Other tests make and drop roles meanwhile: pg_get_userbyid would look beyond
// the snapshot and not know a member that has just been dropped.
const memberLines = `
SELECT format('%s in %s by %s %s',
              member.rolname,
              role.rolname,
              grantor.rolname,
              to_jsonb(m) - '{oid,roleid,member,grantor}'::text[])
FROM pg_auth_members AS m
LEFT JOIN pg_authid AS member ON member.oid = m.member
LEFT JOIN pg_authid AS role ON role.oid = m.roleid
LEFT JOIN pg_authid AS grantor ON grantor.oid = m.grantor`

const tablespaceLines = `
SELECT format('%s owner=%s options=%s acl=%s',
              spcname, pg_get_userbyid(spcowner), spcoptions,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(spcacl, acldefault('t', spcowner))) AS a))
FROM pg_tablespace`

const slotLines = `
SELECT format('%s type=%s plugin=%s temporary=%s', slot_name, slot_type, plugin, temporary)
FROM pg_replication_slots
WHERE database IS NULL
   OR database = current_database()`

// Origins of other databases' subscriptions carry the subscription's id in
// their name: pg_16401, for a table's first copy pg_16401_16385.
const originLines = `
SELECT roname
FROM pg_replication_origin AS o
WHERE NOT EXISTS (
    SELECT FROM pg_subscription AS s
    JOIN pg_database AS d ON d.oid = s.subdbid
    WHERE d.datname <> current_database()
      AND o.roname ~ ('^pg_' || s.oid || '(_|$)')
)`

const subscriptionLines = `
SELECT format('%s owner=%s %s',
              s.subname,
              pg_get_userbyid(s.subowner),
              to_jsonb(s) - '{oid,subdbid,subname,subowner,subconninfo}'::text[])
FROM pg_subscription AS s
JOIN pg_database AS d ON d.oid = s.subdbid
WHERE d.datname = current_database()`

const subscriptionTableLines = `
SELECT format('%s %s state=%s', s.subname, r.srrelid::regclass, r.srsubstate)
FROM pg_subscription_rel AS r
JOIN pg_subscription AS s ON s.oid = r.srsubid`

const publicationLines = `
SELECT format('%s owner=%s %s',
              pubname,
              pg_get_userbyid(pubowner),
              to_jsonb(p) - '{oid,pubname,pubowner}'::text[])
FROM pg_publication AS p`

const publicationTableLines = `
SELECT format('%s %s', p.pubname, r.prrelid::regclass)
FROM pg_publication_rel AS r
JOIN pg_publication AS p ON p.oid = r.prpubid`

const publicationTableLines15 = `
SELECT format('%s %s columns=%s where=%s',
              p.pubname,
              r.prrelid::regclass,
              (SELECT string_agg(quote_ident(a.attname), ',' ORDER BY a.attnum)
               FROM unnest(r.prattrs::int2[]) AS n
               JOIN pg_attribute AS a ON a.attrelid = r.prrelid AND a.attnum = n),
              pg_get_expr(r.prqual, r.prrelid))
FROM pg_publication_rel AS r
JOIN pg_publication AS p ON p.oid = r.prpubid`

const publicationSchemaLines15 = `
SELECT format('%s %s', p.pubname, n.pnnspid::regnamespace)
FROM pg_publication_namespace AS n
JOIN pg_publication AS p ON p.oid = n.pnpubid`

const preparedLines = `
SELECT format('%s owner=%s', gid, owner)
FROM pg_prepared_xacts
WHERE database = current_database()`

const extensionLines = `
SELECT format('%s version=%s schema=%s owner=%s config=%s condition=%s',
              extname, extversion, extnamespace::regnamespace, pg_get_userbyid(extowner),
              (SELECT string_agg(c::regclass::text, ',') FROM unnest(extconfig) AS c),
              extcondition)
FROM pg_extension`

const eventTriggerLines = `
SELECT format('%s on %s tags=%s function=%s enabled=%s owner=%s',
              evtname, evtevent, evttags, evtfoid::regprocedure, evtenabled, pg_get_userbyid(evtowner))
FROM pg_event_trigger`

const defaultACLLines = `
SELECT format('role=%s schema=%s type=%s acl=%s',
              pg_get_userbyid(defaclrole),
              CASE WHEN defaclnamespace <> 0 THEN defaclnamespace::regnamespace END,
              defaclobjtype,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(defaclacl) AS a))
FROM pg_default_acl`

// Privileges on what the server came with: a tool may grant itself the use of a
// function there, or take one from others.
const systemACLLines = `
SELECT format('relation %s %s', c.oid::regclass,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(c.relacl) AS a))
FROM pg_class AS c
WHERE c.oid < 16384
  AND c.relacl IS NOT NULL
UNION ALL
SELECT format('column %s.%s %s', a.attrelid::regclass, a.attname,
              (SELECT string_agg(i::text, ' ' ORDER BY i::text) FROM unnest(a.attacl) AS i))
FROM pg_attribute AS a
WHERE a.attrelid < 16384
  AND a.attacl IS NOT NULL
UNION ALL
SELECT format('function %s %s', p.oid::regprocedure,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) AS a))
FROM pg_proc AS p
WHERE p.oid < 16384
  AND p.proacl IS NOT NULL
  AND NOT (p.proacl @> acldefault('f', p.proowner) AND p.proacl <@ acldefault('f', p.proowner))
UNION ALL
SELECT format('language %s %s', l.lanname,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(l.lanacl, acldefault('l', l.lanowner))) AS a))
FROM pg_language AS l
UNION ALL
SELECT format('type %s %s', t.oid::regtype,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(t.typacl) AS a))
FROM pg_type AS t
WHERE t.oid < 16384
  AND t.typacl IS NOT NULL
  AND NOT (t.typacl @> acldefault('T', t.typowner) AND t.typacl <@ acldefault('T', t.typowner))`

// Kinds of objects that need no more than to be seen.
const objectLines = `
SELECT format('%s %s', i.type, i.identity)
FROM (
    SELECT 'pg_cast'::regclass AS class, oid FROM pg_cast
    UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator
    UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
    UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily
    UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation
    UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion
    UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
    UNION ALL SELECT 'pg_ts_parser'::regclass, oid FROM pg_ts_parser
    UNION ALL SELECT 'pg_ts_template'::regclass, oid FROM pg_ts_template
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
    UNION ALL SELECT 'pg_language'::regclass, oid FROM pg_language
    UNION ALL SELECT 'pg_am'::regclass, oid FROM pg_am
    UNION ALL SELECT 'pg_transform'::regclass, oid FROM pg_transform
) AS o
CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) AS i
WHERE o.oid >= 16384`

const foreignServerLines = `
SELECT format('%s wrapper=%s owner=%s options=%s acl=%s',
              s.srvname, w.fdwname, pg_get_userbyid(s.srvowner), s.srvoptions,
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(s.srvacl, acldefault('S', s.srvowner))) AS a))
FROM pg_foreign_server AS s
JOIN pg_foreign_data_wrapper AS w ON w.oid = s.srvfdw
UNION ALL
SELECT format('%s for %s options=%s',
              s.srvname,
              CASE WHEN m.umuser = 0 THEN 'public' ELSE pg_get_userbyid(m.umuser) END,
              md5(m.umoptions::text))
FROM pg_user_mapping AS m
JOIN pg_foreign_server AS s ON s.oid = m.umserver`

const largeObjectLines = `
SELECT format('%s owner=%s acl=%s', oid, pg_get_userbyid(lomowner),
              (SELECT string_agg(a::text, ' ' ORDER BY a::text)
               FROM unnest(coalesce(lomacl, acldefault('L', lomowner))) AS a))
FROM pg_largeobject_metadata`

const commentLines = `
SELECT format('%s: %s', pg_describe_object(classoid, objoid, objsubid), description)
FROM pg_description
WHERE objoid >= 16384
   OR classoid = 'pg_namespace'::regclass
UNION ALL
SELECT format('%s: %s', pg_describe_object(classoid, objoid, 0), description)
FROM pg_shdescription
WHERE classoid <> 'pg_database'::regclass
   OR objoid = (SELECT oid FROM pg_database WHERE datname = current_database())`

const labelLines = `
SELECT format('%s %s %s: %s', provider, objtype, objname, label)
FROM pg_seclabels`
