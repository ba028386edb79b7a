//! A scalar subquery's value: the one row of the input, a row of NULLs where it has none, an error where it has several.

use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use millstream_catalog::ObjectId;

use super::groups::Groups;
use super::{Description, EpochContext, Operator, PortWatermarks, RowError, StateDescription, Watermarks};
use crate::error::{Error, Result, sqlstate};
use crate::state::{KeyCodec, Level, RowCodec, State, TableId};
use crate::stream::changelog::Delta;

/// Gives exactly one row, or none while the input has several.
pub struct SingleRow {
    number: u32,
    schema: SchemaRef,
    /// The input's rows: row -> number of copies and row.
    rows: TableId,
    /// Holds one entry once the first row was put out.
    started: TableId,
    key_codec: KeyCodec,
    row_codec: RowCodec,
    has_started: bool,
}

/// What the input holds.
enum Held {
    Nothing,
    One(Vec<ArrayRef>),
    Several,
}

impl SingleRow {
    /// State parts that it takes.
    pub const PARTS: u16 = 2;

    /// Over an input with the columns of `schema`, all of which may be NULL.
    ///
    /// # Errors
    /// 0A000 for columns that cannot be kept.
    pub fn new(number: u32, object: ObjectId, first_part: u16, schema: SchemaRef) -> Result<Self> {
        let types: Vec<DataType> = schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let stored: Vec<DataType> = std::iter::once(DataType::Int64).chain(types.clone()).collect();
        Ok(Self {
            number,
            schema,
            rows: TableId::new(object.0, first_part),
            started: TableId::new(object.0, first_part + 1),
            key_codec: KeyCodec::for_rows(&types)?,
            row_codec: RowCodec::new(&stored)?,
            has_started: false,
        })
    }

    /// Looks at the first rows of the input, which tell.
    fn held(&self, state: &State) -> Result<Held> {
        let mut scan = state.scan(self.rows, Bound::Unbounded, Bound::Unbounded, Level::Open);
        let Some((_, first)) = scan.next_row()? else { return Ok(Held::Nothing) };
        let mut columns = self.row_codec.decode([first])?;
        let copies = columns.remove(0).as_primitive::<Int64Type>().value(0);
        if copies > 1 || scan.next_row()?.is_some() {
            return Ok(Held::Several);
        }
        Ok(Held::One(columns))
    }

    fn apply(&self, delta: &Delta, state: &mut State) -> Result<()> {
        let keys = self.key_codec.encode(delta.batch.columns())?;
        let rows = Groups::assign(&keys);
        let mut net = vec![0; rows.len()];
        rows.of_row.iter().enumerate().for_each(|(i, row)| net[*row as usize] += delta.weight(i));
        let stored = state.multi_get(self.rows, &rows.keys)?;
        let before = self.row_codec.decode(stored.iter().flatten())?.remove(0);
        let mut before = before.as_primitive::<Int64Type>().values().iter();
        for (i, stored) in stored.iter().enumerate() {
            if stored.is_some() {
                net[i] += before.next().copied().unwrap_or_default();
            }
        }
        if net.iter().any(|copies| *copies < 0) {
            return Err(Error::internal("a subquery takes back a row that it never gave"));
        }
        let first = UInt32Array::from(rows.first_row.clone());
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(net.clone()))];
        for column in delta.batch.columns() {
            columns.push(take(column, &first, None)?);
        }
        let encoded = self.row_codec.encode(&columns)?;
        state.write_batch(self.rows, &rows.keys, |i| (net[i] > 0).then(|| encoded.get(i)));
        Ok(())
    }

    /// The row that is shown for what the input holds.
    fn shown(&self, held: &Held) -> Option<Vec<ArrayRef>> {
        match held {
            Held::Nothing => Some(self.schema.fields().iter().map(|f| new_null_array(f.data_type(), 1)).collect()),
            Held::One(columns) => Some(columns.clone()),
            Held::Several => None,
        }
    }

    fn error(&self, weight: i64) -> RowError {
        RowError {
            operator: self.number,
            sqlstate: sqlstate::CARDINALITY_VIOLATION.into(),
            message: "more than one row returned by a subquery used as an expression".into(),
            row: "every row that the subquery is computed for".into(),
            weight,
        }
    }
}

impl Operator for SingleRow {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let had_started = self.has_started || context.state.get(self.started, &[])?.is_some();
        if !had_started {
            context.state.put(self.started, &[], &[1]);
        }
        self.has_started = true;
        let before = self.held(context.state)?;
        let delta = Delta::concat(&self.schema, &inputs.into_iter().flatten().collect::<Vec<_>>())?;
        if !delta.is_empty() {
            self.apply(&delta, context.state)?;
        }
        let after = self.held(context.state)?;

        let old = if had_started { self.shown(&before) } else { None };
        let new = self.shown(&after);
        match (matches!(before, Held::Several), matches!(after, Held::Several)) {
            (false, true) => context.errors.push(self.error(1)),
            (true, false) => context.errors.push(self.error(-1)),
            _ => {}
        }
        let weights: Vec<i64> = old.iter().map(|_| -1).chain(new.iter().map(|_| 1)).collect();
        let columns = match (old, new) {
            (Some(old), Some(new)) => {
                old.iter().zip(&new).map(|(a, b)| Ok(concat(&[a.as_ref(), b.as_ref()])?)).collect::<Result<Vec<_>>>()?
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return Ok(Vec::new()),
        };
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        let delta = Delta::new(batch, Int64Array::from(weights)).consolidate()?;
        Ok(if delta.is_empty() { Vec::new() } else { vec![delta] })
    }

    fn wakes(&self, _watermarks: &[PortWatermarks], _now_us: i64) -> bool {
        !self.has_started
    }

    fn watermarks(&self, _inputs: &[Watermarks]) -> Watermarks {
        vec![None; self.schema.fields().len()]
    }

    fn reset(&mut self) {
        self.has_started = false;
    }

    fn describe(&self) -> Description {
        Description {
            title: "SingleRow: error 21000 where there are several".into(),
            state: vec![StateDescription {
                part: self.rows.part,
                layout: "keyed",
                key: "row".into(),
                cost: "1 get, 1 put per changed row".into(),
            }],
            append_only: false,
            stream_key: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::SingleRow;
    use crate::stream::changelog::Delta;
    use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add};

    #[test]
    fn one_row_none_or_an_error() {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int32, true)]));
        let mut operator = SingleRow::new(4, OBJECT, 2, schema.clone()).unwrap();
        let mut harness = Harness::new();
        let (mut shown, mut errors) = (ZSet::new(), 0);
        let mut step = |rows: &[(Option<i32>, i64)], after| {
            let values: Int32Array = rows.iter().map(|(v, _)| *v).collect();
            let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(values)]).unwrap();
            let delta = Delta::new(batch, Int64Array::from_iter_values(rows.iter().map(|(_, w)| *w)));
            let outcome = harness.epoch(&mut operator, &[vec![delta]], &[], after);
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            errors += outcome.errors.iter().map(|e| e.weight).sum::<i64>();
            assert!(outcome.errors.iter().all(|e| e.sqlstate == "21000"));
            let values: Vec<String> = shown.iter().map(|(row, weight)| format!("{}*{weight}", row[0])).collect();
            (values.join(" "), errors)
        };
        assert_eq!(step(&[], After::Reopen), ("NULL*1".into(), 0));
        assert_eq!(step(&[], After::Commit), ("NULL*1".into(), 0));
        assert_eq!(step(&[(Some(7), 1)], After::FailOnce), ("7*1".into(), 0));
        assert_eq!(step(&[(Some(7), 1)], After::Reopen), (String::new(), 1));
        assert_eq!(step(&[(Some(8), 1)], After::Reset), (String::new(), 1));
        assert_eq!(step(&[(Some(7), -2)], After::CommitLater), ("8*1".into(), 0));
        assert_eq!(step(&[(Some(8), -1), (None, 1)], After::Commit), ("NULL*1".into(), 0));
        assert_eq!(step(&[(None, -1)], After::Commit), ("NULL*1".into(), 0));
    }
}
