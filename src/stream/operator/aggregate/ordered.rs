//! Aggregates over the values of a group in an order: ARRAY_AGG, STRING_AGG, FIRST_VALUE and LAST_VALUE, percentiles and
//! MODE.
//!
//! All values are kept in the order of the ORDER BY, equal ones in the order of the value itself, so that the result does
//! not depend on the order in which rows came. A group's range is read again when one of its values came or went: the
//! first entry alone for FIRST_VALUE and, in the opposite order, for LAST_VALUE; up to its place for a percentile.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, ListArray, StringBuilder, UInt32Array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, interleave, take};
use arrow::datatypes::{DataType, FieldRef, Float64Type, Int64Type};
use millstream_sql::functions::ordered_set::Place;

use super::multiset::{Values, count_of};
use super::rows::Rows;
use super::{AggregateCall, AggregateKind, bad_layout};
use crate::error::{Error, Result};
use crate::state::{ByteRows, KeyCodec, Level, RowCodec, successor};
use crate::stream::operator::order_key::{OrderKey, SortColumn};

/// An aggregate over ordered values. State: its result; the number of values for a percentile.
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
    /// The value between the two beside the place of this fraction.
    Between(f64),
    /// The value at the place of this fraction.
    At(f64),
    /// The value that is there most often, the first of several.
    MostFrequent,
}

impl Ordered {
    /// For an aggregate over an argument, ordered by columns.
    ///
    /// # Errors
    /// 0A000 for types that cannot be kept in order.
    pub fn new(
        call: &AggregateCall,
        argument: &DataType,
        order_by: &[(SortColumn, DataType)],
        output: &DataType,
        ordinal: u16,
    ) -> Result<Option<Self>> {
        use AggregateKind as K;
        let reversed: Vec<(SortColumn, DataType)>;
        let mut order_by = order_by;
        let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let result = match (call.kind, output, call.fraction) {
            (K::FirstValue, t, _) if t == argument => Shape::First,
            (K::LastValue, t, _) if t == argument => {
                reversed = order_by.iter().map(|(sort, t)| (sort.reversed(), t.clone())).collect();
                order_by = &reversed;
                Shape::First
            }
            (K::ArrayAgg, DataType::List(item), _) if item.data_type() == argument => Shape::List(item.clone()),
            (K::StringAgg, t, _) if is_text(t) && is_text(argument) => {
                Shape::Text(call.separator.clone().unwrap_or_default())
            }
            (K::PercentileCont, DataType::Float64, Some(fraction)) if argument == output => Shape::Between(fraction),
            (K::PercentileDisc, t, Some(fraction)) if t == argument => Shape::At(fraction),
            (K::Mode, t, _) if t == argument => Shape::MostFrequent,
            _ => return Ok(None),
        };
        Ok(Some(Self {
            result,
            output: output.clone(),
            argument: argument.clone(),
            order: OrderKey::new(order_by)?,
            value_key: KeyCodec::for_rows(std::slice::from_ref(argument))?,
            value: RowCodec::new(std::slice::from_ref(argument))?,
            distinct: call.distinct,
            ordinal,
        }))
    }

    pub fn state_types(&self) -> Vec<DataType> {
        match self.is_percentile() {
            true => vec![self.output.clone(), DataType::Int64],
            false => vec![self.output.clone()],
        }
    }

    fn is_percentile(&self) -> bool {
        matches!(self.result, Shape::Between(_) | Shape::At(_))
    }

    /// Whether a NULL is a value of the aggregate too.
    pub fn keeps_nulls(&self) -> bool {
        matches!(self.result, Shape::First | Shape::List(_))
    }

    /// The state with the rows added.
    pub fn apply(&self, rows: &Rows<'_>, old: &[ArrayRef], values: &mut Values<'_>) -> Result<Vec<ArrayRef>> {
        let argument = rows.argument().ok_or_else(|| bad_layout("an ordered aggregate has no argument"))?;
        let column = std::slice::from_ref(argument);
        let keys = self.order.encode(rows.order(), &self.value_key.encode(column)?)?;
        let kept = self.value.encode(column)?;
        let changes = values.count(self.ordinal, rows, &keys, |row| kept.get(row))?;
        let mut new_state = Vec::with_capacity(2);
        let mut counts = Vec::new();
        if self.is_percentile() {
            counts = old[1].as_primitive::<Int64Type>().iter().map(Option::unwrap_or_default).collect();
            changes.iter().for_each(|c| counts[c.group] += c.after - c.before);
            new_state.push(Arc::new(Int64Array::from(counts.clone())) as ArrayRef);
        }
        let mut touched: Vec<usize> =
            changes.iter().filter(|c| !self.distinct || c.comes_or_goes()).map(|c| c.group).collect();
        touched.sort_unstable();
        touched.dedup();
        let result = match touched.is_empty() {
            true => old[0].clone(),
            false => {
                let (found, ends) = self.read(&touched, &counts, values)?;
                let new = self.results(&found, &ends, || touched.iter().map(|group| counts[*group]))?;
                let null = new_null_array(&self.output, 1);
                let mut picks: Vec<(usize, usize)> = (0..values.groups.len()).map(|group| (0, group)).collect();
                for (i, group) in touched.iter().enumerate() {
                    let is_empty = ends[i] == if i == 0 { 0 } else { ends[i - 1] };
                    picks[*group] = if is_empty { (2, 0) } else { (1, i) };
                }
                interleave(&[old[0].as_ref(), new.as_ref(), null.as_ref()], &picks)?
            }
        };
        new_state.insert(0, result);
        Ok(new_state)
    }

    /// The values of some groups that decide their results, in order, and where those of each group end. `counts` has the
    /// number of values of each group for percentiles.
    fn read(&self, groups: &[usize], counts: &[i64], values: &Values<'_>) -> Result<(ArrayRef, Vec<usize>)> {
        let mut found = ByteRows::new();
        let mut ends = Vec::with_capacity(groups.len());
        let mut prefix = Vec::new();
        for group in groups {
            values.prefix(*group, self.ordinal, &mut prefix);
            let end = successor(&prefix);
            let end = end.as_ref().map(Vec::as_slice);
            let mut scan = values.state.scan(values.table.table(), Bound::Included(&prefix), end, Level::Open);
            let wanted = self.place(counts.get(*group).copied().unwrap_or_default());
            let (mut passed, mut most) = (0, 0);
            while let Some((_, stored)) = scan.next_row()? {
                let count = count_of(stored)?;
                let value = &stored[8..];
                let copies = match (&self.result, wanted) {
                    (Shape::First, _) => count.min(1),
                    (Shape::MostFrequent, _) => {
                        if count > most {
                            most = count;
                            found.truncate(ends.last().copied().unwrap_or_default());
                            found.push(value);
                        }
                        continue;
                    }
                    (_, Some(place)) => {
                        let here = |at: usize| i64::from((passed..passed + count).contains(&(at as i64)));
                        let copies = here(place.below) + here(place.above);
                        passed += count;
                        copies
                    }
                    _ if self.distinct => count.min(1),
                    _ => count,
                };
                (0..copies).for_each(|_| found.push(value));
                let is_done = match wanted {
                    Some(place) => passed > place.above as i64,
                    None => copies > 0 && matches!(self.result, Shape::First),
                };
                if is_done {
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

    /// Where a percentile is among the values of a group; `None` for other aggregates and for a group without values.
    fn place(&self, count: i64) -> Option<Place> {
        let count = usize::try_from(count).ok().filter(|count| *count > 0)?;
        match self.result {
            Shape::Between(fraction) => Some(Place::continuous(fraction, count)),
            Shape::At(fraction) => Some(Place::discrete(fraction, count)),
            _ => None,
        }
    }

    /// A result for each group that has values.
    fn results<C: Iterator<Item = i64>>(
        &self,
        found: &ArrayRef,
        ends: &[usize],
        counts: impl Fn() -> C,
    ) -> Result<ArrayRef> {
        // A group without values gets any result, which is not looked at.
        if found.is_empty() && !matches!(self.result, Shape::List(_) | Shape::Text(_)) {
            return Ok(new_null_array(&self.output, ends.len()));
        }
        match &self.result {
            Shape::Between(_) => {
                let found = found.as_primitive::<Float64Type>().values();
                let value = |(count, end): (i64, &usize)| {
                    self.place(count).map(|place| place.between(found[end - 2], found[end - 1]))
                };
                Ok(Arc::new(counts().zip(ends).map(value).collect::<Float64Array>()))
            }
            Shape::First | Shape::At(_) | Shape::MostFrequent => {
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
