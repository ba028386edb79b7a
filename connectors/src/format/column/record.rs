//! Columns of records: a builder for each field, of which some may only be checked.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Fields};
use millstream_catalog::SqlType;

use super::ColumnBuilder;
use crate::error::{ConnectorError, Result};
use crate::format::json;

/// The fields of a column of records.
pub(crate) struct Record {
    /// Of the fields that are read, then of those that are only checked; the latter hold the value of one record.
    pub columns: Vec<ColumnBuilder>,
    pub kept: usize,
    pub reader: json::ObjectReader,
    /// Where among the builders each of the fields is, in their declared order.
    pub places: Vec<usize>,
    fields: Fields,
}

impl Record {
    /// Of the fields of a record type; with `read` only those are kept.
    ///
    /// # Errors
    /// As [`ColumnBuilder::new`].
    pub(super) fn new(sql_type: &SqlType, read: Option<&BTreeSet<usize>>) -> Result<Self> {
        let (SqlType::Record(types), DataType::Struct(fields)) = (sql_type, sql_type.arrow_type()) else {
            return Err(ConnectorError::internal("a record that is no struct"));
        };
        let is_read = |i: &usize| read.is_none_or(|read| read.contains(i));
        let (mut order, checked): (Vec<usize>, Vec<usize>) = (0..types.len()).partition(is_read);
        let kept = order.len();
        order.extend(checked);
        let names = order.iter().enumerate().map(|(place, i)| (types[*i].0.as_str(), place));
        let mut places = vec![0; types.len()];
        order.iter().enumerate().for_each(|(place, i)| places[*i] = place);
        Ok(Self {
            reader: json::ObjectReader::new(names),
            columns: order.iter().map(|i| ColumnBuilder::new(&types[*i].1)).collect::<Result<_>>()?,
            kept,
            fields,
            places,
        })
    }

    /// The builders of the fields that are read.
    pub(super) fn kept_mut(&mut self) -> impl Iterator<Item = &mut ColumnBuilder> {
        self.columns[..self.kept].iter_mut()
    }

    /// The records as an array; the fields that are not read are NULL.
    pub(super) fn finish(&mut self, nulls: Option<NullBuffer>, rows: usize) -> ArrayRef {
        let mut read: Vec<ArrayRef> = self.kept_mut().map(ColumnBuilder::finish).collect();
        read.resize_with(self.columns.len(), || new_null_array(&DataType::Null, 0));
        let columns = self.places.iter().zip(&self.fields).map(|(place, field)| match *place < self.kept {
            true => read[*place].clone(),
            false => new_null_array(field.data_type(), rows),
        });
        Arc::new(StructArray::new(self.fields.clone(), columns.collect(), nulls))
    }
}
