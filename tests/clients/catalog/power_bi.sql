-- What Power BI asks through Npgsql, when it connects and when it lists tables, in words of our own.

SELECT version();

-- Npgsql loads the types: arrays are those that array_recv reads
SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.elemtypoid
FROM (
  SELECT typ.oid, typ.typnamespace, typ.typname, typ.typtype, typ.typrelid, typ.typnotnull, typ.relkind, elemtyp.oid AS elemtypoid, elemtyp.typname AS elemtypname, elemcls.relkind AS elemrelkind,
    CASE WHEN elemproc.proname = 'array_recv' THEN 'a' ELSE elemtyp.typtype END AS elemtyptype
  FROM (
    SELECT typ.oid, typnamespace, typname, typrelid, typnotnull, relkind, typelem AS elemoid,
      CASE WHEN proc.proname = 'array_recv' THEN 'a' ELSE typ.typtype END AS typtype,
      CASE WHEN proc.proname = 'array_recv' THEN typ.typelem WHEN typ.typtype = 'r' THEN rngsubtype WHEN typ.typtype = 'm' THEN (SELECT rngtypid FROM pg_range WHERE rngmultitypid = typ.oid) WHEN typ.typtype = 'd' THEN typ.typbasetype END AS elemtypoid
    FROM pg_type AS typ
    LEFT JOIN pg_class AS cls ON cls.oid = typ.typrelid
    LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive
    LEFT JOIN pg_range ON pg_range.rngtypid = typ.oid
  ) AS typ
  LEFT JOIN pg_type AS elemtyp ON elemtyp.oid = elemtypoid
  LEFT JOIN pg_class AS elemcls ON elemcls.oid = elemtyp.typrelid
  LEFT JOIN pg_proc AS elemproc ON elemproc.oid = elemtyp.typreceive
) AS t
JOIN pg_namespace AS ns ON ns.oid = typnamespace
WHERE typtype IN ('b', 'r', 'm', 'e', 'd') OR (typtype = 'c' AND relkind = 'c') OR (typtype = 'p' AND typname IN ('record', 'void', 'unknown')) OR
  (typtype = 'a' AND (elemtyptype IN ('b', 'r', 'm', 'e', 'd') OR (elemtyptype = 'p' AND elemtypname IN ('record', 'void')) OR (elemtyptype = 'c' AND elemrelkind = 'c')))
ORDER BY CASE WHEN typtype IN ('b', 'e', 'p') THEN 0 WHEN typtype = 'c' THEN 1 WHEN typtype = 'r' THEN 2 WHEN typtype = 'm' THEN 3 WHEN typtype = 'a' THEN 4 WHEN typtype = 'd' THEN 5 END;
SELECT typ.oid, att.attname, att.atttypid FROM pg_type AS typ JOIN pg_namespace AS ns ON ns.oid = typ.typnamespace JOIN pg_class AS cls ON cls.oid = typ.typrelid JOIN pg_attribute AS att ON att.attrelid = typ.typrelid
WHERE typ.typtype = 'c' AND cls.relkind = 'c' AND attnum > 0 AND NOT attisdropped ORDER BY typ.oid, att.attnum;
SELECT pg_type.oid, enumlabel FROM pg_enum JOIN pg_type ON pg_type.oid = enumtypid ORDER BY oid, enumsortorder;
SELECT character_set_name FROM information_schema.character_sets;

-- tables, columns, keys
SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema NOT IN ('information_schema', 'pg_catalog') ORDER BY table_schema, table_name;
SELECT column_name, ordinal_position, is_nullable, data_type, CASE WHEN (data_type LIKE '%unsigned%') THEN data_type || ' unsigned' ELSE data_type END AS declared FROM information_schema.columns WHERE table_schema = 'public' AND table_name = 'accounts' ORDER BY table_schema, table_name, ordinal_position;
SELECT i.constraint_schema || '_' || i.constraint_name AS index_name, ii.column_name, ii.ordinal_position, CASE WHEN i.constraint_type = 'PRIMARY KEY' THEN 'Y' ELSE 'N' END AS primary_key
FROM information_schema.table_constraints AS i INNER JOIN information_schema.key_column_usage AS ii ON i.constraint_schema = ii.constraint_schema AND i.constraint_name = ii.constraint_name AND i.table_schema = ii.table_schema AND i.table_name = ii.table_name
WHERE i.table_schema = 'public' AND i.table_name = 'accounts' AND i.constraint_type IN ('PRIMARY KEY', 'UNIQUE') ORDER BY i.constraint_schema || '_' || i.constraint_name, ii.table_schema, ii.table_name, ii.ordinal_position;
SELECT pkcol.column_name AS pk_column_name, fkcol.table_schema AS fk_table_schema, fkcol.table_name AS fk_table_name, fkcol.column_name AS fk_column_name, fkcol.ordinal_position AS ordinal, fkcon.constraint_name AS fk_name
FROM (SELECT DISTINCT constraint_catalog, constraint_schema, unique_constraint_schema, constraint_name, unique_constraint_name FROM information_schema.referential_constraints) AS fkcon
INNER JOIN information_schema.key_column_usage AS fkcol ON fkcon.constraint_schema = fkcol.constraint_schema AND fkcon.constraint_name = fkcol.constraint_name
INNER JOIN information_schema.key_column_usage AS pkcol ON fkcon.unique_constraint_schema = pkcol.constraint_schema AND fkcon.unique_constraint_name = pkcol.constraint_name
WHERE pkcol.table_schema = 'public' AND pkcol.table_name = 'accounts' AND pkcol.ordinal_position = fkcol.ordinal_position ORDER BY fkcon.constraint_name, fkcol.ordinal_position;

-- a folded query
SELECT "_"."holder" AS "holder", sum("_"."balance") AS "a0", count(1) AS "a1" FROM "public"."accounts" AS "_" WHERE "_"."holder" IS NOT NULL GROUP BY "_"."holder" ORDER BY "_"."holder" LIMIT 1001;
SELECT * FROM (SELECT * FROM accounts) AS "$Table" LIMIT 4096;
