-- What DataGrip asks when it reads a database: each SELECT asks for what DataGrip's introspection does, in words of our own.

SELECT current_database() AS a, current_schemas(false) AS b;
SELECT round(extract(epoch FROM pg_postmaster_start_time() AT TIME ZONE 'UTC')) AS startup_time;
SELECT l.transactionid::varchar::bigint AS transaction_id FROM pg_catalog.pg_locks AS l WHERE l.transactionid IS NOT NULL LIMIT 1;
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE 1 END AS is_primary;
SELECT n.oid::bigint AS id, datname AS name, d.description, datistemplate AS is_template, datallowconn AS allow_connections, pg_catalog.pg_get_userbyid(n.datdba) AS owner
FROM pg_catalog.pg_database AS n LEFT JOIN pg_catalog.pg_shdescription AS d ON n.oid = d.objoid ORDER BY CASE WHEN datname = pg_catalog.current_database() THEN -1::bigint ELSE n.oid::bigint END;
SELECT n.oid::bigint AS id, n.nspname AS name, d.description, pg_catalog.pg_get_userbyid(n.nspowner) AS owner
FROM pg_catalog.pg_namespace AS n LEFT JOIN pg_catalog.pg_description AS d ON n.oid = d.objoid
ORDER BY CASE WHEN nspname = current_schema() THEN -1::bigint ELSE n.oid::bigint END;
SELECT r.oid::bigint AS role_id, rolname AS role_name, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolconnlimit, rolvaliduntil, rolbypassrls
FROM pg_catalog.pg_roles AS r LEFT JOIN pg_catalog.pg_shdescription AS d ON d.objoid = r.oid;
SELECT t.oid AS id, t.spcname AS name, pg_catalog.pg_get_userbyid(t.spcowner) AS owner, pg_catalog.pg_tablespace_location(t.oid) AS location, t.spcoptions AS options FROM pg_catalog.pg_tablespace AS t;
SELECT l.oid AS id, l.lanname AS name, l.lanpltrusted AS trusted FROM pg_catalog.pg_language AS l ORDER BY l.lanname;
SELECT c.oid AS id, c.collname AS name, c.collnamespace, c.collprovider FROM pg_catalog.pg_collation AS c;
SELECT e.oid AS id, e.extname AS name, e.extversion AS version, n.nspname AS schema_name, array(SELECT unnest FROM unnest(e.extconfig)) AS config FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON e.extnamespace = n.oid;

-- relations and their columns
SELECT t.relkind AS table_kind, t.relname AS table_name, t.oid AS table_id, t.relpersistence, t.relam AS access_method_id, t.reltablespace AS tablespace_id, t.reloptions AS options, t.relispartition AS is_partition,
  (SELECT pg_catalog.pg_get_partkeydef(t.oid)) AS partition_key, pg_catalog.pg_get_userbyid(t.relowner) AS owner
FROM pg_catalog.pg_class AS t WHERE t.relnamespace = 2200::oid AND t.relkind IN ('r', 'm', 'v', 'f', 'p') ORDER BY table_kind, table_id;
WITH t AS (SELECT t.oid AS table_id, t.relname AS table_name FROM pg_catalog.pg_class AS t WHERE t.relkind IN ('r', 'v', 'f', 'm', 'p') AND t.relnamespace = 2200::oid)
SELECT c.attrelid AS table_id, c.attnum AS column_position, c.attname AS column_name, c.attislocal AS is_local, c.attinhcount AS inheritors, c.attisdropped AS dropped, c.atttypmod AS type_mod, c.attndims AS dimensions,
  pg_catalog.format_type(c.atttypid, c.atttypmod) AS type_spec, c.atttypid AS type_id, c.attnotnull AS mandatory, d.oid AS default_id, pg_catalog.pg_get_expr(d.adbin, c.attrelid) AS column_default, c.attidentity, c.attgenerated
FROM t INNER JOIN pg_catalog.pg_attribute AS c ON t.table_id = c.attrelid LEFT JOIN pg_catalog.pg_attrdef AS d ON c.attrelid = d.adrelid AND c.attnum = d.adnum
WHERE c.attnum > 0 ORDER BY table_id, attnum;

-- types, keys, indexes, functions, views, comments
SELECT t.oid AS type_id, t.typname AS type_name, t.typtype AS type_sub_kind, t.typcategory AS type_category, t.typrelid AS class_id, t.typbasetype AS base_type_id, t.typnotnull AS mandatory, t.typdefault AS default_expression, t.typelem AS element_type_id, pg_catalog.pg_get_userbyid(t.typowner) AS owner
FROM pg_catalog.pg_type AS t LEFT OUTER JOIN pg_catalog.pg_class AS c ON t.typrelid = c.oid
WHERE t.typnamespace = 2200::oid AND (t.typtype IN ('d', 'e') OR c.relkind = 'c' OR (t.typtype = 'b' AND (t.typelem = 0 OR t.typcategory <> 'A')) OR (t.typtype = 'p' AND NOT t.typisdefined)) ORDER BY 1;
SELECT r.oid AS con_id, r.conname AS con_name, conrelid AS table_id, r.contype, r.conindid AS index_id, r.confrelid AS ref_table_id, r.condeferrable, r.condeferred, r.conkey AS con_columns, r.confkey AS ref_columns, pg_catalog.pg_get_constraintdef(r.oid) AS definition
FROM pg_catalog.pg_constraint AS r JOIN pg_catalog.pg_class AS c ON r.conrelid = c.oid WHERE c.relnamespace = 2200::oid;
SELECT tab.oid AS table_id, tab.relkind AS table_kind, ind_stor.relname AS index_name, ind_head.indexrelid AS index_id, ind_head.indisunique AS is_unique, ind_head.indisprimary AS is_primary, ind_head.indkey AS column_positions, ind_head.indoption AS column_options, pg_catalog.pg_get_expr(ind_head.indpred, ind_head.indrelid) AS condition, opc.amname AS access_method
FROM pg_catalog.pg_class AS tab JOIN pg_catalog.pg_index AS ind_head ON ind_head.indrelid = tab.oid JOIN pg_catalog.pg_class AS ind_stor ON tab.relnamespace = ind_stor.relnamespace AND ind_stor.oid = ind_head.indexrelid LEFT JOIN pg_catalog.pg_am AS opc ON opc.oid = ind_stor.relam
WHERE tab.relnamespace = 2200::oid AND tab.relkind IN ('r', 'm', 'v', 'p') AND ind_stor.relkind IN ('i', 'I');
SELECT p.oid AS r_id, p.proname AS r_name, p.prolang AS lang_oid, p.prorettype AS ret_type_id, p.proargtypes AS in_arg_types, p.proallargtypes AS all_arg_types, p.proargmodes AS arg_modes, p.proargnames AS arg_names, pg_catalog.pg_get_expr(p.proargdefaults, 0) AS arg_defaults, p.provolatile AS volatile_kind, p.proisstrict, p.prokind, p.proretset, p.procost, p.prorows, pg_catalog.pg_get_userbyid(p.proowner) AS owner
FROM pg_catalog.pg_proc AS p WHERE p.pronamespace = 2200::oid AND NOT p.prokind = 'a' ORDER BY r_name;
SELECT pg_catalog.pg_get_viewdef(t.oid, true) AS source, t.relname FROM pg_catalog.pg_class AS t WHERE t.relkind IN ('v', 'm') AND t.relnamespace = 2200::oid;
SELECT d.objoid AS id, d.objsubid AS column_number, d.description FROM pg_catalog.pg_description AS d JOIN pg_catalog.pg_class AS c ON d.objoid = c.oid WHERE d.classoid = 'pg_catalog.pg_class'::regclass AND c.relnamespace = 2200::oid;
SELECT t.oid AS object_id, t.relacl AS acl FROM pg_catalog.pg_class AS t WHERE t.relnamespace = 2200::oid AND t.relkind IN ('r', 'm', 'v', 'f', 'p');
SELECT tg.oid, tg.tgname, tg.tgrelid FROM pg_catalog.pg_trigger AS tg JOIN pg_catalog.pg_class AS c ON c.oid = tg.tgrelid WHERE c.relnamespace = 2200::oid AND NOT tg.tgisinternal;
SELECT d.objid AS dependent, d.refobjid AS owner, d.refobjsubid FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype = 'a';
SELECT o.oid AS op_id, o.oprname AS op_name, o.oprkind AS op_kind, o.oprleft AS arg_left_type_id, o.oprright AS arg_right_type_id, o.oprresult AS arg_result_type_id, o.oprcode AS func_main FROM pg_catalog.pg_operator AS o WHERE o.oprnamespace = 2200::oid;

-- the editor
SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE;
SELECT t.* FROM public.accounts AS t LIMIT 501;
