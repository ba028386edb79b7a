//! What belongs to the session that asks: its prepared statements and cursors.

use millstream_catalog::ObjectId;
use millstream_catalog::SqlType::{Bool, Int8, Text, Timestamptz};

use super::rows::{Cell, NULL, row};
use super::tables::Made;
use super::view::{CursorRow, PreparedRow};

/// Tables of this file. Types are texts: a list of columns is a constant, and an array's type is none.
pub const TABLES: &[Made] = &[
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_prepared_statements",
        columns: &[
            ("name", Text),
            ("statement", Text),
            ("prepare_time", Timestamptz),
            ("parameter_types", Text),
            ("result_types", Text),
            ("from_sql", Bool),
            ("generic_plans", Int8),
            ("custom_plans", Int8),
        ],
        rows: |view| {
            let row = |p: PreparedRow| {
                row![
                    p.name,
                    p.statement,
                    p.prepared_us,
                    array(&p.parameters),
                    p.results.map_or(NULL, |names| Cell::Text(array(&names))),
                    p.from_sql,
                    0_i64,
                    0_i64
                ]
            };
            (view.prepared)().into_iter().map(row).collect()
        },
    },
    Made {
        schema: ObjectId::PG_CATALOG,
        name: "pg_cursors",
        columns: &[
            ("name", Text),
            ("statement", Text),
            ("is_holdable", Bool),
            ("is_binary", Bool),
            ("is_scrollable", Bool),
            ("creation_time", Timestamptz),
        ],
        rows: |view| {
            let row = |c: &CursorRow| {
                row![c.name.clone(), c.statement.clone(), c.is_holdable, c.is_binary, c.is_scrollable, c.created_us]
            };
            view.cursors.iter().map(row).collect()
        },
    },
];

/// Names of types as the text of an array.
fn array(names: &[String]) -> String {
    let item = |name: &String| match name.contains([' ', ',', '{', '}', '"']) {
        true => format!("\"{}\"", name.replace('"', "\\\"")),
        false => name.clone(),
    };
    format!("{{{}}}", names.iter().map(item).collect::<Vec<_>>().join(","))
}
