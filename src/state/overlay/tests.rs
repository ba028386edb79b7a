//! The whole of the state against a model of ordered maps, through commits, failures, restarts and compactions.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use rocksdb::IteratorMode;
use tempfile::TempDir;

use crate::state::{ByteRows, Level, Snapshot, State, Store, StoreOptions, TableId};

const TABLES: [TableId; 4] = [TableId::new(7, 0), TableId::new(7, 1), TableId::new(8, 0), TableId::new(9, u16::MAX)];
/// Never truncated, so that old snapshots of it stay whole.
const UNBOUNDED: TableId = TABLES[3];

type Rows = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

/// What the state should be.
#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    rows: Rows,
    bounds: BTreeMap<TableId, Vec<u8>>,
}

impl Model {
    fn write(&mut self, table: TableId, key: &[u8], value: Option<&[u8]>) {
        if self.bounds.get(&table).is_some_and(|bound| key < bound.as_slice()) {
            return;
        }
        match value {
            Some(value) => self.rows.insert((table, key.to_vec()), value.to_vec()),
            None => self.rows.remove(&(table, key.to_vec())),
        };
    }

    fn truncate_below(&mut self, table: TableId, key: &[u8]) {
        if self.bounds.get(&table).is_none_or(|bound| bound.as_slice() < key) {
            self.bounds.insert(table, key.to_vec());
        }
        self.rows.retain(|(t, k), _| *t != table || k.as_slice() >= key);
    }

    fn drop_object(&mut self, object: u32) {
        self.rows.retain(|(t, _), _| t.object != object);
        self.bounds.retain(|t, _| t.object != object);
    }

    fn restore(&mut self, object: u32, before: &Self) {
        self.drop_object(object);
        self.rows
            .extend(before.rows.iter().filter(|((t, _), _)| t.object == object).map(|(k, v)| (k.clone(), v.clone())));
        self.bounds.extend(before.bounds.iter().filter(|(t, _)| t.object == object).map(|(k, v)| (*k, v.clone())));
    }

    fn range(&self, table: TableId, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let after = |key: &[u8]| match from {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        let before = |key: &[u8]| match to {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        let inside = |(t, key): &(TableId, Vec<u8>)| *t == table && after(key) && before(key);
        self.rows.iter().filter(|(k, _)| inside(k)).map(|((_, k), v)| (k.clone(), v.clone())).collect()
    }
}

type Write = (Vec<u8>, Option<Vec<u8>>);

#[derive(Debug, Clone)]
enum Op {
    Write(usize, Write),
    Batch(usize, Vec<Write>),
    Truncate(usize, Vec<u8>),
    DropObject(usize),
    Discard(usize),
    Freeze,
    Commit {
        sync: bool,
    },
    /// Freezes, if nothing is frozen yet, and commits.
    Epoch,
    Rollback,
    Reopen,
    Compact,
    Flush,
    TakeSnapshot,
    Range(usize, Bound<Vec<u8>>, Bound<Vec<u8>>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![0u8..3, Just(0xff)], 0..4)
}

fn write() -> impl Strategy<Value = Write> {
    (key(), proptest::option::weighted(0.75, proptest::collection::vec(any::<u8>(), 0..6)))
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![key().prop_map(Bound::Included), key().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}

fn op() -> impl Strategy<Value = Op> {
    let table = 0..TABLES.len();
    prop_oneof![
        6 => (table.clone(), write()).prop_map(|(t, w)| Op::Write(t, w)),
        6 => (table.clone(), proptest::collection::vec(write(), 0..90)).prop_map(|(t, w)| Op::Batch(t, w)),
        4 => (0..TABLES.len() - 1, key()).prop_map(|(t, k)| Op::Truncate(t, k)),
        3 => table.clone().prop_map(Op::DropObject),
        1 => table.clone().prop_map(Op::Discard),
        3 => Just(Op::Freeze),
        3 => any::<bool>().prop_map(|sync| Op::Commit { sync }),
        6 => Just(Op::Epoch),
        1 => Just(Op::Rollback),
        3 => Just(Op::Reopen),
        1 => Just(Op::Compact),
        1 => Just(Op::Flush),
        2 => Just(Op::TakeSnapshot),
        4 => (table, bound(), bound()).prop_map(|(t, a, b)| Op::Range(t, a, b)),
    ]
}

fn as_ref(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn options(dir: &Path) -> StoreOptions {
    StoreOptions { memory_bytes: 16 << 20, write_buffer_bytes: 8 << 20, ..StoreOptions::new(dir) }
}

/// The state, its model at each level, and snapshots with what they should show.
struct Run {
    options: StoreOptions,
    state: State,
    open: Model,
    frozen: Option<Model>,
    committed: Model,
    epoch: u64,
    snapshots: Vec<(Arc<Snapshot>, u64, Model)>,
}

impl Run {
    fn new(options: StoreOptions) -> Self {
        let state = State::new(Store::open(&options).unwrap());
        let (open, committed) = (Model::default(), Model::default());
        Self { options, state, open, frozen: None, committed, epoch: 0, snapshots: Vec::new() }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write(table, (key, value)) => {
                match value {
                    Some(value) => self.state.put(TABLES[*table], key, value),
                    None => self.state.delete(TABLES[*table], key),
                }
                self.open.write(TABLES[*table], key, value.as_deref());
            }
            Op::Batch(table, writes) => {
                let keys: ByteRows = writes.iter().map(|(k, _)| k).collect();
                self.state.write_batch(TABLES[*table], &keys, |i| writes[i].1.as_deref());
                writes.iter().for_each(|(k, v)| self.open.write(TABLES[*table], k, v.as_deref()));
            }
            Op::Truncate(table, key) => {
                self.state.truncate_below(TABLES[*table], key);
                self.open.truncate_below(TABLES[*table], key);
            }
            Op::DropObject(table) => {
                self.state.drop_object(TABLES[*table].object);
                self.open.drop_object(TABLES[*table].object);
            }
            Op::Discard(table) => {
                let object = TABLES[*table].object;
                self.state.discard(object);
                self.open.restore(object, self.frozen.as_ref().unwrap_or(&self.committed));
            }
            Op::Freeze => match self.frozen {
                Some(_) => assert_eq!(self.state.freeze().unwrap_err().sqlstate(), "XX000"),
                None => {
                    let frozen = self.state.freeze().unwrap();
                    assert_eq!(frozen.epoch(), self.epoch + 1);
                    self.frozen = Some(self.open.clone());
                }
            },
            Op::Commit { sync } => {
                let Some(frozen) = self.state.frozen().cloned() else { return };
                self.state.store().commit(&frozen, *sync).unwrap();
                // Between the write and its announcement the frozen set and RocksDB both have it.
                self.check();
                // Writing it again changes nothing.
                self.state.store().commit(&frozen, false).unwrap();
                self.state.committed();
                self.epoch += 1;
                self.committed = self.frozen.take().unwrap();
            }
            Op::Epoch => {
                if self.frozen.is_none() {
                    self.apply(&Op::Freeze);
                }
                self.apply(&Op::Commit { sync: false });
            }
            Op::Rollback => {
                self.state.rollback();
                self.frozen = None;
                self.open = self.committed.clone();
            }
            Op::Reopen => {
                self.snapshots.clear();
                let identity = self.state.store().identity();
                // The old store is closed before the new one is opened: the directory is locked.
                let elsewhere = TempDir::new().unwrap();
                self.state = State::new(Store::open(&options(elsewhere.path())).unwrap());
                self.state = State::new(Store::open(&self.options).unwrap());
                assert_eq!(self.state.store().identity(), identity);
                self.frozen = None;
                self.open = self.committed.clone();
            }
            Op::Compact => self.state.store().compact(),
            Op::Flush => self.state.store().flush().unwrap(),
            Op::TakeSnapshot => {
                let snapshot = self.state.store().snapshot().unwrap();
                self.snapshots.push((snapshot, self.epoch, self.committed.clone()));
            }
            Op::Range(table, from, to) => {
                let table = TABLES[*table];
                let got: Vec<_> =
                    self.state.scan(table, as_ref(from), as_ref(to), Level::Open).map(Result::unwrap).collect();
                assert_eq!(got, self.open.range(table, as_ref(from), as_ref(to)));
                let snapshot = self.state.store().snapshot().unwrap();
                let got: Vec<_> = snapshot.scan(table, as_ref(from), as_ref(to)).map(Result::unwrap).collect();
                assert_eq!(got, self.committed.range(table, as_ref(from), as_ref(to)));
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.state.epoch(), self.epoch + 1 + u64::from(self.frozen.is_some()));
        let all = (Bound::Unbounded, Bound::Unbounded);
        let committing = self.frozen.as_ref().unwrap_or(&self.committed);
        for table in TABLES {
            for (level, model) in [(Level::Open, &self.open), (Level::Committing, committing)] {
                let got: Vec<_> = self.state.scan(table, all.0, all.1, level).map(Result::unwrap).collect();
                assert_eq!(got, model.range(table, all.0, all.1), "{table} {level:?}");
            }
            let mut keys: ByteRows = self.open.rows.keys().chain(self.committed.rows.keys()).map(|(_, k)| k).collect();
            keys.push(b"not there");
            keys.push(b"");
            let found = self.state.multi_get(table, &keys).unwrap();
            for (i, key) in keys.iter().enumerate() {
                let expected = self.open.rows.get(&(table, key.to_vec())).map(Vec::as_slice);
                assert_eq!(found.get(i), expected, "{table} {key:?}");
                assert_eq!(self.state.get(table, key).unwrap().as_deref(), expected);
            }
        }
    }

    fn check_snapshots(&self) {
        for (snapshot, epoch, model) in &self.snapshots {
            assert_eq!(snapshot.epoch(), *epoch);
            let got: Vec<_> =
                snapshot.scan(UNBOUNDED, Bound::Unbounded, Bound::Unbounded).map(Result::unwrap).collect();
            let expected = model.range(UNBOUNDED, Bound::Unbounded, Bound::Unbounded);
            assert_eq!(got, expected);
            let keys: ByteRows = expected.iter().rev().map(|(k, _)| k).collect();
            let found = snapshot.multi_get(UNBOUNDED, &keys).unwrap();
            assert!(found.iter().zip(expected.iter().rev()).all(|(got, (_, v))| got == Some(v)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_its_model(
        ops in proptest::collection::vec(op(), 1..60),
        spill_above in prop_oneof![Just(0usize), Just(2000), Just(usize::MAX)],
        spill_file_bytes in prop_oneof![Just(1usize), Just(300)],
    ) {
        let dir = TempDir::new().unwrap();
        let options = StoreOptions { max_write_set_bytes: spill_above, spill_file_bytes, ..options(dir.path()) };
        let mut run = Run::new(options);
        for op in &ops {
            run.apply(op);
            run.check();
        }
        run.check_snapshots();
    }
}

#[test]
fn a_dropped_object_takes_its_bounds_along() {
    let dir = TempDir::new().unwrap();
    let mut run = Run::new(options(dir.path()));
    for op in [
        Op::Write(0, (vec![1], Some(vec![1]))),
        Op::Truncate(0, vec![2]),
        Op::Epoch,
        Op::DropObject(0),
        Op::Write(0, (vec![1], Some(vec![3]))),
        Op::Epoch,
        Op::Compact,
        Op::Reopen,
        Op::Compact,
        Op::Truncate(0, vec![1]),
        Op::Epoch,
        Op::Reopen,
    ] {
        run.apply(&op);
        run.check();
    }
    assert_eq!(run.state.get(TABLES[0], &[1]).unwrap().as_deref(), Some([3].as_slice()));
}

#[test]
fn a_killed_process_leaves_one_whole_epoch() {
    let dir = TempDir::new().unwrap();
    let mut state = State::new(Store::open(&options(dir.path())).unwrap());
    for epoch in 1..=20u64 {
        for table in TABLES {
            state.put(table, b"epoch", &epoch.to_be_bytes());
        }
        let frozen = state.freeze().unwrap();
        state.store().commit(&frozen, false).unwrap();
        state.committed();
    }
    state.put(TABLES[0], b"epoch", b"open");
    state.freeze().unwrap();
    // A copy of the files while the store is open is what a kill leaves.
    let copy = TempDir::new().unwrap();
    copy_tree(dir.path(), copy.path());
    let store = Store::open(&options(copy.path())).unwrap();
    assert_eq!(store.epoch(), 20);
    let state = State::new(store);
    for table in TABLES {
        assert_eq!(state.get(table, b"epoch").unwrap().unwrap(), 20u64.to_be_bytes());
    }
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_directory_has_one_user_and_one_format() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&options(dir.path())).unwrap();
    let error = Store::open(&options(dir.path())).unwrap_err();
    assert_eq!(error.sqlstate(), "55006");
    assert_eq!(error.message(), format!("data directory \"{}\" is in use by another process", dir.path().display()));
    drop(store);
    fs::write(dir.path().join("FORMAT"), "9\n").unwrap();
    let error = Store::open(&options(dir.path())).unwrap_err();
    let expected = format!("data directory \"{}\" has format version 9, this server reads 1", dir.path().display());
    assert_eq!(error.message(), expected);
    fs::remove_file(dir.path().join("FORMAT")).unwrap();
    assert_eq!(Store::open(&options(dir.path())).unwrap_err().sqlstate(), "XX001");
}

#[test]
fn readers_beside_commits_see_whole_epochs() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&StoreOptions { max_write_set_bytes: 4000, ..options(dir.path()) }).unwrap();
    let mut state = State::new(store.clone());
    let table = TableId::new(5, 0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let snapshot = store.snapshot().unwrap();
                    let epoch = snapshot.epoch();
                    let rows: Vec<_> =
                        snapshot.scan(table, Bound::Unbounded, Bound::Unbounded).map(Result::unwrap).collect();
                    // Each epoch writes its own row twice and truncates those more than ten epochs old.
                    let first = epoch.saturating_sub(10).max(1);
                    let expected: Vec<_> =
                        (first..=epoch).map(|e| (e.to_be_bytes().to_vec(), b"row".to_vec())).collect();
                    // A compaction may take rows below a newer bound from under the snapshot, and no others.
                    let newest = store.epoch() + 1;
                    let gone = newest.saturating_sub(10).saturating_sub(first).min(expected.len() as u64) as usize;
                    let missing = expected.len() - rows.len().min(expected.len());
                    assert!(expected.ends_with(&rows) && missing <= gone, "epoch {epoch}, then {newest}: {rows:?}");
                }
            });
        }
        for epoch in 1..=300u64 {
            state.put(table, &epoch.to_be_bytes(), b"row");
            state.truncate_below(table, &epoch.saturating_sub(10).to_be_bytes());
            // Some epochs are large enough to be ingested as files.
            let filler = if epoch % 50 == 0 { 5000 } else { 10 };
            state.put(TableId::new(5, 1), b"filler", &vec![0; filler]);
            let frozen = state.freeze().unwrap();
            std::thread::scope(|commit| {
                commit.spawn(|| store.commit(&frozen, false).unwrap());
                // Meanwhile the loop reads on, whether the commit has happened or not.
                for _ in 0..20 {
                    let newest =
                        state.scan(table, Bound::Unbounded, Bound::Unbounded, Level::Open).last().unwrap().unwrap();
                    assert_eq!(newest.0, epoch.to_be_bytes());
                }
            });
            state.committed();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn space_below_a_bound_comes_back() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&options(dir.path())).unwrap();
    let mut state = State::new(store.clone());
    let table = TableId::new(5, 0);
    let commit = |state: &mut State| {
        let frozen = state.freeze().unwrap();
        store.commit(&frozen, false).unwrap();
        state.committed();
    };
    for i in 0..1000u32 {
        state.put(table, &i.to_be_bytes(), b"value");
    }
    commit(&mut state);
    store.flush().unwrap();
    state.truncate_below(table, &900u32.to_be_bytes());
    commit(&mut state);
    store.compact();
    let prefix = table.prefix();
    let stored =
        store.database().iterator(IteratorMode::Start).filter(|row| row.as_ref().unwrap().0.starts_with(&prefix));
    assert_eq!(stored.count(), 100);
    assert!(store.size_of(5) > 0 && store.size_of(6) == 0);
}

#[test]
fn whole_files_below_a_bound_go_at_once() {
    let dir = TempDir::new().unwrap();
    // Every row is a file of its own.
    let options = StoreOptions { max_write_set_bytes: 0, spill_file_bytes: 1, ..options(dir.path()) };
    let store = Store::open(&options).unwrap();
    let mut state = State::new(store.clone());
    let table = TableId::new(5, 0);
    for i in 0..20u32 {
        state.put(table, &i.to_be_bytes(), b"value");
    }
    let commit = |state: &mut State| {
        let frozen = state.freeze().unwrap();
        store.commit(&frozen, false).unwrap();
        state.committed();
    };
    commit(&mut state);
    let files = || {
        let of_table = |key: &Option<Vec<u8>>| key.as_ref().is_some_and(|k| k.starts_with(&table.prefix()));
        store.database().live_files().unwrap().iter().filter(|f| of_table(&f.start_key)).count()
    };
    assert_eq!(files(), 20);
    state.truncate_below(table, &15u32.to_be_bytes());
    commit(&mut state);
    assert_eq!(files(), 5);
    // The file that ends at the bound itself is not below it.
    assert_eq!(state.get(table, &15u32.to_be_bytes()).unwrap().as_deref(), Some(b"value".as_slice()));
    assert!(fs::read_dir(dir.path().join("ingest")).unwrap().next().is_none(), "spilled files are left behind");
}

#[test]
fn an_old_snapshot_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    let snapshot = Store::open(&options(dir.path())).unwrap().snapshot().unwrap();
    snapshot.check_age(Duration::from_secs(600)).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    let error = snapshot.check_age(Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.sqlstate(), "72000");
}

#[test]
fn counters_and_the_epochs_clock_are_durable() {
    let dir = TempDir::new().unwrap();
    {
        let mut state = State::new(Store::open(&options(dir.path())).unwrap());
        assert_eq!(state.counter("next_id").unwrap(), 0);
        state.set_counter("next_id", 42);
        state.stamp(1_700_000_000_000_000);
        let frozen = state.freeze().unwrap();
        assert!(!frozen.is_empty());
        state.store().commit(&frozen, true).unwrap();
    }
    let store = Store::open(&options(dir.path())).unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!((snapshot.epoch(), snapshot.now_us()), (1, 1_700_000_000_000_000));
    let mut state = State::new(store);
    assert_eq!(state.counter("next_id").unwrap(), 42);
    assert!(state.freeze().unwrap().is_empty());
}
