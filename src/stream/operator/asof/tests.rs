//! The operator against a search over all rows.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use proptest::prelude::{Just, any, prop_assert_eq, prop_oneof, proptest};
use proptest::test_runner::Config;

use super::*;
use crate::stream::operator::PortWatermarks;
use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add};

type Row = (Option<i64>, Option<i64>, i64);

fn schema(width: usize) -> SchemaRef {
    let names = ["k", "t", "v", "rk", "rt", "rv"];
    Arc::new(Schema::new(names[..width].iter().map(|n| Field::new(*n, DataType::Int64, true)).collect::<Vec<_>>()))
}

fn delta(changes: &[(Row, i64)]) -> Delta {
    let column = |f: fn(&Row) -> Option<i64>| Arc::new(changes.iter().map(|(row, _)| f(row)).collect::<Int64Array>());
    let columns: Vec<ArrayRef> = vec![column(|r| r.0), column(|r| r.1), column(|r| Some(r.2))];
    let weights = Int64Array::from_iter_values(changes.iter().map(|c| c.1));
    Delta::new(RecordBatch::try_new(schema(3), columns).unwrap(), weights)
}

fn join(nearest: Nearest, is_outer: bool, keyed: bool, has_ttl: bool) -> AsofJoin {
    let side = || AsofSide { schema: schema(3), key: if keyed { vec![0] } else { Vec::new() }, time: 1 };
    let properties =
        EdgeProperties { schema: schema(6), append_only: false, stream_key: None, watermark_columns: Vec::new() };
    let sides = [side(), side()];
    let ttl = has_ttl.then_some(TtlSpec { ttl_us: 1600, part: 18 });
    AsofJoin::new(AsofSpec { object: OBJECT, first_part: 16, sides, nearest, is_outer, properties, ttl }).unwrap()
}

/// The match of a left row among all right rows.
fn nearest_of(left: &Row, right: &[Row], nearest: Nearest, keyed: bool) -> Option<Row> {
    let time = left.1?;
    let eligible =
        right.iter().filter(|r| !keyed || (r.0.is_some() && r.0 == left.0)).filter(|r| match (r.1, nearest) {
            (None, _) => false,
            (Some(t), Nearest::Before) => t < time,
            (Some(t), Nearest::NotAfter) => t <= time,
            (Some(t), Nearest::After) => t > time,
            (Some(t), Nearest::NotBefore) => t >= time,
        });
    // NULL is the greatest of a column.
    let order = |r: &&Row| {
        let distance = (r.1.unwrap_or_default() - time).abs();
        (-distance, r.0.is_none(), r.0, r.2)
    };
    eligible.max_by_key(order).copied()
}

fn expected(left: &[Row], right: &[Row], nearest: Nearest, is_outer: bool, keyed: bool) -> ZSet {
    let text = |v: Option<i64>| v.map_or("NULL".to_string(), |v| v.to_string());
    let mut rows = ZSet::new();
    for row in left {
        let found = nearest_of(row, right, nearest, keyed);
        if found.is_none() && !is_outer {
            continue;
        }
        let left = [text(row.0), text(row.1), text(Some(row.2))];
        let right = found.map_or(vec!["NULL".to_string(); 3], |r| vec![text(r.0), text(r.1), text(Some(r.2))]);
        *rows.entry(left.into_iter().chain(right).collect()).or_default() += 1;
    }
    rows
}

/// A row, or by `dice` one of `rows` taken back.
fn change(rows: &mut Vec<Row>, row: Row, dice: u8) -> (Row, i64) {
    if dice < 90 && !rows.is_empty() {
        return (rows.swap_remove(usize::from(dice) % rows.len()), -1);
    }
    rows.push(row);
    (row, 1)
}

proptest! {
    #![proptest_config(Config { cases: 96, ..Config::default() })]

    #[test]
    fn each_row_has_its_nearest(
        nearest in prop_oneof![Just(Nearest::Before), Just(Nearest::NotAfter), Just(Nearest::After), Just(Nearest::NotBefore)],
        is_outer in any::<bool>(),
        keyed in proptest::bool::weighted(0.8),
        has_ttl in any::<bool>(),
        epochs in proptest::collection::vec(
            (proptest::collection::vec(
                (any::<bool>(), proptest::option::weighted(0.9, 0i64..3), proptest::option::weighted(0.9, -8i64..8), 0i64..3,
                 any::<u8>()), 0..8),
             prop_oneof![3 => Just(After::Commit), 1 => Just(After::CommitLater), 1 => Just(After::Reset),
                         1 => Just(After::Reopen), 1 => Just(After::FailOnce)]), 1..10),
    ) {
        let mut operator = join(nearest, is_outer, keyed, has_ttl);
        let mut harness = Harness::new();
        let (mut left, mut right): (Vec<Row>, Vec<Row>) = (Vec::new(), Vec::new());
        let mut result = ZSet::new();
        for (changes, after) in epochs {
            let (mut of_left, mut of_right) = (Vec::new(), Vec::new());
            for (is_left, k, t, v, dice) in changes {
                match is_left {
                    true => of_left.push(change(&mut left, (k, t, v), dice)),
                    false => of_right.push(change(&mut right, (k, t, v), dice)),
                }
            }
            let inputs = [vec![delta(&of_left)], vec![delta(&of_right)]];
            let marks = [PortWatermarks::default(), PortWatermarks::default()];
            let outcome = harness.epoch(&mut operator, &inputs, &marks, after);
            outcome.deltas.iter().for_each(|delta| add(&mut result, delta));
            prop_assert_eq!(&result, &expected(&left, &right, nearest, is_outer, keyed));
        }
    }
}

/// Rows that are not written for long go from both sides; what they came to stays, and later rows meet what is left.
#[test]
fn rows_are_forgotten() {
    for after in [After::Commit, After::CommitLater, After::Reset, After::Reopen, After::FailOnce] {
        let mut operator = join(Nearest::NotAfter, true, true, true);
        let mut harness = Harness::new();
        let mut epoch = |now_us: i64, left: &[(Row, i64)], right: &[(Row, i64)]| {
            harness.now_us = now_us;
            let outcome = harness.epoch(&mut operator, &[vec![delta(left)], vec![delta(right)]], &[], after);
            let mut shown = ZSet::new();
            outcome.deltas.iter().for_each(|d| add(&mut shown, d));
            // Times of both sides.
            let times: Vec<(String, String, i64)> =
                shown.into_iter().map(|(row, weight)| (row[1].clone(), row[4].clone(), weight)).collect();
            (times, outcome.expired, [16, 17, 18].map(|part| harness.stored_rows(part)))
        };
        let row = |t: i64| (Some(1), Some(t), 0);
        let pair = |l: &str, r: &str, weight: i64| (l.to_string(), r.to_string(), weight);
        assert_eq!(epoch(0, &[(row(5), 1)], &[(row(1), 1)]), (vec![pair("5", "1", 1)], 0, [1, 1, 2]));
        assert_eq!(epoch(1000, &[(row(7), 1)], &[]), (vec![pair("7", "1", 1)], 0, [2, 1, 3]));
        assert_eq!(epoch(1699, &[], &[]).2, [2, 1, 3]);
        assert_eq!(epoch(1700, &[], &[]), (vec![], 0, [1, 0, 1]), "{after:?}");
        assert_eq!(epoch(1750, &[(row(5), -1)], &[(row(1), -1)]), (vec![], 2, [1, 0, 3]));
        // The row of time 7 is known, its match is not.
        let (times, ..) = epoch(1800, &[], &[(row(6), 1)]);
        assert_eq!(times, [pair("7", "6", 1), pair("7", "NULL", -1)], "{after:?}");
        assert_eq!(epoch(9000, &[], &[]), (vec![], 0, [0, 0, 0]));
    }
}
