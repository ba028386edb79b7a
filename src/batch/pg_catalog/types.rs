//! What PostgreSQL calls its types, and the OIDs of its own tables.

use millstream_catalog::SqlType;

/// The types that columns of ours have, once each, without modifiers.
const PLAIN: &[SqlType] = &[
    SqlType::Bool,
    SqlType::Bytea,
    SqlType::InternalChar,
    SqlType::Name,
    SqlType::Int8,
    SqlType::Int2,
    SqlType::Int4,
    SqlType::Text,
    SqlType::Oid,
    SqlType::Json,
    SqlType::Float4,
    SqlType::Float8,
    SqlType::Varchar(None),
    SqlType::Date,
    SqlType::Time,
    SqlType::Timestamp,
    SqlType::Timestamptz,
    SqlType::Interval,
    SqlType::Numeric(None),
    SqlType::Uuid,
    SqlType::Jsonb,
];

/// Other types that PostgreSQL's own catalogs speak of.
const OTHERS: &[(u32, &str)] = &[
    (24, "regproc"),
    (27, "tid"),
    (28, "xid"),
    (29, "cid"),
    (30, "oidvector"),
    (22, "int2vector"),
    (142, "xml"),
    (194, "pg_node_tree"),
    (600, "point"),
    (705, "unknown"),
    (790, "money"),
    (869, "inet"),
    (650, "cidr"),
    (829, "macaddr"),
    (1033, "aclitem"),
    (1266, "time with time zone"),
    (1560, "bit"),
    (1562, "bit varying"),
    (1790, "refcursor"),
    (2205, "regclass"),
    (2206, "regtype"),
    (2249, "record"),
    (2275, "cstring"),
    (2276, "\"any\""),
    (2277, "anyarray"),
    (2278, "void"),
    (2279, "trigger"),
    (2281, "internal"),
    (2283, "anyelement"),
    (2287, "record[]"),
    (2776, "anynonarray"),
    (3500, "anyenum"),
    (3614, "tsvector"),
    (3615, "tsquery"),
    (3831, "anyrange"),
    (4089, "regnamespace"),
    (4096, "regrole"),
    (5077, "anycompatible"),
    (5078, "anycompatiblearray"),
    (5079, "anycompatiblenonarray"),
];

/// `format_type(oid, typmod)`: the SQL name with its modifier; `None` for an unknown type.
pub fn format_type(oid: u32, typmod: Option<i32>) -> Option<String> {
    let modifier = typmod.filter(|m| *m >= 0);
    let digits = |name: &str| match modifier {
        Some(m) => format!("{name}({})", m - 4),
        None => name.to_string(),
    };
    if let Some(item) = array_item(oid) {
        return format_type(item, typmod).map(|name| format!("{name}[]"));
    }
    Some(match oid {
        1042 => match typmod {
            // Without a modifier the type is PostgreSQL's internal one, of any length.
            Some(m) if m >= 4 => format!("character({})", m - 4),
            Some(_) => "bpchar".into(),
            None => "character".into(),
        },
        1043 => digits("character varying"),
        1700 => match modifier {
            Some(m) => format!("numeric({},{})", ((m - 4) >> 16) & 0xffff, (((m - 4) & 0x7ff) ^ 1024) - 1024),
            None => "numeric".into(),
        },
        _ => match PLAIN.iter().find(|t| t.oid() == oid) {
            Some(plain) => plain.to_string(),
            None => OTHERS.iter().find(|(o, _)| *o == oid)?.1.into(),
        },
    })
}

/// OID of the items of an array type.
fn array_item(oid: u32) -> Option<u32> {
    if oid == SqlType::Array(Box::new(SqlType::Char(1))).oid() {
        return Some(SqlType::Char(1).oid());
    }
    match oid {
        1034 => Some(1033),
        2287 => None,
        _ => PLAIN.iter().find(|t| SqlType::Array(Box::new((*t).clone())).oid() == oid).map(SqlType::oid),
    }
}

/// OID of a type by its SQL name, or its name in `pg_type` (`integer`, `int4`, `text[]`, `_text`).
pub fn type_oid(name: &str) -> Option<u32> {
    let name = name.trim().to_lowercase();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    let item = name.strip_suffix("[]").or_else(|| name.strip_prefix('_'));
    if let Some(item) = item {
        let oid = type_oid(item)?;
        let of_oid = |t: &&SqlType| t.oid() == oid;
        return PLAIN.iter().find(of_oid).map(|t| SqlType::Array(Box::new(t.clone())).oid());
    }
    let base = name.split('(').next().unwrap_or(name).trim();
    if let Some(plain) = PLAIN.iter().find(|t| t.to_string() == base || udt_name(t) == base) {
        return Some(plain.oid());
    }
    match base {
        "int" => Some(23),
        "decimal" => Some(1700),
        "char" | "character" | "bpchar" => Some(1042),
        _ => OTHERS.iter().find(|(_, n)| *n == base).map(|(oid, _)| *oid),
    }
}

/// Name in `pg_type`.
pub fn udt_name(sql_type: &SqlType) -> String {
    match sql_type {
        SqlType::Bool => "bool",
        SqlType::Int2 => "int2",
        SqlType::Int4 => "int4",
        SqlType::Int8 => "int8",
        SqlType::Float4 => "float4",
        SqlType::Float8 => "float8",
        SqlType::Numeric(_) => "numeric",
        SqlType::Text => "text",
        SqlType::Varchar(_) => "varchar",
        SqlType::Char(_) => "bpchar",
        SqlType::Bytea => "bytea",
        SqlType::Date => "date",
        SqlType::Time => "time",
        SqlType::Timestamp => "timestamp",
        SqlType::Timestamptz => "timestamptz",
        SqlType::Interval => "interval",
        SqlType::Uuid => "uuid",
        SqlType::Json => "json",
        SqlType::Jsonb => "jsonb",
        SqlType::Oid => "oid",
        SqlType::Name => "name",
        SqlType::InternalChar => "char",
        SqlType::Array(item) => return format!("_{}", udt_name(item).trim_start_matches('_')),
        SqlType::Record(_) => "record",
    }
    .to_string()
}

/// OID of a table of PostgreSQL's own by its name in `pg_catalog`.
pub fn known_relation_oid(name: &str) -> Option<u32> {
    Some(match name {
        "pg_tablespace" => 1213,
        "pg_type" => 1247,
        "pg_attribute" => 1249,
        "pg_proc" => 1255,
        "pg_class" => 1259,
        "pg_authid" => 1260,
        "pg_auth_members" => 1261,
        "pg_database" => 1262,
        "pg_foreign_server" => 1417,
        "pg_sequence" => 2224,
        "pg_foreign_data_wrapper" => 2328,
        "pg_shdescription" => 2396,
        "pg_aggregate" => 2600,
        "pg_am" => 2601,
        "pg_attrdef" => 2604,
        "pg_cast" => 2605,
        "pg_constraint" => 2606,
        "pg_conversion" => 2607,
        "pg_depend" => 2608,
        "pg_description" => 2609,
        "pg_index" => 2610,
        "pg_inherits" => 2611,
        "pg_language" => 2612,
        "pg_namespace" => 2615,
        "pg_opclass" => 2616,
        "pg_operator" => 2617,
        "pg_rewrite" => 2618,
        "pg_trigger" => 2620,
        "pg_opfamily" => 2753,
        "pg_extension" => 3079,
        "pg_foreign_table" => 3118,
        "pg_policy" => 3256,
        "pg_partitioned_table" => 3350,
        "pg_statistic_ext" => 3381,
        "pg_collation" => 3456,
        "pg_event_trigger" => 3466,
        "pg_enum" => 3501,
        "pg_range" => 3541,
        "pg_ts_dict" => 3600,
        "pg_ts_parser" => 3601,
        "pg_ts_config" => 3602,
        "pg_ts_template" => 3764,
        "pg_subscription" => 6100,
        "pg_publication" => 6104,
        "pg_publication_rel" => 6106,
        "pg_publication_namespace" => 6237,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_print_as_format_type_prints_them() {
        let shown = |t: &SqlType| format_type(t.oid(), Some(t.typmod())).unwrap();
        for t in PLAIN {
            assert_eq!(shown(t), t.to_string());
            let array = SqlType::Array(Box::new(t.clone()));
            assert_eq!(shown(&array), array.to_string());
            assert_eq!(type_oid(&t.to_string()), Some(t.oid()));
        }
        for t in [SqlType::Varchar(Some(20)), SqlType::Char(3), SqlType::Numeric(Some((12, 2)))] {
            assert_eq!(shown(&t), t.to_string());
        }
        assert_eq!(format_type(4_000_000, None), None);
        assert_eq!(type_oid("pg_catalog.int4"), Some(23));
        assert_eq!(type_oid("numeric(10,2)"), Some(1700));
    }
}
