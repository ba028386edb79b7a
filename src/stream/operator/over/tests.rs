//! The operator against a recomputation from scratch, over random changelogs, failures and restarts.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::frame::{Distance, Edge, Frame, Units};
use super::function::{WindowCall, WindowKind};
use super::{Limit, LimitBy, Over, OverSpec};
use crate::stream::changelog::Delta;
use crate::stream::operator::Operator;
use crate::stream::operator::PortWatermarks;
use crate::stream::operator::aggregate::AggregateKind;
use crate::stream::operator::order_key::SortColumn;
use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add};
use crate::stream::operator::ttl::TtlSpec;

/// An input row: group, order, id, value.
type Row = (Option<i32>, Option<i64>, i32, Option<i64>);

const G: usize = 0;
const O: usize = 1;
const ID: usize = 2;
const V: usize = 3;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("g", DataType::Int32, true),
        Field::new("o", DataType::Int64, true),
        Field::new("id", DataType::Int32, true),
        Field::new("v", DataType::Int64, true),
    ]))
}

fn delta(changes: &[(Row, i64)]) -> Delta {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(changes.iter().map(|(r, _)| r.0).collect::<Int32Array>()),
        Arc::new(changes.iter().map(|(r, _)| r.1).collect::<Int64Array>()),
        Arc::new(changes.iter().map(|(r, _)| Some(r.2)).collect::<Int32Array>()),
        Arc::new(changes.iter().map(|(r, _)| r.3).collect::<Int64Array>()),
    ];
    let batch = RecordBatch::try_new(schema(), columns).unwrap();
    Delta::new(batch, Int64Array::from_iter_values(changes.iter().map(|(_, w)| *w)))
}

fn call(kind: WindowKind, argument: Option<usize>, frame: Frame) -> WindowCall {
    WindowCall { kind, argument, default: None, filter: None, distinct: false, frame }
}

fn frame(units: Units, start: Edge, end: Edge) -> Frame {
    Frame { units, start, end }
}

/// Functions whose result does not depend on how ties are broken, over `ORDER BY o`.
fn by_peers() -> Vec<(WindowCall, DataType)> {
    let current = frame(Units::Range, Edge::Unbounded, Edge::Current);
    let near = frame(Units::Range, Edge::Before(Distance::Units(2)), Edge::After(Distance::Units(1)));
    let back = frame(Units::Range, Edge::Before(Distance::Units(3)), Edge::Current);
    let aggregate = WindowKind::Aggregate;
    let mut distinct = call(aggregate(AggregateKind::Count), Some(V), near);
    distinct.distinct = true;
    vec![
        (call(WindowKind::Rank, None, current), DataType::Int64),
        (call(WindowKind::DenseRank, None, current), DataType::Int64),
        (call(aggregate(AggregateKind::Count), None, back), DataType::Int64),
        (call(aggregate(AggregateKind::Sum), Some(V), current), DataType::Decimal128(38, 0)),
        (call(aggregate(AggregateKind::Max), Some(V), near), DataType::Int64),
        (distinct, DataType::Int64),
    ]
}

/// Functions over `ORDER BY o, id, v`, which leaves no ties.
fn by_rows() -> Vec<(WindowCall, DataType)> {
    let around = frame(Units::Rows, Edge::Before(Distance::Units(1)), Edge::After(Distance::Units(1)));
    let before = frame(Units::Rows, Edge::Before(Distance::Units(3)), Edge::Before(Distance::Units(1)));
    vec![
        (call(WindowKind::RowNumber, None, Frame::ALL), DataType::Int64),
        (call(WindowKind::Lag(2), Some(V), Frame::ALL), DataType::Int64),
        (call(WindowKind::Lag(-1), Some(ID), Frame::ALL), DataType::Int32),
        (call(WindowKind::Aggregate(AggregateKind::Sum), Some(V), around), DataType::Decimal128(38, 0)),
        (call(WindowKind::FirstValue, Some(V), before), DataType::Int64),
        (call(WindowKind::Ntile(3), None, Frame::ALL), DataType::Int64),
    ]
}

fn operator(functions: &[(WindowCall, DataType)], order: &[usize], limit: Option<Limit>, cache: usize) -> Over {
    let mut fields: Vec<Field> = schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(functions.iter().enumerate().map(|(i, (_, t))| Field::new(format!("w{i}"), t.clone(), true)));
    let spec = OverSpec {
        operator: 0,
        object: OBJECT,
        first_part: 16,
        input: schema(),
        append_only: false,
        partition_by: vec![G],
        order_by: order.iter().map(|c| SortColumn { column: *c, descending: false, nulls_first: false }).collect(),
        functions: functions.iter().map(|(call, _)| call.clone()).collect(),
        limit,
        output: Arc::new(Schema::new(fields)),
        stream_key: None,
        time_column: None,
        order_time: false,
        emit_on_window_close: false,
        ttl: None,
    };
    Over::new(spec).unwrap().with_cache_bytes(cache).with_chunk_rows(3)
}

/// What a function gives, computed from all rows of the partition in order.
fn expected(call: &WindowCall, rows: &[Row], at: usize, by_peers: bool) -> Option<i64> {
    let key = |row: &Row| (row.1.is_none(), row.1);
    let position = at as i64;
    let count = rows.len() as i64;
    let offset = |edge: Edge| match edge {
        Edge::Unbounded => None,
        Edge::Current => Some(0),
        Edge::Before(Distance::Units(n)) => Some(-n as i64),
        Edge::After(Distance::Units(n)) => Some(n as i64),
        _ => unreachable!("the tests use whole units"),
    };
    let (start, end) = (offset(call.frame.start), offset(call.frame.end));
    let in_frame = |i: usize| match call.frame.units {
        Units::Rows => {
            let i = i as i64;
            start.is_none_or(|s| i >= position + s) && end.is_none_or(|e| i <= position + e)
        }
        Units::Range | Units::Session => match (rows[at].1, rows[i].1) {
            (Some(own), Some(other)) => start.is_none_or(|s| other >= own + s) && end.is_none_or(|e| other <= own + e),
            // NULLs are peers, behind everything.
            (None, None) => true,
            (None, Some(_)) => start.is_none(),
            (Some(_), None) => end.is_none(),
        },
    };
    let values = || (0..rows.len()).filter(|i| in_frame(*i)).map(|i| rows[i].3);
    let peers_before = rows.iter().filter(|r| key(r) < key(&rows[at])).count() as i64;
    assert!(by_peers || peers_before <= position);
    match call.kind {
        WindowKind::RowNumber => Some(position + 1),
        WindowKind::Rank => Some(peers_before + 1),
        WindowKind::DenseRank => {
            let mut keys: Vec<_> = rows.iter().map(key).filter(|k| *k < key(&rows[at])).collect();
            keys.dedup();
            Some(keys.len() as i64 + 1)
        }
        WindowKind::Ntile(n) => (1..=n).find(|bucket| position < count / n * bucket + bucket.min(&(count % n))),
        WindowKind::Lag(n) => {
            let from = usize::try_from(position - n).ok().and_then(|i| rows.get(i))?;
            if call.argument == Some(ID) { Some(i64::from(from.2)) } else { from.3 }
        }
        WindowKind::FirstValue => values().next().flatten(),
        WindowKind::Aggregate(AggregateKind::Count) if call.distinct => {
            let mut all: Vec<i64> = values().flatten().collect();
            all.sort_unstable();
            all.dedup();
            Some(all.len() as i64)
        }
        WindowKind::Aggregate(AggregateKind::Count) => Some(values().count() as i64),
        WindowKind::Aggregate(AggregateKind::Sum) => values().flatten().reduce(|a, b| a + b),
        WindowKind::Aggregate(AggregateKind::Max) => values().flatten().max(),
        other => unreachable!("{other:?} is not tested here"),
    }
}

/// The whole result as a Z-set.
fn model(rows: &[Row], functions: &[(WindowCall, DataType)], limit: Option<Limit>, by_peers: bool) -> ZSet {
    let text = |v: Option<i64>| v.map_or("NULL".to_string(), |v| v.to_string());
    let mut sorted = rows.to_vec();
    sorted.sort_by_key(|r| (r.0, r.1.is_none(), r.1, r.2, r.3.is_none(), r.3));
    let mut out = ZSet::new();
    for partition in sorted.chunk_by(|a, b| a.0 == b.0) {
        for (i, row) in partition.iter().enumerate() {
            if let Some(Limit { by, skip, upto }) = limit {
                let kind = match by {
                    LimitBy::RowNumber => WindowKind::RowNumber,
                    LimitBy::Rank => WindowKind::Rank,
                    LimitBy::DenseRank => WindowKind::DenseRank,
                };
                let number = expected(&call(kind, None, Frame::ALL), partition, i, by_peers).unwrap() as usize;
                if i < skip || number > upto {
                    continue;
                }
            }
            let mut line = vec![text(row.0.map(i64::from)), text(row.1), row.2.to_string(), text(row.3)];
            line.extend(functions.iter().map(|(call, _)| text(expected(call, partition, i, by_peers))));
            *out.entry(line).or_default() += 1;
        }
    }
    out
}

fn any_row() -> impl Strategy<Value = Row> {
    let rarely_null = |values: std::ops::Range<i64>| proptest::option::weighted(0.9, values);
    (proptest::option::weighted(0.9, 0..2i32), rarely_null(0..25), 0..40i32, rarely_null(-5..20))
}

fn any_after() -> impl Strategy<Value = After> {
    prop_oneof![
        3 => Just(After::Commit),
        1 => Just(After::CommitLater),
        1 => Just(After::Reset),
        1 => Just(After::Reopen),
        1 => Just(After::FailOnce),
    ]
}

fn any_limit() -> impl Strategy<Value = Option<Limit>> {
    let by = prop_oneof![Just(LimitBy::RowNumber), Just(LimitBy::Rank), Just(LimitBy::DenseRank)];
    let some = (by, 0..3usize, 0..7usize).prop_map(|(by, skip, upto)| {
        let skip = if by == LimitBy::RowNumber { skip } else { 0 };
        Some(Limit { by, skip, upto: skip + upto })
    });
    prop_oneof![Just(None), some]
}

proptest! {
    #![proptest_config(Config { cases: 48, ..Config::default() })]

    #[test]
    fn results_are_those_of_a_recomputation(
        by_peers_alone in any::<bool>(),
        has_functions in proptest::bool::weighted(0.8),
        limit in any_limit(),
        cache in prop_oneof![Just(0usize), Just(1 << 20)],
        epochs in proptest::collection::vec(
            (proptest::collection::vec((any_row(), any::<u8>()), 0..12), any_after()), 1..9),
    ) {
        let (functions, order) = match by_peers_alone {
            _ if !has_functions => (Vec::new(), vec![O, ID, V]),
            true => (by_peers(), vec![O]),
            false => (by_rows(), vec![O, ID, V]),
        };
        let by_peers_alone = by_peers_alone && has_functions;
        // Ranks that are not of the operator's own order mean something else.
        let limit = limit.filter(|l| by_peers_alone != (l.by == LimitBy::RowNumber));
        let mut operator = operator(&functions, &order, limit, cache);
        let mut harness = Harness::new();
        let mut rows: Vec<Row> = Vec::new();
        let mut result = ZSet::new();
        for (changes, after) in epochs {
            let mut batch: Vec<(Row, i64)> = Vec::new();
            for (row, dice) in changes {
                match dice {
                    0..90 if !rows.is_empty() => {
                        let gone = rows.swap_remove(usize::from(dice) % rows.len());
                        batch.push((gone, -1));
                    }
                    90..110 => {
                        rows.extend([row, row]);
                        batch.push((row, 2));
                    }
                    _ => {
                        rows.push(row);
                        batch.push((row, 1));
                    }
                }
            }
            let outcome = harness.epoch(&mut operator, &[vec![delta(&batch)]], &[PortWatermarks::default()], after);
            outcome.deltas.iter().for_each(|delta| add(&mut result, delta));
            prop_assert_eq!(&result, &model(&rows, &functions, limit, by_peers_alone));
        }
    }
}

/// An input that only grows keeps no more rows than the limit.
#[test]
fn top_n_of_a_growing_input_forgets_the_rest() {
    let mut over = operator(&[], &[O, ID, V], Some(Limit { by: LimitBy::RowNumber, skip: 0, upto: 4 }), 1 << 20);
    over.spec.append_only = true;
    let mut harness = Harness::new();
    let mut result = ZSet::new();
    for epoch in 0..20 {
        let rows: Vec<(Row, i64)> =
            (0..50).map(|i| ((Some(1), Some(1000 - epoch * 50 - i), i as i32, Some(0)), 1)).collect();
        let inserts = Delta::inserts(delta(&rows).batch);
        let outcome = harness.epoch(&mut over, &[vec![inserts]], &[PortWatermarks::default()], After::Commit);
        outcome.deltas.iter().for_each(|delta| add(&mut result, delta));
        // A directory and at most two chunks of at most three rows.
        assert!(harness.stored_rows(16) == 1 && harness.stored_rows(17) <= 2);
    }
    assert_eq!(result.len(), 4);
    let orders: Vec<&str> = result.keys().map(|row| row[1].as_str()).collect();
    assert_eq!(orders, ["1", "2", "3", "4"]);
}

/// A partition column with a watermark: state is freed, late rows are recorded, and EMIT ON WINDOW CLOSE waits.
#[test]
fn partitions_close() {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let schema: SchemaRef =
        Arc::new(Schema::new(vec![Field::new("w", timestamp, true), Field::new("v", DataType::Int64, true)]));
    let spec = OverSpec {
        operator: 3,
        object: OBJECT,
        first_part: 16,
        input: schema.clone(),
        append_only: true,
        partition_by: vec![0],
        order_by: vec![SortColumn { column: 1, descending: true, nulls_first: true }],
        functions: Vec::new(),
        limit: Some(Limit { by: LimitBy::RowNumber, skip: 0, upto: 1 }),
        output: schema.clone(),
        stream_key: Some(vec![0]),
        time_column: Some(0),
        order_time: false,
        emit_on_window_close: true,
        ttl: None,
    };
    let mut over = Over::new(spec).unwrap();
    let mut harness = Harness::new();
    let mut epoch = |rows: &[(i64, i64)], committed: Option<i64>, current: i64, after| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
        ];
        let delta = Delta::inserts(RecordBatch::try_new(schema.clone(), columns).unwrap());
        let watermarks = PortWatermarks { committed: vec![committed, None], current: vec![Some(current), None] };
        let outcome = harness.epoch(&mut over, &[vec![delta]], &[watermarks], after);
        let mut result = ZSet::new();
        outcome.deltas.iter().for_each(|delta| add(&mut result, delta));
        let values: Vec<String> = result.keys().map(|row| row[1].clone()).collect();
        let late: usize = outcome.late.iter().map(|l| l.rows.rows()).sum();
        (values, late, harness.stored_rows(16))
    };
    assert_eq!(epoch(&[(0, 5), (0, 9), (10, 1)], None, 0, After::Reset), (vec![], 0, 2));
    assert_eq!(epoch(&[(10, 7), (20, 2)], Some(0), 10, After::Reopen), (vec!["9".to_string()], 0, 2));
    assert_eq!(epoch(&[(0, 99), (10, 3)], Some(10), 15, After::Commit), (vec!["7".to_string()], 1, 1));
    assert_eq!(epoch(&[], Some(15), 25, After::Commit), (vec!["2".to_string()], 0, 0));
}

/// A watermark on the order column: rows behind the frame are freed, late ones are recorded, results wait for the watermark.
#[test]
fn rows_close_with_the_time_of_their_order() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("k", DataType::Int64, true),
    ]));
    let ten = Edge::Before(Distance::Interval(arrow::datatypes::IntervalMonthDayNano::new(0, 0, 10_000)));
    let count = call(WindowKind::Aggregate(AggregateKind::Count), None, frame(Units::Range, ten, Edge::Current));
    for emits in [false, true] {
        let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.push(Field::new("n", DataType::Int64, true));
        let spec = OverSpec {
            operator: 3,
            object: OBJECT,
            first_part: 16,
            input: schema.clone(),
            append_only: true,
            partition_by: vec![1],
            order_by: vec![SortColumn { column: 0, descending: false, nulls_first: false }],
            functions: vec![count.clone()],
            limit: None,
            output: Arc::new(Schema::new(fields)),
            stream_key: None,
            time_column: None,
            order_time: true,
            emit_on_window_close: emits,
            ttl: None,
        };
        let mut over = Over::new(spec).unwrap();
        let mut harness = Harness::new();
        let mut rows: Vec<(i64, i64)> = Vec::new();
        let mut result = ZSet::new();
        let mut committed = None;
        let all = [After::Commit, After::Reset, After::Reopen, After::FailOnce, After::CommitLater];
        for step in 0..60_i64 {
            // Two rows a step, one of them seven behind the other; every fifth step has a row that is late.
            let mut new = vec![(step * 4, step % 3), (step * 4 - 7, step % 2)];
            let late = step % 5 == 4;
            rows.extend(&new);
            if late {
                new.push((step * 4 - 40, 1));
            }
            let columns: Vec<ArrayRef> = vec![
                Arc::new(TimestampMicrosecondArray::from_iter_values(new.iter().map(|r| r.0))),
                Arc::new(Int64Array::from_iter_values(new.iter().map(|r| r.1))),
            ];
            let delta = Delta::inserts(RecordBatch::try_new(schema.clone(), columns).unwrap());
            let current = step * 4 - 12;
            let watermarks = PortWatermarks { committed: vec![committed, None], current: vec![Some(current), None] };
            let after = all[step as usize % all.len()];
            let outcome = harness.epoch(&mut over, &[vec![delta]], &[watermarks], after);
            committed = Some(current);
            assert_eq!(outcome.late.iter().map(|l| l.rows.rows()).sum::<usize>(), usize::from(late), "step {step}");
            outcome.deltas.iter().for_each(|delta| add(&mut result, delta));
            let mut expected = ZSet::new();
            for (ts, k) in rows.iter().filter(|(ts, _)| !emits || *ts < current) {
                let n = rows.iter().filter(|(other, key)| key == k && *other <= *ts && *other >= ts - 10).count();
                let text = |us: i64| {
                    let array: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![us]));
                    arrow::util::display::array_value_to_string(&array, 0).unwrap()
                };
                *expected.entry(vec![text(*ts), k.to_string(), n.to_string()]).or_default() += 1;
            }
            assert_eq!(result, expected, "step {step}, emits {emits}");
        }
        // Long after the last row nothing is left but the time that was reached.
        let idle =
            |current: i64| PortWatermarks { committed: vec![committed, None], current: vec![Some(current), None] };
        for round in 1..4 {
            harness.epoch(&mut over, &[vec![]], &[idle(round * 10_000_000)], After::Commit);
        }
        assert_eq!((harness.stored_rows(16), harness.stored_rows(17), harness.stored_rows(18)), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(Config { cases: 64, ..Config::default() })]

    /// Sessions under rows that come and go at or after the watermark: current, or each once when it is closed. What is
    /// closed is forgotten.
    #[test]
    fn sessions_are_those_of_a_recomputation(
        emits in any::<bool>(),
        takes_back in any::<bool>(),
        months in proptest::bool::weighted(0.2),
        cache in prop_oneof![Just(0usize), Just(1 << 20)],
        epochs in proptest::collection::vec(
            (proptest::collection::vec((0..2_i64, 0..40_i64, any::<u8>()), 0..8), 0..25_i64, any_after()), 1..14),
    ) {
        const UNIT_US: i64 = 86_400_000_000;
        // Of a month in 1970, or ten days.
        let gap = arrow::datatypes::IntervalMonthDayNano::new(i32::from(months), if months { 0 } else { 10 }, 0);
        let schema: SchemaRef = Arc::new(Schema::new(vec![
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            Field::new("k", DataType::Int64, true),
        ]));
        let array = |times: &[i64]| -> ArrayRef {
            Arc::new(TimestampMicrosecondArray::from_iter_values(times.iter().map(|day| day * UNIT_US)))
        };
        let end_of = |day: i64| {
            let ends = super::frame::edge_values(&array(&[day]), Edge::After(Distance::Interval(gap)), false).unwrap();
            arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMicrosecondType>(&ends).value(0) / UNIT_US
        };
        let timestamp = schema.field(0).clone();
        let of_session = |kind| call(kind, Some(0), Frame::session(gap));
        let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.extend(["first", "last"].map(|name| timestamp.clone().with_name(name)));
        let spec = OverSpec {
            operator: 3,
            object: OBJECT,
            first_part: 16,
            input: schema.clone(),
            append_only: !takes_back,
            partition_by: vec![1],
            order_by: vec![SortColumn { column: 0, descending: false, nulls_first: false }],
            functions: vec![of_session(WindowKind::FirstValue), of_session(WindowKind::LastValue)],
            limit: None,
            output: Arc::new(Schema::new(fields)),
            stream_key: None,
            time_column: None,
            order_time: true,
            emit_on_window_close: emits,
            ttl: None,
        };
        let mut over = Over::new(spec).unwrap().with_cache_bytes(cache).with_chunk_rows(3);
        let mut harness = Harness::new();
        let mut rows: Vec<(i64, i64)> = Vec::new();
        let mut result = ZSet::new();
        let (mut committed, mut watermark) = (None, 0);
        for (changes, step, after) in epochs {
            let mut batch: Vec<((i64, i64), i64)> = Vec::new();
            for (k, behind, dice) in changes {
                let open: Vec<usize> = (0..rows.len()).filter(|i| committed.is_none_or(|w| rows[*i].1 >= w)).collect();
                match takes_back && dice < 90 && !open.is_empty() {
                    true => batch.push((rows.swap_remove(open[usize::from(dice) % open.len()]), -1)),
                    false => {
                        let row = (k, watermark + behind);
                        rows.push(row);
                        batch.push((row, 1));
                    }
                }
            }
            watermark += step;
            let columns: Vec<ArrayRef> = vec![
                array(&batch.iter().map(|(row, _)| row.1).collect::<Vec<_>>()),
                Arc::new(Int64Array::from_iter_values(batch.iter().map(|(row, _)| row.0))),
            ];
            let weights = Int64Array::from_iter_values(batch.iter().map(|(_, weight)| *weight));
            let delta = Delta::new(RecordBatch::try_new(schema.clone(), columns).unwrap(), weights);
            let of = |day: Option<i64>| vec![day.map(|day| day * UNIT_US), None];
            let watermarks = PortWatermarks { committed: of(committed), current: of(Some(watermark)) };
            let outcome = harness.epoch(&mut over, &[vec![delta]], &[watermarks], after);
            prop_assert!(outcome.late.is_empty());
            committed = Some(watermark);
            outcome.deltas.iter().for_each(|delta| add(&mut result, delta));

            let mut sorted = rows.clone();
            sorted.sort_unstable();
            let mut expected = ZSet::new();
            for session in sorted.chunk_by(|a, b| a.0 == b.0 && b.1 < end_of(a.1)) {
                let (first, last) = (session[0].1, session[session.len() - 1].1);
                let is_closed = end_of(last) <= watermark;
                for (k, day) in session.iter().filter(|_| is_closed || !emits) {
                    let text = |day: i64| {
                        arrow::util::display::array_value_to_string(&array(&[day]), 0).unwrap()
                    };
                    let line = vec![text(*day), k.to_string(), text(first), text(last)];
                    *expected.entry(line).or_default() += 1;
                }
            }
            prop_assert_eq!(&result, &expected);
            // The watermark of the last time: what changes later ends after the present one.
            let out = over.watermarks(&[of(Some(watermark))]);
            prop_assert_eq!(&out[..3], &[None, None, None]);
            let least = out[3].unwrap();
            prop_assert!(end_of(least.div_euclid(UNIT_US)) <= watermark + 3);
        }
        // Long after, nothing is left.
        for round in 1..4 {
            let of = |day: i64| vec![Some(day * UNIT_US), None];
            let current = 1000 + round * 100;
            let watermarks = PortWatermarks { committed: of(committed.unwrap_or(0)), current: of(current) };
            let outcome = harness.epoch(&mut over, &[vec![]], &[watermarks], After::Commit);
            committed = Some(current);
            outcome.deltas.iter().for_each(|delta| add(&mut result, delta));
        }
        prop_assert_eq!((harness.stored_rows(16), harness.stored_rows(17), harness.stored_rows(18)), (0, 0, 0));
        prop_assert_eq!(result.values().sum::<i64>(), rows.len() as i64);
    }
}

/// A partition that is not written for long goes with all its chunks; what comes for it later begins it anew.
#[test]
fn partitions_are_forgotten() {
    for after in [After::Commit, After::CommitLater, After::Reset, After::Reopen, After::FailOnce] {
        let made = operator(&by_rows()[..1], &[O, ID, V], None, 1 << 20);
        let spec = OverSpec { ttl: Some(TtlSpec { ttl_us: 1600, part: 20 }), ..made.spec };
        let mut over = Over::new(spec).unwrap().with_chunk_rows(3);
        let mut harness = Harness::new();
        let row = |g: i32, id: i32| (Some(g), Some(i64::from(id)), id, Some(0));
        let mut epoch = |now_us: i64, changes: &[(Row, i64)]| {
            harness.now_us = now_us;
            let outcome = harness.epoch(&mut over, &[vec![delta(changes)]], &[], after);
            let mut shown = ZSet::new();
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            // Id and row number.
            let numbers: Vec<(String, String, i64)> =
                shown.into_iter().map(|(row, weight)| (row[ID].clone(), row[4].clone(), weight)).collect();
            (numbers, outcome.expired, [16, 17, 20].map(|part| harness.stored_rows(part)))
        };
        let many: Vec<(Row, i64)> = (1..=9).map(|id| (row(1, id), 1)).chain([(row(2, 50), 1)]).collect();
        let (numbers, _, [partitions, chunks, written]) = epoch(0, &many);
        assert!(numbers.len() == 10 && chunks > 1 && (partitions, written) == (2, 2), "{after:?}");
        let (numbers, ..) = epoch(1000, &[(row(2, 51), 1)]);
        assert_eq!(numbers, [("51".into(), "2".into(), 1)]);
        assert_eq!(epoch(1699, &[]).2, [2, chunks, 3]);
        assert_eq!(epoch(1700, &[]), (vec![], 0, [1, 0, 1]), "{after:?}");
        // Forgotten rows are taken back, beside a new one and alone; the other partition is known whole.
        let (numbers, expired, _) = epoch(1750, &[(row(1, 3), -1), (row(1, 10), 1), (row(2, 50), -1)]);
        assert_eq!(expired, 1);
        let new = [("10", "1", 1), ("50", "1", -1), ("51", "1", 1), ("51", "2", -1)];
        assert_eq!(numbers, new.map(|(id, number, weight)| (id.to_string(), number.to_string(), weight)), "{after:?}");
        assert_eq!(epoch(1800, &[(row(1, 4), -1), (row(3, 1), -1)]).1, 2);
        assert_eq!(epoch(9000, &[]), (vec![], 0, [0, 0, 0]));
    }
}
