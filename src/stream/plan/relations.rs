//! What the catalog says of the relations that a continuous query reads.

use millstream_catalog::object::MaterializedView;
use millstream_catalog::{Catalog, ObjectId, ObjectKind};
use millstream_sql::quote_ident;

use super::{Layout, Relations};
use crate::error::{Error, Result, sqlstate};
use crate::stream::operator::EdgeProperties;

/// The relations of a catalog version.
pub struct CatalogRelations<'a>(pub &'a Catalog);

impl Relations for CatalogRelations<'_> {
    fn properties(&self, id: ObjectId) -> Result<EdgeProperties> {
        let object = self.0.get(id).ok_or_else(|| {
            Error::new(sqlstate::UNDEFINED_TABLE, format!("relation with OID {id} does not exist any more"))
        })?;
        let schema = object.arrow_schema();
        match &object.kind {
            ObjectKind::Source(source) => Ok(EdgeProperties {
                schema,
                append_only: !source.is_keyed(),
                stream_key: source.is_keyed().then(|| source.primary_key.clone()),
                watermark_columns: source.watermark_columns(),
            }),
            ObjectKind::Table(table) => Ok(EdgeProperties {
                schema,
                append_only: table.append_only,
                stream_key: (!table.primary_key.is_empty()).then(|| table.primary_key.clone()),
                watermark_columns: table.watermark.iter().map(|w| w.column).collect(),
            }),
            ObjectKind::Snapshot(_) => {
                Ok(EdgeProperties { schema, append_only: true, stream_key: None, watermark_columns: Vec::new() })
            }
            ObjectKind::MaterializedView(view) => Ok(EdgeProperties {
                schema,
                append_only: view.append_only,
                stream_key: view.stream_key.clone(),
                watermark_columns: view.watermark_columns.clone(),
            }),
            ObjectKind::ExternalTable(_) => {
                Err(Error::unsupported(format!("a continuous view cannot follow {}", object.describe())).with_hint(
                    format!(
                        "read it as it is when the view is made: {} FOR SYSTEM_TIME AS OF now()",
                        quote_ident(&object.name)
                    ),
                ))
            }
            ObjectKind::Schema
            | ObjectKind::View(_)
            | ObjectKind::Sink(_)
            | ObjectKind::Function(_)
            | ObjectKind::Task(_)
            | ObjectKind::Secret(_)
            | ObjectKind::Role(_)
            | ObjectKind::Database
            | ObjectKind::Index(_) => {
                Err(Error::unsupported(format!("a continuous view cannot read {}", object.describe()))
                    .with_hint("continuous views read sources, tables and materialized views"))
            }
        }
    }

    fn snapshot(&self, external_table: ObjectId, reader: ObjectId) -> Result<(ObjectId, i64)> {
        let found = self.0.snapshots(reader).find(|(_, snapshot)| snapshot.of == external_table);
        let (object, snapshot) = found.ok_or_else(|| {
            Error::internal(format!("object {reader} has no snapshot of external table {external_table}"))
        })?;
        Ok((object.id, snapshot.taken_us))
    }
}

/// How a continuous view's rows are kept.
pub fn view_layout(view: &MaterializedView) -> Layout {
    layout(view.append_only, view.stream_key.as_deref())
}

/// How rows are kept that only come, or have a key, or neither.
pub fn layout(append_only: bool, stream_key: Option<&[usize]>) -> Layout {
    match (stream_key, append_only) {
        (_, true) => Layout::Segments,
        (Some(key), false) => Layout::Keyed(key.to_vec()),
        (None, false) => Layout::Counted,
    }
}
