//! Reading a relation of the catalog.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, TableScan};
use millstream_connectors::FieldsRead;
use millstream_sql::{CatalogSource, Target, Version};

use super::{Builder, Edge, positions};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::plan::expressions::columns_read;
use crate::stream::plan::{Input, Scan};

impl Builder<'_> {
    pub(super) fn scan(&mut self, scan: &TableScan) -> Result<Edge> {
        let source = scan
            .source
            .downcast_ref::<CatalogSource>()
            .ok_or_else(|| Error::unsupported(format!("\"{}\" cannot be read as a stream", scan.table_name)))?;
        let id = match &source.target {
            Target::Object(id) => *id,
            _ => {
                return Err(Error::unsupported(format!("\"{}\" cannot be read by a continuous view", scan.table_name))
                    .with_hint("continuous views read sources, tables and materialized views"));
            }
        };
        if !scan.filters.is_empty() || scan.fetch.is_some() {
            return Err(Error::internal(format!("filter or limit pushed into the scan of \"{}\"", scan.table_name)));
        }
        let (id, taken_us) = match source.version {
            Version::Creation | Version::Number(_) | Version::Moment(_) => {
                let (snapshot, taken_us) = self.relations.snapshot(id, self.object)?;
                (snapshot, Some(taken_us))
            }
            Version::Current | Version::Arrival => (id, None),
        };
        let all = self.relations.properties(id)?;
        let as_of_now = source.version == Version::Arrival;
        let columns: Vec<usize> = match &scan.projection {
            Some(columns) => columns.clone(),
            None => (0..all.schema.fields().len()).collect(),
        };
        let input = Input::Scan(self.scans.len());
        self.scans.push(Scan {
            object: id,
            name: scan.table_name.to_string(),
            columns: columns.clone(),
            fields: FieldsRead::new(),
            column_names: columns.iter().map(|c| all.schema.field(*c).name().clone()).collect(),
            append_only: all.append_only,
            as_of_now,
            taken_us,
        });
        let properties = EdgeProperties {
            schema: Arc::new(all.schema.project(&columns)?),
            append_only: all.append_only,
            stream_key: all.stream_key.as_ref().and_then(|key| positions(key, &columns)),
            watermark_columns: all
                .watermark_columns
                .iter()
                .filter_map(|w| columns.iter().position(|c| c == w))
                .collect(),
        };
        Ok(Edge { input, properties, as_of_now })
    }

    /// Notes which fields of records the expressions over a scan need, which are all that is seen of it.
    pub(super) fn narrow<'e>(
        &mut self,
        input: Input,
        schema: &DFSchema,
        seen: impl Iterator<Item = &'e Expr>,
    ) -> Result<()> {
        let Input::Scan(i) = input else { return Ok(()) };
        let scan = &mut self.scans[i];
        for (at, read) in columns_read(seen, schema)?.fields() {
            let DataType::Struct(fields) = schema.field(at).data_type() else { continue };
            let names: Vec<&str> = read.iter().map(|f| fields[*f].name().as_str()).collect();
            scan.column_names[at] = format!("{}.({})", scan.column_names[at], names.join(", "));
            scan.fields.insert(scan.columns[at], read);
        }
        Ok(())
    }
}
