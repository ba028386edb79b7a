//! Rows that a query itself gives: VALUES, a SELECT without FROM, and the nothing that a condition which is never true
//! leaves. They come once, in the first epoch.

use arrow::array::RecordBatch;
use millstream_catalog::ObjectId;

use super::{Description, EdgeProperties, EpochContext, Operator, PortWatermarks, StateDescription, Watermarks};
use crate::error::Result;
use crate::state::TableId;
use crate::stream::changelog::Delta;

/// Gives its rows once.
pub struct Values {
    properties: EdgeProperties,
    rows: RecordBatch,
    /// Holds one entry once the rows were put out.
    given: TableId,
    /// Whether the rows are known to be out.
    done: bool,
}

impl Values {
    /// State parts that it takes.
    pub const PARTS: u16 = 1;

    /// The rows, which have the columns of `properties`; its one state part is `part` of `object`.
    pub fn new(properties: EdgeProperties, rows: RecordBatch, object: ObjectId, part: u16) -> Self {
        let done = rows.num_rows() == 0;
        Self { properties, rows, given: TableId::new(object.0, part), done }
    }
}

impl Operator for Values {
    fn run(&mut self, _inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        if std::mem::replace(&mut self.done, true) || context.state.get(self.given, &[])?.is_some() {
            return Ok(Vec::new());
        }
        context.state.put(self.given, &[], &[1]);
        Ok(vec![Delta::inserts(self.rows.clone())])
    }

    fn wakes(&self, _watermarks: &[PortWatermarks], _now_us: i64) -> bool {
        !self.done
    }

    fn watermarks(&self, _inputs: &[Watermarks]) -> Watermarks {
        vec![None; self.properties.schema.fields().len()]
    }

    fn reset(&mut self) {
        self.done = self.rows.num_rows() == 0;
    }

    fn describe(&self) -> Description {
        let title = match self.rows.num_rows() {
            1 => "Values: 1 row".to_string(),
            rows => format!("Values: {rows} rows"),
        };
        let state = vec![StateDescription {
            part: self.given.part,
            layout: "keyed",
            key: "none".into(),
            cost: "1 put in the first epoch".into(),
        }];
        Description { state, ..Description::stateless(title, &self.properties) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::{EdgeProperties, Values};
    use crate::stream::changelog::total_rows;
    use crate::stream::operator::testing::{After, Harness, OBJECT};

    #[test]
    fn its_rows_come_once() {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int32, true)]));
        let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int32Array::from(vec![1, 1]))]).unwrap();
        let properties = EdgeProperties { schema, append_only: true, stream_key: None, watermark_columns: Vec::new() };
        let mut operator = Values::new(properties, rows, OBJECT, 2);
        let mut harness = Harness::new();
        let mut rows = |after| total_rows(&harness.epoch(&mut operator, &[], &[], after).deltas);
        // An epoch that is run again gives them again; a restart does not.
        assert_eq!(rows(After::FailOnce), 2);
        assert_eq!(rows(After::Reopen), 0);
        assert_eq!(rows(After::Commit), 0);
    }
}
