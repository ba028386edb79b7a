//! Schema `millstream`: the tables that show the server's inside, and what columns each of them has.
//!
//! The rows come from the server through [`Inside`], at the moment a statement reads them.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::datasource::TableProvider;
use millstream_catalog::SqlType;

use super::lazy::LazyTable;
use crate::error::{Error, Result};

/// The server as its system tables see it.
pub trait Inside: Send + Sync {
    /// The rows of one of [`names`] now, with the columns of [`schema`].
    ///
    /// # Errors
    /// If they cannot be read.
    fn table(&self, name: &str) -> Result<RecordBatch>;
}

/// A table's name, what it shows, and its columns.
struct Definition {
    name: &'static str,
    comment: &'static str,
    columns: &'static [(&'static str, SqlType)],
}

use SqlType::{Bool, Bytea, Float8, Int4, Int8, Oid, Text, Timestamp, Timestamptz};

const DEFINITIONS: &[Definition] = &[
    Definition {
        name: "sources",
        comment: "one row for each partition of each source",
        columns: &[
            ("schema", Text),
            ("name", Text),
            ("connector", Text),
            ("topic", Text),
            ("partition", Int4),
            // The next offset that an epoch will take, and one past the last that the broker has.
            ("position", Int8),
            ("high_watermark", Int8),
            ("lag", Int8),
            ("watermark", SqlType::Timestamp),
            ("idle", Bool),
            ("rows_per_second", Float8),
            ("status", Text),
            ("error", Text),
        ],
    },
    Definition {
        name: "views",
        comment: "materialized views with their size, epoch and latency from arrival to visible",
        columns: &[
            ("schema", Text),
            ("name", Text),
            ("rows", Int8),
            ("state_bytes", Int8),
            ("epoch", Int8),
            ("latency_p50_ms", Float8),
            ("latency_p99_ms", Float8),
            ("late_rows", Int8),
            ("failed_rows", Int8),
            ("status", Text),
            ("error", Text),
        ],
    },
    Definition {
        name: "sinks",
        comment: "sinks with the rows that wait in their outbox",
        columns: &[
            ("schema", Text),
            ("name", Text),
            ("connector", Text),
            ("outbox_rows", Int8),
            ("last_sequence", Int8),
            ("acknowledged_sequence", Int8),
            ("status", Text),
            ("error", Text),
        ],
    },
    Definition {
        name: "dead_letters",
        comment: "messages that could not be decoded",
        columns: &[
            ("source", Text),
            ("topic", Text),
            ("partition", Int4),
            ("offset", Int8),
            ("timestamp", Timestamptz),
            ("error", Text),
            ("key", Bytea),
            ("payload", Bytea),
            ("epoch", Int8),
        ],
    },
    Definition {
        name: "view_errors",
        comment: "rows that a view is without because an expression failed on them",
        columns: &[
            ("view", Text),
            ("operator", Text),
            ("sqlstate", Text),
            ("error", Text),
            ("row", Text),
            ("count", Int8),
            ("epoch", Int8),
        ],
    },
    Definition {
        name: "ddl_history",
        comment: "every change of a definition since the database was made",
        columns: &[
            ("id", Int8),
            ("at", Timestamptz),
            ("user", Text),
            ("statement", Text),
            ("kind", Text),
            ("schema", Text),
            ("name", Text),
            ("object_id", Oid),
            ("old_definition", Text),
            ("new_definition", Text),
            ("epoch", Int8),
        ],
    },
    Definition {
        name: "settings",
        comment: "settings of the server",
        columns: &[("name", Text), ("value", Text), ("default", Text), ("description", Text)],
    },
    Definition {
        name: "late_rows",
        comment: "rows that came after their window had closed, of views with late_rows = 'keep'",
        columns: &[
            ("view", Text),
            ("operator", Text),
            ("row", Text),
            ("count", Int8),
            ("watermark", Timestamp),
            ("epoch", Int8),
        ],
    },
    Definition {
        name: "jobs",
        comment: "work in the background: the backfill of new views",
        columns: &[
            ("id", Int8),
            ("kind", Text),
            ("schema", Text),
            ("name", Text),
            ("status", Text),
            ("progress", Float8),
            ("rows_done", Int8),
            ("rows_total", Int8),
            ("started_at", Timestamptz),
            ("error", Text),
        ],
    },
    Definition {
        name: "sessions",
        comment: "connected clients",
        columns: &[
            ("pid", Int4),
            ("user", Text),
            ("application_name", Text),
            ("client_address", Text),
            ("state", Text),
            ("statement", Text),
            ("connected_at", Timestamptz),
        ],
    },
    Definition {
        name: "epochs",
        comment: "the last epochs",
        columns: &[
            ("epoch", Int8),
            ("at", Timestamptz),
            ("rows_in", Int8),
            ("rows_out", Int8),
            ("compute_ms", Float8),
            ("commit_ms", Float8),
            ("written_bytes", Int8),
        ],
    },
];

/// The names of the tables.
pub fn names() -> impl Iterator<Item = &'static str> {
    DEFINITIONS.iter().map(|d| d.name)
}

/// What a table shows, for `\d+` and the documentation.
pub fn comment(name: &str) -> Option<&'static str> {
    DEFINITIONS.iter().find(|d| d.name == name).map(|d| d.comment)
}

/// The columns of a table; all can be NULL.
pub fn schema(name: &str) -> Option<SchemaRef> {
    let definition = DEFINITIONS.iter().find(|d| d.name == name)?;
    let fields: Vec<_> = definition.columns.iter().map(|(name, sql_type)| sql_type.field(*name, true)).collect();
    Some(Arc::new(Schema::new(fields)))
}

/// The provider of a table.
pub fn provider(name: &str, inside: Arc<dyn Inside>) -> Option<Arc<dyn TableProvider>> {
    let schema = schema(name)?;
    let name = name.to_string();
    let expected = schema.clone();
    let rows = move || {
        let rows = inside.table(&name)?;
        if rows.schema().fields() != expected.fields() {
            return Err(Error::internal(format!("millstream.{name} was given other columns than it has")));
        }
        Ok(rows)
    };
    Some(Arc::new(LazyTable::new(schema, rows)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::testing::{engine, shown};

    struct Fixed;

    impl Inside for Fixed {
        fn table(&self, name: &str) -> Result<RecordBatch> {
            let schema = schema(name).ok_or_else(|| Error::internal("no such table"))?;
            Ok(RecordBatch::new_empty(schema))
        }
    }

    #[tokio::test]
    async fn every_table_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(dir.path(), 1 << 20);
        for name in names() {
            let table = provider(name, Arc::new(Fixed)).unwrap();
            let shown = shown(&engine, "SELECT count(*) AS n FROM t", &[("t", table)]).await;
            assert!(shown.contains("| 0 |"), "{name}");
            assert!(comment(name).is_some());
        }
    }
}
