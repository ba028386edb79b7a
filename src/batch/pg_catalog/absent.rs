//! Tables that PostgreSQL has for what does not exist here, so that clients that look find nothing rather than an error.

use millstream_catalog::ObjectId;
use millstream_catalog::SqlType::{Bool, Bytea, Int2, Int4, Int8, InternalChar, Name, Oid, Text, Timestamptz};

use super::rows::Columns;
use super::tables::Made;

const fn none(name: &'static str, columns: Columns) -> Made {
    Made { schema: ObjectId::PG_CATALOG, name, columns, rows: |_| Vec::new() }
}

/// Tables of this file: none of them ever has a row.
pub const TABLES: &[Made] = &[
    none(
        "pg_user_mappings",
        &[("umid", Oid), ("srvid", Oid), ("srvname", Name), ("umuser", Oid), ("usename", Name), ("umoptions", Text)],
    ),
    none("ts_token_type", &[("tokid", Int4), ("alias", Text), ("description", Text)]),
    none("pg_partition_tree", &[("relid", Oid), ("parentrelid", Oid), ("isleaf", Bool), ("level", Int4)]),
    none("pg_parameter_acl", &[("oid", Oid), ("parname", Text), ("paracl", Text)]),
    none("pg_largeobject_metadata", &[("oid", Oid), ("lomowner", Oid), ("lomacl", Text)]),
    none("pg_largeobject", &[("loid", Oid), ("pageno", Int4), ("data", Bytea)]),
    none("pg_ts_config_map", &[("mapcfg", Oid), ("maptokentype", Int4), ("mapseqno", Int4), ("mapdict", Oid)]),
    none("pg_transform", &[("oid", Oid), ("trftype", Oid), ("trflang", Oid), ("trffromsql", Oid), ("trftosql", Oid)]),
    none(
        "pg_sequences",
        &[
            ("schemaname", Name),
            ("sequencename", Name),
            ("sequenceowner", Name),
            ("data_type", Text),
            ("start_value", Int8),
            ("min_value", Int8),
            ("max_value", Int8),
            ("increment_by", Int8),
            ("cycle", Bool),
            ("cache_size", Int8),
            ("last_value", Int8),
        ],
    ),
    none("pg_rules", &[("schemaname", Name), ("tablename", Name), ("rulename", Name), ("definition", Text)]),
    none(
        "pg_policies",
        &[
            ("schemaname", Name),
            ("tablename", Name),
            ("policyname", Name),
            ("permissive", Text),
            ("roles", Text),
            ("cmd", Text),
            ("qual", Text),
            ("with_check", Text),
        ],
    ),
    none(
        "pg_locks",
        &[
            ("locktype", Text),
            ("database", Oid),
            ("relation", Oid),
            ("page", Int4),
            ("tuple", Int2),
            ("virtualxid", Text),
            ("transactionid", Text),
            ("classid", Oid),
            ("objid", Oid),
            ("objsubid", Int2),
            ("virtualtransaction", Text),
            ("pid", Int4),
            ("mode", Text),
            ("granted", Bool),
            ("fastpath", Bool),
            ("waitstart", Timestamptz),
        ],
    ),
    none(
        "pg_prepared_xacts",
        &[("transaction", Text), ("gid", Text), ("prepared", Timestamptz), ("owner", Name), ("database", Name)],
    ),
    none(
        "pg_available_extensions",
        &[("name", Name), ("default_version", Text), ("installed_version", Text), ("comment", Text)],
    ),
    none(
        "pg_stat_replication",
        &[
            ("pid", Int4),
            ("usesysid", Oid),
            ("usename", Name),
            ("application_name", Text),
            ("client_addr", Text),
            ("state", Text),
            ("sent_lsn", Text),
            ("write_lsn", Text),
            ("flush_lsn", Text),
            ("replay_lsn", Text),
            ("sync_state", Text),
        ],
    ),
    none(
        "pg_replication_slots",
        &[
            ("slot_name", Name),
            ("plugin", Name),
            ("slot_type", Text),
            ("datoid", Oid),
            ("database", Name),
            ("temporary", Bool),
            ("active", Bool),
            ("active_pid", Int4),
        ],
    ),
    none("pg_statistic_ext_data", &[("stxoid", Oid), ("stxdinherit", Bool), ("stxdexpr", Text)]),
    none(
        "pg_stats",
        &[
            ("schemaname", Name),
            ("tablename", Name),
            ("attname", Name),
            ("inherited", Bool),
            ("null_frac", Text),
            ("avg_width", Int4),
            ("n_distinct", Text),
        ],
    ),
    none(
        "pg_statistic",
        &[("starelid", Oid), ("staattnum", Int2), ("stainherit", Bool), ("stakind1", Int2), ("stakind2", InternalChar)],
    ),
];

const fn none_of_standard(name: &'static str, columns: Columns) -> Made {
    Made { schema: ObjectId::INFORMATION_SCHEMA, name, columns, rows: |_| Vec::new() }
}

/// Tables of `information_schema` that never have a row.
pub const STANDARD: &[Made] = &[
    none_of_standard(
        "referential_constraints",
        &[
            ("constraint_catalog", Name),
            ("constraint_schema", Name),
            ("constraint_name", Name),
            ("unique_constraint_catalog", Name),
            ("unique_constraint_schema", Name),
            ("unique_constraint_name", Name),
            ("match_option", Text),
            ("update_rule", Text),
            ("delete_rule", Text),
        ],
    ),
    none_of_standard(
        "sequences",
        &[
            ("sequence_catalog", Name),
            ("sequence_schema", Name),
            ("sequence_name", Name),
            ("data_type", Text),
            ("start_value", Text),
            ("minimum_value", Text),
            ("maximum_value", Text),
            ("increment", Text),
            ("cycle_option", Text),
        ],
    ),
    none_of_standard(
        "domains",
        &[("domain_catalog", Name), ("domain_schema", Name), ("domain_name", Name), ("data_type", Text)],
    ),
    none_of_standard(
        "triggers",
        &[
            ("trigger_catalog", Name),
            ("trigger_schema", Name),
            ("trigger_name", Name),
            ("event_manipulation", Text),
            ("event_object_catalog", Name),
            ("event_object_schema", Name),
            ("event_object_table", Name),
            ("action_statement", Text),
            ("action_timing", Text),
        ],
    ),
];

/// Whether a table of `pg_catalog` is one of these.
pub fn is_absent(name: &str) -> bool {
    TABLES.iter().any(|table| table.name == name)
}
