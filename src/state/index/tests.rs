use std::collections::BTreeMap;

use datafusion::arrow::array::{AsArray, Float64Array, Int32Array, StringViewArray};
use datafusion::arrow::datatypes::{Field, Int32Type, Schema};
use proptest::prelude::{ProptestConfig, Strategy, any, prop, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Just;

use super::*;
use crate::state::{Store, StoreOptions};

const RELATION: TableId = TableId::new(20_000, 0);
const INDEX: TableId = TableId::new(20_001, 0);

/// Rows `(id, a, b)`.
type Row = (i32, Option<i32>, Option<String>);

fn relation(layout: Layout) -> Arc<Relation> {
    let fields = vec![
        Field::new("id", DataType::Int32, false),
        Field::new("a", DataType::Int32, true),
        Field::new("b", DataType::Utf8View, true),
    ];
    Arc::new(Relation::new(RELATION, Arc::new(Schema::new(fields)), layout).unwrap())
}

fn batch(relation: &Relation, rows: &[Row]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| Some(r.0)).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|r| r.1).collect::<Int32Array>()),
        Arc::new(rows.iter().map(|r| r.2.as_deref()).collect::<StringViewArray>()),
    ];
    RecordBatch::try_new(relation.schema().clone(), columns).unwrap()
}

fn rows_of(batches: impl Iterator<Item = Result<RecordBatch>>) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        let (id, a, b) = (
            batch.column(0).as_primitive::<Int32Type>(),
            batch.column(1).as_primitive::<Int32Type>(),
            batch.column(2).as_string_view(),
        );
        rows.extend((0..batch.num_rows()).map(|i| {
            let a = a.is_valid(i).then(|| a.value(i));
            (id.value(i), a, b.is_valid(i).then(|| b.value(i).to_string()))
        }));
    }
    rows
}

struct Kept {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    state: State,
    relation: Arc<Relation>,
    index: Index,
}

impl Kept {
    /// An index by `(a, b)`.
    fn new(layout: Layout) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions::new(dir.path())).unwrap();
        let state = State::new(store.clone());
        let relation = relation(layout);
        let index = Index::new(INDEX, relation.clone(), vec![1, 2]).unwrap();
        Self { _dir: dir, store, state, relation, index }
    }

    fn apply(&mut self, rows: &[Row], weights: Option<&[i64]>) {
        let batch = batch(&self.relation, rows);
        let weights = weights.map(|w| Int64Array::from(w.to_vec()));
        self.relation.apply(&mut self.state, &batch, weights.as_ref()).unwrap();
        self.index.apply(&mut self.state, &batch, weights.as_ref()).unwrap();
    }

    fn commit(&mut self) -> Arc<Snapshot> {
        let frozen = self.state.freeze().unwrap();
        self.store.commit(&frozen, false).unwrap();
        self.state.committed();
        self.store.snapshot().unwrap()
    }

    fn read(&self, snapshot: &Arc<Snapshot>, ranges: Vec<KeyRange>) -> Vec<Row> {
        rows_of(self.index.scan(snapshot, ranges))
    }
}

fn int(value: i32) -> ArrayRef {
    Arc::new(Int32Array::from(vec![value]))
}

fn text(value: &str) -> ArrayRef {
    Arc::new(StringViewArray::from(vec![value]))
}

fn row(id: i32, a: Option<i32>, b: Option<&str>) -> Row {
    (id, a, b.map(str::to_string))
}

#[test]
fn rows_are_found_in_every_layout() {
    for layout in [Layout::Keyed(vec![0]), Layout::Counted, Layout::Segments] {
        let mut kept = Kept::new(layout.clone());
        kept.apply(
            &[
                row(1, Some(7), Some("x")),
                row(2, Some(-3), None),
                row(3, None, Some("y")),
                row(4, Some(7), Some("")),
                row(5, Some(300), Some("a")),
            ],
            None,
        );
        if layout != Layout::Segments {
            // An update that changes an indexed column, and one that changes none.
            let (old, new) = (row(1, Some(7), Some("x")), row(1, Some(8), Some("x")));
            kept.apply(&[old, new], Some(&[-1, 1]));
            kept.apply(&[row(4, Some(7), Some("")), row(4, Some(7), Some(""))], Some(&[-1, 1]));
        } else {
            kept.apply(&[row(1, Some(8), Some("x"))], None);
        }
        let snapshot = kept.commit();
        let seven = kept.read(&snapshot, key_ranges(&[int(7)], 1, None).unwrap());
        assert_eq!(seven.iter().filter(|r| r.0 != 1).cloned().collect::<Vec<_>>(), [row(4, Some(7), Some(""))]);
        let eight = kept.read(&snapshot, key_ranges(&[int(8)], 1, None).unwrap());
        assert_eq!(eight, [row(1, Some(8), Some("x"))], "{layout:?}");
        let null: ArrayRef = Arc::new(Int32Array::from(vec![None::<i32>]));
        let null = kept.read(&snapshot, key_ranges(&[null], 1, None).unwrap());
        assert_eq!(null, [row(3, None, Some("y"))]);
        // In the order of the values; NULL is beyond no bound.
        let above = key_ranges(&[], 1, Some((Bound::Excluded(int(-3)), Bound::Unbounded))).unwrap();
        let above: Vec<i32> = kept.read(&snapshot, above).iter().filter_map(|r| r.1).collect();
        assert!(above.is_sorted() && !above.contains(&-3) && above.contains(&300), "{above:?}");
        let b = (Bound::Included(text("")), Bound::Excluded(text("x")));
        let both = kept.read(&snapshot, key_ranges(&[int(7)], 1, Some(b)).unwrap());
        assert_eq!(both, [row(4, Some(7), Some(""))]);
    }
}

#[test]
fn a_row_that_is_there_twice_is_found_twice() {
    let mut kept = Kept::new(Layout::Counted);
    let one = row(1, Some(7), None);
    kept.apply(&[one.clone(), one.clone()], None);
    kept.apply(std::slice::from_ref(&one), Some(&[1]));
    kept.apply(std::slice::from_ref(&one), Some(&[-1]));
    let snapshot = kept.commit();
    let ranges = || key_ranges(&[int(7)], 1, None).unwrap();
    assert_eq!(kept.read(&snapshot, ranges()), [one.clone(), one.clone()]);
    kept.apply(&[one.clone(), one.clone()], Some(&[-1, -1]));
    let snapshot = kept.commit();
    assert_eq!(kept.read(&snapshot, ranges()), []);
}

#[test]
fn an_index_built_later_is_the_one_kept_from_the_start() {
    for layout in [Layout::Keyed(vec![0]), Layout::Counted, Layout::Segments] {
        let mut kept = Kept::new(layout);
        kept.apply(&(0..20_000).map(|i| (i, Some(i % 13), Some(format!("t{}", i % 7)))).collect::<Vec<_>>(), None);
        kept.commit();
        kept.apply(&(20_000..20_100).map(|i| (i, None, None)).collect::<Vec<_>>(), None);
        let later = Index::new(TableId::new(20_002, 0), kept.relation.clone(), vec![1, 2]).unwrap();
        later.build(&mut kept.state, |_| Ok(())).unwrap();
        let snapshot = kept.commit();
        let entries = |table: TableId| -> BTreeMap<Vec<u8>, Vec<u8>> {
            snapshot.scan(table, Bound::Unbounded, Bound::Unbounded).map(Result::unwrap).collect()
        };
        assert_eq!(entries(INDEX).len(), 20_100);
        assert!(entries(INDEX) == entries(later.table()));
    }
}

#[test]
fn duplicates_are_told_and_nulls_are_none() {
    let mut kept = Kept::new(Layout::Keyed(vec![0]));
    kept.apply(&[row(1, None, Some("x")), row(2, None, Some("x")), row(3, Some(1), Some("x"))], None);
    assert_eq!(kept.index.duplicate(&kept.state).unwrap(), None);
    let values = kept.index.values(&batch(&kept.relation, &[row(9, Some(1), Some("x")), row(9, None, None)])).unwrap();
    assert!(kept.index.is_taken(&kept.state, values[0].as_deref().unwrap()).unwrap());
    assert_eq!(values[1], None);
    kept.apply(&[row(4, Some(1), Some("x"))], None);
    assert_eq!(kept.index.duplicate(&kept.state).unwrap().unwrap(), "(a, b)=(1, x)");
}

#[test]
fn floats_that_are_equal_are_one_range() {
    let floats = |values: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(values.to_vec())) };
    assert_eq!(key_ranges(&[floats(&[0.0, -0.0])], 2, None).unwrap().len(), 1);
    assert_eq!(key_ranges(&[floats(&[f64::NAN, -f64::NAN, 1.0])], 3, None).unwrap().len(), 2);
}

fn a_row() -> impl Strategy<Value = Row> {
    let text = prop_oneof![Just(None), "[a\\x00\u{ff}é]{0,3}".prop_map(Some)];
    (0..6, prop_oneof![Just(None), (-2..3).prop_map(Some), any::<i32>().prop_map(Some)], text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever rows come and go, a range of the index holds what a filter over all rows lets through.
    #[test]
    fn ranges_hold_what_filters_let_through(
        writes in prop::collection::vec((a_row(), any::<bool>()), 1..40),
        low in -3..4, high in -3..4,
        includes in any::<(bool, bool)>(),
    ) {
        let mut kept = Kept::new(Layout::Keyed(vec![0]));
        let mut model: BTreeMap<i32, Row> = BTreeMap::new();
        for (row, stays) in writes {
            if let Some(old) = model.remove(&row.0) {
                kept.apply(&[old], Some(&[-1]));
            }
            if stays {
                model.insert(row.0, row.clone());
                kept.apply(&[row], None);
            }
        }
        let snapshot = kept.commit();
        let bound = |value: i32, includes: bool| match includes {
            true => Bound::Included(int(value)),
            false => Bound::Excluded(int(value)),
        };
        let ranges = key_ranges(&[], 1, Some((bound(low, includes.0), bound(high, includes.1)))).unwrap();
        let mut found: Vec<Row> = match low <= high {
            true => kept.read(&snapshot, ranges),
            false => Vec::new(),
        };
        found.sort();
        let lets = |a: i32| (a > low || (includes.0 && a == low)) && (a < high || (includes.1 && a == high));
        let expected: Vec<Row> = model.values().filter(|r| r.1.is_some_and(lets)).cloned().collect();
        prop_assert_eq!(found, expected);
        let all = kept.read(&snapshot, vec![(Bound::Unbounded, Bound::Unbounded)]);
        prop_assert_eq!(all.len(), model.len());
    }
}
