//! The columns that a Nexmark source can have, and events as such columns.
//!
//! A column of one kind of event is named after it and NULL in the others, so that all events are in one relation, in the
//! order in which they happen.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringViewBuilder, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef;
use millstream_catalog::{Column, SqlType};

use self::Values::{EventType, Number, Text, Time};
use super::model::{Kind, Model};
use crate::error::{ConnectorError, Result};

/// A column that a source can have.
#[derive(Debug)]
pub(super) struct Known {
    name: &'static str,
    /// The kind of event that has it; `None`: all.
    kind: Option<Kind>,
    values: Values,
}

/// How the values of a column are made.
#[derive(Debug)]
enum Values {
    EventType,
    Number(fn(&Model, u64) -> i64),
    Time(fn(&Model, u64) -> i64),
    Text(fn(&Model, u64, &mut String)),
}

const fn all(name: &'static str, values: Values) -> Known {
    Known { name, kind: None, values }
}

const fn person(name: &'static str, values: Values) -> Known {
    Known { name, kind: Some(Kind::Person), values }
}

const fn auction(name: &'static str, values: Values) -> Known {
    Known { name, kind: Some(Kind::Auction), values }
}

const fn bid(name: &'static str, values: Values) -> Known {
    Known { name, kind: Some(Kind::Bid), values }
}

static KNOWN: [Known; 22] = [
    all("event_type", EventType),
    all("date_time", Time(Model::date_time)),
    all("extra", Text(Model::extra)),
    person("person_id", Number(Model::person_id)),
    person("person_name", Text(Model::name)),
    person("person_email_address", Text(Model::email_address)),
    person("person_credit_card", Text(Model::credit_card)),
    person("person_city", Text(Model::city)),
    person("person_state", Text(Model::state)),
    auction("auction_id", Number(Model::auction_id)),
    auction("auction_item_name", Text(Model::item_name)),
    auction("auction_description", Text(Model::description)),
    auction("auction_initial_bid", Number(Model::initial_bid)),
    auction("auction_reserve", Number(Model::reserve)),
    auction("auction_expires", Time(Model::expires)),
    auction("auction_seller", Number(Model::seller)),
    auction("auction_category", Number(Model::category)),
    bid("bid_auction", Number(Model::auction)),
    bid("bid_bidder", Number(Model::bidder)),
    bid("bid_price", Number(Model::price)),
    bid("bid_channel", Text(Model::channel)),
    bid("bid_url", Text(Model::url)),
];

/// What fills a declared column.
///
/// # Errors
/// 22023 for a name that no column has, a type that is not the column's, and for NOT NULL where events have no value;
/// 0A000 for INCLUDE.
pub(super) fn known(column: &Column) -> Result<&'static Known> {
    if column.include.is_some() {
        return Err(ConnectorError::unsupported("INCLUDE is not supported by a nexmark source")
            .with_hint("its events have no parts beside their columns"));
    }
    let known = KNOWN.iter().find(|known| known.name == column.name).ok_or_else(|| {
        let names: Vec<_> = KNOWN.iter().map(|known| known.name).collect();
        ConnectorError::option(format!("a nexmark source has no column \"{}\"", column.name))
            .with_hint(format!("its columns are {}", names.join(", ")))
    })?;
    let (fits, expected) = match known.values {
        EventType => (column.sql_type == SqlType::Int4, "integer"),
        Number(_) => (column.sql_type == SqlType::Int8, "bigint"),
        Time(_) => (column.sql_type == SqlType::Timestamp, "timestamp"),
        Text(_) => (matches!(column.sql_type, SqlType::Text | SqlType::Varchar(None)), "text"),
    };
    if !fits {
        return Err(ConnectorError::option(format!(
            "column \"{}\" of a nexmark source is of type {expected}, not {}",
            column.name, column.sql_type
        )));
    }
    if !column.nullable && known.kind.is_some() {
        return Err(ConnectorError::option(format!(
            "column \"{}\" of a nexmark source cannot be NOT NULL",
            column.name
        ))
        .with_hint("it is NULL in events of other kinds"));
    }
    Ok(known)
}

/// Events as columns of a schema.
pub(super) fn batch(
    model: &Model,
    schema: &SchemaRef,
    columns: impl Iterator<Item = &'static Known>,
    events: Range<u64>,
) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some((events.end - events.start) as usize));
    let arrays = columns.map(|known| known.array(model, events.clone())).collect();
    Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
}

impl Known {
    fn array(&self, model: &Model, events: Range<u64>) -> ArrayRef {
        let is_of = |n: &u64| self.kind.is_none_or(|kind| Kind::of(*n) == kind);
        match self.values {
            EventType => Arc::new(events.map(|n| Some(Kind::of(n) as i32)).collect::<Int32Array>()),
            Number(value) => Arc::new(events.map(|n| is_of(&n).then(|| value(model, n))).collect::<Int64Array>()),
            Time(value) => {
                Arc::new(events.map(|n| is_of(&n).then(|| value(model, n))).collect::<TimestampMicrosecondArray>())
            }
            Text(append) => {
                let (mut texts, mut text) = (StringViewBuilder::new(), String::new());
                for n in events {
                    if !is_of(&n) {
                        texts.append_null();
                        continue;
                    }
                    text.clear();
                    append(model, n, &mut text);
                    texts.append_value(&text);
                }
                Arc::new(texts.finish())
            }
        }
    }
}
