-- What DBeaver asks when it connects and opens a schema: each SELECT asks for what DBeaver's does, in words of our own.

-- connecting
SET extra_float_digits = 3;
SELECT current_schema(), session_user;
SELECT setting FROM pg_catalog.pg_settings WHERE name = 'standard_conforming_strings';
SHOW search_path;
SELECT db.oid, db.* FROM pg_catalog.pg_database AS db WHERE datname = 'millstream';
SELECT version();

-- schemas, with their comments and whether they are on the path
SELECT n.oid, n.*, d.description FROM pg_catalog.pg_namespace AS n
LEFT OUTER JOIN pg_catalog.pg_description AS d ON d.objoid = n.oid AND d.objsubid = 0 AND d.classoid = 'pg_namespace'::regclass
ORDER BY nspname;
SELECT n.nspname = ANY(current_schemas(true)) AS visible, n.nspname, t.typname
FROM pg_catalog.pg_type AS t JOIN pg_catalog.pg_namespace AS n ON t.typnamespace = n.oid WHERE t.oid = 1034;

-- types
SELECT t.oid, t.*, c.relkind, format_type(nullif(t.typbasetype, 0), t.typtypmod) AS base_type_name, d.description
FROM pg_catalog.pg_type AS t
LEFT OUTER JOIN pg_catalog.pg_type AS et ON et.oid = t.typelem
LEFT OUTER JOIN pg_catalog.pg_class AS c ON c.oid = t.typrelid
LEFT OUTER JOIN pg_catalog.pg_description AS d ON t.oid = d.objoid
WHERE t.typname IS NOT NULL AND (c.relkind IS NULL OR c.relkind = 'c') AND (et.typcategory IS NULL OR et.typcategory <> 'C');

-- relations of a schema
SELECT c.oid, c.*, d.description,
  pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS partition_expr, pg_catalog.pg_get_partkeydef(c.oid) AS partition_key
FROM pg_catalog.pg_class AS c
LEFT OUTER JOIN pg_catalog.pg_description AS d ON d.objoid = c.oid AND d.objsubid = 0 AND d.classoid = 'pg_class'::regclass
WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public') AND c.relkind NOT IN ('i', 'I', 'c');

-- columns of a table
SELECT c.relname, a.*, pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) AS def_value, dsc.description, dep.objid
FROM pg_catalog.pg_attribute AS a
INNER JOIN pg_catalog.pg_class AS c ON a.attrelid = c.oid
LEFT OUTER JOIN pg_catalog.pg_attrdef AS ad ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum
LEFT OUTER JOIN pg_catalog.pg_description AS dsc ON c.oid = dsc.objoid AND a.attnum = dsc.objsubid
LEFT OUTER JOIN pg_catalog.pg_depend AS dep ON dep.refobjid = a.attrelid AND dep.deptype = 'i' AND dep.refobjsubid = a.attnum
  AND dep.classid = dep.refclassid
WHERE NOT a.attisdropped AND c.oid = 'accounts'::regclass ORDER BY a.attnum;

-- keys and constraints
SELECT c.oid, c.*, t.relname AS tabrelname, rt.relnamespace AS refnamespace, d.description
FROM pg_catalog.pg_constraint AS c
INNER JOIN pg_catalog.pg_class AS t ON t.oid = c.conrelid
LEFT OUTER JOIN pg_catalog.pg_class AS rt ON rt.oid = c.confrelid
LEFT OUTER JOIN pg_catalog.pg_description AS d ON d.objoid = c.oid AND d.objsubid = 0 AND d.classoid = 'pg_constraint'::regclass
WHERE c.conrelid = 'accounts'::regclass;

-- indexes
SELECT i.*, i.indkey AS keys, c.relname, c.relnamespace, c.relam, c.reltablespace, tc.relname AS tabrelname, dsc.description,
  pg_catalog.pg_get_expr(i.indpred, i.indrelid) AS pred_expr, pg_catalog.pg_get_expr(i.indexprs, i.indrelid, true) AS expr,
  pg_catalog.pg_relation_size(i.indexrelid) AS index_size, pg_catalog.pg_stat_get_numscans(i.indexrelid) AS index_num_scans
FROM pg_catalog.pg_index AS i
INNER JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
INNER JOIN pg_catalog.pg_class AS tc ON tc.oid = i.indrelid
LEFT OUTER JOIN pg_catalog.pg_description AS dsc ON i.indexrelid = dsc.objoid
WHERE i.indrelid = 'accounts'::regclass ORDER BY tabrelname, c.relname;

-- functions
SELECT p.oid AS poid, p.*, pg_catalog.pg_get_expr(p.proargdefaults, 0) AS arg_defaults, l.lanname, d.description
FROM pg_catalog.pg_proc AS p
LEFT OUTER JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
LEFT OUTER JOIN pg_catalog.pg_description AS d ON p.oid = d.objoid
WHERE p.pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public') ORDER BY p.proname;
SELECT pg_catalog.pg_get_functiondef(p.oid) FROM pg_catalog.pg_proc AS p WHERE p.proname = 'twice';

-- what a view is
SELECT pg_catalog.pg_get_viewdef('risky'::regclass, true);

-- sizes, triggers, rules, policies, partitions, inheritance, dependencies
SELECT c.oid, pg_catalog.pg_total_relation_size(c.oid) AS total_rel_size, pg_catalog.pg_relation_size(c.oid) AS rel_size
FROM pg_catalog.pg_class AS c WHERE c.relname = 'accounts';
SELECT x.oid, x.*, p.pronamespace AS func_schema_id, d.description FROM pg_catalog.pg_trigger AS x
LEFT OUTER JOIN pg_catalog.pg_proc AS p ON p.oid = x.tgfoid LEFT OUTER JOIN pg_catalog.pg_description AS d ON d.objoid = x.oid
WHERE x.tgrelid = 'accounts'::regclass AND NOT x.tgisinternal;
SELECT * FROM pg_catalog.pg_rewrite WHERE ev_class = 'accounts'::regclass;
SELECT pc.*, pa.policyname FROM pg_catalog.pg_class AS pc JOIN pg_catalog.pg_policies AS pa ON pa.tablename = pc.relname;
SELECT i.*, c.relnamespace FROM pg_catalog.pg_inherits AS i, pg_catalog.pg_class AS c WHERE i.inhrelid = 'accounts'::regclass AND c.oid = i.inhparent;
SELECT DISTINCT dep.deptype, dep.classid, dep.objid, cl.relkind FROM pg_catalog.pg_depend AS dep
LEFT JOIN pg_catalog.pg_class AS cl ON dep.objid = cl.oid WHERE dep.refobjid = 'accounts'::regclass;

-- roles, tablespaces, extensions, sessions, locks, settings
SELECT a.oid, a.*, pd.description FROM pg_catalog.pg_roles AS a LEFT JOIN pg_catalog.pg_shdescription AS pd ON a.oid = pd.objoid ORDER BY a.rolname;
SELECT t.oid, t.*, pg_catalog.pg_tablespace_location(t.oid) AS loc FROM pg_catalog.pg_tablespace AS t ORDER BY t.oid;
SELECT e.oid, e.*, n.nspname AS schema_name FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace;
SELECT sa.* FROM pg_catalog.pg_stat_activity AS sa;
SELECT * FROM pg_catalog.pg_locks;
SELECT * FROM pg_catalog.pg_settings ORDER BY name;
SELECT * FROM pg_catalog.pg_am;
SELECT * FROM pg_catalog.pg_language;
SELECT f.oid, f.* FROM pg_catalog.pg_foreign_data_wrapper AS f ORDER BY f.fdwname;
SELECT fs.* FROM pg_catalog.pg_foreign_server AS fs;
SELECT count(*) FROM pg_catalog.pg_collation;
SELECT * FROM pg_catalog.pg_sequences;

-- reading a table
SELECT x.* FROM public.accounts AS x LIMIT 200;
EXPLAIN SELECT x.* FROM public.accounts AS x;
