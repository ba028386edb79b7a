//! How RocksDB is set up: one budget of memory, checksums, bloom filters, level compaction.

use std::path::PathBuf;
use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, ChecksumType, CompactionPri, DBCompactionStyle, DBCompressionType, LogLevel, Options,
    WriteBufferManager,
};

use super::bounds::{FilterFactory, SharedBounds};

const MIB: usize = 1 << 20;

/// Where the state is kept and how much memory it may take.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The data directory; made if it does not exist.
    pub dir: PathBuf,
    /// Budget of cached blocks and memtables together.
    pub memory_bytes: usize,
    /// How much of it memtables may take.
    pub write_buffer_bytes: usize,
    /// A write set larger than this is committed as sorted files instead of through the log and memtables.
    pub max_write_set_bytes: usize,
    /// Such a file is closed at about this many bytes.
    pub spill_file_bytes: usize,
    /// Threads that flush and compact.
    pub background_threads: usize,
}

impl StoreOptions {
    /// The defaults for a data directory: 512 MiB, half of it for memtables.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            memory_bytes: 512 * MIB,
            write_buffer_bytes: 256 * MIB,
            max_write_set_bytes: 128 * MIB,
            spill_file_bytes: 64 * MIB,
            background_threads: std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)),
        }
    }

    /// RocksDB's options, for the database and for files that it ingests.
    pub(super) fn rocksdb(&self, bounds: &Arc<SharedBounds>) -> Options {
        let cache = Cache::new_lru_cache(self.memory_bytes);
        let mut options = self.table_options(&cache);
        options.create_if_missing(true);
        options.set_paranoid_checks(true);
        options.set_track_and_verify_wals_in_manifest(true);

        // Memtables are charged to the block cache, so that the two together stay within memory_bytes.
        options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager_with_cache(
            self.write_buffer_bytes,
            false,
            cache,
        ));
        options.set_write_buffer_size((self.write_buffer_bytes / 4).clamp(4 * MIB, 64 * MIB));
        options.set_max_write_buffer_number(4);
        // A read before a write misses more often than not; without this a miss searches every memtable.
        options.set_memtable_prefix_bloom_ratio(0.03);
        options.set_memtable_whole_key_filtering(true);

        options.set_compaction_style(DBCompactionStyle::Level);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compaction_pri(CompactionPri::MinOverlappingRatio);
        options.set_compaction_filter_factory(FilterFactory(bounds.clone()));
        options.set_compaction_readahead_size(2 * MIB);
        options.set_max_background_jobs(self.background_threads as i32);
        options.set_bytes_per_sync(MIB as u64);
        options.set_wal_bytes_per_sync(MIB as u64);
        options.set_avoid_unnecessary_blocking_io(true);

        options.set_max_open_files(4096);
        options.set_max_file_opening_threads(2);
        options.set_skip_stats_update_on_db_open(true);
        options.set_log_level(LogLevel::Warn);
        options.set_keep_log_file_num(4);
        options.set_max_log_file_size(16 * MIB);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }

    /// Options of files written to be ingested: tables like the database's, without its filter and budgets.
    pub(super) fn sst(&self) -> Options {
        let mut options = self.table_options(&Cache::new_lru_cache(MIB));
        options.set_log_level(LogLevel::Error);
        options
    }

    fn table_options(&self, cache: &Cache) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_block_size(8 << 10);
        table.set_format_version(6);
        table.set_checksum_type(ChecksumType::XXH3);
        table.set_bloom_filter(10.0, false);
        table.set_whole_key_filtering(true);
        table.set_optimize_filters_for_memory(true);
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options
    }
}
