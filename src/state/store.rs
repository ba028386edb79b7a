//! The data directory and the database in it: opening, committing, and what it costs.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics::counter;
use parking_lot::Mutex;
use rocksdb::{
    ColumnFamilyDescriptor, DB, DBPinnableSlice, DEFAULT_COLUMN_FAMILY_NAME, Direction, IteratorMode, Range,
    ReadOptions, WriteBatch, WriteOptions, properties,
};
use uuid::Uuid;

use super::bounds::{Bounds, SharedBounds};
use super::bytes::{ByteRows, Found};
use super::directory::Directory;
use super::failure::from_rocksdb;
use super::frozen::FrozenSet;
use super::options::StoreOptions;
use super::snapshot::Snapshot;
use super::system::{self, EpochRecord};
use super::{PREFIX_LEN, TableId, object_end, object_start, spill};
use crate::error::{Error, Result};
use crate::failpoint;

/// Keys looked up in one call of RocksDB: its values are held in memory until they are copied.
const KEYS_AT_ONCE: usize = 2048;

/// How often whole files below a table's bound are looked for.
const FILE_DELETION_INTERVAL: Duration = Duration::from_secs(10);

/// How far writes run ahead of compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WritePressure {
    /// Not at all.
    Free,
    /// Writes are slowed down.
    Slowed,
    /// Writes wait until compaction has caught up.
    Stopped,
}

/// An open data directory. There is one per process and directory; all else holds it by `Arc`.
pub struct Store {
    database: DB,
    directory: Directory,
    options: StoreOptions,
    bounds: Arc<SharedBounds>,
    identity: Uuid,
    epoch: AtomicU64,
    /// Held while an epoch is written; when files of a table were last deleted.
    commit: Mutex<HashMap<TableId, Instant>>,
}

impl Store {
    /// Opens a data directory, and makes it if there is none.
    ///
    /// # Errors
    /// 55006 if another process has it open, 55000 if it is of another format version, XX001 if it is damaged, 53100 and
    /// 58030 for I/O.
    pub fn open(options: &StoreOptions) -> Result<Arc<Self>> {
        let directory = Directory::open(&options.dir)?;
        let bounds = Arc::new(SharedBounds::default());
        let rocksdb_options = options.rocksdb(&bounds);
        let family = ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, rocksdb_options.clone());
        let database = DB::open_cf_descriptors(&rocksdb_options, directory.db(), [family]).map_err(|e| {
            match e.as_ref().contains("/LOCK:") || e.as_ref().contains("lock hold by current process") {
                true => directory.in_use(),
                false => from_rocksdb(&format!("open data directory \"{}\"", options.dir.display()), e),
            }
        })?;
        // What a crash left of a commit that did not happen.
        let _ = fs::remove_dir_all(directory.ingest());
        let (identity, record) = match read(&database, system::STORE, b"uuid")? {
            Some(uuid) => {
                let identity = Uuid::from_slice(&uuid).map_err(|_| system::corrupt("the store's uuid"))?;
                let record = read(&database, system::EPOCH, b"")?.ok_or_else(|| system::corrupt("the epoch record"))?;
                (identity, EpochRecord::from_bytes(&record)?)
            }
            None => initialise(&database)?,
        };
        bounds.begin(record.epoch, Arc::new(read_bounds(&database)?));
        bounds.committed();
        Ok(Arc::new(Self {
            database,
            directory,
            options: options.clone(),
            bounds,
            identity,
            epoch: AtomicU64::new(record.epoch),
            commit: Mutex::default(),
        }))
    }

    /// Makes an epoch durable, all of it or nothing. With `sync` it has reached the disk when this returns; without, it
    /// survives the process but perhaps not the machine. May be called again with the same epoch if it failed.
    ///
    /// # Errors
    /// 53100 if the disk is full, 58030 for other I/O, XX000 if the epoch is not the next one.
    pub fn commit(&self, frozen: &FrozenSet, sync: bool) -> Result<()> {
        let mut file_deletions = self.commit.lock();
        let last = self.epoch();
        if frozen.epoch() != last + 1 && frozen.epoch() != last {
            return Err(Error::internal(format!("epoch {} cannot follow epoch {last}", frozen.epoch())));
        }
        self.bounds.begin(frozen.epoch(), frozen.bounds.clone());
        let write = || match frozen.bytes() > self.options.max_write_set_bytes {
            true => spill::ingest(self, frozen).inspect(|()| counter!("millstream_ingested_epochs_total").increment(1)),
            false => self.write(frozen, sync),
        };
        let written = failpoint::pass("commit.before_write").and_then(|()| write());
        if let Err(e) = written.and_then(|()| failpoint::pass("commit.after_write")) {
            // A step after the decisive one may have failed: what counts is which epoch the database shows.
            if last == frozen.epoch() || self.stored_epoch().ok() != Some(frozen.epoch()) {
                return Err(e);
            }
            tracing::warn!(epoch = frozen.epoch(), error = %e, "an epoch was committed in spite of an error");
        }
        self.bounds.committed();
        self.epoch.store(frozen.epoch(), Ordering::Release);
        for table in &frozen.moved {
            let due = file_deletions.get(table).is_none_or(|at| at.elapsed() >= FILE_DELETION_INTERVAL);
            if let Some(bound) = frozen.bounds.get(table)
                && due
            {
                file_deletions.insert(*table, Instant::now());
                self.delete_files(*table, bound);
            }
        }
        Ok(())
    }

    /// Makes all commits so far durable.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn sync(&self) -> Result<()> {
        self.database.flush_wal(true).map_err(|e| from_rocksdb("sync the log", e))?;
        self.note_synced();
        Ok(())
    }

    /// Tells a test that cuts the log how much of it is on the disk.
    fn note_synced(&self) {
        failpoint::note("synced", || {
            let files = std::fs::read_dir(self.database.path()).ok()?;
            let logs =
                files.filter_map(|file| Some(file.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "log"));
            let newest = logs.max()?;
            Some(format!("{} {}", newest.file_name()?.to_str()?, newest.metadata().ok()?.len()))
        });
    }

    /// Writes memtables to files, so that the next start has no log to replay.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn flush(&self) -> Result<()> {
        self.database.flush().map_err(|e| from_rocksdb("flush the state", e))
    }

    /// The state as of the last committed epoch.
    ///
    /// # Errors
    /// 58030 or XX001 when the disk cannot be read.
    pub fn snapshot(self: &Arc<Self>) -> Result<Arc<Snapshot>> {
        Snapshot::new(self).map(Arc::new)
    }

    /// What tells this store from all others: made once, with the directory.
    pub fn identity(&self) -> Uuid {
        self.identity
    }

    /// The last committed epoch; 0 in a new store.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Bytes on disk of an object's state, about. Rows still in memtables do not count.
    pub fn size_of(&self, object: u32) -> u64 {
        self.size_between(&object_start(object), &object_end(object))
    }

    /// Bytes on disk of one table, about; as [`Store::size_of`].
    pub fn size_of_table(&self, table: TableId) -> u64 {
        self.size_between(&table.prefix(), &table.end())
    }

    /// Bytes on disk between two stored keys, about.
    pub(super) fn size_between(&self, start: &[u8], end: &[u8]) -> u64 {
        self.database.get_approximate_sizes(&[Range::new(start, end)]).into_iter().sum()
    }

    /// Bytes on disk of all state.
    pub fn size(&self) -> u64 {
        self.number(properties::LIVE_SST_FILES_SIZE)
    }

    /// Whether commits should slow down by themselves.
    pub fn write_pressure(&self) -> WritePressure {
        if self.number(properties::IS_WRITE_STOPPED) > 0 {
            WritePressure::Stopped
        } else if self.number(properties::ACTUAL_DELAYED_WRITE_RATE) > 0 {
            WritePressure::Slowed
        } else {
            WritePressure::Free
        }
    }

    /// Memory of cached blocks and memtables.
    pub fn memory_bytes(&self) -> u64 {
        // Memtables are charged to the cache.
        self.number(properties::BLOCK_CACHE_USAGE)
    }

    /// Bytes that compaction has yet to rewrite.
    pub fn pending_compaction_bytes(&self) -> u64 {
        self.number(properties::ESTIMATE_PENDING_COMPACTION_BYTES)
    }

    /// How it was opened.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    pub(super) fn database(&self) -> &DB {
        &self.database
    }

    pub(super) fn bounds(&self) -> &SharedBounds {
        &self.bounds
    }

    pub(super) fn ingest_directory(&self) -> PathBuf {
        self.directory.ingest()
    }

    pub(super) fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        read(&self.database, table, key)
    }

    fn write(&self, frozen: &FrozenSet, sync: bool) -> Result<()> {
        let mut batch = WriteBatch::with_capacity_bytes(frozen.bytes());
        for object in &frozen.drops {
            batch.delete_range(object_start(*object), object_end(*object));
        }
        let mut store_key = Vec::new();
        for (table, rows) in &frozen.tables {
            store_key.clear();
            store_key.extend_from_slice(&table.prefix());
            for (key, value) in rows.iter() {
                store_key.truncate(PREFIX_LEN);
                store_key.extend_from_slice(key);
                match value {
                    Some(value) => batch.put(&store_key, value),
                    None => batch.delete(&store_key),
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        options.set_memtable_insert_hint_per_batch(true);
        self.database.write_opt(batch, &options).map_err(|e| from_rocksdb("commit an epoch", e))?;
        if sync {
            self.note_synced();
        }
        Ok(())
    }

    /// The epoch that the database shows.
    fn stored_epoch(&self) -> Result<u64> {
        let record = self.get(system::EPOCH, b"")?.ok_or_else(|| system::corrupt("the epoch record"))?;
        Ok(EpochRecord::from_bytes(&record)?.epoch)
    }

    /// Deletes the files that hold nothing but rows of the table below its bound. A failure costs only space, and
    /// compaction gives that back later.
    fn delete_files(&self, table: TableId, bound: &[u8]) {
        let Some(last) = just_below(bound) else { return };
        if let Err(e) = self.database.delete_file_in_range(table.store_key(b""), table.store_key(&last)) {
            tracing::warn!(%table, error = %e, "could not delete state files below a bound");
        }
    }

    fn number(&self, property: &rocksdb::properties::PropName) -> u64 {
        self.database.property_int_value(property).ok().flatten().unwrap_or(0)
    }

    #[cfg(test)]
    pub(crate) fn compact(&self) {
        self.database.compact_range(None::<&[u8]>, None::<&[u8]>);
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.options.dir).field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

/// Looks up the keys at `order`, which is sorted, in RocksDB and puts what is there into `found`.
pub(super) fn batch_get(
    store: &Store,
    options: &ReadOptions,
    table: TableId,
    keys: &ByteRows,
    order: &[u32],
    found: &mut Found,
) -> Result<()> {
    let failed = |e| from_rocksdb("read the state", e);
    let Some(family) = store.database.cf_handle(DEFAULT_COLUMN_FAMILY_NAME) else {
        return Err(Error::internal("the database has no default column family"));
    };
    let prefix = table.prefix();
    let mut store_keys = ByteRows::new();
    for order in order.chunks(KEYS_AT_ONCE) {
        store_keys.clear();
        for i in order {
            store_keys.push_pair(&prefix, keys.get(*i as usize));
        }
        let values = store.database.batched_multi_get_cf_opt(family, store_keys.iter(), true, options);
        for (i, value) in order.iter().zip(values) {
            let value: Option<DBPinnableSlice<'_>> = value.map_err(failed)?;
            if let Some(value) = value {
                found.set(*i as usize, &value);
            }
        }
    }
    Ok(())
}

/// A key a little less than `bound`: RocksDB also deletes files that end at the very key it is given.
fn just_below(bound: &[u8]) -> Option<Vec<u8>> {
    let (last, rest) = bound.split_last()?;
    let mut below = rest.to_vec();
    if let Some(less) = last.checked_sub(1) {
        below.push(less);
        below.extend_from_slice(&[0xff; 16]);
    }
    Some(below)
}

fn read(database: &DB, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>> {
    database.get(table.store_key(key)).map_err(|e| from_rocksdb("read the state", e))
}

/// Gives a new database its identity and the record of epoch 0.
fn initialise(database: &DB) -> Result<(Uuid, EpochRecord)> {
    let identity = Uuid::new_v4();
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
    let record = EpochRecord { epoch: 0, now_us: created };
    let mut batch = WriteBatch::default();
    batch.put(system::STORE.store_key(b"uuid"), identity.as_bytes());
    batch.put(system::STORE.store_key(b"created_us"), created.to_be_bytes());
    batch.put(system::EPOCH.store_key(b""), record.to_bytes());
    let mut options = WriteOptions::default();
    options.set_sync(true);
    database.write_opt(batch, &options).map_err(|e| from_rocksdb("initialise the data directory", e))?;
    Ok((identity, record))
}

fn read_bounds(database: &DB) -> Result<Bounds> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(system::BOUNDS.end());
    let prefix = system::BOUNDS.prefix();
    let mut bounds = Bounds::new();
    for row in database.iterator_opt(IteratorMode::From(&prefix, Direction::Forward), options) {
        let (key, bound) = row.map_err(|e| from_rocksdb("read the bounds", e))?;
        match TableId::split(&key[PREFIX_LEN..]) {
            Some((table, [])) => bounds.insert(table, bound.into_vec()),
            _ => return Err(system::corrupt("a lower bound")),
        };
    }
    Ok(bounds)
}
