//! Aggregates over the values of a group in an order: ARRAY_AGG, STRING_AGG, FIRST_VALUE and LAST_VALUE.
//!
//! All values are kept in the order of the ORDER BY, equal ones in the order of the value itself, so that the result does
//! not depend on the order in which rows came. A group's range is read again when one of its values came or went: the
//! first entry alone for FIRST_VALUE and, in the opposite order, for LAST_VALUE.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, StringBuilder, UInt32Array, new_null_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, interleave, take};
use arrow::datatypes::{DataType, FieldRef};

use super::multiset::{Values, count_of};
use super::rows::Rows;
use super::{AggregateKind, bad_layout};
use crate::error::{Error, Result};
use crate::state::{ByteRows, KeyCodec, Level, RowCodec, successor};
use crate::stream::operator::order_key::{OrderKey, SortColumn};

/// An aggregate over ordered values. State: its result.
#[derive(Debug)]
pub(super) struct Ordered {
    result: Shape,
    output: DataType,
    argument: DataType,
    order: OrderKey,
    value_key: KeyCodec,
    value: RowCodec,
    distinct: bool,
    /// Position among the operator's aggregates, part of the value keys.
    ordinal: u16,
}

/// What is made of the values.
#[derive(Debug)]
enum Shape {
    First,
    List(FieldRef),
    /// The texts with this between them.
    Text(String),
}

impl Ordered {
    /// For an aggregate over an argument, ordered by columns; `separator` is STRING_AGG's.
    ///
    /// # Errors
    /// 0A000 for types that cannot be kept in order.
    pub fn new(
        kind: AggregateKind,
        argument: &DataType,
        order_by: &[(SortColumn, DataType)],
        separator: Option<&str>,
        distinct: bool,
        output: &DataType,
        ordinal: u16,
    ) -> Result<Option<Self>> {
        let reversed: Vec<(SortColumn, DataType)>;
        let mut order_by = order_by;
        let result = match (kind, output) {
            (AggregateKind::FirstValue, t) if t == argument => Shape::First,
            (AggregateKind::LastValue, t) if t == argument => {
                reversed = order_by.iter().map(|(sort, t)| (sort.reversed(), t.clone())).collect();
                order_by = &reversed;
                Shape::First
            }
            (AggregateKind::ArrayAgg, DataType::List(item)) if item.data_type() == argument => {
                Shape::List(item.clone())
            }
            (AggregateKind::StringAgg, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
                if matches!(argument, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) =>
            {
                Shape::Text(separator.unwrap_or_default().to_string())
            }
            _ => return Ok(None),
        };
        Ok(Some(Self {
            result,
            output: output.clone(),
            argument: argument.clone(),
            order: OrderKey::new(order_by)?,
            value_key: KeyCodec::for_rows(std::slice::from_ref(argument))?,
            value: RowCodec::new(std::slice::from_ref(argument))?,
            distinct,
            ordinal,
        }))
    }

    pub fn state_types(&self) -> Vec<DataType> {
        vec![self.output.clone()]
    }

    /// Whether a NULL is a value of the aggregate too.
    pub fn keeps_nulls(&self) -> bool {
        !matches!(self.result, Shape::Text(_))
    }

    /// The state with the rows added.
    pub fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef], values: &mut Values<'_>) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("an ordered aggregate has no argument"))?;
        let column = std::slice::from_ref(argument);
        let keys = self.order.encode(rows.order(), &self.value_key.encode(column)?)?;
        let kept = self.value.encode(column)?;
        let changes = values.count(self.ordinal, rows, &keys, |row| kept.get(row))?;
        let mut touched: Vec<usize> =
            changes.iter().filter(|c| !self.distinct || c.comes_or_goes()).map(|c| c.group).collect();
        touched.sort_unstable();
        touched.dedup();
        if touched.is_empty() {
            return Ok(vec![old[0].clone()]);
        }
        let (found, ends) = self.read(&touched, values)?;
        let new = self.results(&found, &ends)?;
        let null = new_null_array(&self.output, 1);
        let mut picks: Vec<(usize, usize)> = (0..values.groups.len()).map(|group| (0, group)).collect();
        for (i, group) in touched.iter().enumerate() {
            let is_empty = ends[i] == if i == 0 { 0 } else { ends[i - 1] };
            picks[*group] = if is_empty { (2, 0) } else { (1, i) };
        }
        Ok(vec![interleave(&[old[0].as_ref(), new.as_ref(), null.as_ref()], &picks)?])
    }

    /// The values of some groups in their order, each as often as it is in the group, and where those of each group end.
    fn read(&self, groups: &[usize], values: &Values<'_>) -> Result<(ArrayRef, Vec<usize>)> {
        let mut found = ByteRows::new();
        let mut ends = Vec::with_capacity(groups.len());
        let mut prefix = Vec::new();
        for group in groups {
            values.prefix(*group, self.ordinal, &mut prefix);
            let end = successor(&prefix);
            let end = end.as_ref().map(Vec::as_slice);
            let mut scan = values.state.scan(values.table.table(), Bound::Included(&prefix), end, Level::Open);
            while let Some((_, stored)) = scan.next_row()? {
                let count = count_of(stored)?;
                let copies = if self.distinct || matches!(self.result, Shape::First) { count.min(1) } else { count };
                (0..copies).for_each(|_| found.push(&stored[8..]));
                if copies > 0 && matches!(self.result, Shape::First) {
                    break;
                }
            }
            ends.push(found.len());
        }
        let column = match found.is_empty() {
            true => new_null_array(&self.argument, 0),
            false => self.value.decode(found.iter())?.remove(0),
        };
        Ok((column, ends))
    }

    /// A result for each group that has values.
    fn results(&self, found: &ArrayRef, ends: &[usize]) -> Result<ArrayRef> {
        match &self.result {
            // A group without values gets any, which is not looked at.
            Shape::First if found.is_empty() => Ok(new_null_array(&self.output, ends.len())),
            Shape::First => {
                let rows = UInt32Array::from_iter_values(ends.iter().map(|end| end.saturating_sub(1) as u32));
                Ok(take(found, &rows, None)?)
            }
            Shape::List(item) => {
                let starts = std::iter::once(0).chain(ends.iter().copied());
                let lengths = starts.zip(ends).map(|(start, end)| end - start);
                Ok(Arc::new(ListArray::try_new(
                    item.clone(),
                    OffsetBuffer::from_lengths(lengths),
                    found.clone(),
                    None,
                )?))
            }
            Shape::Text(separator) => {
                let texts = cast(found, &DataType::Utf8)?;
                let texts = texts.as_string::<i32>();
                let mut joined = StringBuilder::new();
                let mut text = String::new();
                let mut start = 0;
                for end in ends {
                    text.clear();
                    for i in start..*end {
                        if i > start {
                            text.push_str(separator);
                        }
                        text.push_str(texts.value(i));
                    }
                    start = *end;
                    joined.append_value(&text);
                }
                Ok(cast(&joined.finish(), &self.output)?)
            }
        }
    }
}

/// The error for an aggregate whose result would depend on the order in which rows came.
pub(super) fn needs_order(name: &str) -> Error {
    Error::unsupported(format!("{name}() without ORDER BY is not supported in a continuous view"))
        .with_hint(format!("write {name}(... ORDER BY ...): without it the result depends on the order of arrival"))
}
