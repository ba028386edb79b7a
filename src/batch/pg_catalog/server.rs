//! What does not belong to a relation: schemas, the database, settings.

use millstream_catalog::SqlType::{Bool, Int4, InternalChar, Name, Oid, Text};
use millstream_catalog::{DEFAULT_DATABASE, ObjectId, ObjectKind};

use super::roles::acl;
use super::rows::{Cell, NULL, row};
use super::tables::Made;
use super::view::{CatalogView, DATABASE_OID, ROLE_OID};

/// `pg_encoding_to_char(6)` is UTF8.
pub const UTF8: i32 = 6;
/// OID of tablespace `pg_default`.
const TABLESPACE_OID: u32 = 1663;

/// Tables of this file.
pub const TABLES: &[Made] = &[
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_namespace",
        columns: &[("oid", Oid), ("nspname", Name), ("nspowner", Oid), ("nspacl", Text)],
        rows: |view| {
            let schemas = view.catalog.objects().filter(|o| o.kind == ObjectKind::Schema);
            schemas.map(|s| row![s.id.0, s.name.clone(), view.role_oid(&s.owner), acl(s)]).collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_database",
        columns: &[
            ("oid", Oid),
            ("datname", Name),
            ("datdba", Oid),
            ("encoding", Int4),
            ("datlocprovider", InternalChar),
            ("datistemplate", Bool),
            ("datallowconn", Bool),
            ("datconnlimit", Int4),
            ("dattablespace", Oid),
            ("datcollate", Text),
            ("datctype", Text),
            ("daticulocale", Text),
            ("datlocale", Text),
            ("daticurules", Text),
            ("datcollversion", Text),
            ("datacl", Text),
        ],
        // Text sorts by code point, which is collation C.
        rows: |view| {
            let granted = view.catalog.get(ObjectId::DATABASE).map_or(NULL, |database| acl(database));
            vec![row![
                DATABASE_OID,
                DEFAULT_DATABASE,
                ROLE_OID,
                UTF8,
                'c',
                false,
                true,
                -1,
                TABLESPACE_OID,
                "C.UTF-8",
                "C.UTF-8",
                NULL,
                NULL,
                NULL,
                NULL,
                granted
            ]]
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_tablespace",
        columns: &[("oid", Oid), ("spcname", Name), ("spcowner", Oid), ("spcacl", Text), ("spcoptions", Text)],
        rows: |_| vec![row![TABLESPACE_OID, "pg_default", ROLE_OID, NULL, NULL]],
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_settings",
        columns: &[
            ("name", Text),
            ("setting", Text),
            ("unit", Text),
            ("category", Text),
            ("short_desc", Text),
            ("extra_desc", Text),
            ("context", Text),
            ("vartype", Text),
            ("source", Text),
            ("min_val", Text),
            ("max_val", Text),
            ("enumvals", Text),
            ("boot_val", Text),
            ("reset_val", Text),
            ("sourcefile", Text),
            ("sourceline", Int4),
            ("pending_restart", Bool),
        ],
        rows: pg_settings,
    },
];

/// Settings that say who the session is: known by their names, and in no list, as in PostgreSQL.
pub const UNLISTED: [&str; 3] = ["is_superuser", "role", "session_authorization"];

fn pg_settings(view: &CatalogView) -> Vec<Vec<Cell>> {
    let setting = |s: &super::view::Setting| {
        let source = if s.value == s.default { "default" } else { "session" };
        row![
            s.name.clone(),
            s.value.clone(),
            s.unit.clone(),
            "Millstream",
            s.description.clone(),
            NULL,
            "user",
            "string",
            source,
            NULL,
            NULL,
            NULL,
            s.default.clone(),
            s.default.clone(),
            NULL,
            NULL,
            false,
        ]
    };
    view.settings.iter().filter(|s| !UNLISTED.contains(&s.name.as_str())).map(setting).collect()
}
