//! Shards against one operator: the same changes, whether they run inline or in parallel.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{PARALLEL_ROWS_MIN, Sharded};
use crate::stream::changelog::Delta;
use crate::stream::operator::PortWatermarks;
use crate::stream::operator::aggregate::{AggregateCall, AggregateKind, AggregateSpec, HashAggregate};
use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add};
use crate::stream::operator::ttl::TtlSpec;

type Row = (i32, i64, i64);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int32, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("v", DataType::Int64, true),
    ]))
}

fn spec(emit_on_window_close: bool, ttl: Option<TtlSpec>) -> AggregateSpec {
    let mut fields: Vec<Field> = schema().fields()[..2].iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("n", DataType::Int64, true));
    fields.push(Field::new("highest", DataType::Int64, true));
    AggregateSpec {
        operator: 0,
        object: OBJECT,
        first_part: 16,
        input: schema(),
        append_only: false,
        group_by: vec![0, 1],
        key: vec![0, 1],
        aggregates: vec![
            AggregateCall::plain(AggregateKind::Count, None),
            AggregateCall::plain(AggregateKind::Max, Some(2)),
        ],
        output: Arc::new(Schema::new(fields)),
        time_column: ttl.is_none().then_some(1),
        timed: vec![1],
        emit_on_window_close,
        ttl,
        totals: Vec::new(),
    }
}

fn delta(rows: &[(Row, i64)]) -> Delta {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.0.0))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.0.1))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0.2))),
    ];
    let weights = Int64Array::from_iter_values(rows.iter().map(|r| r.1));
    Delta::new(RecordBatch::try_new(schema(), columns).unwrap(), weights)
}

fn same_as_one(emit_on_window_close: bool) {
    let mut rng = StdRng::seed_from_u64(7);
    let make = |shards: usize| Sharded::new(shards, || HashAggregate::new(spec(emit_on_window_close, None))).unwrap();
    let (mut one, mut several) = (make(1), make(3));
    let (mut of_one, mut of_several) = (Harness::new(), Harness::new());
    let mut present: Vec<Row> = Vec::new();
    let mut passed = None;
    let afters = [After::Commit, After::CommitLater, After::FailOnce, After::Reset, After::Reopen];
    let mut emitted = 0;
    for epoch in 0..20_i64 {
        let count = if epoch % 3 == 0 { PARALLEL_ROWS_MIN + 500 } else { rng.random_range(0..50) };
        let mut rows: Vec<(Row, i64)> = Vec::new();
        for _ in 0..count {
            if !present.is_empty() && rng.random_bool(0.3) {
                let row = present.swap_remove(rng.random_range(0..present.len()));
                rows.push((row, -1));
            } else {
                let row = (rng.random_range(0..300), epoch + rng.random_range(-3..3), rng.random_range(0..1000));
                present.push(row);
                rows.push((row, 1));
            }
        }
        let before = passed;
        passed = passed.max(Some(epoch - rng.random_range(0..4)));
        let at = |time: Option<i64>| vec![None, time, None];
        let watermarks = [PortWatermarks { committed: at(before), current: at(passed) }];
        let after = afters[epoch as usize % afters.len()];
        let inputs = [vec![delta(&rows)]];
        let expected = of_one.epoch(&mut one, &inputs, &watermarks, after);
        let found = of_several.epoch(&mut several, &inputs, &watermarks, after);
        let sum = |deltas: &[Delta]| {
            let mut all = ZSet::new();
            deltas.iter().for_each(|delta| add(&mut all, delta));
            all
        };
        emitted += sum(&expected.deltas).len();
        assert_eq!(sum(&found.deltas), sum(&expected.deltas), "epoch {epoch}");
        let late = |late: &[super::LateRows]| late.iter().map(|l| l.rows.rows()).sum::<usize>();
        assert_eq!(late(&found.late), late(&expected.late), "epoch {epoch}");
    }
    assert!(emitted > 1000, "only {emitted} rows");
}

#[test]
fn shards_give_what_one_gives() {
    same_as_one(false);
}

#[test]
fn each_closed_window_is_put_out_once() {
    same_as_one(true);
}

/// Each shard forgets its own groups alone: a group that comes again as it is forgotten stays.
#[test]
fn shards_forget_what_one_forgets() {
    let ttl = TtlSpec { ttl_us: 1600, part: 30 };
    let mut rng = StdRng::seed_from_u64(7);
    let make = |shards: usize| Sharded::new(shards, || HashAggregate::new(spec(false, Some(ttl)))).unwrap();
    let (mut one, mut several) = (make(1), make(3));
    let (mut of_one, mut of_several) = (Harness::new(), Harness::new());
    let mut expired = 0;
    let mut present: Vec<Row> = Vec::new();
    for epoch in 0..120_i64 {
        let mut rows: Vec<(Row, i64)> = Vec::new();
        for _ in 0..rng.random_range(0..6) {
            if !present.is_empty() && rng.random_bool(0.3) {
                rows.push((present.swap_remove(rng.random_range(0..present.len())), -1));
            } else {
                present.push((rng.random_range(0..30), 0, rng.random_range(0..1000)));
                rows.extend(present.last().map(|row| (*row, 1)));
            }
        }
        (of_one.now_us, of_several.now_us) = (epoch * 250, epoch * 250);
        let inputs = [vec![delta(&rows)]];
        let after = if epoch % 7 == 0 { After::Reopen } else { After::Commit };
        let expected = of_one.epoch(&mut one, &inputs, &[], after);
        let found = of_several.epoch(&mut several, &inputs, &[], after);
        let sum = |deltas: &[Delta]| {
            let mut all = ZSet::new();
            deltas.iter().for_each(|delta| add(&mut all, delta));
            all
        };
        assert_eq!(sum(&found.deltas), sum(&expected.deltas), "epoch {epoch}");
        assert_eq!(found.expired, expected.expired, "epoch {epoch}");
        assert_eq!([16, 17, 30].map(|p| of_several.stored_rows(p)), [16, 17, 30].map(|p| of_one.stored_rows(p)));
        expired += found.expired;
    }
    assert!(expired > 20, "only {expired} rows");
}
