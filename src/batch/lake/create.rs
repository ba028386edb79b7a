//! New Delta tables.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use deltalake::kernel::{Add, StructField, StructType};
use deltalake::operations::create::CreateBuilder;
use deltalake::protocol::SaveMode;
use millstream_catalog::Column;

use super::columns;
use super::commit::added;
use super::place::Lake;
use super::write::Shape;
use crate::error::{Error, Result, sqlstate};

/// A Delta table that is yet to be made.
#[derive(Debug, Clone)]
pub struct NewLake {
    lake: Lake,
    name: String,
    fields: Vec<StructField>,
    partition_columns: Vec<String>,
    properties: HashMap<String, String>,
}

impl NewLake {
    /// With its columns in order.
    ///
    /// # Errors
    /// 0A000 for types that Delta tables do not have, 42P16 if all columns are partition columns.
    pub fn new(
        lake: Lake,
        name: &str,
        columns: &[Column],
        partition_columns: &[String],
        properties: HashMap<String, String>,
    ) -> Result<Self> {
        let fields = columns.iter().map(columns::field_of).collect::<Result<Vec<_>>>()?;
        if fields.len() <= partition_columns.len() {
            return Err(Error::new("42P16", "a Delta table needs a column that is no partition column"));
        }
        Ok(Self { lake, name: name.into(), fields, partition_columns: partition_columns.to_vec(), properties })
    }

    /// What its files look like.
    ///
    /// # Errors
    /// None that the columns' types allow.
    pub fn shape(&self) -> Result<Shape> {
        let kernel = StructType::try_new(self.fields.clone()).map_err(|e| self.lake.told(e.into()))?;
        let schema: Schema = (&kernel).try_into_arrow()?;
        Ok(Shape::new(self.lake.clone(), Arc::new(schema), self.partition_columns.clone(), &self.properties))
    }

    /// Makes the table with its first rows, in one commit.
    ///
    /// # Errors
    /// 58P02 if there is one already; those of the store.
    pub async fn create(self, adds: Vec<Add>) -> Result<()> {
        let properties = self.properties.into_iter().map(|(key, value)| (key, Some(value)));
        let made = CreateBuilder::new()
            .with_log_store(self.lake.log.clone())
            .with_table_name(self.name)
            .with_columns(self.fields)
            .with_partition_columns(self.partition_columns)
            .with_configuration(properties)
            .with_save_mode(SaveMode::ErrorIfExists)
            .with_actions(added(adds))
            .await;
        match made {
            Ok(_) => Ok(()),
            Err(e) if self.lake.log.is_delta_table_location().await.unwrap_or_default() => {
                tracing::debug!("a Delta table was not made: {e}");
                Err(already_there(&self.lake))
            }
            Err(e) => Err(self.lake.told(e)),
        }
    }

    /// Whether there is a table in the place.
    ///
    /// # Errors
    /// Of the store.
    pub async fn exists(lake: &Lake) -> Result<bool> {
        lake.log.is_delta_table_location().await.map_err(|e| lake.told(e))
    }
}

/// 58P02: what would be made is there.
pub fn already_there(lake: &Lake) -> Error {
    Error::new(DUPLICATE_FILE, format!("there is a Delta table at \"{}\" already", lake.location))
        .with_hint("leave the query out to use the table that is there, then INSERT OVERWRITE it")
}

/// PostgreSQL's `duplicate_file`.
const DUPLICATE_FILE: &str = "58P02";

/// Checks the declared columns of an external table against those of the Delta table that is there.
///
/// # Errors
/// 42703, 42804 or 42P16 naming what differs.
pub fn check_declared(
    lake: &Lake,
    declared: &[Column],
    partition_columns: &[String],
    found: &super::snapshot::Snapshot,
) -> Result<()> {
    for column in declared {
        let Some(there) = found.column(&column.name) else {
            let names: Vec<&str> = found.columns.iter().map(|c| c.name.as_str()).collect();
            let message = format!("the Delta table at \"{}\" has no column \"{}\"", lake.location, column.name);
            return Err(
                Error::new(sqlstate::UNDEFINED_COLUMN, message).with_hint(format!("it has {}", names.join(", ")))
            );
        };
        if !columns::stands_for(&column.sql_type, &there.sql_type) {
            return Err(Error::new(
                "42804",
                format!(
                    "column \"{}\" is declared as {}, and is of type {} in the Delta table at \"{}\"",
                    column.name, column.sql_type, there.sql_type, lake.location
                ),
            )
            .with_hint("leave the column list out to take the columns from the table"));
        }
    }
    if !partition_columns.is_empty() && partition_columns != found.partition_columns {
        let there = match found.partition_columns.as_slice() {
            [] => "not partitioned".to_string(),
            names => format!("partitioned by ({})", names.join(", ")),
        };
        return Err(Error::new("42P16", format!("the Delta table at \"{}\" is {there}", lake.location))
            .with_hint("leave PARTITIONED BY out, or name these columns"));
    }
    Ok(())
}
