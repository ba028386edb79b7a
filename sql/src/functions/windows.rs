//! The functions under TUMBLE, HOP and CUMULATE: the windows that a time falls into.
//!
//! Windows are aligned to the Unix epoch plus the offset, as in Flink and RisingWave; those of months to January 1970.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, PrimitiveArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Field, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use datafusion_common::{Result as DfResult, ScalarValue};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::error::SqlError;

const MICROS_PER_DAY: i64 = 86_400_000_000;
/// Most windows that one row may fall into.
const WINDOWS_MAX: i64 = 10_000;

/// `tumble_start(ts, size [, offset])`: the start of the window that holds `ts`.
pub fn tumble_start() -> Arc<ScalarUDF> {
    starts_function(Kind::TumbleStart)
}

/// `hop_starts(ts, slide, size [, offset])`: the starts of all windows that hold `ts`, earliest first; none for NULL.
pub fn hop_starts() -> Arc<ScalarUDF> {
    starts_function(Kind::HopStarts)
}

/// `cumulate_ends(ts, step, size [, offset])`: the ends of all windows that hold `ts` and grow by steps up to a size,
/// earliest first; none for NULL.
pub fn cumulate_ends() -> Arc<ScalarUDF> {
    starts_function(Kind::CumulateEnds)
}

/// `cumulate_start(ts, step, size [, offset])`: where these windows start. Unlike [`tumble_start`] it is not known to carry a
/// watermark on: the windows close one by one at their ends.
pub fn cumulate_start() -> Arc<ScalarUDF> {
    starts_function(Kind::CumulateStart)
}

fn starts_function(kind: Kind) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Start { kind, signature: Signature::user_defined(Volatility::Immutable) }))
}

/// An interval of a window: of fixed length, or whole months.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    Micros(i64),
    Months(i64),
}

impl Span {
    /// # Errors
    /// 22023 if an interval has months and days, 22008 if it is out of range.
    pub fn new(interval: IntervalMonthDayNano) -> Result<Self, SqlError> {
        let IntervalMonthDayNano { months, days, nanoseconds } = interval;
        match (months, days, nanoseconds) {
            (0, _, _) => i64::from(days)
                .checked_mul(MICROS_PER_DAY)
                .and_then(|d| d.checked_add(nanoseconds / 1000))
                .map(Self::Micros)
                .ok_or_else(|| SqlError::new("22008", "interval out of range")),
            (_, 0, 0) => Ok(Self::Months(i64::from(months))),
            _ => Err(SqlError::new("22023", "a window's size cannot have both months and days")
                .with_hint("months differ in length; use one or the other")),
        }
    }

    fn length(self) -> i64 {
        match self {
            Self::Micros(n) | Self::Months(n) => n,
        }
    }
}

/// Times as numbers on which windows of a span are evenly spaced: microseconds, or months since 1970.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    months: bool,
    /// Microseconds that windows are moved by.
    offset: i64,
}

impl Scale {
    fn position(self, time_us: i64) -> i64 {
        match self.months {
            true => month_of(time_us - self.offset),
            false => time_us - self.offset,
        }
    }

    fn time(self, position: i64) -> i64 {
        match self.months {
            true => start_of_month(position) + self.offset,
            false => position + self.offset,
        }
    }
}

/// Months since January 1970 of a time in microseconds.
fn month_of(time_us: i64) -> i64 {
    // Howard Hinnant's civil_from_days: years begin in March, eras have 400 of them.
    let days = time_us.div_euclid(MICROS_PER_DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    (era * 400 + year - 1970) * 12 + month + 2
}

/// The first microsecond of a month.
fn start_of_month(months: i64) -> i64 {
    let from_march = months - 2;
    let year = from_march.div_euclid(12) + 1970;
    let month = from_march.rem_euclid(12);
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day = year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5;
    (era * 146_097 + day - 719_468) * MICROS_PER_DAY
}

/// Which of the functions it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    TumbleStart,
    HopStarts,
    CumulateStart,
    CumulateEnds,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Start {
    kind: Kind,
    signature: Signature,
}

impl Start {
    fn timestamp(types: &[DataType]) -> DfResult<DataType> {
        match types.first() {
            Some(DataType::Timestamp(_, None) | DataType::Date32) => {
                Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
            }
            Some(DataType::Timestamp(_, Some(_))) => Ok(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            _ => Err(SqlError::new("42804", "the time column of a window must be a timestamp").into()),
        }
    }
}

impl ScalarUDFImpl for Start {
    fn name(&self) -> &str {
        match self.kind {
            Kind::TumbleStart => "tumble_start",
            Kind::HopStarts => "hop_starts",
            Kind::CumulateStart => "cumulate_start",
            Kind::CumulateEnds => "cumulate_ends",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let intervals = if self.kind == Kind::TumbleStart { 1..=2 } else { 2..=3 };
        if !intervals.contains(&types.len().saturating_sub(1)) {
            return Err(SqlError::new("42883", format!("wrong number of arguments for {}", self.name())).into());
        }
        let mut coerced = vec![Self::timestamp(types)?];
        coerced.extend(types[1..].iter().map(|_| DataType::Interval(IntervalUnit::MonthDayNano)));
        Ok(coerced)
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        let timestamp = Self::timestamp(types)?;
        Ok(match self.kind {
            Kind::TumbleStart | Kind::CumulateStart => timestamp,
            Kind::HopStarts | Kind::CumulateEnds => DataType::List(Arc::new(Field::new("item", timestamp, true))),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let ScalarFunctionArgs { args, number_rows, return_field, .. } = args;
        let constant = args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { number_rows };
        let times = args[0].to_array(rows)?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let mut spans = Vec::with_capacity(3);
        for arg in &args[1..] {
            spans.push(match arg {
                ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(interval))) => Span::new(*interval)?,
                other => Span::new(one_value(other)?)?,
            });
        }
        let sizes = if self.kind == Kind::TumbleStart { 1 } else { 2 };
        let (scale, lengths) = arranged(&spans, sizes)?;
        let size = lengths[sizes - 1];
        let result: ArrayRef = match self.kind {
            Kind::TumbleStart | Kind::CumulateStart => {
                let start: TimestampMicrosecondArray = times.unary(|t| {
                    let position = scale.position(t);
                    scale.time(position - position.rem_euclid(size))
                });
                Arc::new(start.with_data_type(return_field.data_type().clone()))
            }
            Kind::HopStarts => Arc::new(lists(times, lengths[0], size, &return_field, |t, windows| {
                let slide = lengths[0];
                let position = scale.position(t);
                let last = position - position.rem_euclid(slide);
                // The earliest start whose window still reaches the time.
                let mut start = last - (size - 1 - (position - last)).div_euclid(slide) * slide;
                while start <= last {
                    windows.push(scale.time(start));
                    start += slide;
                }
            })?),
            Kind::CumulateEnds => Arc::new(lists(times, lengths[0], size, &return_field, |t, windows| {
                let step = lengths[0];
                let position = scale.position(t);
                let start = position - position.rem_euclid(size);
                let mut end = start + ((position - start) / step + 1) * step;
                while end < start + size {
                    windows.push(scale.time(end));
                    end += step;
                }
                windows.push(scale.time(start + size));
            })?),
        };
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?));
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// The value of an interval argument that came as a column: it must be the same in all rows.
fn one_value(arg: &ColumnarValue) -> DfResult<IntervalMonthDayNano> {
    if let ColumnarValue::Array(array) = arg {
        let values = array.as_primitive::<IntervalMonthDayNanoType>();
        if let Some(first) = values.iter().next().flatten()
            && values.iter().all(|v| v == Some(first))
        {
            return Ok(first);
        }
    }
    Err(SqlError::new("22023", "a window's size must be a constant interval").into())
}

/// The scale and lengths of windows whose first `sizes` spans are lengths (slide or step before size), the next an offset.
///
/// # Errors
/// 22023 if they make no windows, 54000 if a time would be in too many.
pub(crate) fn arranged(spans: &[Span], sizes: usize) -> Result<(Scale, Vec<i64>), SqlError> {
    let wrong = |message: &str| Err(SqlError::new("22023", message));
    let offset = match spans.get(sizes) {
        None => 0,
        Some(Span::Micros(offset)) => *offset,
        Some(Span::Months(_)) => return wrong("a window's offset cannot have months"),
    };
    let months = matches!(spans[0], Span::Months(_));
    if spans[..sizes].iter().any(|span| matches!(span, Span::Months(_)) != months) {
        return wrong("a window's slide and size must both be of months, or neither");
    }
    // Further in, an offset would not be the same day in every month.
    if months && !(0..28 * MICROS_PER_DAY).contains(&offset) {
        return wrong("an offset of windows of months must be less than 28 days");
    }
    let lengths: Vec<i64> = spans[..sizes].iter().map(|span| span.length()).collect();
    if lengths.iter().any(|length| *length <= 0) {
        return wrong("a window's size must be positive");
    }
    if let [slide, size] = lengths.as_slice()
        && size / slide > WINDOWS_MAX
    {
        return Err(SqlError::new("54000", format!("a row would fall into more than {WINDOWS_MAX} windows"))
            .with_hint("make the slide larger or the window smaller"));
    }
    Ok((Scale { months, offset }, lengths))
}

/// A list for each time, of what `windows_of` pushes.
fn lists(
    times: &TimestampMicrosecondArray,
    slide: i64,
    size: i64,
    return_field: &Field,
    windows_of: impl Fn(i64, &mut Vec<i64>),
) -> DfResult<ListArray> {
    let DataType::List(item) = return_field.data_type() else {
        return Err(SqlError::internal("the windows of a time are a list").into());
    };
    let mut values: Vec<i64> = Vec::with_capacity(times.len() * (size / slide + 1) as usize);
    let mut lengths = Vec::with_capacity(times.len());
    for time in times {
        let before = values.len();
        if let Some(time) = time {
            windows_of(time, &mut values);
        }
        lengths.push(values.len() - before);
    }
    let values =
        PrimitiveArray::<TimestampMicrosecondType>::from_iter_values(values).with_data_type(item.data_type().clone());
    Ok(ListArray::try_new(item.clone(), OffsetBuffer::from_lengths(lengths), Arc::new(values), times.nulls().cloned())?)
}

#[cfg(test)]
mod tests {
    use super::{MICROS_PER_DAY, month_of, start_of_month};

    #[test]
    fn months_are_those_of_the_calendar() {
        let day = |n: i64| n * MICROS_PER_DAY;
        assert_eq!((month_of(0), month_of(-1), month_of(day(31))), (0, -1, 1));
        assert_eq!((start_of_month(0), start_of_month(1), start_of_month(-1)), (0, day(31), day(-31)));
        // 2024-02-29 and 2024-03-01.
        assert_eq!((month_of(day(19_782)), month_of(day(19_783))), (54 * 12 + 1, 54 * 12 + 2));
        for month in -5000..5000 {
            assert_eq!(month_of(start_of_month(month)), month);
            assert_eq!(month_of(start_of_month(month) - 1), month - 1);
        }
    }
}
