-- What Grafana's data source asks, and its panels' queries after its macros are filled in, in words of our own.

SELECT current_setting('server_version_num')::int / 100 AS version;
SELECT extversion FROM pg_extension WHERE extname = 'timescaledb';
SELECT datname FROM pg_database WHERE datistemplate = false;
SELECT CASE WHEN quote_ident(table_schema) IN (SELECT CASE WHEN trim(s[i]) = '"$user"' THEN quote_ident(session_user::text) ELSE trim(s[i]) END
    FROM generate_series(array_lower(string_to_array(current_setting('search_path'), ','), 1), array_upper(string_to_array(current_setting('search_path'), ','), 1)) AS i, string_to_array(current_setting('search_path'), ',') AS s)
  THEN quote_ident(table_name) ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS "table"
FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache', '_timescaledb_catalog', '_timescaledb_internal', '_timescaledb_config', 'timescaledb_information', 'timescaledb_experimental') ORDER BY 1;
SELECT quote_ident(column_name) AS "column", data_type AS "type" FROM information_schema.columns WHERE quote_ident(table_schema) = 'public' AND quote_ident(table_name) = 'accounts';
SELECT quote_ident(column_name) FROM information_schema.columns WHERE table_name = 'accounts' AND data_type IN ('timestamp without time zone', 'timestamp with time zone', 'bigint', 'integer', 'double precision', 'real');
SELECT floor(extract(epoch FROM opened) / 3600) * 3600 AS "time", avg(balance) AS "value" FROM accounts WHERE opened BETWEEN '2023-12-31T00:00:00Z' AND '2024-01-02T00:00:00Z' GROUP BY 1 ORDER BY 1;
SELECT extract(epoch FROM opened) AS "time", holder AS metric, risk FROM accounts WHERE extract(epoch FROM opened) >= 1704067200 AND extract(epoch FROM opened) <= 1704070800 ORDER BY 1;
SELECT DISTINCT holder AS __text, id AS __value FROM accounts;
SELECT opened AS time, note::text AS text, tags FROM accounts WHERE opened IS NOT NULL ORDER BY opened LIMIT 100;
