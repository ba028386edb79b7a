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

/// A table's name, what it shows, and its columns: name, type, what it says.
struct Definition {
    name: &'static str,
    comment: &'static str,
    columns: &'static [(&'static str, SqlType, &'static str)],
}

use SqlType::{Bool, Bytea, Float8, Int4, Int8, Jsonb, Oid, Text, Timestamp, Timestamptz};

const DEFINITIONS: &[Definition] = &[
    Definition {
        name: "sources",
        comment: "one row for each partition of each source",
        columns: &[
            ("schema", Text, "schema of the source"),
            ("name", Text, "name of the source"),
            ("connector", Text, "connector of the source"),
            ("topic", Text, "topic that it reads"),
            ("partition", Int4, "partition; NULL while none is read"),
            ("position", Int8, "next offset to take: all records before it are in the views"),
            ("high_watermark", Int8, "one past the last offset that the broker has"),
            ("lag", Int8, "records of the broker that are not in the views yet"),
            (
                "lag_seconds",
                Float8,
                "how long the oldest of these has waited at most: since the timestamp of the last record read, or since all was \
                 read if that is shorter; 0 if none waits",
            ),
            ("watermark", Timestamp, "event time that the partition has passed"),
            ("idle", Bool, "whether the partition is left out of the watermark because nothing comes"),
            ("rows", Int8, "records read since the server started"),
            ("rows_per_second", Float8, "records read a second, over the last seconds"),
            ("dead_letters", Int8, "records since the server started that could not be read"),
            (
                "skipped",
                Int8,
                "records since the server started that could not be read and were dropped, with on_error = 'skip'",
            ),
            ("resets", Int8, "how often its position was gone and it went on elsewhere, as was asked for"),
            ("lost", Int8, "records that it passed over then"),
            ("consumer_group", Text, "consumer group of the broker that shows the positions too"),
            (
                "status",
                Text,
                "not read (no view needs it), waiting, running, retrying, suspended, or stopped (for good: see error)",
            ),
            ("error", Text, "what the last attempt to read failed with"),
        ],
    },
    Definition {
        name: "view_state",
        comment: "state of the operators of materialized views and sinks, and the rows of the views, one row for each table of it",
        columns: &[
            ("schema", Text, "schema of the view or sink"),
            ("name", Text, "name of the view or sink"),
            ("operator", Int4, "operator, as EXPLAIN MATERIALIZED VIEW numbers them; NULL for the view's own rows"),
            ("operation", Text, "what the operator does"),
            ("part", Int4, "number of the table, as EXPLAIN MATERIALIZED VIEW shows it"),
            ("layout", Text, "keyed, multimap or segments, and by which key"),
            ("keys", Int8, "keys that it has"),
            ("bytes", Int8, "bytes of keys and values; on disk, about, if it was not counted"),
            (
                "is_exact",
                Bool,
                "whether it was counted, as tables of up to 10000 keys are; what is in memory and in no file yet is left out \
                 otherwise",
            ),
        ],
    },
    Definition {
        name: "views",
        comment: "materialized views with their size, epoch and latency from arrival to visible",
        columns: &[
            ("schema", Text, "schema of the view"),
            ("name", Text, "name of the view"),
            ("time_zone", Text, "zone that it computes in: that of the session that made it"),
            ("rows", Int8, "rows of the view"),
            ("state_bytes", Int8, "bytes on disk of its rows and of its operators' state, about"),
            ("epoch", Int8, "last epoch that changed it"),
            ("latency_p50_ms", Float8, "median milliseconds from a record's arrival to its being visible"),
            ("latency_p99_ms", Float8, "99th percentile of the same; NULL before the first record"),
            ("late_rows", Int8, "rows that came after their window had closed"),
            ("expired_rows", Int8, "rows that took back what state_ttl had forgotten, and changed nothing"),
            ("failed_rows", Int8, "rows that it is without because an expression failed, see view_errors"),
            ("status", Text, "backfilling, running, suspended, catching up (after that) or failed"),
            ("error", Text, "why it failed, or what keeps it from catching up"),
        ],
    },
    Definition {
        name: "sinks",
        comment: "sinks with the rows that wait in their outbox",
        columns: &[
            ("schema", Text, "schema of the sink"),
            ("name", Text, "name of the sink"),
            ("connector", Text, "connector of the sink"),
            ("outbox_rows", Int8, "rows that are not acknowledged yet"),
            ("outbox_bytes", Int8, "bytes that they take on disk, about; NULL if they come from an older server"),
            ("lag_seconds", Float8, "how long the oldest of them has waited; 0 if there is none, NULL as above"),
            ("last_sequence", Int8, "sequence number of the last row put into the outbox"),
            ("acknowledged_sequence", Int8, "sequence number of the last row that the outside has acknowledged"),
            ("status", Text, "running, retrying, suspended or failed"),
            (
                "error",
                Text,
                "why it is suspended, what the last attempt to send or its query failed with, or what it waits for",
            ),
        ],
    },
    Definition {
        name: "indexes",
        comment: "indexes of tables and materialized views",
        columns: &[
            ("schema", Text, "schema of the index and its relation"),
            ("name", Text, "name of the index"),
            ("relation", Text, "table or materialized view that it is of"),
            ("columns", Text, "its columns, in order"),
            ("is_unique", Bool, "whether no two rows may agree on all of them"),
            ("rows", Int8, "rows of the relation"),
            ("state_bytes", Int8, "bytes on disk of its entries, about"),
        ],
    },
    Definition {
        name: "external_tables",
        comment: "external tables: files that are read as tables",
        columns: &[
            ("schema", Text, "schema of the table"),
            ("name", Text, "name of the table"),
            ("format", Text, "PARQUET, CSV, JSON or DELTA"),
            ("location", Text, "path, URL or glob of the files"),
            ("secret", Text, "secret that it names; NULL for one that is found by its scope, and for local files"),
            ("partition_columns", Text, "names of the partition columns"),
            ("options", Text, "other options of the format"),
        ],
    },
    Definition {
        name: "secrets",
        comment: "what opens object stores; the values are shown nowhere",
        columns: &[
            ("name", Text, "name of the secret"),
            ("type", Text, "what it opens: s3"),
            ("scope", Text, "URLs that it is for begin with this; NULL: all of its type"),
            ("endpoint", Text, "address of the server; NULL: that of the region"),
            ("region", Text, "region of the buckets"),
        ],
    },
    Definition {
        name: "dead_letters",
        comment: "messages that could not be decoded",
        columns: &[
            ("source", Text, "name of the source when the message came"),
            ("topic", Text, "topic of the message"),
            ("partition", Int4, "partition of the message"),
            ("offset", Int8, "offset of the message"),
            ("timestamp", Timestamptz, "timestamp of the message"),
            ("error", Text, "why it could not be decoded"),
            ("key", Bytea, "key of the message"),
            ("payload", Bytea, "payload of the message"),
            ("epoch", Int8, "epoch that took it"),
        ],
    },
    Definition {
        name: "view_errors",
        comment: "rows that a view is without because an expression failed on them",
        columns: &[
            ("schema", Text, "schema of the view or sink"),
            ("view", Text, "name of the view or sink"),
            ("operator", Int4, "number of the operator, as EXPLAIN prints it"),
            ("sqlstate", Text, "SQLSTATE of the error"),
            ("error", Text, "message of the error"),
            ("row", Text, "row on which the expression failed"),
            ("count", Int8, "how often the row is there"),
        ],
    },
    Definition {
        name: "ddl_history",
        comment: "every change of a definition since the database was made",
        columns: &[
            ("id", Int8, "counts the changes"),
            ("at", Timestamptz, "when it was made"),
            ("user", Text, "who made it"),
            ("statement", Text, "statement that made it, secrets masked"),
            ("kind", Text, "kind of the object"),
            ("schema", Text, "schema of the object"),
            ("name", Text, "name of the object"),
            ("object_id", Oid, "OID of the object"),
            ("old_definition", Text, "definition before; NULL for a new object"),
            ("new_definition", Text, "definition after; NULL for a dropped object"),
            ("epoch", Int8, "epoch that made it visible"),
        ],
    },
    Definition {
        name: "settings",
        comment: "settings of the server",
        columns: &[
            ("name", Text, "name, as in the configuration file"),
            ("value", Text, "value in force"),
            ("default", Text, "value if nothing is set"),
            ("description", Text, "what it does"),
        ],
    },
    Definition {
        name: "late_rows",
        comment: "rows that came after their window had closed, of views with late_rows = 'keep'",
        columns: &[
            ("view", Text, "view that did not take the row"),
            ("operator", Text, "operator that the row was late for"),
            ("row", Text, "the row, as a JSON object"),
            ("count", Int8, "how often it came"),
            ("watermark", Timestamp, "event time that the operator had come to"),
            ("epoch", Int8, "epoch in which it came"),
        ],
    },
    Definition {
        name: "jobs",
        comment: "work that takes its time: the backfill of new views, what views that were suspended catch up with, and \
                  statements that run for a second at least",
        columns: &[
            ("id", Int8, "number of the job"),
            ("kind", Text, "kind of the work"),
            ("schema", Text, "schema of the object that it is for"),
            ("name", Text, "name of the object that it is for"),
            ("status", Text, "running, suspended or failed"),
            ("progress", Float8, "part that is done, from 0 to 1"),
            ("rows_done", Int8, "rows that are done; of a statement, that it has read"),
            ("rows_total", Int8, "rows that there are to do, about"),
            ("started_at", Timestamptz, "when it was started"),
            ("error", Text, "why it failed"),
            ("bytes_done", Int8, "bytes of files that a statement has read"),
            ("rows_written", Int8, "rows that a statement has written to files"),
            ("bytes_written", Int8, "bytes of these files so far, about"),
            ("pid", Int4, "session of a statement, as pg_backend_pid() gives it"),
            ("statement", Text, "statement that runs, secrets masked"),
        ],
    },
    Definition {
        name: "sessions",
        comment: "connected clients",
        columns: &[
            ("pid", Int4, "number of the session, as pg_backend_pid() gives it"),
            ("user", Text, "name of the user"),
            ("application_name", Text, "what the client calls itself"),
            ("client_address", Text, "address of the client"),
            ("state", Text, "active or idle"),
            ("statement", Text, "statement that is running, secrets masked"),
            ("connected_at", Timestamptz, "when the client connected"),
            ("listening", Text, "channels that it listens to"),
        ],
    },
    Definition {
        name: "subscriptions",
        comment: "subscriptions that run: SUBSCRIBE, and LISTEN on a view",
        columns: &[
            ("pid", Int4, "number of the session, as pg_backend_pid() gives it"),
            ("schema", Text, "schema of the relation"),
            ("name", Text, "relation that is followed; of a query, the view that is kept for it"),
            ("statement", Text, "statement, secrets masked"),
            ("epoch", Int8, "last epoch whose changes were all handed on"),
            ("epochs_behind", Int8, "epochs that are visible and were not handed on"),
            ("rows", Int8, "rows that the client has taken"),
            ("started_at", Timestamptz, "when it began"),
        ],
    },
    Definition {
        name: "epochs",
        comment: "the last epochs",
        columns: &[
            ("epoch", Int8, "number of the epoch"),
            ("at", Timestamptz, "its now()"),
            ("rows_in", Int8, "rows that it took in"),
            ("rows_out", Int8, "rows of views that it changed"),
            ("compute_ms", Float8, "milliseconds of computing"),
            ("commit_ms", Float8, "milliseconds of committing"),
            ("written_bytes", Int8, "bytes that it wrote"),
        ],
    },
    Definition {
        name: "tasks",
        comment: "scheduled SQL, with when each task runs next and how it went last",
        columns: &[
            ("schema", Text, "schema of the task"),
            ("name", Text, "name of the task"),
            ("id", Oid, "OID of the task"),
            ("owner", Text, "who its statements run as"),
            ("schedule", Text, "cron expression or interval; NULL if it has none"),
            ("time_zone", Text, "zone by whose clock it is due, and of run_date()"),
            ("after", Text, "tasks after whose success it runs"),
            ("state", Text, "waiting, queued, running, suspended, or idle (it has no schedule)"),
            ("next_run", Timestamptz, "when it is due next"),
            ("last_run", Timestamptz, "scheduled time of the run that ended last"),
            ("last_state", Text, "how that ended"),
            ("last_ended_at", Timestamptz, "when that ended"),
            ("last_error", Text, "what it failed with, or why it was skipped"),
            ("last_success", Timestamptz, "scheduled time of the last run that succeeded"),
            ("failures_in_a_row", Int8, "failed runs since the last success"),
            ("queued", Int8, "runs that wait for their turn or for another try"),
            ("suspended_because", Text, "why it was suspended, if nobody has asked for it"),
            ("definition", Text, "its statements, secrets masked"),
        ],
    },
    Definition {
        name: "task_runs",
        comment: "runs of tasks: one row for each try",
        columns: &[
            ("schema", Text, "schema of the task"),
            ("task", Text, "name of the task"),
            ("run", Int8, "number of the run"),
            ("scheduled_at", Timestamptz, "scheduled time, which run_time() gives"),
            ("attempt", Int4, "counts the tries for the scheduled time"),
            ("state", Text, "queued, running, succeeded, failed, skipped, abandoned or canceled"),
            ("triggered_by", Text, "schedule, catch-up, execute or after"),
            ("queued_at", Timestamptz, "when it was written down"),
            ("started_at", Timestamptz, "when it started"),
            ("ended_at", Timestamptz, "when it ended"),
            ("rows", Int8, "rows that its statements wrote or gave"),
            ("sqlstate", Text, "SQLSTATE of its error"),
            ("error", Text, "what it failed with, or why it was skipped"),
            ("hint", Text, "what can be done about it"),
            ("statements", Text, "its statements, secrets masked"),
            ("parameters", Jsonb, "its parameters"),
            ("epoch", Int8, "epoch that it read tables and views as of"),
            (
                "inputs",
                Jsonb,
                "what it read: the epoch, OIDs of relations, files with size and time, versions of Delta tables",
            ),
            ("repeats", Int8, "number of the run whose inputs it read again"),
            ("user", Text, "who asked for it, or the owner of the task"),
        ],
    },
    Definition {
        name: "cron.job",
        comment: "tasks with a schedule, as pg_cron shows its jobs",
        columns: &[
            ("jobid", Int8, "OID of the task"),
            ("schedule", Text, "cron expression or interval"),
            ("command", Text, "its statements, secrets masked"),
            ("nodename", Text, "always localhost"),
            ("nodeport", Int4, "always NULL"),
            ("database", Text, "name of the database"),
            ("username", Text, "who its statements run as"),
            ("active", Bool, "whether it is not suspended"),
            ("jobname", Text, "name of the task"),
        ],
    },
    Definition {
        name: "cron.job_run_details",
        comment: "runs of tasks with a schedule, as pg_cron shows them",
        columns: &[
            ("jobid", Int8, "OID of the task"),
            ("runid", Int8, "number of the run"),
            ("job_pid", Int4, "always NULL"),
            ("database", Text, "name of the database"),
            ("username", Text, "who its statements ran as"),
            ("command", Text, "its statements, secrets masked"),
            ("status", Text, "running, succeeded or failed"),
            ("return_message", Text, "how many rows, or the error"),
            ("start_time", Timestamptz, "when it started"),
            ("end_time", Timestamptz, "when it ended"),
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

/// What a column of a table says.
pub fn column_comment(table: &str, column: &str) -> Option<&'static str> {
    let definition = DEFINITIONS.iter().find(|d| d.name == table)?;
    definition.columns.iter().find(|(name, _, _)| *name == column).map(|(_, _, comment)| *comment)
}

/// The columns of a table; all can be NULL.
pub fn schema(name: &str) -> Option<SchemaRef> {
    let definition = DEFINITIONS.iter().find(|d| d.name == name)?;
    let fields: Vec<_> = definition.columns.iter().map(|(name, sql_type, _)| sql_type.field(*name, true)).collect();
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
