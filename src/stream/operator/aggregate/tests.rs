//! The aggregate against a recomputation from scratch, over random changelogs, failures and restarts.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::{AggregateCall, AggregateKind, AggregateSpec, HashAggregate};
use crate::stream::changelog::Delta;
use crate::stream::operator::testing::{After, Harness, OBJECT, Outcome, ZSet, add};
use crate::stream::operator::ttl::TtlSpec;
use crate::stream::operator::{Operator, PortWatermarks};

/// An input row. Floats are quarters, so that sums are exact whatever their order, or what is not finite.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    a: Option<i32>,
    ts: Option<i64>,
    s: Option<String>,
    i: Option<i64>,
    d: Option<i128>,
    f: Option<Float>,
    flag: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Float {
    Down,
    Quarters(i32),
    Up,
    Nan,
}

impl Float {
    fn value(self) -> f64 {
        match self {
            Self::Down => f64::NEG_INFINITY,
            Self::Quarters(q) => f64::from(q) / 4.0,
            Self::Up => f64::INFINITY,
            Self::Nan => f64::NAN,
        }
    }
}

const A: usize = 0;
const TS: usize = 1;
const S: usize = 2;
const I: usize = 3;
const D: usize = 4;
const F: usize = 5;
const FLAG: usize = 6;

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

fn input_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("ts", timestamp(), true),
        Field::new("s", DataType::Utf8View, true),
        Field::new("i", DataType::Int64, true),
        Field::new("d", DataType::Decimal128(12, 2), true),
        Field::new("f", DataType::Float64, true),
        Field::new("flag", DataType::Boolean, true),
    ]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.a).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|r| r.ts).collect::<TimestampMicrosecondArray>()),
        Arc::new(rows.iter().map(|r| r.s.clone()).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|r| r.i).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.d).collect::<Decimal128Array>().with_precision_and_scale(12, 2).unwrap()),
        Arc::new(rows.iter().map(|r| r.f.map(Float::value)).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| r.flag).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(input_schema(), columns).unwrap()
}

fn delta(changes: &[(Row, i64)]) -> Delta {
    let rows: Vec<Row> = changes.iter().map(|(row, _)| row.clone()).collect();
    let weights: Vec<i64> = changes.iter().map(|(_, weight)| *weight).collect();
    if weights.iter().all(|w| *w == 1) {
        return Delta::inserts(batch(&rows));
    }
    Delta::new(batch(&rows), Int64Array::from(weights))
}

fn calls() -> Vec<(AggregateCall, DataType)> {
    use AggregateKind::{Avg, Count, Max, Min, Sum};
    let call = |kind, argument, filter| AggregateCall { filter, ..AggregateCall::plain(kind, argument) };
    vec![
        (call(Count, None, None), DataType::Int64),
        (call(Count, Some(I), None), DataType::Int64),
        (call(Count, None, Some(FLAG)), DataType::Int64),
        (call(Sum, Some(A), None), DataType::Int64),
        (call(Sum, Some(I), None), DataType::Decimal128(38, 0)),
        (call(Sum, Some(D), Some(FLAG)), DataType::Decimal128(38, 2)),
        (call(Sum, Some(F), None), DataType::Float64),
        (call(Avg, Some(I), None), DataType::Decimal128(38, 16)),
        (call(Avg, Some(D), None), DataType::Decimal128(38, 16)),
        (call(Avg, Some(F), None), DataType::Float64),
        (call(Min, Some(S), None), DataType::Utf8View),
        (call(Max, Some(S), Some(FLAG)), DataType::Utf8View),
        (call(Min, Some(F), None), DataType::Float64),
        (call(Max, Some(D), None), DataType::Decimal128(12, 2)),
        (call(Max, Some(TS), None), timestamp()),
    ]
}

fn output_schema(group_by: &[usize]) -> SchemaRef {
    let input = input_schema();
    let mut fields: Vec<Field> = group_by.iter().map(|c| input.field(*c).clone()).collect();
    fields.extend(calls().into_iter().enumerate().map(|(i, (_, t))| Field::new(format!("x{i}"), t, true)));
    Arc::new(Schema::new(fields))
}

fn spec(group_by: &[usize], append_only: bool) -> AggregateSpec {
    AggregateSpec {
        operator: 3,
        object: OBJECT,
        first_part: 5,
        input: input_schema(),
        append_only,
        group_by: group_by.to_vec(),
        key: (0..group_by.len()).collect(),
        aggregates: calls().into_iter().map(|(call, _)| call).collect(),
        output: output_schema(group_by),
        time_column: None,
        timed: Vec::new(),
        emit_on_window_close: false,
        ttl: None,
        totals: Vec::new(),
    }
}

/// The result over all rows of a multiset, from scratch.
fn expected(group_by: &[usize], rows: &BTreeMap<Row, i64>) -> ZSet {
    let mut groups: BTreeMap<Vec<Option<String>>, Vec<Row>> = BTreeMap::new();
    if group_by.is_empty() {
        groups.insert(Vec::new(), Vec::new());
    }
    for (row, weight) in rows {
        let key = group_by
            .iter()
            .map(|c| match *c {
                A => row.a.map(|v| v.to_string()),
                TS => row.ts.map(|v| v.to_string()),
                _ => row.s.clone(),
            })
            .collect();
        let members = groups.entry(key).or_default();
        (0..*weight).for_each(|_| members.push(row.clone()));
    }
    let groups: Vec<Vec<Row>> = groups.into_values().collect();
    let of = |f: &dyn Fn(&[Row]) -> ArrayRef| groups.iter().map(|g| f(g)).collect::<Vec<_>>();
    let int = |v: Option<i64>| Arc::new(Int64Array::from(vec![v])) as ArrayRef;
    let dec = |v: Option<i128>, p, s| {
        Arc::new(Decimal128Array::from(vec![v]).with_precision_and_scale(p, s).unwrap()) as ArrayRef
    };
    let float = |v: Option<f64>| Arc::new(Float64Array::from(vec![v])) as ArrayRef;
    let text = |v: Option<String>| Arc::new(StringViewArray::from_iter(vec![v])) as ArrayRef;
    let some = |is_empty: bool, v: i128| (!is_empty).then_some(v);
    let average = |sum: i128, scale: u32, n: usize| {
        let scaled = sum * 10i128.pow(16 - scale);
        let n = n as i128;
        (n > 0).then(|| (scaled.abs() * 2 + n) / (2 * n) * scaled.signum())
    };
    let ints = |g: &[Row]| g.iter().filter_map(|r| r.i).map(i128::from).collect::<Vec<_>>();
    let decs = |g: &[Row]| g.iter().filter_map(|r| r.d).collect::<Vec<_>>();
    let floats = |g: &[Row]| g.iter().filter_map(|r| r.f).collect::<Vec<_>>();
    let float_sum = |g: &[Row]| {
        let v = floats(g);
        (!v.is_empty()).then(|| v.iter().map(|f| f.value()).sum::<f64>())
    };
    let flagged = |g: &[Row]| g.iter().filter(|r| r.flag == Some(true)).cloned().collect::<Vec<_>>();

    let mut columns: Vec<Vec<ArrayRef>> = vec![
        of(&|g| int(Some(g.len() as i64))),
        of(&|g| int(Some(ints(g).len() as i64))),
        of(&|g| int(Some(flagged(g).len() as i64))),
        of(&|g| {
            let v: Vec<i64> = g.iter().filter_map(|r| r.a).map(i64::from).collect();
            int((!v.is_empty()).then(|| v.iter().sum()))
        }),
        of(&|g| dec(some(ints(g).is_empty(), ints(g).iter().sum()), 38, 0)),
        of(&|g| dec(some(decs(&flagged(g)).is_empty(), decs(&flagged(g)).iter().sum()), 38, 2)),
        of(&|g| float(float_sum(g))),
        of(&|g| dec(average(ints(g).iter().sum(), 0, ints(g).len()), 38, 16)),
        of(&|g| dec(average(decs(g).iter().sum(), 2, decs(g).len()), 38, 16)),
        of(&|g| float(float_sum(g).map(|sum| sum / floats(g).len() as f64))),
        of(&|g| text(g.iter().filter_map(|r| r.s.clone()).min())),
        of(&|g| text(flagged(g).into_iter().filter_map(|r| r.s).max())),
        of(&|g| float(floats(g).into_iter().min().map(Float::value))),
        of(&|g| dec(decs(g).into_iter().max(), 12, 2)),
        of(&|g| Arc::new(TimestampMicrosecondArray::from(vec![g.iter().filter_map(|r| r.ts).max()])) as ArrayRef),
    ];
    let mut result = ZSet::new();
    for (i, group) in groups.iter().enumerate() {
        let mut row: Vec<ArrayRef> = Vec::new();
        if let Some(first) = group.first() {
            let input = batch(std::slice::from_ref(first));
            row.extend(group_by.iter().map(|c| input.column(*c).clone()));
        }
        row.extend(columns.iter_mut().map(|c| c[i].clone()));
        let row = RecordBatch::try_new(output_schema(group_by), row).unwrap();
        add(&mut result, &Delta::inserts(row));
    }
    result
}

fn any_row() -> impl Strategy<Value = Row> {
    let float = prop_oneof![
        20 => (-8..8i32).prop_map(Float::Quarters),
        1 => Just(Float::Up),
        1 => Just(Float::Down),
        1 => Just(Float::Nan),
    ];
    (
        proptest::option::weighted(0.85, 0..4i32),
        proptest::option::weighted(0.85, (0..12i64).prop_map(|t| t * 10)),
        proptest::option::weighted(0.85, "[a-c]{0,2}"),
        proptest::option::weighted(0.85, prop_oneof![-5..5i64, any::<i64>()]),
        proptest::option::weighted(0.85, -300..300i128),
        proptest::option::weighted(0.85, float),
        proptest::option::weighted(0.85, any::<bool>()),
    )
        .prop_map(|(a, ts, s, i, d, f, flag)| Row { a, ts, s, i, d, f, flag })
}

/// One change: a row to insert so many times, or (if there are rows) the number of one to take back.
#[derive(Debug, Clone)]
enum Change {
    Insert(Row, i64),
    Delete(usize),
}

fn any_change(retracts: bool) -> impl Strategy<Value = Change> {
    let insert = (any_row(), 1..3i64).prop_map(|(row, weight)| Change::Insert(row, weight));
    let delete = any::<usize>().prop_map(Change::Delete);
    prop_oneof![3 => insert, (if retracts { 3 } else { 0 }) => delete]
}

fn any_after() -> impl Strategy<Value = After> {
    prop_oneof![
        3 => Just(After::Commit),
        3 => Just(After::CommitLater),
        1 => Just(After::Reset),
        1 => Just(After::Reopen),
        1 => Just(After::FailOnce),
    ]
}

/// Changes of one epoch as weighted rows, taken into the multiset.
fn play(changes: &[Change], rows: &mut BTreeMap<Row, i64>) -> Vec<(Row, i64)> {
    let mut out = Vec::new();
    for change in changes {
        let (row, weight) = match change {
            Change::Insert(row, weight) => (row.clone(), *weight),
            Change::Delete(_) if rows.is_empty() => continue,
            Change::Delete(n) => (rows.keys().nth(n % rows.len()).unwrap().clone(), -1),
        };
        let total = rows.entry(row.clone()).or_default();
        *total += weight;
        if *total == 0 {
            rows.remove(&row);
        }
        out.push((row, weight));
    }
    out
}

/// Splits an epoch's rows into two batches, as they may come.
fn split(changes: &[(Row, i64)]) -> Vec<Delta> {
    let (a, b) = changes.split_at(changes.len() / 3);
    vec![delta(a), delta(b)]
}

type Epochs = Vec<(Vec<Change>, After)>;

fn any_epochs(retracts: bool) -> impl Strategy<Value = Epochs> {
    proptest::collection::vec((proptest::collection::vec(any_change(retracts), 0..12), any_after()), 1..8)
}

fn follows_recomputation(group_by: &[usize], append_only: bool, cache_bytes: usize, epochs: &Epochs) {
    // Two ways of storing groups; none is written so long ago that it is forgotten.
    for ttl in [None, Some(TtlSpec { ttl_us: 1 << 40, part: 7 })] {
        let spec = AggregateSpec { ttl, ..spec(group_by, append_only) };
        let operator = HashAggregate::new(spec).unwrap().with_cache_bytes(cache_bytes);
        follows(operator, group_by, epochs);
    }
}

fn follows(mut operator: HashAggregate, group_by: &[usize], epochs: &Epochs) {
    let mut harness = Harness::new();
    let mut rows = BTreeMap::new();
    let mut shown = ZSet::new();
    for (changes, after) in epochs {
        let changes = play(changes, &mut rows);
        let outcome = harness.epoch(&mut operator, &[split(&changes)], &[], *after);
        outcome.deltas.iter().for_each(|delta| add(&mut shown, delta));
        assert!(outcome.errors.is_empty() && outcome.late.is_empty() && outcome.expired == 0);
        assert_eq!(shown, expected(group_by, &rows));
        if !group_by.is_empty() {
            assert_eq!(harness.stored_rows(5), shown.len(), "a group that is gone is gone from the store");
        }
    }
}

fn config() -> Config {
    Config { cases: 48, ..Config::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn groups_follow_a_retracting_input(cache in prop_oneof![Just(0usize), Just(4096), Just(1 << 20)], epochs in any_epochs(true)) {
        follows_recomputation(&[A, S], false, cache, &epochs);
    }

    #[test]
    fn groups_follow_an_append_only_input(cache in prop_oneof![Just(0usize), Just(1 << 20)], epochs in any_epochs(false)) {
        follows_recomputation(&[S], true, cache, &epochs);
    }

    #[test]
    fn the_global_aggregate_always_has_one_row(epochs in any_epochs(true)) {
        follows_recomputation(&[], false, 4096, &epochs);
    }

    #[test]
    fn windows_close_and_late_rows_are_kept_apart(
        on_close in any::<bool>(),
        append_only in any::<bool>(),
        epochs in proptest::collection::vec(
            (proptest::collection::vec(any_change(true), 0..10), any_after(), 0..30i64), 1..9),
    ) {
        let group_by = [A, TS];
        let mut spec = spec(&group_by, append_only);
        spec.time_column = Some(1);
        spec.emit_on_window_close = on_close;
        let mut operator = HashAggregate::new(spec).unwrap().with_cache_bytes(4096);
        let mut harness = Harness::new();
        let mut rows = BTreeMap::new();
        let mut counted: BTreeMap<Row, i64> = BTreeMap::new();
        let mut shown = ZSet::new();
        let mut committed = None;
        let mut reached = 0;
        for (changes, after, advance) in &epochs {
            let mut changes = changes.clone();
            if append_only {
                changes.retain(|c| matches!(c, Change::Insert(..)));
            }
            let changes = play(&changes, &mut rows);
            reached += advance;
            let of = |w: Option<i64>| { let mut all = vec![None; 7]; all[TS] = w; all };
            let port = PortWatermarks { committed: of(committed), current: of(Some(reached)) };
            let outcome = harness.epoch(&mut operator, &[split(&changes)], &[port], *after);

            let is_late = |row: &Row| row.ts.is_some_and(|ts| committed.is_some_and(|w| ts < w));
            let mut late = ZSet::new();
            for (row, weight) in &changes {
                if is_late(row) {
                    add(&mut late, &delta(&[(row.clone(), *weight)]));
                } else {
                    *counted.entry(row.clone()).or_default() += weight;
                }
            }
            let mut seen_late = ZSet::new();
            outcome.late.iter().for_each(|l| add(&mut seen_late, &l.rows));
            prop_assert_eq!(seen_late, late);
            prop_assert!(outcome.late.iter().all(|l| Some(l.watermark) == committed && l.operator == 3));

            if on_close {
                prop_assert!(outcome.deltas.iter().all(|d| d.weights.is_none()));
            }
            outcome.deltas.iter().for_each(|delta| add(&mut shown, delta));
            counted.retain(|_, weight| *weight != 0);
            let open = |row: &Row| !on_close || row.ts.is_some_and(|ts| ts < reached);
            let visible = counted.iter().filter(|(row, _)| open(row)).map(|(r, w)| (r.clone(), *w)).collect();
            prop_assert_eq!(&shown, &expected(&group_by, &visible));
            let settled = PortWatermarks { committed: of(Some(reached)), current: of(Some(reached)) };
            let forgot = matches!(after, After::Reset | After::Reopen);
            prop_assert_eq!(operator.wakes(&[settled], 0), forgot);
            committed = Some(reached);
        }
    }
}

fn run_one(operator: &mut HashAggregate, harness: &mut Harness, changes: &[(Row, i64)]) -> Outcome {
    harness.epoch(operator, &[vec![delta(changes)]], &[], After::Commit)
}

fn row(d: i128, f: f64) -> Row {
    let quarters = Float::Quarters((f * 4.0) as i32);
    Row { a: Some(1), ts: None, s: None, i: None, d: Some(d), f: Some(quarters), flag: None }
}

#[test]
fn a_sum_that_overflows_is_an_error_for_as_long_as_it_does() {
    let mut spec = spec(&[A], false);
    spec.aggregates = vec![AggregateCall::plain(AggregateKind::Sum, Some(D))];
    spec.output = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("total", DataType::Decimal128(4, 2), true),
    ]));
    let mut operator = HashAggregate::new(spec).unwrap();
    let mut harness = Harness::new();
    let mut shown = ZSet::new();

    let outcome = run_one(&mut operator, &mut harness, &[(row(9000, 0.0), 1)]);
    outcome.deltas.iter().for_each(|d| add(&mut shown, d));
    assert_eq!(shown.keys().next().unwrap()[1], "90.00");

    let outcome = run_one(&mut operator, &mut harness, &[(row(1001, 0.0), 1)]);
    outcome.deltas.iter().for_each(|d| add(&mut shown, d));
    assert!(shown.is_empty());
    assert_eq!(outcome.errors.len(), 1);
    assert_eq!((outcome.errors[0].sqlstate.as_str(), outcome.errors[0].weight), ("22003", 1));
    assert_eq!(outcome.errors[0].row, "group (a: 1)");

    let outcome = run_one(&mut operator, &mut harness, &[(row(1, 0.0), 1)]);
    assert!(outcome.errors.is_empty() && outcome.deltas.is_empty());

    let outcome = run_one(&mut operator, &mut harness, &[(row(1001, 0.0), -1)]);
    outcome.deltas.iter().for_each(|d| add(&mut shown, d));
    assert_eq!(shown.keys().next().unwrap()[1], "90.01");
    assert_eq!(outcome.errors.len(), 1);
    assert_eq!(outcome.errors[0].weight, -1);
}

#[test]
fn without_functions_it_is_distinct() {
    let mut spec = spec(&[A], false);
    spec.aggregates = Vec::new();
    spec.output = Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true)]));
    let mut operator = HashAggregate::new(spec).unwrap();
    let mut harness = Harness::new();
    let outcome = run_one(&mut operator, &mut harness, &[(row(1, 0.0), 1), (row(2, 0.0), 1)]);
    assert_eq!(outcome.deltas.iter().map(Delta::rows).sum::<usize>(), 1);
    let outcome = run_one(&mut operator, &mut harness, &[(row(1, 0.0), -1)]);
    assert!(outcome.deltas.is_empty());
    let outcome = run_one(&mut operator, &mut harness, &[(row(2, 0.0), -1)]);
    assert_eq!(outcome.deltas[0].weight(0), -1);
    assert_eq!(harness.stored_rows(5), 0);
}

#[test]
fn float_sums_do_not_drift() {
    let mut spec = spec(&[], false);
    let schema = Arc::new(Schema::new(vec![Field::new("f", DataType::Float64, true)]));
    spec.input = schema.clone();
    spec.aggregates = vec![AggregateCall::plain(AggregateKind::Sum, Some(0))];
    spec.output = Arc::new(Schema::new(vec![Field::new("total", DataType::Float64, true)]));
    let mut operator = HashAggregate::new(spec).unwrap();
    let mut harness = Harness::new();
    let mut shown = ZSet::new();
    let values = [0.1, 1e17, -7.3, 1e-9, 3e300, 0.1];
    let mut step = |values: &[f64], weight: i64| {
        let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(Float64Array::from(values.to_vec()))]).unwrap();
        let delta = Delta::new(batch, Int64Array::from_value(weight, values.len()));
        let outcome = harness.epoch(&mut operator, &[vec![delta]], &[], After::Commit);
        outcome.deltas.iter().for_each(|d| add(&mut shown, d));
        assert_eq!(shown.len(), 1);
        shown.keys().next().unwrap()[0].clone()
    };
    step(&values, 3);
    step(&values[1..5], -3);
    assert_eq!(step(&[0.1], -5), "0.1");
    assert_eq!(step(&[0.1], -1), "NULL");
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let mut spec = spec(&[A], false);
    spec.aggregates = vec![AggregateCall::plain(AggregateKind::Sum, Some(S))];
    spec.output =
        Arc::new(Schema::new(vec![Field::new("a", DataType::Int32, true), Field::new("total", DataType::Int64, true)]));
    let error = HashAggregate::new(spec).err().unwrap();
    assert_eq!(error.sqlstate(), "0A000");
    assert!(error.message().starts_with("sum("), "{error}");
}

#[test]
fn explain_names_groups_functions_and_state() {
    let operator = HashAggregate::new(spec(&[A, S], false)).unwrap();
    let description = operator.describe();
    assert!(
        description.title.starts_with("HashAggregate: group by [a, s], count(*), count(i), count(*) filter (flag)")
    );
    assert_eq!(description.stream_key, ["a", "s"]);
    assert_eq!(description.state.len(), 2);
    assert!(!description.append_only);
}

/// A group that nothing is written to goes, its row in the result stays, and what comes for it later makes a new one.
#[test]
fn groups_are_forgotten() {
    let row = |s: &str, i: i64| Row { a: None, ts: None, s: Some(s.into()), i: Some(i), d: None, f: None, flag: None };
    let spec = AggregateSpec { ttl: Some(TtlSpec { ttl_us: 1600, part: 7 }), ..spec(&[S], false) };
    for after in [After::Commit, After::CommitLater, After::Reset, After::Reopen, After::FailOnce] {
        let mut operator = HashAggregate::new(spec.clone()).unwrap();
        let mut harness = Harness::new();
        let mut epoch = |now_us: i64, changes: &[(Row, i64)]| {
            harness.now_us = now_us;
            let outcome = harness.epoch(&mut operator, &[vec![delta(changes)]], &[], after);
            let weights: Vec<i64> = outcome.deltas.iter().flat_map(|d| (0..d.rows()).map(|i| d.weight(i))).collect();
            let stored = [5, 6, 7].map(|part| harness.stored_rows(part));
            (weights, outcome.expired, stored[0], stored[1], stored[2], operator.next_wake_us())
        };
        let (weights, _, groups, values, written, _) =
            epoch(0, &[(row("a", 1), 1), (row("a", 2), 1), (row("b", 3), 1)]);
        assert_eq!((weights, groups, written), (vec![1, 1], 2, 2));
        let (_, _, groups, more, written, _) = epoch(1000, &[(row("a", 4), 1)]);
        assert!(more >= values && (groups, written) == (2, 3));
        assert_eq!(epoch(1699, &[]).2, 2);
        let (weights, expired, groups, fewer, written, wake_us) = epoch(1700, &[]);
        assert_eq!((weights, expired, groups, written), (vec![], 0, 1, 1));
        // The store is to be looked at first, or when the group of time 1000 goes.
        assert_eq!(wake_us, Some(if matches!(after, After::Reset | After::Reopen) { i64::MIN } else { 2700 }));
        assert!(fewer < more);
        // Taken back from what is no more; in one epoch with what is new.
        assert_eq!(epoch(1750, &[(row("b", 3), -1)]).1, 1);
        let (weights, expired, groups, ..) = epoch(1800, &[(row("b", 3), -1), (row("b", 5), 1)]);
        assert_eq!((weights, expired, groups), (vec![1], 1, 2));
        // The new group has one row: taking back two leaves none.
        let (weights, expired, groups, values, ..) = epoch(1900, &[(row("b", 5), -1), (row("b", 3), -1)]);
        assert_eq!((weights, expired, groups, values), (vec![-1], 1, 1, fewer));
        let (weights, _, groups, values, written, _) = epoch(9000, &[]);
        assert_eq!((weights, groups, values, written), (vec![], 0, 0, 0));
    }
}
