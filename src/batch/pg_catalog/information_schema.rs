//! The views of `information_schema` that clients ask for.

use millstream_catalog::SqlType::{self, Int4, Name, Varchar};
use millstream_catalog::{DEFAULT_DATABASE, ObjectId, ObjectKind};

use super::routines;
use super::rows::{Cell, NULL, row};
use super::tables::Made;
use super::types::udt_name;
use super::view::{CatalogView, Relation, RelationColumn};

const TEXT: SqlType = Varchar(None);

/// Tables of this file.
pub const TABLES: &[Made] = &[
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "schemata",
        columns: &[
            ("catalog_name", Name),
            ("schema_name", Name),
            ("schema_owner", Name),
            ("default_character_set_catalog", Name),
            ("default_character_set_schema", Name),
            ("default_character_set_name", Name),
            ("sql_path", TEXT),
        ],
        rows: |view| {
            let schemas = view.catalog.objects().filter(|o| o.kind == ObjectKind::Schema);
            schemas.map(|s| row![DEFAULT_DATABASE, s.name.clone(), s.owner.clone(), NULL, NULL, NULL, NULL]).collect()
        },
    },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "tables",
        columns: &[
            ("table_catalog", Name),
            ("table_schema", Name),
            ("table_name", Name),
            ("table_type", TEXT),
            ("self_referencing_column_name", Name),
            ("reference_generation", TEXT),
            ("user_defined_type_catalog", Name),
            ("user_defined_type_schema", Name),
            ("user_defined_type_name", Name),
            ("is_insertable_into", TEXT),
            ("is_typed", TEXT),
            ("commit_action", TEXT),
        ],
        rows: tables,
    },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "columns",
        columns: &[
            ("table_catalog", Name),
            ("table_schema", Name),
            ("table_name", Name),
            ("column_name", Name),
            ("ordinal_position", Int4),
            ("column_default", TEXT),
            ("is_nullable", TEXT),
            ("data_type", TEXT),
            ("character_maximum_length", Int4),
            ("character_octet_length", Int4),
            ("numeric_precision", Int4),
            ("numeric_precision_radix", Int4),
            ("numeric_scale", Int4),
            ("datetime_precision", Int4),
            ("interval_type", TEXT),
            ("interval_precision", Int4),
            ("character_set_name", Name),
            ("collation_name", Name),
            ("domain_name", Name),
            ("udt_catalog", Name),
            ("udt_schema", Name),
            ("udt_name", Name),
            ("dtd_identifier", Name),
            ("is_self_referencing", TEXT),
            ("is_identity", TEXT),
            ("identity_generation", TEXT),
            ("is_generated", TEXT),
            ("generation_expression", TEXT),
            ("is_updatable", TEXT),
        ],
        rows: columns,
    },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "views",
        columns: &[
            ("table_catalog", Name),
            ("table_schema", Name),
            ("table_name", Name),
            ("view_definition", TEXT),
            ("check_option", TEXT),
            ("is_updatable", TEXT),
            ("is_insertable_into", TEXT),
            ("is_trigger_updatable", TEXT),
            ("is_trigger_deletable", TEXT),
            ("is_trigger_insertable_into", TEXT),
        ],
        rows: |view| {
            let views = view.relations().into_iter().filter(|r| r.kind == 'v');
            views
                .map(|r| {
                    let query = view.definition(&r);
                    let schema = view.schema_name(r.schema);
                    row![DEFAULT_DATABASE, schema, r.name.clone(), query, "NONE", "NO", "NO", "NO", "NO", "NO"]
                })
                .collect()
        },
    },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "table_constraints",
        columns: &[
            ("constraint_catalog", Name),
            ("constraint_schema", Name),
            ("constraint_name", Name),
            ("table_catalog", Name),
            ("table_schema", Name),
            ("table_name", Name),
            ("constraint_type", TEXT),
            ("is_deferrable", TEXT),
            ("initially_deferred", TEXT),
            ("enforced", TEXT),
        ],
        rows: table_constraints,
    },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "key_column_usage",
        columns: &[
            ("constraint_catalog", Name),
            ("constraint_schema", Name),
            ("constraint_name", Name),
            ("table_catalog", Name),
            ("table_schema", Name),
            ("table_name", Name),
            ("column_name", Name),
            ("ordinal_position", Int4),
            ("position_in_unique_constraint", Int4),
        ],
        rows: key_column_usage,
    },
    Made {
        schema: ObjectId::INFORMATION_SCHEMA,
        name: "routines",
        columns: routines::ROUTINES,
        rows: routines::routines,
    },
];

/// As `pg_tables` and kin, PostgreSQL's information_schema leaves materialized views out. Here they are what a database is
/// about, so that they are listed, as views.
fn table_type(relation: &Relation) -> &'static str {
    match relation.kind {
        'r' => "BASE TABLE",
        'f' => "FOREIGN",
        _ => "VIEW",
    }
}

fn tables(view: &CatalogView) -> Vec<Vec<Cell>> {
    let table = |r: Relation| {
        let kind = table_type(&r);
        let insertable = if r.kind == 'r' && r.object.is_some() { "YES" } else { "NO" };
        let schema = view.schema_name(r.schema);
        row![DEFAULT_DATABASE, schema, r.name, kind, NULL, NULL, NULL, NULL, NULL, insertable, "NO", NULL]
    };
    view.relations().into_iter().filter(|r| r.index().is_none()).map(table).collect()
}

fn columns(view: &CatalogView) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for r in view.relations().into_iter().filter(|r| r.index().is_none()) {
        let schema = view.schema_name(r.schema);
        let number = |i: usize| i as i64 + 1;
        rows.extend(r.columns.iter().enumerate().map(|(i, c)| column(&schema, &r, number(i), c)));
    }
    rows
}

fn column(schema: &str, relation: &Relation, number: i64, c: &RelationColumn) -> Vec<Cell> {
    let t = &c.sql_type;
    let length = match t {
        SqlType::Varchar(n) => *n,
        SqlType::Char(n) => Some(*n),
        _ => None,
    };
    let (precision, radix, scale) = match t {
        SqlType::Int2 => (Some(16), Some(2), Some(0)),
        SqlType::Int4 => (Some(32), Some(2), Some(0)),
        SqlType::Int8 => (Some(64), Some(2), Some(0)),
        SqlType::Float4 => (Some(24), Some(2), None),
        SqlType::Float8 => (Some(53), Some(2), None),
        SqlType::Numeric(Some((p, s))) => (Some(i64::from(*p)), Some(10), Some(i64::from(*s))),
        SqlType::Numeric(None) => (None, Some(10), None),
        _ => (None, None, None),
    };
    let time = matches!(t, SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz | SqlType::Interval);
    let time_precision = match t {
        SqlType::Date => Some(0),
        _ => time.then_some(6),
    };
    let (default, expression) = if c.generated { (None, c.default.clone()) } else { (c.default.clone(), None) };
    let updatable = relation.kind == 'r' && relation.object.is_some();
    let yes = |b: bool| if b { "YES" } else { "NO" };
    row![
        DEFAULT_DATABASE,
        schema,
        relation.name.clone(),
        c.name.clone(),
        number,
        default,
        yes(c.nullable),
        data_type(t),
        length,
        length.map(|n| i64::from(n) * 4),
        precision,
        radix,
        scale,
        time_precision,
        NULL,
        NULL,
        NULL,
        NULL,
        NULL,
        DEFAULT_DATABASE,
        "pg_catalog",
        udt_name(t),
        number.to_string(),
        "NO",
        "NO",
        NULL,
        if c.generated { "ALWAYS" } else { "NEVER" },
        expression,
        yes(updatable),
    ]
}

/// The name of a type in `data_type`.
pub fn data_type(t: &SqlType) -> String {
    match t {
        SqlType::Array(_) => "ARRAY".to_string(),
        SqlType::Varchar(_) => "character varying".into(),
        SqlType::Char(_) => "character".into(),
        SqlType::Numeric(_) => "numeric".into(),
        other => other.to_string(),
    }
}

fn table_constraints(view: &CatalogView) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for r in view.relations() {
        let schema = view.schema_name(r.schema);
        let mut add = |name: &str, kind: &str| {
            rows.push(row![
                DEFAULT_DATABASE,
                schema.clone(),
                name,
                DEFAULT_DATABASE,
                schema.clone(),
                r.name.clone(),
                kind,
                "NO",
                "NO",
                "YES"
            ]);
        };
        if let Some((_, name)) = r.key_index() {
            add(&name, "PRIMARY KEY");
        }
        for (_, name, _) in r.checks() {
            add(name, "CHECK");
        }
    }
    rows
}

fn key_column_usage(view: &CatalogView) -> Vec<Vec<Cell>> {
    let mut rows = Vec::new();
    for r in view.relations() {
        let Some((_, name)) = r.key_index() else { continue };
        let schema = view.schema_name(r.schema);
        for (i, column) in r.primary_key().iter().enumerate() {
            rows.push(row![
                DEFAULT_DATABASE,
                schema.clone(),
                name.clone(),
                DEFAULT_DATABASE,
                schema.clone(),
                r.name.clone(),
                r.columns[*column].name.clone(),
                i as i64 + 1,
                NULL
            ]);
        }
    }
    rows
}
