//! The aggregates that look at each value (distinct, ordered, logical) against a recomputation from scratch.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt8Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::{AggregateCall, AggregateKind, AggregateSpec, HashAggregate};
use crate::stream::changelog::Delta;
use crate::stream::operator::order_key::SortColumn;
use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add};

type Row = (i32, Option<i64>, Option<String>, Option<bool>);

const X: usize = 1;
const S: usize = 2;
const OK: usize = 3;

fn input_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("g", DataType::Int32, false),
        Field::new("x", DataType::Int64, true),
        Field::new("s", DataType::Utf8View, true),
        Field::new("ok", DataType::Boolean, true),
    ]))
}

fn delta(changes: &[(Row, i64)]) -> Delta {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from_iter_values(changes.iter().map(|(r, _)| r.0))),
        Arc::new(changes.iter().map(|(r, _)| r.1).collect::<Int64Array>()),
        Arc::new(changes.iter().map(|(r, _)| r.2.clone()).collect::<StringViewArray>()),
        Arc::new(changes.iter().map(|(r, _)| r.3).collect::<BooleanArray>()),
    ];
    let batch = RecordBatch::try_new(input_schema(), columns).unwrap();
    Delta::new(batch, Int64Array::from_iter_values(changes.iter().map(|(_, w)| *w)))
}

fn calls() -> Vec<(AggregateCall, DataType)> {
    use AggregateKind as K;
    let up = |column| SortColumn { column, descending: false, nulls_first: false };
    let plain = AggregateCall::plain;
    let distinct = |kind, argument| AggregateCall { distinct: true, ..plain(kind, Some(argument)) };
    let ordered = |kind, argument, order_by| AggregateCall { order_by, ..plain(kind, Some(argument)) };
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    vec![
        (distinct(K::Count, S), DataType::Int64),
        (AggregateCall { filter: Some(OK), ..distinct(K::Sum, X) }, DataType::Decimal128(38, 0)),
        (plain(K::BoolAnd, Some(OK)), DataType::Boolean),
        (plain(K::BoolOr, Some(OK)), DataType::Boolean),
        (plain(K::BitAnd, Some(X)), DataType::Int64),
        (plain(K::BitOr, Some(X)), DataType::Int64),
        (plain(K::BitXor, Some(X)), DataType::Int64),
        (plain(K::VarSamp, Some(X)), DataType::Float64),
        (ordered(K::ArrayAgg, X, vec![up(S).reversed(), up(X)]), list),
        (
            AggregateCall { separator: Some("-".into()), ..ordered(K::StringAgg, S, vec![up(X), up(S)]) },
            DataType::Utf8View,
        ),
        (AggregateCall { distinct: true, ..ordered(K::StringAgg, S, vec![up(S)]) }, DataType::Utf8View),
        (ordered(K::FirstValue, S, vec![up(X), up(S)]), DataType::Utf8View),
        (ordered(K::LastValue, S, vec![up(X), up(S)]), DataType::Utf8View),
        (AggregateCall { fraction: Some(0.6), ..ordered(K::PercentileDisc, X, vec![up(X)]) }, DataType::Int64),
        (ordered(K::Mode, S, vec![up(S).reversed()]), DataType::Utf8View),
    ]
}

fn spec() -> AggregateSpec {
    let mut fields = vec![Field::new("g", DataType::Int32, false)];
    fields.extend(calls().into_iter().enumerate().map(|(i, (_, t))| Field::new(format!("c{i}"), t, true)));
    AggregateSpec {
        operator: 3,
        object: OBJECT,
        first_part: 5,
        input: input_schema(),
        append_only: false,
        group_by: vec![0],
        key: vec![0],
        aggregates: calls().into_iter().map(|(call, _)| call).collect(),
        output: Arc::new(Schema::new(fields)),
        time_column: None,
        timed: Vec::new(),
        emit_on_window_close: false,
        ttl: None,
        totals: Vec::new(),
    }
}

/// Ascending with NULL last, as keys of a sort.
fn nulls_last<T: Ord + Clone>(value: &Option<T>) -> (bool, Option<T>) {
    (value.is_none(), value.clone())
}

fn expected(rows: &BTreeMap<Row, i64>) -> ZSet {
    let mut groups: BTreeMap<i32, Vec<Row>> = BTreeMap::new();
    for (row, weight) in rows {
        (0..*weight).for_each(|_| groups.entry(row.0).or_default().push(row.clone()));
    }
    let mut result = ZSet::new();
    for (g, rows) in groups {
        let show = |v: Option<String>| v.unwrap_or_else(|| "NULL".into());
        let xs: Vec<i64> = rows.iter().filter_map(|r| r.1).collect();
        let oks: Vec<bool> = rows.iter().filter_map(|r| r.3).collect();
        let texts: BTreeSet<String> = rows.iter().filter_map(|r| r.2.clone()).collect();
        let flagged: BTreeSet<i64> = rows.iter().filter(|r| r.3 == Some(true)).filter_map(|r| r.1).collect();
        let bits = |f: fn(i64, i64) -> i64| show(xs.iter().copied().reduce(f).map(|v| v.to_string()));
        let n = xs.len() as f64;
        let sum = xs.iter().sum::<i64>() as f64;
        let squares = xs.iter().map(|x| x * x).sum::<i64>() as f64;
        let variance = (xs.len() > 1).then(|| (n * squares - sum * sum) / n / (n - 1.0));
        let mut by_text = rows.clone();
        by_text.sort_by_key(|r| (Reverse(nulls_last(&r.2)), nulls_last(&r.1)));
        let list: Vec<String> = by_text.iter().map(|r| r.1.map_or(String::new(), |x| x.to_string())).collect();
        let mut by_number = rows.clone();
        by_number.sort_by_key(|r| (nulls_last(&r.1), nulls_last(&r.2)));
        let joined: Vec<String> = by_number.iter().filter_map(|r| r.2.clone()).collect();
        let row = vec![
            g.to_string(),
            texts.len().to_string(),
            show((!flagged.is_empty()).then(|| flagged.iter().sum::<i64>().to_string())),
            show((!oks.is_empty()).then(|| oks.iter().all(|ok| *ok).to_string())),
            show((!oks.is_empty()).then(|| oks.contains(&true).to_string())),
            bits(|a, b| a & b),
            bits(|a, b| a | b),
            bits(|a, b| a ^ b),
            show(variance.map(|v| array_value_to_string(&Float64Array::from(vec![v]), 0).unwrap())),
            format!("[{}]", list.join(", ")),
            show((!joined.is_empty()).then(|| joined.join("-"))),
            show((!texts.is_empty()).then(|| texts.into_iter().collect())),
            show(by_number.first().and_then(|r| r.2.clone())),
            show(by_number.last().and_then(|r| r.2.clone())),
            show(
                by_number.iter().filter_map(|r| r.1).nth(((n * 0.6).ceil() as usize).max(1) - 1).map(|x| x.to_string()),
            ),
            show(joined.iter().max_by_key(|s| (joined.iter().filter(|other| other == s).count(), *s)).cloned()),
        ];
        result.insert(row, 1);
    }
    result
}

fn any_row() -> impl Strategy<Value = Row> {
    let text = proptest::option::weighted(0.8, "[a-c]{1,2}");
    let flag = proptest::option::weighted(0.8, any::<bool>());
    (0..3i32, proptest::option::weighted(0.8, -3..6i64), text, flag)
}

fn any_after() -> impl Strategy<Value = After> {
    prop_oneof![
        3 => Just(After::Commit),
        2 => Just(After::CommitLater),
        1 => Just(After::Reset),
        1 => Just(After::Reopen),
        1 => Just(After::FailOnce),
    ]
}

proptest! {
    #![proptest_config(Config { cases: 64, ..Config::default() })]

    #[test]
    fn values_come_and_go(
        cache in prop_oneof![Just(0usize), Just(4096), Just(1 << 20)],
        epochs in proptest::collection::vec(
            (proptest::collection::vec((any_row(), proptest::option::weighted(0.4, any::<usize>())), 0..10), any_after()), 1..8),
    ) {
        let mut operator = HashAggregate::new(spec()).unwrap().with_cache_bytes(cache);
        let mut harness = Harness::new();
        let mut rows: BTreeMap<Row, i64> = BTreeMap::new();
        let mut shown = ZSet::new();
        for (steps, after) in &epochs {
            let mut changes = Vec::new();
            for (row, deleted) in steps {
                let (row, weight) = match deleted.and_then(|n| rows.keys().nth(n % rows.len().max(1))) {
                    Some(row) => (row.clone(), -1),
                    None => (row.clone(), 1),
                };
                let total = rows.entry(row.clone()).or_default();
                *total += weight;
                if *total == 0 {
                    rows.remove(&row);
                }
                changes.push((row, weight));
            }
            let outcome = harness.epoch(&mut operator, &[vec![delta(&changes)]], &[], *after);
            prop_assert!(outcome.errors.is_empty());
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            prop_assert_eq!(&shown, &expected(&rows));
        }
        let left: Vec<(Row, i64)> = rows.iter().map(|(row, weight)| (row.clone(), -weight)).collect();
        let outcome = harness.epoch(&mut operator, &[vec![delta(&left)]], &[], After::Commit);
        outcome.deltas.iter().for_each(|d| add(&mut shown, d));
        prop_assert!(shown.is_empty());
        prop_assert_eq!((harness.stored_rows(5), harness.stored_rows(6)), (0, 0));
    }
}

#[test]
fn an_order_that_is_missing_is_refused() {
    let mut spec = spec();
    spec.aggregates = vec![AggregateCall::plain(AggregateKind::StringAgg, Some(S))];
    spec.output = Arc::new(Schema::new(vec![
        Field::new("g", DataType::Int32, false),
        Field::new("list", DataType::Utf8View, true),
    ]));
    let error = HashAggregate::new(spec).err().unwrap();
    assert_eq!(error.message(), "string_agg() without ORDER BY is not supported in a continuous view");
}

#[test]
fn the_total_of_grouping_sets_is_there_without_rows() {
    let fields = vec![
        Field::new("g", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
        Field::new("__grouping_id", DataType::UInt8, false),
    ];
    let output = vec![fields[0].clone(), fields[2].clone(), Field::new("total", DataType::Decimal128(38, 0), true)];
    let input = Arc::new(Schema::new(fields));
    let spec = AggregateSpec {
        input: input.clone(),
        group_by: vec![0, 2],
        key: vec![0, 1],
        aggregates: vec![AggregateCall::plain(AggregateKind::Sum, Some(1))],
        output: Arc::new(Schema::new(output)),
        totals: vec![1],
        ..spec()
    };
    let mut operator = HashAggregate::new(spec).unwrap();
    let mut harness = Harness::new();
    let mut shown = ZSet::new();
    let mut step = |rows: &[(Option<i64>, i64, u8, i64)], after| {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|r| r.0).collect::<Int64Array>()),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
            Arc::new(UInt8Array::from_iter_values(rows.iter().map(|r| r.2))),
        ];
        let batch = RecordBatch::try_new(input.clone(), columns).unwrap();
        let delta = Delta::new(batch, Int64Array::from_iter_values(rows.iter().map(|r| r.3)));
        let outcome = harness.epoch(&mut operator, &[vec![delta]], &[], after);
        outcome.deltas.iter().for_each(|d| add(&mut shown, d));
        shown.iter().map(|(row, weight)| format!("{}*{weight}", row.join(" "))).collect::<Vec<_>>()
    };
    assert_eq!(step(&[], After::Reopen), ["NULL 1 NULL*1"]);
    let rows = [(Some(5), 7, 0, 1), (None, 7, 1, 1)];
    assert_eq!(step(&rows, After::FailOnce), ["5 0 7*1", "NULL 1 7*1"]);
    // A group of NULL is not the total.
    let rows = [(None, 2, 0, 1), (None, 2, 1, 1)];
    assert_eq!(step(&rows, After::Reset), ["5 0 7*1", "NULL 0 2*1", "NULL 1 9*1"]);
    let rows = [(None, 2, 0, -1), (None, 2, 1, -1), (Some(5), 7, 0, -1), (None, 7, 1, -1)];
    assert_eq!(step(&rows, After::Commit), ["NULL 1 NULL*1"]);
}
