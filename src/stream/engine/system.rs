//! What the engine keeps under the system object: the catalog and the histories.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::SchemaRef;
use millstream_catalog::{Catalog, Object, ObjectId, SqlType, catalog::Change};
use millstream_connectors::DeadLetter;

use crate::error::Result;
use crate::state::system::{CATALOG, DDL_HISTORY, DEAD_LETTERS};
use crate::state::{Layout, Relation, Snapshot, State};

/// Names of the counters that the catalog needs.
const CATALOG_VERSION: &str = "catalog_version";
const NEXT_OBJECT_ID: &str = "next_object_id";

/// Puts a new catalog version into the open epoch; the keys of dropped objects go with them.
pub fn put_catalog(state: &mut State, catalog: &Catalog, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(object) => state.put(CATALOG, &object.id.0.to_be_bytes(), &object.to_record()),
            Change::Drop(id) => {
                state.delete(CATALOG, &id.0.to_be_bytes());
                state.drop_object(id.0);
            }
        }
    }
    state.set_counter(CATALOG_VERSION, catalog.version());
    state.set_counter(NEXT_OBJECT_ID, u64::from(catalog.next_id()));
}

/// The catalog as of a snapshot.
pub fn read_catalog(snapshot: &Arc<Snapshot>) -> Result<Catalog> {
    let mut objects = Vec::new();
    for entry in snapshot.scan(CATALOG, Bound::Unbounded, Bound::Unbounded) {
        let (key, value) = entry?;
        let id = key.as_slice().try_into().map(u32::from_be_bytes).unwrap_or_default();
        objects.push(Object::from_record(id, &value)?);
    }
    let next_id = u32::try_from(snapshot.counter(NEXT_OBJECT_ID)?).unwrap_or(u32::MAX);
    Ok(Catalog::load(objects, next_id, snapshot.counter(CATALOG_VERSION)?))
}

/// Columns of `millstream.ddl_history`.
pub fn ddl_history_schema() -> SchemaRef {
    schema(&[
        ("epoch", SqlType::Int8),
        ("at", SqlType::Timestamptz),
        ("user", SqlType::Text),
        ("statement", SqlType::Text),
        ("kind", SqlType::Text),
        ("schema", SqlType::Text),
        ("name", SqlType::Text),
        ("object_id", SqlType::Oid),
        ("old_definition", SqlType::Text),
        ("new_definition", SqlType::Text),
    ])
}

/// Columns of `millstream.dead_letters`.
pub fn dead_letters_schema() -> SchemaRef {
    schema(&[
        ("source_id", SqlType::Oid),
        ("source", SqlType::Text),
        ("topic", SqlType::Text),
        ("partition", SqlType::Int4),
        ("offset", SqlType::Int8),
        ("timestamp", SqlType::Timestamptz),
        ("error", SqlType::Text),
        ("key", SqlType::Bytea),
        ("payload", SqlType::Bytea),
        ("epoch", SqlType::Int8),
    ])
}

/// The stored rows of `millstream.ddl_history`.
pub fn ddl_history() -> Result<Relation> {
    Relation::new(DDL_HISTORY, ddl_history_schema(), Layout::Segments)
}

/// The stored rows of `millstream.dead_letters`.
pub fn dead_letters() -> Result<Relation> {
    Relation::new(DEAD_LETTERS, dead_letters_schema(), Layout::Segments)
}

/// One row of the DDL history.
pub struct DdlEntry<'a> {
    pub statement: &'a str,
    pub user: &'a str,
    pub kind: &'static str,
    pub schema: String,
    pub name: String,
    pub object_id: ObjectId,
    pub old_definition: Option<String>,
    pub new_definition: Option<String>,
}

/// The history rows of one statement.
pub fn ddl_entries(epoch: u64, now_us: i64, entries: &[DdlEntry<'_>]) -> Result<RecordBatch> {
    let n = entries.len();
    let text = |f: &dyn Fn(&DdlEntry<'_>) -> Option<String>| -> ArrayRef {
        Arc::new(entries.iter().map(f).collect::<StringViewArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_value(epoch as i64, n)),
        timestamps(std::iter::repeat_n(Some(now_us), n)),
        text(&|e| Some(e.user.to_string())),
        text(&|e| Some(e.statement.to_string())),
        text(&|e| Some(e.kind.to_string())),
        text(&|e| Some(e.schema.clone())),
        text(&|e| Some(e.name.clone())),
        Arc::new(entries.iter().map(|e| Some(e.object_id.0)).collect::<UInt32Array>()),
        text(&|e| e.old_definition.clone()),
        text(&|e| e.new_definition.clone()),
    ];
    Ok(RecordBatch::try_new(ddl_history_schema(), columns)?)
}

/// The rows of records that could not be read.
pub fn dead_letter_rows(
    source: ObjectId,
    name: &str,
    topic: &str,
    epoch: u64,
    dead: &[DeadLetter],
) -> Result<RecordBatch> {
    let n = dead.len();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_value(source.0, n)),
        Arc::new(std::iter::repeat_n(Some(name), n).collect::<StringViewArray>()),
        Arc::new(std::iter::repeat_n(Some(topic), n).collect::<StringViewArray>()),
        Arc::new(dead.iter().map(|d| Some(d.partition)).collect::<Int32Array>()),
        Arc::new(dead.iter().map(|d| Some(d.offset)).collect::<Int64Array>()),
        timestamps(dead.iter().map(|d| d.timestamp_ms.map(|ms| ms * 1000))),
        Arc::new(dead.iter().map(|d| Some(d.error.as_str())).collect::<StringViewArray>()),
        Arc::new(dead.iter().map(|d| d.key.as_deref()).collect::<BinaryArray>()),
        Arc::new(dead.iter().map(|d| d.payload.as_deref()).collect::<BinaryArray>()),
        Arc::new(Int64Array::from_value(epoch as i64, n)),
    ];
    Ok(RecordBatch::try_new(dead_letters_schema(), columns)?)
}

fn timestamps(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn schema(columns: &[(&str, SqlType)]) -> SchemaRef {
    arrow::datatypes::Schema::new(columns.iter().map(|(n, t)| t.field(*n, true)).collect::<Vec<_>>()).into()
}
