//! Which rows of a stored relation a statement has to read: all, those of some keys, or ranges of its primary key or of an
//! index.
//!
//! Filters stay in the plan: what is found here narrows the rows that are read and decides nothing, so it has to give every
//! row that the filters let through and may give more. That is why only columns are looked at whose values are equal, and
//! in order, as the bytes of their keys are.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use millstream_catalog::SqlType;

/// Most keys or ranges that one statement reads; above it a scan is no slower.
const POINT_READS_MAX: usize = 4096;

/// An index of a relation, as it is chosen from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexOrder {
    pub name: String,
    /// Positions of its columns.
    pub columns: Vec<usize>,
    pub unique: bool,
}

/// How rows are found.
#[derive(Debug, Clone, PartialEq)]
pub enum Access {
    /// Those of these primary keys: one column for each of the key's, no key twice.
    Keys(RecordBatch),
    Ranges(Ranges),
}

/// Ranges of the primary key or of an index.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranges {
    /// Position of the index among those of the relation and its name; `None`: the primary key.
    pub index: Option<(usize, String)>,
    /// Values of the leading columns, one range for each of the `rows` of them.
    pub equal: Vec<ArrayRef>,
    pub rows: usize,
    /// What bounds the column behind them, which is then not NULL.
    pub bounds: Option<(Bound<ScalarValue>, Bound<ScalarValue>)>,
    /// Whether each range holds one row at most.
    pub single: bool,
}

/// What a filter says of one column.
enum Said {
    /// It is one of these; NULL among them stands for IS NULL.
    In(Vec<ScalarValue>),
    Between(Bound<ScalarValue>, Bound<ScalarValue>),
}

/// What all filters say of one column.
#[derive(Default)]
struct Known {
    values: Option<Vec<ScalarValue>>,
    lower: Option<Bound<ScalarValue>>,
    upper: Option<Bound<ScalarValue>>,
}

/// Whether a filter may narrow what is read by the columns of the primary key or an index.
pub fn narrows(filter: &Expr, schema: &Schema, key: &[usize], indexes: &[IndexOrder]) -> bool {
    said(filter, schema)
        .is_some_and(|(column, _)| key.contains(&column) || indexes.iter().any(|index| index.columns.contains(&column)))
}

/// The best way to the rows that filters let through; `None`: read all.
///
/// # Errors
/// Those of Arrow.
pub fn choose(
    key: &[usize],
    indexes: &[IndexOrder],
    filters: &[Expr],
    schema: &Schema,
) -> datafusion::error::Result<Option<Access>> {
    let known = |column: usize| {
        let mut known = Known::default();
        for filter in filters {
            match said(filter, schema) {
                Some((of, said)) if of == column => known.learn(said),
                _ => {}
            }
        }
        known
    };
    if let Some(columns) = whole_key(key, &known, schema) {
        let schema = Arc::new(schema.project(key)?);
        return Ok(Some(Access::Keys(match columns.iter().any(Vec::is_empty) {
            true => RecordBatch::new_empty(schema),
            false => RecordBatch::try_new(schema, product(&columns)?)?,
        })));
    }
    let of_key = std::iter::once((None, key, true));
    let of_indexes = indexes.iter().enumerate();
    let of_indexes =
        of_indexes.map(|(i, index)| (Some((i, index.name.clone())), index.columns.as_slice(), index.unique));
    let mut best: Option<((bool, usize, bool), Ranges)> = None;
    for (index, columns, unique) in of_key.chain(of_indexes) {
        let mut equal: Vec<Vec<ScalarValue>> = Vec::new();
        let mut bounds = None;
        let mut rows = 1_usize;
        for column in columns {
            let known = known(*column);
            match known.values {
                Some(values) if rows.saturating_mul(values.len()) <= POINT_READS_MAX => {
                    rows *= values.len();
                    equal.push(values);
                    continue;
                }
                Some(_) => {}
                None if known.lower.is_some() || known.upper.is_some() => {
                    let or_open = |bound: Option<Bound<ScalarValue>>| bound.unwrap_or(Bound::Unbounded);
                    bounds = Some((or_open(known.lower), or_open(known.upper)));
                }
                None => {}
            }
            break;
        }
        if equal.is_empty() && bounds.is_none() {
            continue;
        }
        let has_null = equal.iter().flatten().any(ScalarValue::is_null);
        let single = unique && equal.len() == columns.len() && !has_null;
        let score = (single, equal.len(), bounds.is_some());
        if best.as_ref().is_none_or(|(of_best, _)| score > *of_best) {
            let equal = if rows == 0 { Vec::new() } else { product(&equal)? };
            best = Some((score, Ranges { index, equal, rows, bounds, single }));
        }
    }
    Ok(best.map(|(_, ranges)| Access::Ranges(ranges)))
}

/// The values of every column of the primary key, if the filters fix them all; floats are left out, for two of them are one
/// key.
fn whole_key(key: &[usize], known: &dyn Fn(usize) -> Known, schema: &Schema) -> Option<Vec<Vec<ScalarValue>>> {
    let mut columns = Vec::with_capacity(key.len());
    for column in key {
        if schema.field(*column).data_type().is_floating() {
            return None;
        }
        // Keys of tables have no NULLs, those of views do.
        let nullable = schema.field(*column).is_nullable();
        columns.push(known(*column).values?.into_iter().filter(|v| nullable || !v.is_null()).collect::<Vec<_>>());
    }
    let count = columns.iter().try_fold(1_usize, |n, values| n.checked_mul(values.len()))?;
    (!key.is_empty() && count <= POINT_READS_MAX).then_some(columns)
}

impl Known {
    fn learn(&mut self, said: Said) {
        match said {
            Said::In(mut found) => {
                let mut seen = HashSet::new();
                found.retain(|v| seen.insert(v.clone()));
                self.values = Some(match self.values.take() {
                    None => found,
                    Some(before) => before.into_iter().filter(|v| seen.contains(v)).collect(),
                });
            }
            Said::Between(lower, upper) => {
                let greater = |a: &ScalarValue, b: &ScalarValue| a.partial_cmp(b).is_some_and(|o| o.is_gt());
                tighten(&mut self.lower, lower, |new, old| greater(new, old));
                tighten(&mut self.upper, upper, |new, old| greater(old, new));
            }
        }
    }
}

/// Keeps the narrower of two bounds.
fn tighten(
    known: &mut Option<Bound<ScalarValue>>,
    new: Bound<ScalarValue>,
    is_narrower: impl Fn(&ScalarValue, &ScalarValue) -> bool,
) {
    let value = |bound: &Bound<ScalarValue>| match bound {
        Bound::Included(v) | Bound::Excluded(v) => Some(v.clone()),
        Bound::Unbounded => None,
    };
    let Some(of_new) = value(&new) else { return };
    let replaces = match known.as_ref().and_then(value) {
        None => true,
        Some(old) => is_narrower(&of_new, &old) || (of_new == old && matches!(new, Bound::Excluded(_))),
    };
    if replaces {
        *known = Some(new);
    }
}

/// All combinations of one value for each column, one array for each; each column has values.
pub fn product(columns: &[Vec<ScalarValue>]) -> datafusion::error::Result<Vec<ArrayRef>> {
    let count: usize = columns.iter().map(Vec::len).product();
    let mut arrays = Vec::with_capacity(columns.len());
    let mut repeat = count;
    for values in columns {
        repeat /= values.len();
        let picks: UInt32Array = (0..count).map(|row| ((row / repeat) % values.len()) as u32).collect();
        let distinct = ScalarValue::iter_to_array(values.iter().cloned())?;
        let one = RecordBatch::try_from_iter([("v", distinct)])?;
        arrays.push(take_record_batch(&one, &picks)?.column(0).clone());
    }
    Ok(arrays)
}

/// The column and what a filter says of it: the column alone or its negation, `=`, `IN`, `IS NULL`, an OR of such, `<`, `<=`, `>`, `>=` or BETWEEN with
/// literals of its type. `None` for every other filter, and for columns that are not compared as their key bytes are.
fn said(filter: &Expr, schema: &Schema) -> Option<(usize, Said)> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            match (said(left, schema)?, said(right, schema)?) {
                ((column, Said::In(mut values)), (other, Said::In(more))) if column == other => {
                    values.extend(more);
                    Some((column, Said::In(values)))
                }
                _ => None,
            }
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, value, op) = match (left.as_ref(), right.as_ref()) {
                (Expr::Column(c), Expr::Literal(v, _)) => (c, v, *op),
                (Expr::Literal(v, _), Expr::Column(c)) => (c, v, op.swap()?),
                _ => return None,
            };
            let column = schema.index_of(&column.name).ok()?;
            let value = literal(value, schema, column)?;
            // NULL equals nothing and is beyond nothing.
            let Some(value) = value else {
                let compares =
                    matches!(op, Operator::Eq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
                return compares.then_some((column, Said::In(Vec::new())));
            };
            let is_ordered = is_ordered(schema, column);
            Some((
                column,
                match op {
                    Operator::Eq => Said::In(vec![value]),
                    Operator::Lt if is_ordered => Said::Between(Bound::Unbounded, Bound::Excluded(value)),
                    Operator::LtEq if is_ordered => Said::Between(Bound::Unbounded, Bound::Included(value)),
                    Operator::Gt if is_ordered => Said::Between(Bound::Excluded(value), Bound::Unbounded),
                    Operator::GtEq if is_ordered => Said::Between(Bound::Included(value), Bound::Unbounded),
                    _ => return None,
                },
            ))
        }
        Expr::Between(between) if !between.negated => {
            let (Expr::Column(c), Expr::Literal(low, _), Expr::Literal(high, _)) =
                (between.expr.as_ref(), between.low.as_ref(), between.high.as_ref())
            else {
                return None;
            };
            let column = schema.index_of(&c.name).ok()?;
            match (literal(low, schema, column)?, literal(high, schema, column)?) {
                (Some(low), Some(high)) if is_ordered(schema, column) => {
                    Some((column, Said::Between(Bound::Included(low), Bound::Included(high))))
                }
                _ => None,
            }
        }
        // What `flag = true` and `flag = false` are simplified to.
        Expr::Column(c) => truth(c, true, schema),
        Expr::Not(inner) => match inner.as_ref() {
            Expr::Column(c) => truth(c, false, schema),
            _ => None,
        },
        Expr::IsNull(inner) => {
            let Expr::Column(c) = inner.as_ref() else { return None };
            let column = schema.index_of(&c.name).ok()?;
            has_plain_equality(schema, column)?;
            let null = ScalarValue::try_from(schema.field(column).data_type()).ok()?;
            Some((column, Said::In(vec![null])))
        }
        Expr::InList(list) if !list.negated => {
            let Expr::Column(c) = list.expr.as_ref() else { return None };
            let column = schema.index_of(&c.name).ok()?;
            let mut values = Vec::with_capacity(list.list.len());
            for item in &list.list {
                let Expr::Literal(v, _) = item else { return None };
                values.extend(literal(v, schema, column)?);
            }
            Some((column, Said::In(values)))
        }
        _ => None,
    }
}

/// A boolean column that is to be true, or false.
fn truth(column: &Column, value: bool, schema: &Schema) -> Option<(usize, Said)> {
    let column = schema.index_of(&column.name).ok()?;
    let is_boolean = *schema.field(column).data_type() == DataType::Boolean;
    is_boolean.then(|| (column, Said::In(vec![ScalarValue::Boolean(Some(value))])))
}

/// A literal as a value of the column: `Some(None)` for NULL, `None` if the types differ or the column's equality is not
/// plain.
fn literal(value: &ScalarValue, schema: &Schema, column: usize) -> Option<Option<ScalarValue>> {
    has_plain_equality(schema, column)?;
    if value.is_null() {
        return Some(None);
    }
    let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let wanted = schema.field(column).data_type();
    let given = value.data_type();
    if given == *wanted {
        return Some(Some(value.clone()));
    }
    (is_text(wanted) && is_text(&given)).then(|| value.cast_to(wanted).ok()).flatten().map(Some)
}

/// Whether equal values of the column have equal key bytes: blank padding and documents have others.
pub fn has_plain_equality(schema: &Schema, column: usize) -> Option<()> {
    use SqlType::{Array, Char, Interval, Json, Record};
    let is_not = |t: &SqlType| matches!(t, Char(_) | Json | Array(_) | Record(_) | Interval);
    SqlType::of(schema.field(column)).filter(|t| !is_not(t)).map(|_| ())
}

/// Whether its values are also in the order of their key bytes.
fn is_ordered(schema: &Schema, column: usize) -> bool {
    // A NaN may come first or last, by who compares.
    !matches!(SqlType::of(schema.field(column)), None | Some(SqlType::Float4 | SqlType::Float8 | SqlType::Jsonb))
}
