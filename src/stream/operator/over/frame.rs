//! Frames: which rows around a row its window function looks at, and the reverse, which rows look at a changed one.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, TimestampMicrosecondType,
};

use crate::error::{Error, Result};

/// What offsets of a frame count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Units {
    Rows,
    Range,
    /// All rows of a session, whose gap is the start's distance.
    Session,
}

/// A distance in the unit of the order column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Distance {
    /// Whole units: numbers at the column's scale, days of dates, microseconds.
    Units(i128),
    Float(f64),
    /// Of a timestamp or date.
    Interval(IntervalMonthDayNano),
}

/// Where a frame starts or ends, seen from the current row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Edge {
    /// The partition's first row for a start, its last one for an end.
    Unbounded,
    /// The row itself by ROWS, all its peers by RANGE.
    Current,
    Before(Distance),
    After(Distance),
}

/// A frame without exclusion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    pub units: Units,
    pub start: Edge,
    pub end: Edge,
}

impl Frame {
    /// All rows of the partition.
    pub const ALL: Self = Self { units: Units::Range, start: Edge::Unbounded, end: Edge::Unbounded };

    /// The session of the current row, in which no two neighbours are `gap` apart.
    pub fn session(gap: IntervalMonthDayNano) -> Self {
        Self { units: Units::Session, start: Edge::Before(Distance::Interval(gap)), end: Edge::Current }
    }

    /// The gap of a session.
    pub(super) fn gap(&self) -> Option<IntervalMonthDayNano> {
        match self {
            Self { units: Units::Session, start: Edge::Before(Distance::Interval(gap)), .. } => Some(*gap),
            _ => None,
        }
    }

    /// The offset of an edge by ROWS, negative for rows before; `None` if unbounded.
    pub(super) fn rows(edge: Edge) -> Option<i64> {
        let units = |d: Distance| match d {
            Distance::Units(n) => i64::try_from(n).unwrap_or(i64::MAX / 4).min(i64::MAX / 4),
            Distance::Float(_) | Distance::Interval(_) => 0,
        };
        match edge {
            Edge::Unbounded => None,
            Edge::Current => Some(0),
            Edge::Before(d) => Some(-units(d)),
            Edge::After(d) => Some(units(d)),
        }
    }

    /// Whether an edge of a RANGE frame is computed from the order column.
    pub(super) fn has_range_offset(&self) -> bool {
        let is_offset = |edge| matches!(edge, Edge::Before(_) | Edge::After(_));
        self.units == Units::Range && (is_offset(self.start) || is_offset(self.end))
    }
}

/// How far towards one end of the partition the results are that a changed row can alter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reach {
    /// To the row's own peers.
    Peers,
    /// So many rows further.
    Rows(i64),
    /// To the rows whose order value is this far away, in the direction of the edge.
    Range(Edge),
    /// To the end of the row's session.
    Session,
    /// To the end.
    All,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gap) = self.gap() {
            return write!(f, "session with gap {}", Distance::Interval(gap));
        }
        let units = if self.units == Units::Rows { "rows" } else { "range" };
        let edge = |edge: Edge, unbounded: &str| match edge {
            Edge::Unbounded => format!("unbounded {unbounded}"),
            Edge::Current => "current row".to_string(),
            Edge::Before(distance) => format!("{distance} preceding"),
            Edge::After(distance) => format!("{distance} following"),
        };
        write!(f, "{units} between {} and {}", edge(self.start, "preceding"), edge(self.end, "following"))
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Units(n) => write!(f, "{n}"),
            Self::Float(n) => write!(f, "{n}"),
            Self::Interval(i) => {
                write!(f, "{} months {} days {} us", i.months, i.days, i.nanoseconds / 1000)
            }
        }
    }
}

impl Frame {
    /// Which rows a change is seen by: towards the partition's start and towards its end.
    pub(super) fn reach(&self) -> (Reach, Reach) {
        match self.units {
            Units::Rows => {
                let reach = |offset: Option<i64>| offset.map_or(Reach::All, |n| Reach::Rows(n.max(0)));
                (reach(Self::rows(self.end)), reach(Self::rows(self.start).map(|n| -n)))
            }
            Units::Range => {
                let turned = |edge| match edge {
                    Edge::Unbounded => Reach::All,
                    Edge::Current => Reach::Peers,
                    Edge::Before(d) => Reach::Range(Edge::After(d)),
                    Edge::After(d) => Reach::Range(Edge::Before(d)),
                };
                (turned(self.end), turned(self.start))
            }
            Units::Session => (Reach::Session, Reach::Session),
        }
    }
}

/// Days that adding and taking away months may differ by.
const MONTHS_SLACK_DAYS: i32 = 3;

/// The distance with room for what months differ in length, for looking from the far end of a frame.
pub(super) fn with_slack(edge: Edge, towards_end: bool) -> Edge {
    let widen = |interval: IntervalMonthDayNano, sign: i32| match interval.months {
        0 => interval,
        months => IntervalMonthDayNano::new(months, interval.days + sign * MONTHS_SLACK_DAYS, interval.nanoseconds),
    };
    match edge {
        Edge::Before(Distance::Interval(i)) => {
            Edge::Before(Distance::Interval(widen(i, if towards_end { -1 } else { 1 })))
        }
        Edge::After(Distance::Interval(i)) => {
            Edge::After(Distance::Interval(widen(i, if towards_end { 1 } else { -1 })))
        }
        other => other,
    }
}

/// The order values that an edge is at, seen from each of `values`; NULL stays NULL, and what leaves the type's range stays
/// at its end. `descending`: rows before have greater values.
///
/// # Errors
/// 0A000 for types without distances, 22008 for timestamps out of range.
pub(super) fn edge_values(values: &ArrayRef, edge: Edge, descending: bool) -> Result<ArrayRef> {
    let (distance, forward) = match edge {
        Edge::Unbounded | Edge::Current => return Ok(values.clone()),
        Edge::Before(d) => (d, descending),
        Edge::After(d) => (d, !descending),
    };
    let units = match distance {
        Distance::Units(n) if forward => n,
        Distance::Units(n) => -n,
        Distance::Float(f) => return floats(values, if forward { f } else { -f }),
        Distance::Interval(interval) => return intervals(values, interval, forward),
    };
    match values.data_type() {
        DataType::Int16 => Ok(integers::<Int16Type>(values, units)),
        DataType::Int32 => Ok(integers::<Int32Type>(values, units)),
        DataType::Int64 => Ok(integers::<Int64Type>(values, units)),
        DataType::Date32 => Ok(integers::<Date32Type>(values, units)),
        DataType::Timestamp(..) => Ok(integers::<TimestampMicrosecondType>(values, units)),
        DataType::Decimal128(..) => {
            let moved: PrimitiveArray<Decimal128Type> =
                values.as_primitive::<Decimal128Type>().unary(|v| v.saturating_add(units));
            Ok(Arc::new(moved.with_data_type(values.data_type().clone())))
        }
        other => Err(no_distance(other)),
    }
}

fn integers<T: ArrowPrimitiveType>(values: &ArrayRef, units: i128) -> ArrayRef
where
    i128: From<T::Native>,
    T::Native: TryFrom<i128> + num_bounds::Bounds,
{
    let moved: PrimitiveArray<T> = values.as_primitive::<T>().unary(|v| {
        let moved = i128::from(v).saturating_add(units);
        T::Native::try_from(moved).unwrap_or(if units < 0 {
            <T::Native as num_bounds::Bounds>::LEAST
        } else {
            <T::Native as num_bounds::Bounds>::GREATEST
        })
    });
    Arc::new(moved.with_data_type(values.data_type().clone()))
}

/// Least and greatest values of the integers that arrays are made of.
mod num_bounds {
    pub trait Bounds {
        const LEAST: Self;
        const GREATEST: Self;
    }

    macro_rules! bounds {
        ($($t:ty),*) => {$(
            impl Bounds for $t {
                const LEAST: Self = <$t>::MIN;
                const GREATEST: Self = <$t>::MAX;
            }
        )*};
    }

    bounds!(i16, i32, i64);
}

fn floats(values: &ArrayRef, distance: f64) -> Result<ArrayRef> {
    match values.data_type() {
        DataType::Float64 => {
            Ok(Arc::new(values.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| v + distance)))
        }
        DataType::Float32 => Ok(Arc::new(
            values.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| (f64::from(v) + distance) as f32),
        )),
        other => Err(no_distance(other)),
    }
}

fn intervals(values: &ArrayRef, interval: IntervalMonthDayNano, forward: bool) -> Result<ArrayRef> {
    if let (DataType::Timestamp(..), 0) = (values.data_type(), interval.months) {
        let micros = i128::from(interval.days) * 86_400_000_000 + i128::from(interval.nanoseconds / 1000);
        return Ok(integers::<TimestampMicrosecondType>(values, if forward { micros } else { -micros }));
    }
    let scalar = arrow::array::Scalar::new(PrimitiveArray::<IntervalMonthDayNanoType>::from(vec![interval]));
    let moved = match forward {
        true => numeric::add(values, &scalar)?,
        false => numeric::sub(values, &scalar)?,
    };
    Ok(moved)
}

fn no_distance(data_type: &DataType) -> Error {
    Error::unsupported(format!("RANGE with an offset over a column of type {data_type}"))
}
