//! What a transaction has done to one table, as rows laid over those of its snapshot.
//!
//! A row that was inserted, replaced or deleted has a slot under its key: the snapshot's row that goes, and the row that
//! is there now. Rows stay in the batches that statements made, slots point into them. Savepoints are positions in an undo
//! log, so that they cost nothing to set and what was done since to take back.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::{concat_batches, filter_record_batch, interleave_record_batch};
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use millstream_catalog::{Object, ObjectId};

use crate::batch::tables::RowBatches;
use crate::error::Result;
use crate::state::{ByteRows, Layout, Relation, Snapshot};
use crate::stream::engine::indexes::KeptIndex;
use crate::stream::engine::table::{cannot_truncate, duplicate_key, kept, table_relation};
use crate::stream::engine::{OnConflict, TableWrite};

/// Rows in a batch that a scan gives.
const SCAN_ROWS: usize = 8192;

/// A batch and a row in it.
type RowAt = (u32, u32);

/// The changes of one table, and how to take them back.
pub struct TableChanges {
    pub name: String,
    relation: Arc<Relation>,
    primary_key: Vec<usize>,
    /// Unique indexes that have the rows of the snapshot.
    unique: Vec<KeptIndex>,
    /// Columns that users see: all, or all but the hidden row id.
    width: usize,
    /// Hidden ids of new rows until COMMIT gives them real ones, which are not negative.
    next_row_id: i64,
    overlay: Arc<Overlay>,
    undo: Vec<Undo>,
}

/// Where the changes of a table stood.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    undo: usize,
    slots: usize,
    batches: usize,
}

/// One step back. New slots need none: they are cut off.
enum Undo {
    After { slot: usize, was: Option<RowAt> },
    Truncate { was: Arc<Overlay> },
}

/// The changed rows of a table, as readers take them: a reader keeps what it began with.
#[derive(Debug, Clone, Default)]
pub struct Overlay {
    /// No row of the snapshot counts.
    truncated: bool,
    batches: Vec<RecordBatch>,
    /// Key of each slot; empty ones for append-only tables, whose rows are not looked up.
    keys: ByteRows,
    slots: Vec<Slot>,
    index: HashTable<usize>,
    hasher: RandomState,
    bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The snapshot's row.
    before: Option<RowAt>,
    /// The row now.
    after: Option<RowAt>,
    /// What it is at COMMIT if somebody else has taken the key of a new row.
    on_conflict: OnConflict,
}

impl TableChanges {
    /// No changes yet.
    ///
    /// # Errors
    /// XX000 if the object is no table.
    pub fn new(object: &Object) -> Result<Self> {
        let (primary_key, _) = kept(object)?;
        Ok(Self {
            name: object.name.clone(),
            relation: Arc::new(table_relation(object)?),
            primary_key: primary_key.to_vec(),
            unique: Vec::new(),
            width: object.columns().len(),
            next_row_id: -1,
            overlay: Arc::default(),
            undo: Vec::new(),
        })
    }

    /// The indexes that new rows are held against, of those that the table has now.
    pub fn set_indexes(&mut self, indexes: Vec<KeptIndex>) {
        self.unique = indexes.into_iter().filter(|kept| kept.unique).collect();
    }

    /// The relation that the changes are of.
    pub fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// The changed rows, for readers.
    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// Memory that the changes take.
    pub fn bytes(&self) -> usize {
        let undone = |undo: &Undo| match undo {
            Undo::After { .. } => size_of::<Undo>(),
            Undo::Truncate { was } => was.bytes,
        };
        self.overlay.bytes + self.undo.iter().map(undone).sum::<usize>()
    }

    /// Adds rows with the table's visible columns, or its stored ones; returns the visible columns of those that were
    /// added.
    ///
    /// # Errors
    /// 23505 if a key is taken in the transaction's eyes, unless `on_conflict` leaves such rows out. Nothing is added then.
    pub fn insert(
        &mut self,
        rows: &RecordBatch,
        on_conflict: OnConflict,
        snapshot: &Arc<Snapshot>,
    ) -> Result<RecordBatch> {
        let rows = self.complete(rows)?;
        if *self.relation.layout() == Layout::Segments {
            let overlay = Arc::make_mut(&mut self.overlay);
            let batch = overlay.add_batch(rows.clone());
            for row in 0..rows.num_rows() as u32 {
                overlay.keys.push(b"");
                overlay.slots.push(Slot { before: None, after: Some((batch, row)), on_conflict });
            }
            return Ok(rows);
        }
        let keys = self.relation.keys(&rows)?;
        let is_taken = self.overlay.present(&self.relation, snapshot, &keys)?;
        let mut seen: HashSet<&[u8], RandomState> =
            HashSet::with_capacity_and_hasher(keys.len(), RandomState::default());
        let mut keep = Vec::with_capacity(keys.len());
        let mut unique = Vec::with_capacity(self.unique.len());
        for kept in &self.unique {
            let own = self.overlay.own(&self.relation)?;
            let own: HashSet<Vec<u8>> = kept.index.values(&own)?.into_iter().flatten().collect();
            unique.push((kept, kept.index.values(&rows)?, own));
        }
        for (i, is_taken) in is_taken.into_iter().enumerate() {
            let mut free = !is_taken && !seen.contains(keys.get(i));
            if !free && !on_conflict.skips(None) {
                return Err(duplicate_key(&self.name, &self.primary_key, &rows, i));
            }
            for (kept, values, own) in &unique {
                let Some(values) = values[i].as_ref().filter(|_| free) else { continue };
                if own.contains(values) || self.overlay.is_stored(kept, snapshot, values)? {
                    if !on_conflict.skips(Some(kept.id)) {
                        return Err(kept.violated(&rows, i));
                    }
                    free = false;
                }
            }
            if free {
                seen.insert(keys.get(i));
                unique.iter_mut().for_each(|(_, values, own)| own.extend(values[i].take()));
            }
            keep.push(free);
        }
        let rows = filter_record_batch(&rows, &BooleanArray::from(keep))?;
        let keys = self.relation.keys(&rows)?;
        // A row whose key came meanwhile from somebody else would have been left out or updated: 40001 then.
        let on_conflict = if on_conflict == OnConflict::Error { OnConflict::Error } else { OnConflict::Retry };
        let overlay = Arc::make_mut(&mut self.overlay);
        let batch = overlay.add_batch(rows.clone());
        for (i, key) in keys.iter().enumerate() {
            let after = Some((batch, i as u32));
            match overlay.find(key) {
                Some(slot) => {
                    self.undo.push(Undo::After { slot, was: overlay.slots[slot].after });
                    overlay.slots[slot].after = after;
                }
                None => overlay.add_slot(key, Slot { before: None, after, on_conflict }),
            }
        }
        Ok(rows.project(&(0..self.width).collect::<Vec<_>>())?)
    }

    /// Takes rows away that the transaction has read, with the table's stored columns.
    pub fn delete(&mut self, rows: &RecordBatch) -> Result<()> {
        let rows = self.complete(rows)?;
        let keys = self.relation.keys(&rows)?;
        let overlay = Arc::make_mut(&mut self.overlay);
        let mut batch = None;
        for (i, key) in keys.iter().enumerate() {
            match overlay.find(key) {
                Some(slot) => {
                    self.undo.push(Undo::After { slot, was: overlay.slots[slot].after });
                    overlay.slots[slot].after = None;
                }
                None => {
                    let batch = *batch.get_or_insert_with(|| overlay.add_batch(rows.clone()));
                    let before = Some((batch, i as u32));
                    overlay.add_slot(key, Slot { before, after: None, on_conflict: OnConflict::Error });
                }
            }
        }
        Ok(())
    }

    /// Takes every row away.
    ///
    /// # Errors
    /// 0A000 for an append-only table.
    pub fn truncate(&mut self) -> Result<()> {
        if *self.relation.layout() == Layout::Segments {
            return Err(cannot_truncate(&self.name));
        }
        let empty = Overlay { truncated: true, ..Overlay::default() };
        let was = std::mem::replace(&mut self.overlay, Arc::new(empty));
        self.undo.push(Undo::Truncate { was });
        Ok(())
    }

    /// Where the changes stand.
    pub fn mark(&self) -> Mark {
        let Overlay { slots, batches, .. } = self.overlay.as_ref();
        Mark { undo: self.undo.len(), slots: slots.len(), batches: batches.len() }
    }

    /// Takes back what was done since.
    pub fn roll_back_to(&mut self, mark: Mark) {
        for undo in self.undo.drain(mark.undo..).rev() {
            match undo {
                Undo::After { slot, was } => Arc::make_mut(&mut self.overlay).slots[slot].after = was,
                Undo::Truncate { was } => self.overlay = was,
            }
        }
        Arc::make_mut(&mut self.overlay).cut(mark.slots, mark.batches);
    }

    /// What COMMIT asks of the engine, in this order.
    pub fn writes(&self, table: ObjectId) -> Result<Vec<TableWrite>> {
        let overlay = &self.overlay;
        let write =
            |deletes, inserts, on_conflict| TableWrite { table, deletes, inserts, on_conflict, truncate: false };
        let mut writes = Vec::new();
        if overlay.truncated {
            writes.push(TableWrite { truncate: true, ..write(None, None, OnConflict::Error) });
        }
        let old = overlay.pick(&self.relation, overlay.slots.iter().filter_map(|s| s.before))?;
        let replacing = overlay.slots.iter().filter(|s| s.before.is_some()).filter_map(|s| s.after);
        let replacing = overlay.pick(&self.relation, replacing)?;
        if old.num_rows() > 0 {
            writes.push(write(Some(old), Some(replacing).filter(|r| r.num_rows() > 0), OnConflict::Error));
        }
        for on_conflict in [OnConflict::Error, OnConflict::Retry] {
            let is_new = |s: &&Slot| s.before.is_none() && s.on_conflict == on_conflict;
            let new = overlay.pick(&self.relation, overlay.slots.iter().filter(is_new).filter_map(|s| s.after))?;
            if new.num_rows() > 0 {
                let visible = new.project(&(0..self.width).collect::<Vec<_>>())?;
                writes.push(write(None, Some(visible), on_conflict));
            }
        }
        Ok(writes)
    }

    /// Rows with all stored columns: new ones of a table without primary key get hidden ids.
    fn complete(&mut self, rows: &RecordBatch) -> Result<RecordBatch> {
        let schema = self.relation.schema().clone();
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        if columns.len() < schema.fields().len() {
            let first = self.next_row_id;
            self.next_row_id -= rows.num_rows() as i64;
            columns.push(Arc::new(Int64Array::from_iter_values((self.next_row_id + 1..=first).rev())));
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}

impl Overlay {
    /// The rows of these keys; keys without a row give none.
    pub fn get(&self, relation: &Relation, snapshot: &Snapshot, keys: &ByteRows) -> Result<RecordBatch> {
        let mut unchanged = ByteRows::new();
        let mut own = Vec::new();
        for key in keys.iter() {
            match self.find(key) {
                Some(slot) => own.extend(self.slots[slot].after),
                None if self.truncated => {}
                None => unchanged.push(key),
            }
        }
        let stored = relation.get(snapshot, &unchanged)?;
        Ok(concat_batches(relation.schema(), &[stored, self.pick(relation, own.into_iter())?])?)
    }

    /// The rows that are there now of those that were changed, with the stored columns.
    pub fn own(&self, relation: &Relation) -> Result<RecordBatch> {
        self.pick(relation, self.slots.iter().filter_map(|slot| slot.after))
    }

    /// The snapshot's rows of these keys that were not changed.
    pub fn unchanged_of(&self, relation: &Relation, snapshot: &Snapshot, keys: &ByteRows) -> Result<RecordBatch> {
        let unchanged: ByteRows = keys.iter().filter(|key| !self.truncated && self.find(key).is_none()).collect();
        relation.get(snapshot, &unchanged)
    }

    /// Whether a row of the snapshot that was not changed has these values of an index.
    fn is_stored(&self, kept: &KeptIndex, snapshot: &Arc<Snapshot>, values: &[u8]) -> Result<bool> {
        if self.truncated {
            return Ok(false);
        }
        let keys = kept.index.row_keys(snapshot, values)?;
        Ok(keys.iter().any(|key| self.find(key).is_none()))
    }

    /// Of some rows of the snapshot those that were not changed, then all of the transaction's own.
    pub fn over(self: &Arc<Self>, relation: &Arc<Relation>, stored: RowBatches) -> OverlayScan {
        let stored = (!self.truncated).then_some(stored);
        OverlayScan { overlay: self.clone(), relation: relation.clone(), stored, next: 0 }
    }

    /// All rows, with the stored columns: the snapshot's that were not changed, then the transaction's own.
    pub fn scan(self: &Arc<Self>, relation: &Arc<Relation>, snapshot: &Arc<Snapshot>) -> Result<OverlayScan> {
        let stored = match self.truncated {
            true => None,
            false => Some(Box::new(relation.scan(snapshot)?) as RowBatches),
        };
        Ok(OverlayScan { overlay: self.clone(), relation: relation.clone(), stored, next: 0 })
    }

    /// Whether each key has a row.
    fn present(&self, relation: &Relation, snapshot: &Snapshot, keys: &ByteRows) -> Result<Vec<bool>> {
        let stored = match self.truncated {
            true => None,
            false => Some(relation.stored(snapshot, keys)?),
        };
        let is_stored = |i: usize| stored.as_ref().is_some_and(|found| found.get(i).is_some());
        let slot = |key: &[u8]| self.find(key).map(|slot| self.slots[slot].after.is_some());
        Ok(keys.iter().enumerate().map(|(i, key)| slot(key).unwrap_or_else(|| is_stored(i))).collect())
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        self.index.find(self.hasher.hash_one(key), |slot| self.keys.get(*slot) == key).copied()
    }

    fn add_batch(&mut self, rows: RecordBatch) -> u32 {
        self.bytes += rows.get_array_memory_size();
        self.batches.push(rows);
        (self.batches.len() - 1) as u32
    }

    fn add_slot(&mut self, key: &[u8], slot: Slot) {
        let at = self.slots.len();
        self.slots.push(slot);
        self.keys.push(key);
        self.bytes += key.len() + size_of::<Slot>() + 2 * size_of::<usize>();
        let (keys, hasher) = (&self.keys, &self.hasher);
        self.index.insert_unique(hasher.hash_one(key), at, |slot| hasher.hash_one(keys.get(*slot)));
    }

    /// Forgets the slots and batches from these on.
    fn cut(&mut self, slots: usize, batches: usize) {
        for slot in slots..self.slots.len() {
            let hash = self.hasher.hash_one(self.keys.get(slot));
            if let Ok(entry) = self.index.find_entry(hash, |s| *s == slot) {
                entry.remove();
            }
        }
        let keys: usize = (slots..self.slots.len()).map(|slot| self.keys.get(slot).len()).sum();
        let rows: usize = self.batches[batches..].iter().map(RecordBatch::get_array_memory_size).sum();
        let per_slot = size_of::<Slot>() + 2 * size_of::<usize>();
        self.bytes = self.bytes.saturating_sub(keys + rows + (self.slots.len() - slots) * per_slot);
        self.slots.truncate(slots);
        self.keys.truncate(slots);
        self.batches.truncate(batches);
    }

    fn pick(&self, relation: &Relation, rows: impl Iterator<Item = RowAt>) -> Result<RecordBatch> {
        let rows: Vec<(usize, usize)> = rows.map(|(batch, row)| (batch as usize, row as usize)).collect();
        if rows.is_empty() {
            return Ok(RecordBatch::new_empty(relation.schema().clone()));
        }
        Ok(interleave_record_batch(&self.batches.iter().collect::<Vec<_>>(), &rows)?)
    }

    /// A batch of the snapshot without the rows that were changed.
    fn unchanged(&self, relation: &Relation, batch: RecordBatch) -> Result<RecordBatch> {
        if self.index.is_empty() {
            return Ok(batch);
        }
        let keys = relation.keys(&batch)?;
        let keep: BooleanArray = keys.iter().map(|key| Some(self.find(key).is_none())).collect();
        Ok(filter_record_batch(&batch, &keep)?)
    }
}

/// The rows of a table as a transaction sees them. Ends with the first error.
pub struct OverlayScan {
    overlay: Arc<Overlay>,
    relation: Arc<Relation>,
    stored: Option<RowBatches>,
    /// The next slot.
    next: usize,
}

impl Iterator for OverlayScan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(batch) = self.stored.as_mut().and_then(Iterator::next) {
            return Some(batch.and_then(|batch| self.overlay.unchanged(&self.relation, batch)));
        }
        self.stored = None;
        let slots = &self.overlay.slots[self.next..];
        if slots.is_empty() {
            return None;
        }
        let slots = &slots[..slots.len().min(SCAN_ROWS)];
        self.next += slots.len();
        Some(self.overlay.pick(&self.relation, slots.iter().filter_map(|slot| slot.after)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use arrow::array::AsArray;
    use arrow::datatypes::Int32Type;
    use millstream_catalog::object::Table;
    use millstream_catalog::{Column, ObjectKind, SqlType};
    use proptest::prelude::{Strategy, prop, prop_assert_eq, proptest};

    use super::*;
    use crate::state::{State, Store, StoreOptions};

    pub fn table(primary_key: Vec<usize>) -> Object {
        let columns = ["id", "v"].map(|name| Column::new(name, SqlType::Int4, true)).to_vec();
        let table = Table { columns, primary_key, append_only: false, watermark: None, checks: vec![] };
        Object::named(ObjectId(20_000), ObjectId::PUBLIC, "t", ObjectKind::Table(table))
    }

    pub fn rows(of: &[(i32, i32)]) -> RecordBatch {
        let ids: ArrayRef = Arc::new(arrow::array::Int32Array::from_iter_values(of.iter().map(|r| r.0)));
        let values: ArrayRef = Arc::new(arrow::array::Int32Array::from_iter_values(of.iter().map(|r| r.1)));
        RecordBatch::try_new(table(vec![0]).arrow_schema(), vec![ids, values]).unwrap()
    }

    fn pairs(batch: &RecordBatch) -> Vec<(i32, i32)> {
        let column = |c: usize| batch.column(c).as_primitive::<Int32Type>().values();
        column(0).iter().copied().zip(column(1).iter().copied()).collect()
    }

    /// A store in which the table has these rows.
    pub fn stored(object: &Object, of: &[(i32, i32)]) -> (tempfile::TempDir, Arc<Snapshot>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions::new(dir.path())).unwrap();
        let mut state = State::new(store.clone());
        table_relation(object).unwrap().apply(&mut state, &rows(of), None).unwrap();
        let frozen = state.freeze().unwrap();
        store.commit(&frozen, false).unwrap();
        (dir, store.snapshot().unwrap())
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(i32, i32),
        Upsert(i32, i32),
        Delete(i32),
        Truncate,
        Savepoint,
        RollBack(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (id, v) = (0..8_i32, 0..100_i32);
        prop::strategy::Union::new_weighted(vec![
            (4, (id.clone(), v.clone()).prop_map(|(id, v)| Step::Insert(id, v)).boxed()),
            (3, (id.clone(), v).prop_map(|(id, v)| Step::Upsert(id, v)).boxed()),
            (3, id.prop_map(Step::Delete).boxed()),
            (1, prop::strategy::Just(Step::Truncate).boxed()),
            (2, prop::strategy::Just(Step::Savepoint).boxed()),
            (2, (0..4_usize).prop_map(Step::RollBack).boxed()),
        ])
    }

    proptest! {
        #![proptest_config(prop::test_runner::Config::with_cases(40))]

        #[test]
        fn changes_are_those_of_a_map(steps in prop::collection::vec(step(), 1..60)) {
            let object = table(vec![0]);
            let relation = Arc::new(table_relation(&object).unwrap());
            let committed = [(0, 0), (1, 10), (2, 20), (3, 30)];
            let (_dir, snapshot) = stored(&object, &committed);
            let mut changes = TableChanges::new(&object).unwrap();
            let mut model: BTreeMap<i32, i32> = BTreeMap::from(committed);
            let mut savepoints: Vec<(Mark, BTreeMap<i32, i32>, usize)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(id, v) => {
                        let done = changes.insert(&rows(&[(id, v)]), OnConflict::Error, &snapshot);
                        prop_assert_eq!(done.is_ok(), !model.contains_key(&id));
                        model.entry(id).or_insert(v);
                    }
                    Step::Upsert(id, v) => {
                        if let Some(old) = model.insert(id, v) {
                            changes.delete(&rows(&[(id, old)])).unwrap();
                        }
                        changes.insert(&rows(&[(id, v)]), OnConflict::Retry, &snapshot).unwrap();
                    }
                    Step::Delete(id) => {
                        if let Some(old) = model.remove(&id) {
                            changes.delete(&rows(&[(id, old)])).unwrap();
                        }
                    }
                    Step::Truncate => {
                        changes.truncate().unwrap();
                        model.clear();
                    }
                    Step::Savepoint => savepoints.push((changes.mark(), model.clone(), changes.bytes())),
                    Step::RollBack(n) if n < savepoints.len() => {
                        savepoints.truncate(savepoints.len() - n);
                        let (mark, then, bytes) = savepoints.last().unwrap();
                        changes.roll_back_to(*mark);
                        model = then.clone();
                        prop_assert_eq!(changes.bytes(), *bytes);
                    }
                    Step::RollBack(_) => {}
                }
                let scan = changes.overlay().scan(&relation, &snapshot).unwrap();
                let mut seen: Vec<_> = scan.flat_map(|batch| pairs(&batch.unwrap())).collect();
                seen.sort_unstable();
                prop_assert_eq!(&seen, &model.clone().into_iter().collect::<Vec<_>>());
                let keys = relation.keys(&rows(&[(1, 0), (5, 0)])).unwrap();
                let mut got = pairs(&changes.overlay().get(&relation, &snapshot, &keys).unwrap());
                got.sort_unstable();
                let expected: Vec<_> = [1, 5].iter().filter_map(|id| Some((*id, *model.get(id)?))).collect();
                prop_assert_eq!(got, expected);
            }
            // What COMMIT asks for leads from the committed rows to those seen.
            let mut after: BTreeMap<i32, i32> = BTreeMap::from(committed);
            for write in changes.writes(object.id).unwrap() {
                if write.truncate {
                    after.clear();
                }
                for (id, v) in write.deletes.iter().flat_map(pairs) {
                    prop_assert_eq!(after.remove(&id), Some(v));
                }
                for (id, v) in write.inserts.iter().flat_map(pairs) {
                    prop_assert_eq!(after.insert(id, v), None);
                }
            }
            prop_assert_eq!(after, model);
        }
    }

    #[test]
    fn new_rows_without_a_key_leave_their_hidden_ids_to_the_engine() {
        let object = table(vec![]);
        let dir = tempfile::tempdir().unwrap();
        let snapshot = Store::open(&StoreOptions::new(dir.path())).unwrap().snapshot().unwrap();
        let mut changes = TableChanges::new(&object).unwrap();
        changes.insert(&rows(&[(1, 1), (1, 1)]), OnConflict::Error, &snapshot).unwrap();
        let writes = changes.writes(object.id).unwrap();
        assert_eq!(writes.len(), 1);
        let inserts = writes[0].inserts.as_ref().unwrap();
        assert_eq!(inserts.num_columns(), 2);
        assert_eq!(pairs(inserts), [(1, 1), (1, 1)]);
    }

    #[test]
    fn a_reader_keeps_what_it_began_with() {
        let object = table(vec![0]);
        let (_dir, snapshot) = stored(&object, &[(1, 1)]);
        let relation = Arc::new(table_relation(&object).unwrap());
        let mut changes = TableChanges::new(&object).unwrap();
        changes.insert(&rows(&[(2, 2)]), OnConflict::Error, &snapshot).unwrap();
        let reader = changes.overlay().scan(&relation, &snapshot).unwrap();
        changes.delete(&rows(&[(1, 1), (2, 2)])).unwrap();
        changes.insert(&rows(&[(3, 3)]), OnConflict::Error, &snapshot).unwrap();
        let seen: Vec<_> = reader.flat_map(|batch| pairs(&batch.unwrap())).collect();
        assert_eq!(seen, [(1, 1), (2, 2)]);
    }
}
