//! The join against a recomputation from scratch, over random changelogs of every kind of side, failures and restarts.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, IntervalMonthDayNano, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::{Join, JoinKind, JoinSide, JoinSpec, Layout, Residual, TimeBound};
use crate::stream::changelog::Delta;
use crate::stream::operator::sharded::Shard;
use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add, rows};
use crate::stream::operator::ttl::TtlSpec;
use crate::stream::operator::{EpochContext, Operator as _, PortWatermarks};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    k: Option<i32>,
    id: i64,
    v: Option<String>,
    ts: i64,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int32, true),
        Field::new("id", DataType::Int64, false),
        Field::new("v", DataType::Utf8View, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), true),
    ]))
}

fn delta(changes: &[(Row, i64)]) -> Delta {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(changes.iter().map(|(r, _)| r.k).collect::<Int32Array>()),
        Arc::new(Int64Array::from_iter_values(changes.iter().map(|(r, _)| r.id))),
        Arc::new(changes.iter().map(|(r, _)| r.v.clone()).collect::<StringViewArray>()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(changes.iter().map(|(r, _)| r.ts))),
    ];
    let batch = RecordBatch::try_new(schema(), columns).unwrap();
    match changes.iter().all(|(_, w)| *w == 1) {
        true => Delta::inserts(batch),
        false => Delta::new(batch, Int64Array::from_iter_values(changes.iter().map(|(_, w)| *w))),
    }
}

fn side(layout: Layout) -> JoinSide {
    let stream_key = match layout {
        Layout::Unique => Some(vec![0]),
        Layout::Keyed => Some(vec![1]),
        Layout::Log | Layout::Multiset => None,
    };
    JoinSide { schema: schema(), key: vec![0], stream_key, append_only: layout == Layout::Log }
}

fn spec(left: JoinSide, right: JoinSide, null_safe: bool) -> JoinSpec {
    spec_of(JoinKind::Inner, left, right, null_safe)
}

fn spec_of(kind: JoinKind, left: JoinSide, right: JoinSide, null_safe: bool) -> JoinSpec {
    let schema = schema();
    let fields = || schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
    let fields: Vec<Field> = match kind {
        JoinKind::Semi | JoinKind::Anti => fields().collect(),
        JoinKind::Mark => fields().chain([Field::new("mark", DataType::Boolean, false)]).collect(),
        _ => fields().chain(fields()).collect(),
    };
    JoinSpec {
        operator: 2,
        object: OBJECT,
        first_part: 1,
        kind,
        as_of_now: false,
        null_safe: vec![null_safe; left.key.len()],
        sides: [left, right],
        residual: None,
        output: Arc::new(Schema::new(fields)),
        time_key: None,
        timed_keys: Vec::new(),
        bounds: [None, None],
        ttl: None,
    }
}

/// Rows that a side holds, and how a random change becomes changes that its layout allows.
#[derive(Debug, Default)]
struct Model(BTreeMap<Row, i64>);

impl Model {
    fn change(&mut self, layout: Layout, row: &Row, insert: bool, out: &mut Vec<(Row, i64)>) {
        let same_key = |other: &Row| match layout {
            Layout::Unique => other.k == row.k,
            Layout::Keyed => other.id == row.id,
            Layout::Log => false,
            Layout::Multiset => !insert && other.k == row.k,
        };
        if let Some(old) = self.0.keys().find(|other| same_key(other)).cloned() {
            self.add(old, -1, out);
        }
        if insert || layout == Layout::Log {
            self.add(row.clone(), 1, out);
        }
    }

    fn add(&mut self, row: Row, weight: i64, out: &mut Vec<(Row, i64)>) {
        let total = self.0.entry(row.clone()).or_default();
        *total += weight;
        if *total == 0 {
            self.0.remove(&row);
        }
        out.push((row, weight));
    }
}

/// `left.ts <= right.ts AND right.ts <= left.ts + after`, of which one may be missing, and what it bounds.
fn bounded(from: bool, after_us: Option<i64>) -> (Residual, [Option<TimeBound>; 2]) {
    let Residual { condition, schema, columns, .. } = residual();
    let within = after_us.map(|us| {
        let span = ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, us * 1000)));
        let left = Arc::new(Column::new("ts", 0));
        let latest = Arc::new(BinaryExpr::new(left, Operator::Plus, Arc::new(Literal::new(span))));
        Arc::new(BinaryExpr::new(Arc::new(Column::new("ts", 1)), Operator::LtEq, latest)) as Arc<dyn PhysicalExpr>
    });
    let condition = match within {
        None => condition,
        Some(within) if !from => within,
        Some(within) => Arc::new(BinaryExpr::new(condition, Operator::And, within)),
    };
    let bound = |offset_us| TimeBound { column: 3, offset_us, passed_by: 3 };
    let bounds = [after_us.map(bound), from.then(|| bound(0))];
    (Residual { condition, schema, columns, text: "bounded".into() }, bounds)
}

/// `left.ts <= right.ts`.
fn residual() -> Residual {
    let (l, r) = (Arc::new(Column::new("ts", 0)), Arc::new(Column::new("ts", 1)));
    let time = schema().field(3).clone();
    Residual {
        condition: Arc::new(BinaryExpr::new(l, Operator::LtEq, r)),
        schema: Arc::new(Schema::new(vec![time.clone(), time])),
        columns: vec![(0, 3), (1, 3)],
        text: "left.ts <= right.ts".into(),
    }
}

fn expected(left: &Model, right: &Model, matches: impl Fn(&Row, &Row) -> bool) -> ZSet {
    expected_of(JoinKind::Inner, left, right, matches)
}

fn expected_of(kind: JoinKind, left: &Model, right: &Model, matches: impl Fn(&Row, &Row) -> bool) -> ZSet {
    let mut result = ZSet::new();
    let text = |row: &Row| rows(&delta(&[(row.clone(), 1)]).batch).remove(0);
    let nulls = || vec!["NULL".to_string(); 4];
    let mut put = |row: Vec<String>, weight: i64| *result.entry(row).or_default() += weight;
    let partners = |l: &Row| right.0.iter().filter(|(r, _)| matches(l, r)).collect::<Vec<_>>();
    for (l, lw) in &left.0 {
        let partners = partners(l);
        let matched = !partners.is_empty();
        match kind {
            JoinKind::Semi if matched => put(text(l), *lw),
            JoinKind::Anti if !matched => put(text(l), *lw),
            JoinKind::Mark => put([text(l), vec![matched.to_string()]].concat(), *lw),
            JoinKind::Semi | JoinKind::Anti => {}
            JoinKind::Left | JoinKind::Full if !matched => put([text(l), nulls()].concat(), *lw),
            _ => partners.iter().for_each(|(r, rw)| put([text(l), text(r)].concat(), lw * **rw)),
        }
    }
    if matches!(kind, JoinKind::Right | JoinKind::Full) {
        for (r, rw) in right.0.iter().filter(|(r, _)| !left.0.keys().any(|l| matches(l, r))) {
            put([nulls(), text(r)].concat(), *rw);
        }
    }
    result
}

fn any_kind() -> impl Strategy<Value = JoinKind> {
    use JoinKind::{Anti, Full, Inner, Left, Mark, Right, Semi};
    proptest::sample::select(vec![Inner, Left, Right, Full, Semi, Anti, Mark])
}

fn any_row() -> impl Strategy<Value = Row> {
    (proptest::option::weighted(0.9, 0..4i32), 0..8i64, proptest::option::of("[ab]"), 0..6i64)
        .prop_map(|(k, id, v, ts)| Row { k, id, v, ts: ts * 10 })
}

fn any_layout() -> impl Strategy<Value = Layout> {
    prop_oneof![Just(Layout::Unique), Just(Layout::Keyed), Just(Layout::Log), Just(Layout::Multiset)]
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

type Step = (bool, Row, bool);

proptest! {
    #![proptest_config(Config { cases: 192, ..Config::default() })]

    #[test]
    fn the_join_follows_both_sides(
        kind in any_kind(),
        has_residual in any::<bool>(),
        has_ttl in any::<bool>(),
        layouts in (any_layout(), any_layout()),
        null_safe in any::<bool>(),
        cache in prop_oneof![Just(0usize), Just(600), Just(1 << 20)],
        epochs in proptest::collection::vec((proptest::collection::vec((any::<bool>(), any_row(), proptest::bool::weighted(0.7)), 0..10), any_after()), 1..8),
    ) {
        let (left, right) = layouts;
        let mut spec = spec_of(kind, side(left), side(right), null_safe);
        spec.residual = has_residual.then(residual);
        // Longer than the run: rows are stored otherwise, and stay.
        spec.ttl = has_ttl.then_some(TtlSpec { ttl_us: 1 << 40, part: 9 });
        let only_grows = spec.append_only();
        let mut operator = Join::new(spec).unwrap().with_cache_bytes(cache);
        prop_assert_eq!((operator.sides[0].layout, operator.sides[1].layout), layouts);
        let mut harness = Harness::new();
        let (mut left_rows, mut right_rows) = (Model::default(), Model::default());
        let mut shown = ZSet::new();
        for (steps, after) in &epochs {
            let steps: &Vec<Step> = steps;
            let (mut l, mut r) = (Vec::new(), Vec::new());
            for (to_left, row, insert) in steps {
                match to_left {
                    true => left_rows.change(left, row, *insert, &mut l),
                    false => right_rows.change(right, row, *insert, &mut r),
                }
            }
            let (first, second) = l.split_at(l.len() / 2);
            let inputs = [vec![delta(first), delta(second)], vec![delta(&r)]];
            let outcome = harness.epoch(&mut operator, &inputs, &[], *after);
            prop_assert_eq!(outcome.expired, 0);
            if only_grows {
                prop_assert!(outcome.deltas.iter().all(|d| d.weights.is_none()));
            }
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            let matches = |l: &Row, r: &Row| {
                l.k == r.k && (null_safe || l.k.is_some()) && (!has_residual || l.ts <= r.ts)
            };
            prop_assert_eq!(&shown, &expected_of(kind, &left_rows, &right_rows, matches));
        }
    }

    #[test]
    fn rows_that_both_watermarks_passed_are_freed(
        layouts in (any_layout(), any_layout()),
        epochs in proptest::collection::vec((proptest::collection::vec((any::<bool>(), any_row(), proptest::bool::weighted(0.7)), 0..10), any_after(), 0..25i64, 0..25i64), 1..8),
    ) {
        // The key is (k, ts) on both sides; a side of layout Unique is so on k alone, which is fine.
        let with_time = |layout| JoinSide { key: vec![0, 3], ..side(layout) };
        let mut spec = spec(with_time(layouts.0), with_time(layouts.1), false);
        spec.time_key = Some(1);
        spec.timed_keys = vec![1];
        let mut operator = Join::new(spec).unwrap().with_cache_bytes(600);
        let layouts = (operator.sides[0].layout, operator.sides[1].layout);
        let mut harness = Harness::new();
        let (mut all, mut counted) = ([Model::default(), Model::default()], [Model::default(), Model::default()]);
        let mut shown = ZSet::new();
        let mut current = [0, 0];
        let mut committed: Option<[i64; 2]> = None;
        for (steps, after, left_advance, right_advance) in &epochs {
            let mut changes = [Vec::new(), Vec::new()];
            for (to_left, row, insert) in steps {
                let side = usize::from(!to_left);
                let layout = if side == 0 { layouts.0 } else { layouts.1 };
                all[side].change(layout, row, *insert, &mut changes[side]);
            }
            current = [current[0] + left_advance, current[1] + right_advance];
            let port = |side: usize| {
                let of = |w| vec![None, None, None, w];
                PortWatermarks { committed: of(committed.map(|c| c[side])), current: of(Some(current[side])) }
            };
            let inputs = [vec![delta(&changes[0])], vec![delta(&changes[1])]];
            let outcome = harness.epoch(&mut operator, &inputs, &[port(0), port(1)], *after);
            let bound = committed.map(|c| c[0].min(c[1]));
            let before: Vec<BTreeMap<Row, i64>> = counted.iter().map(|m| m.0.clone()).collect();
            let mut late = 0;
            for side in 0..2 {
                for (row, weight) in &changes[side] {
                    if bound.is_some_and(|b| row.ts < b) {
                        late += 1;
                    } else {
                        counted[side].add(row.clone(), *weight, &mut Vec::new());
                    }
                }
            }
            prop_assert_eq!(outcome.late.iter().map(|l| l.rows.rows()).sum::<usize>(), late);
            let matches = |l: &Row, r: &Row| l.k == r.k && l.k.is_some() && l.ts == r.ts;
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            prop_assert_eq!(&shown, &expected(&counted[0], &counted[1], matches), "before {:?}", before);
            let passed = current[0].min(current[1]);
            for (side, model) in counted.iter().enumerate() {
                let open = model.0.iter().filter(|(row, _)| row.ts >= passed && row.k.is_some());
                let layout = if side == 0 { layouts.0 } else { layouts.1 };
                let rows = if layout == Layout::Log { open.map(|(_, w)| *w as usize).sum() } else { open.count() };
                prop_assert_eq!(harness.stored_rows(1 + side as u16), rows);
            }
            committed = Some(current);
        }
    }
}

proptest! {
    #![proptest_config(Config { cases: 96, ..Config::default() })]

    #[test]
    fn a_bound_on_time_forgets_rows(
        kind in any_kind(),
        layouts in (any_layout(), any_layout()),
        bounds in prop_oneof![Just((true, None)), (any::<bool>(), (0..12i64).prop_map(Some))],
        epochs in proptest::collection::vec((proptest::collection::vec((any::<bool>(), any_row(), proptest::bool::weighted(0.7)), 0..10), any_after(), 0..9i64, 0..9i64), 1..8),
    ) {
        let mut spec = spec_of(kind, side(layouts.0), side(layouts.1), false);
        let (residual, bounds) = bounded(bounds.0, bounds.1);
        if bounds.contains(&None) {
            // What is taken back at any time must find what it has met.
            spec.sides.iter_mut().for_each(|side| side.append_only = true);
        }
        let append_only = spec.sides.each_ref().map(|side| side.append_only);
        (spec.residual, spec.bounds) = (Some(residual.clone()), bounds);
        let bounded_columns = spec.bounded_columns();
        let offset_us = bounds[0].map(|bound| bound.offset_us);
        let mut operator = Join::new(spec).unwrap().with_cache_bytes(600);
        let mut harness = Harness::new();
        let (mut all, mut counted) = ([Model::default(), Model::default()], [Model::default(), Model::default()]);
        let mut shown = ZSet::new();
        let mut current = [0, 0];
        let mut committed: Option<[i64; 2]> = None;
        // The time that all the timestamps in bounds have passed.
        let passed = |watermarks: [i64; 2]| {
            (0..2).filter(|side| bounds[1 - side].is_some()).map(|side| watermarks[side]).min().unwrap()
        };
        for (steps, after, left_advance, right_advance) in &epochs {
            let mut changes = [Vec::new(), Vec::new()];
            for (to_left, row, insert) in steps {
                let side = usize::from(!to_left);
                match append_only[side] {
                    // With keys of its own, if it has one.
                    true => {
                        let row = Row { id: all[side].0.len() as i64 + 100, ..row.clone() };
                        let layout = if side == 0 { layouts.0 } else { layouts.1 };
                        let taken = all[side].0.keys().any(|other| layout == Layout::Unique && other.k == row.k);
                        if !taken {
                            all[side].add(row, 1, &mut changes[side]);
                        }
                    }
                    false => {
                        let layout = if side == 0 { layouts.0 } else { layouts.1 };
                        all[side].change(layout, row, *insert, &mut changes[side]);
                    }
                }
            }
            current = [current[0] + left_advance, current[1] + right_advance];
            let port = |side: usize| {
                let of = |w| vec![None, None, None, w];
                PortWatermarks { committed: of(committed.map(|c| c[side])), current: of(Some(current[side])) }
            };
            let inputs = [vec![delta(&changes[0])], vec![delta(&changes[1])]];
            let outcome = harness.epoch(&mut operator, &inputs, &[port(0), port(1)], *after);
            let bound = committed.map(passed);
            let mut late = 0;
            for side in 0..2 {
                for (row, weight) in &changes[side] {
                    if bounds[1 - side].is_some() && bound.is_some_and(|b| row.ts < b) {
                        late += 1;
                    } else {
                        counted[side].add(row.clone(), *weight, &mut Vec::new());
                    }
                }
            }
            prop_assert_eq!(outcome.late.iter().map(|l| l.rows.rows()).sum::<usize>(), late);
            let matches = |l: &Row, r: &Row| {
                l.k == r.k && l.k.is_some()
                    && (bounds[1].is_none() || l.ts <= r.ts) && offset_us.is_none_or(|us| r.ts <= l.ts + us)
            };
            if let Some(committed) = committed {
                for delta in &outcome.deltas {
                    for (column, lag_us) in &bounded_columns {
                        let times = delta.batch.column(*column).as_primitive::<TimestampMicrosecondType>();
                        prop_assert!(times.iter().flatten().all(|ts| ts >= passed(committed) - lag_us));
                    }
                }
            }
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            prop_assert_eq!(&shown, &expected_of(kind, &counted[0], &counted[1], matches));
            // Compactions may come at any time.
            harness.compact();
            committed = Some(current);
        }
    }
}

fn numbered(n: i64, k: i32) -> Vec<(Row, i64)> {
    (0..n).map(|id| (Row { k: Some(k), id, v: Some("x".into()), ts: 0 }, 1)).collect()
}

#[test]
fn a_large_result_comes_in_chunks() {
    let mut operator = Join::new(spec(side(Layout::Log), side(Layout::Keyed), false)).unwrap();
    let mut harness = Harness::new();
    // More rows of one key than are cached.
    let outcome = harness.epoch(&mut operator, &[vec![], vec![delta(&numbered(9_000, 1))]], &[], After::Commit);
    assert!(outcome.deltas.is_empty());
    for after in [After::Reset, After::Commit] {
        let outcome = harness.epoch(&mut operator, &[vec![delta(&numbered(3, 1))], vec![]], &[], after);
        assert_eq!(outcome.deltas.iter().map(Delta::rows).sum::<usize>(), 27_000);
        assert!(outcome.deltas.iter().all(|d| d.rows() <= super::CHUNK_ROWS));
    }
}

#[test]
fn without_join_columns_every_pair_matches() {
    let no_key = |layout| JoinSide { key: Vec::new(), ..side(layout) };
    // An empty stream key is that of a relation with one row, such as an aggregate over everything.
    let single = JoinSide { stream_key: Some(Vec::new()), ..no_key(Layout::Keyed) };
    let mut operator = Join::new(spec(no_key(Layout::Keyed), single, false)).unwrap();
    let mut harness = Harness::new();
    let mut shown = ZSet::new();
    let mut step = |left: Vec<(Row, i64)>, right: Vec<(Row, i64)>| {
        let outcome = harness.epoch(&mut operator, &[vec![delta(&left)], vec![delta(&right)]], &[], After::Commit);
        outcome.deltas.iter().for_each(|d| add(&mut shown, d));
        shown.len()
    };
    assert_eq!(step(numbered(3, 1), numbered(1, 2)), 3);
    let mut replaced = numbered(1, 2);
    replaced[0].1 = -1;
    replaced.extend(numbered(1, 5));
    assert_eq!(step(Vec::new(), replaced), 3);
    assert_eq!(step(numbered(4, 7), Vec::new()), 7);
    assert!(shown.keys().all(|row| row[4] == "5"));
}

#[test]
fn a_result_beyond_the_limit_is_refused() {
    let operator = Join::new(spec(side(Layout::Log), side(Layout::Log), false)).unwrap();
    let mut operator = operator.with_output_rows_max(99);
    let dir = tempfile::tempdir().unwrap();
    let store = crate::state::Store::open(&crate::state::StoreOptions::new(dir.path())).unwrap();
    let mut state = crate::state::State::new(store);
    let (mut errors, mut late, mut expired) = (Vec::new(), Vec::new(), 0);
    let mut context = EpochContext {
        epoch: 1,
        now_us: 0,
        object: OBJECT,
        state: &mut state,
        watermarks: &[],
        shard: Shard::ONLY,
        errors: &mut errors,
        late: &mut late,
        expired: &mut expired,
    };
    let rows = || vec![delta(&numbered(10, 1))];
    let error = operator.run(vec![rows(), rows()], &mut context).unwrap_err();
    assert_eq!(error.sqlstate(), "54000");
    operator.reset();
    context.state.discard(OBJECT.0);
    let delta_rows = vec![delta(&numbered(9, 1))];
    let output = operator.run(vec![rows(), delta_rows], &mut context).unwrap();
    assert_eq!(output.iter().map(Delta::rows).sum::<usize>(), 90);
}

#[test]
fn the_result_has_the_keys_of_both_sides() {
    let key = |l, r| spec(side(l), side(r), false).stream_key();
    assert_eq!(key(Layout::Keyed, Layout::Keyed), Some(vec![1, 5]));
    assert_eq!(key(Layout::Keyed, Layout::Unique), Some(vec![1]));
    assert_eq!(key(Layout::Unique, Layout::Keyed), Some(vec![5]));
    assert_eq!(key(Layout::Log, Layout::Unique), None);
    let key = |kind, l, r| spec_of(kind, side(l), side(r), false).stream_key();
    assert_eq!(key(JoinKind::Left, Layout::Keyed, Layout::Unique), Some(vec![1]));
    assert_eq!(key(JoinKind::Right, Layout::Keyed, Layout::Unique), Some(vec![1, 4]));
    assert_eq!(key(JoinKind::Full, Layout::Keyed, Layout::Keyed), Some(vec![1, 5]));
    // Unmatched rows of both sides could be all NULL in the keys.
    assert_eq!(key(JoinKind::Full, Layout::Unique, Layout::Unique), None);
    assert_eq!(key(JoinKind::Anti, Layout::Keyed, Layout::Log), Some(vec![1]));
}

#[test]
fn a_condition_that_fails_on_a_pair_is_an_error_of_that_pair() {
    let divide = BinaryExpr::new(Arc::new(Column::new("id", 0)), Operator::Divide, Arc::new(Column::new("id", 1)));
    let one = Arc::new(Literal::new(ScalarValue::Int64(Some(1))));
    let id = schema().field(1).clone();
    let mut spec = spec_of(JoinKind::Left, side(Layout::Keyed), side(Layout::Keyed), false);
    spec.residual = Some(Residual {
        condition: Arc::new(BinaryExpr::new(Arc::new(divide), Operator::GtEq, one)),
        schema: Arc::new(Schema::new(vec![id.clone(), id])),
        columns: vec![(0, 1), (1, 1)],
        text: "left.id / right.id >= 1".into(),
    });
    let mut operator = Join::new(spec).unwrap();
    let mut harness = Harness::new();
    let row = |id| Row { k: Some(1), id, v: None, ts: 0 };
    let mut shown = ZSet::new();
    let mut step = |left: &[(Row, i64)], right: &[(Row, i64)]| {
        let outcome = harness.epoch(&mut operator, &[vec![delta(left)], vec![delta(right)]], &[], After::Commit);
        outcome.deltas.iter().for_each(|d| add(&mut shown, d));
        assert!(outcome.errors.iter().all(|e| e.sqlstate == "22012"));
        (shown.len(), outcome.errors.iter().map(|e| e.weight).sum::<i64>())
    };
    assert_eq!(step(&[(row(4), 1), (row(6), 1)], &[(row(2), 1), (row(0), 1)]), (2, 2));
    assert_eq!(step(&[(row(4), -1)], &[]), (1, -1));
    assert_eq!(step(&[], &[(row(0), -1)]), (1, -1));
    assert_eq!(step(&[], &[(row(2), -1)]), (1, 0));
    assert!(shown.keys().all(|row| row[5] == "NULL"));
}

#[test]
fn as_of_now_left_rows_meet_the_right_side_once() {
    for kind in [JoinKind::Inner, JoinKind::Left] {
        let mut spec = spec_of(kind, side(Layout::Log), side(Layout::Unique), false);
        spec.as_of_now = true;
        assert!(spec.append_only());
        let mut operator = Join::new(spec).unwrap();
        let mut harness = Harness::new();
        let mut shown = ZSet::new();
        let mut step = |left: &[(Row, i64)], right: &[(Row, i64)], after| {
            let outcome = harness.epoch(&mut operator, &[vec![delta(left)], vec![delta(right)]], &[], after);
            assert!(outcome.deltas.iter().all(|d| d.weights.is_none()));
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            let mut ids: Vec<(String, String)> = shown.keys().map(|row| (row[1].clone(), row[5].clone())).collect();
            ids.sort();
            (ids, harness.stored_rows(1))
        };
        let row = |id, k| Row { k: Some(k), id, v: None, ts: 0 };
        let pair = |l: &str, r: &str| (l.to_string(), r.to_string());
        let unmatched = |l: &str| (kind == JoinKind::Left).then(|| pair(l, "NULL"));
        let first: Vec<_> = [Some(pair("1", "10")), unmatched("2")].into_iter().flatten().collect();
        assert_eq!(step(&[(row(1, 1), 1), (row(2, 2), 1)], &[(row(10, 1), 1)], After::Reopen), (first.clone(), 0));
        // Neither a change nor a late partner restates what was put out.
        let changes = [(row(10, 1), -1), (row(11, 1), 1), (row(12, 2), 1)];
        assert_eq!(step(&[], &changes, After::FailOnce), (first.clone(), 0));
        let mut second = [first, vec![pair("3", "11"), pair("4", "12")]].concat();
        second.sort();
        assert_eq!(step(&[(row(3, 1), 1), (row(4, 2), 1)], &[], After::Commit), (second, 0));
    }
}

/// Rows that are not written for long go; what came of them stays, and later changes meet only what is left.
#[test]
fn rows_are_forgotten() {
    let row = |k: i32, id: i64| Row { k: Some(k), id, v: None, ts: 0 };
    for (has_residual, after) in
        [(false, After::Commit), (true, After::Commit), (false, After::Reopen), (true, After::FailOnce)]
    {
        let mut spec = spec_of(JoinKind::Left, side(Layout::Keyed), side(Layout::Keyed), false);
        spec.residual = has_residual.then(residual);
        spec.ttl = Some(TtlSpec { ttl_us: 1600, part: 9 });
        let mut operator = Join::new(spec).unwrap();
        let mut harness = Harness::new();
        let mut epoch = |now_us: i64, left: &[(Row, i64)], right: &[(Row, i64)]| {
            harness.now_us = now_us;
            let inputs = [vec![delta(left)], vec![delta(right)]];
            let outcome = harness.epoch(&mut operator, &inputs, &[], after);
            let mut shown = ZSet::new();
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            // Ids of both sides.
            let pairs: Vec<(String, String, i64)> =
                shown.into_iter().map(|(row, weight)| (row[1].clone(), row[5].clone(), weight)).collect();
            (pairs, outcome.expired, [1, 2, 4, 9].map(|part| harness.stored_rows(part)))
        };
        let pair = |l: &str, r: &str, weight: i64| (l.to_string(), r.to_string(), weight);
        let keys = usize::from(!has_residual);
        let made = epoch(0, &[(row(1, 1), 1)], &[(row(1, 2), 1)]);
        assert_eq!(made, (vec![pair("1", "2", 1)], 0, [1, 1, keys, 2]));
        assert_eq!(epoch(1000, &[(row(1, 3), 1)], &[]), (vec![pair("3", "2", 1)], 0, [2, 1, keys, 3]));
        assert_eq!(epoch(1699, &[], &[]).2, [2, 1, keys, 3]);
        assert_eq!(epoch(1700, &[], &[]), (vec![], 0, [1, 0, 0, 1]));
        // Neither the left row nor the right one is known any more.
        assert_eq!(epoch(1750, &[(row(1, 1), -1)], &[(row(1, 2), -1)]), (vec![], 2, [1, 0, 0, 1]));
        let (pairs, ..) = epoch(1800, &[(row(1, 4), 1)], &[]);
        assert_eq!(pairs, [pair("4", "NULL", 1)]);
        let (pairs, _, stored) = epoch(1900, &[], &[(row(1, 5), 1)]);
        for expected in [pair("3", "5", 1), pair("4", "5", 1), pair("4", "NULL", -1)] {
            assert!(pairs.contains(&expected), "{pairs:?}");
        }
        assert_eq!(stored[..3], [2, 1, keys]);
        assert_eq!(epoch(9000, &[], &[]), (vec![], 0, [0, 0, 0, 0]));
    }
}
