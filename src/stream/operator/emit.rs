//! EMIT ON WINDOW CLOSE over a result that changes until its watermark has passed it, as an outer join of windows does: its
//! rows are held back until nothing changes them any more.
//!
//! State, one table under the view's object: *waiting*: time, row -> count.

use std::ops::Bound;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use millstream_catalog::ObjectId;

use super::event_time::{TimeColumn, times};
use super::waiting::{add_counts, moment, moment_key, past};
use super::{
    Description, EdgeProperties, EpochContext, LateRows, Operator, PortWatermarks, StateDescription, Watermarks,
};
use crate::error::Result;
use crate::state::{ByteRows, Level, RowCodec, TableId};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;

/// Puts out each row once its time is below the watermark.
pub struct EmitOnClose {
    /// Number of the operator in its view.
    operator: u32,
    /// Position of the column whose watermark it waits for.
    column: usize,
    time: TimeColumn,
    /// Of the result, which has the input's columns.
    properties: EdgeProperties,
    rows: RowCodec,
    waiting: CachedTable,
    /// The watermark up to which rows are known to have been put out.
    closed: Option<i64>,
    /// What the watermark has to reach for the next rows.
    next_close: Option<i64>,
}

impl EmitOnClose {
    /// State parts that it takes.
    pub const PARTS: u16 = 1;

    /// Makes the operator, with nothing cached.
    ///
    /// # Errors
    /// 0A000 for rows that cannot be stored or a column without event time.
    pub fn new(operator: u32, object: ObjectId, part: u16, column: usize, properties: EdgeProperties) -> Result<Self> {
        let types: Vec<DataType> = properties.schema.fields().iter().map(|f| f.data_type().clone()).collect();
        Ok(Self {
            operator,
            column,
            time: TimeColumn::new(&types[column])?,
            rows: RowCodec::new(&types)?,
            waiting: CachedTable::new(TableId::new(object.0, part)),
            properties,
            closed: None,
            next_close: None,
        })
    }

    /// Adds an epoch's changes to what waits.
    fn take_in(&mut self, delta: &Delta, context: &mut EpochContext<'_>) -> Result<()> {
        let committed = context.watermarks.first().and_then(|port| port.committed.get(self.column).copied().flatten());
        let late = committed.and_then(|w| Some((self.time.below(delta.batch.column(self.column), w)?, w)));
        let delta = match late {
            None => delta.clone(),
            Some((late, watermark)) => {
                context.late.push(LateRows { operator: self.operator, rows: delta.filter(&late)?, watermark });
                delta.filter(&arrow::compute::not(&late)?)?
            }
        };
        let rows = self.rows.encode(delta.batch.columns())?;
        let (mut keys, mut counts) = (ByteRows::new(), Vec::new());
        for (i, time) in times(delta.batch.column(self.column))?.into_iter().enumerate() {
            // Without a time a row never becomes final.
            if let Some(time) = time {
                keys.push_pair(&moment_key(time), rows.get(i));
                counts.push(delta.weight(i));
            }
        }
        add_counts(&mut self.waiting, context.state, &keys, &counts)
    }

    /// Puts out the rows that the watermark has passed.
    fn close(&mut self, context: &mut EpochContext<'_>, output: &mut Vec<Delta>) -> Result<()> {
        let current = context.watermarks.first().and_then(|port| port.current.get(self.column).copied().flatten());
        let Some(current) = current.filter(|w| self.closed.is_none_or(|closed| closed < *w)) else { return Ok(()) };
        let bound = moment_key(current);
        let mut after = Bound::Unbounded;
        loop {
            let (keys, counts) = past(context.state, self.waiting.table(), &mut after, &bound)?;
            if keys.is_empty() {
                break;
            }
            let columns: Vec<ArrayRef> = self.rows.decode(keys.iter().map(|key| &key[8..]))?;
            let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
            let batch = RecordBatch::try_new_with_options(self.properties.schema.clone(), columns, &options)?;
            let copies = counts.iter().enumerate().flat_map(|(row, count)| (0..*count).map(move |_| row as u32));
            output.push(Delta::inserts(take_record_batch(&batch, &UInt32Array::from_iter_values(copies))?));
        }
        self.waiting.truncate_below(context.state, &bound);
        self.closed = Some(current);
        Ok(())
    }
}

impl Operator for EmitOnClose {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let mut output = Vec::new();
        let delta = Delta::concat(&self.properties.schema, &inputs.into_iter().flatten().collect::<Vec<_>>())?;
        if !delta.is_empty() {
            self.take_in(&delta, context)?;
        }
        self.close(context, &mut output)?;
        let mut waiting = context.state.scan(self.waiting.table(), Bound::Unbounded, Bound::Unbounded, Level::Open);
        let first = waiting.next_row()?.map(|(key, _)| moment(key)).transpose()?;
        drop(waiting);
        self.next_close = first.map(|first| first.saturating_add(1));
        self.waiting.end_epoch();
        Ok(output)
    }

    fn wakes(&self, watermarks: &[PortWatermarks], _now_us: i64) -> bool {
        let current = watermarks.first().and_then(|port| port.current.get(self.column).copied().flatten());
        current.is_some_and(|w| self.closed.is_none_or(|closed| closed < w))
    }

    fn held_until(&self) -> Option<(usize, i64)> {
        Some((self.column, self.next_close?))
    }

    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        let mut out: Watermarks = vec![None; self.properties.schema.fields().len()];
        out[self.column] = inputs.first().and_then(|input| input.get(self.column).copied().flatten());
        out
    }

    fn reset(&mut self) {
        self.waiting.reset();
        self.closed = None;
        self.next_close = None;
    }

    fn describe(&self) -> Description {
        let name = self.properties.schema.field(self.column).name();
        let state = vec![StateDescription {
            part: self.waiting.table().part,
            layout: "keyed",
            key: format!("{name}, row"),
            cost: "1 get, 1 put per row; 1 scan when rows are final".into(),
        }];
        Description { state, ..Description::stateless(format!("EmitOnClose: by {name}"), &self.properties) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;
    use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add};

    #[test]
    fn rows_come_when_they_are_final() {
        let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
        let schema =
            Arc::new(Schema::new(vec![Field::new("w", timestamp, true), Field::new("v", DataType::Int64, true)]));
        let properties =
            EdgeProperties { schema: schema.clone(), append_only: true, stream_key: None, watermark_columns: vec![0] };
        let mut operator = EmitOnClose::new(0, OBJECT, 16, 0, properties).unwrap();
        let mut harness = Harness::new();
        let mut committed = None;
        let mut epoch = |changes: &[(Option<i64>, i64, i64)], current: i64, after| {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(changes.iter().map(|c| c.0).collect::<TimestampMicrosecondArray>()),
                Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.1))),
            ];
            let weights = Int64Array::from_iter_values(changes.iter().map(|c| c.2));
            let delta = Delta::new(RecordBatch::try_new(schema.clone(), columns).unwrap(), weights);
            let watermarks = PortWatermarks { committed: vec![committed, None], current: vec![Some(current), None] };
            let outcome = harness.epoch(&mut operator, &[vec![delta]], &[watermarks], after);
            committed = Some(current);
            let mut result = ZSet::new();
            outcome.deltas.iter().for_each(|delta| add(&mut result, delta));
            let values: Vec<(String, i64)> = result.into_iter().map(|(row, weight)| (row[1].clone(), weight)).collect();
            (values, harness.stored_rows(16))
        };
        let of = |values: &[(i64, i64)]| values.iter().map(|(v, w)| (v.to_string(), *w)).collect::<Vec<_>>();
        assert_eq!(epoch(&[(Some(0), 1, 1), (Some(5), 2, 2), (None, 3, 1)], 0, After::Commit), (vec![], 2));
        assert_eq!(epoch(&[(Some(0), 1, -1), (Some(0), 4, 1)], 5, After::FailOnce), (of(&[(4, 1)]), 1));
        assert_eq!(epoch(&[(Some(5), 2, 1), (Some(6), 5, 1)], 5, After::Reopen), (vec![], 2));
        assert_eq!(epoch(&[(Some(6), 5, -1)], 7, After::Commit), (of(&[(2, 3)]), 0));
    }
}
