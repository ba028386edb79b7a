//! Column segments: every row once, in order, under its id, whatever was merged, truncated or projected.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};
use tempfile::TempDir;

use super::{RowId, Segment};
use crate::state::{Level, State, Store, StoreOptions, TableId, segments};

const TABLE: TableId = TableId::new(3, 1);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("s", DataType::Utf8View, true)]))
}

fn batch(numbers: std::ops::Range<i64>) -> RecordBatch {
    let text: StringViewArray =
        numbers.clone().map(|n| (n % 3 != 0).then(|| format!("a text of some length {n}"))).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(numbers)), Arc::new(text)]).unwrap()
}

/// Number and id of each row; checks that the text belongs to the number.
fn rows(segments: impl Iterator<Item = crate::error::Result<Segment>>) -> Vec<(i64, RowId)> {
    let mut out = Vec::new();
    for segment in segments {
        let Segment { batch: got, row_ids } = segment.unwrap();
        let numbers = got.column(0).as_primitive::<Int64Type>();
        for i in 0..got.num_rows() {
            let n = numbers.value(i);
            assert_eq!(got.slice(i, 1), batch(n..n + 1));
            out.push((n, RowId::from_i64(row_ids.value(i))));
        }
    }
    out
}

fn state(dir: &TempDir) -> State {
    let options = StoreOptions { memory_bytes: 16 << 20, write_buffer_bytes: 8 << 20, ..StoreOptions::new(dir.path()) };
    State::new(Store::open(&options).unwrap())
}

fn reopen(state: State, dir: &TempDir) -> Arc<Store> {
    let options = state.store().options().clone();
    assert_eq!(options.dir, dir.path());
    drop(state);
    Store::open(&options).unwrap()
}

fn commit(state: &mut State) {
    let frozen = state.freeze().unwrap();
    state.store().commit(&frozen, false).unwrap();
    state.committed();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rows_keep_their_ids(
        epochs in proptest::collection::vec((proptest::collection::vec(0i64..5, 0..4), any::<bool>()), 1..80),
        look in any::<u64>(),
    ) {
        let dir = TempDir::new().unwrap();
        let mut state = state(&dir);
        let mut expected: Vec<(i64, RowId)> = Vec::new();
        for (appends, pending) in epochs {
            let epoch = state.epoch();
            let mut ordinal = 0;
            for n in appends {
                let next = expected.len() as i64;
                let first = segments::append(&mut state, TABLE, &batch(next..next + n)).unwrap();
                prop_assert_eq!(first, RowId::new(epoch, ordinal));
                for i in 0..n {
                    expected.push((next + i, RowId::new(epoch, ordinal)));
                    ordinal += 1;
                }
            }
            if pending {
                prop_assert_eq!(&rows(segments::scan_state(&state, TABLE, &schema(), None, None, Level::Open).unwrap()), &expected);
            }
            commit(&mut state);
        }
        prop_assert_eq!(&rows(segments::scan_state(&state, TABLE, &schema(), None, None, Level::Committing).unwrap()), &expected);
        let snapshot = state.store().snapshot().unwrap();
        prop_assert_eq!(&rows(segments::scan_snapshot(&snapshot, TABLE, &schema(), None, None).unwrap()), &expected);
        if !expected.is_empty() {
            let at = look as usize % expected.len();
            let after = Some(expected[at].1);
            prop_assert_eq!(&rows(segments::scan_snapshot(&snapshot, TABLE, &schema(), None, after).unwrap()), &expected[at + 1..]);
            // Truncation keeps whole segments: at least all from that row on.
            state.truncate_below(TABLE, &expected[at].1.key());
            let left = rows(segments::scan_state(&state, TABLE, &schema(), None, None, Level::Open).unwrap());
            prop_assert_eq!(&left, &expected[expected.len() - left.len()..]);
            assert!(left.len() >= expected.len() - at);
        }
    }
}

#[test]
fn many_small_epochs_become_few_segments() {
    let dir = TempDir::new().unwrap();
    let mut state = state(&dir);
    let epochs = 600;
    for n in 0..epochs {
        segments::append(&mut state, TABLE, &batch(n..n + 1)).unwrap();
        match n {
            // What a failed commit takes away is appended again, to the same place.
            100 | 333 => {
                state.freeze().unwrap();
                segments::append(&mut state, TABLE, &batch(n + 1..n + 2)).unwrap();
                state.rollback();
                segments::append(&mut state, TABLE, &batch(n..n + 1)).unwrap();
            }
            // A restart forgets what it knew of small segments.
            200 => state = State::new(reopen(state, &dir)),
            _ => {}
        }
        if n == 200 {
            segments::append(&mut state, TABLE, &batch(n..n + 1)).unwrap();
        }
        commit(&mut state);
    }
    let all: Vec<Segment> =
        segments::scan_state(&state, TABLE, &schema(), None, None, Level::Open).unwrap().map(Result::unwrap).collect();
    assert!(all.len() < 40, "{} segments", all.len());
    assert_eq!(rows(all.into_iter().map(Ok)).len(), epochs as usize);
}

#[test]
fn a_large_batch_is_cut_and_projected() {
    let dir = TempDir::new().unwrap();
    let mut state = state(&dir);
    segments::append(&mut state, TABLE, &batch(0..100_000)).unwrap();
    let numbers = [1usize, 0];
    let all: Vec<Segment> = segments::scan_state(&state, TABLE, &schema(), Some(&numbers), None, Level::Open)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(all.len() > 2);
    assert_eq!(all.iter().map(|s| s.batch.num_rows()).sum::<usize>(), 100_000);
    assert_eq!(all[0].batch.schema().field(0).name(), "s");
    assert_eq!(all[0].batch.column(1).as_primitive::<Int64Type>().value(5), 5);
    let none: usize = segments::scan_state(&state, TABLE, &schema(), Some(&[]), None, Level::Open)
        .unwrap()
        .map(|s| s.unwrap().batch.num_rows())
        .sum();
    assert_eq!(none, 100_000);
}

#[test]
fn a_filtered_batch_does_not_drag_its_source_along() {
    let dir = TempDir::new().unwrap();
    let mut state = state(&dir);
    let whole = batch(0..10_000);
    let keep = (0..10_000).map(|i| Some(i == 17)).collect();
    let one = filter_record_batch(&whole, &keep).unwrap();
    segments::append(&mut state, TABLE, &one).unwrap();
    assert!(state.bytes() < 2000, "{} bytes for one row", state.bytes());
}

#[test]
fn old_segments_grow_columns() {
    let dir = TempDir::new().unwrap();
    let mut state = state(&dir);
    segments::append(&mut state, TABLE, &batch(0..3)).unwrap();
    let mut fields = schema().fields().to_vec();
    fields.push(Arc::new(Field::new("added", DataType::Boolean, true)));
    let wider: SchemaRef = Arc::new(Schema::new(fields));
    for projection in [None, Some([2usize, 0].as_slice())] {
        let scan = segments::scan_state(&state, TABLE, &wider, projection, None, Level::Open).unwrap();
        let segment = scan.map(Result::unwrap).next().unwrap();
        let added: &ArrayRef = segment.batch.column_by_name("added").unwrap();
        assert_eq!((added.len(), added.null_count()), (3, 3));
        assert_eq!(segment.batch.column_by_name("n").unwrap().as_primitive::<Int64Type>().values(), &[0, 1, 2]);
    }
}

#[test]
fn a_failed_view_starts_its_rows_again() {
    let dir = TempDir::new().unwrap();
    let mut state = state(&dir);
    segments::append(&mut state, TABLE, &batch(0..3)).unwrap();
    state.discard(TABLE.object);
    let first = segments::append(&mut state, TABLE, &batch(0..2)).unwrap();
    assert_eq!(first, RowId::new(state.epoch(), 0));
    assert_eq!(rows(segments::scan_state(&state, TABLE, &schema(), None, None, Level::Open).unwrap()).len(), 2);
}
