//! What a reader hands to the engine: chunks of one partition each, in a queue bounded in bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{BooleanArray, RecordBatch};
use parking_lot::{Condvar, Mutex};

/// Next offset to read, by partition.
pub type Positions = BTreeMap<i32, i64>;

/// Consecutive records of one partition. Atomic: an epoch takes all of it or none.
///
/// A chunk without rows and dead letters only announces the partition and its position: the first that the engine sees
/// of a partition that had no committed position, so that it can be committed before any record comes, or where its
/// position was moved because it was gone: then `first_offset` is not where the chunk before it ended.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub partition: i32,
    /// Offset that the partition was at before this chunk.
    pub first_offset: i64,
    /// Offset to continue at after it. Offsets in between may be missing (compaction, transactions).
    pub next_offset: i64,
    /// The columns asked, in that order, with the types and nullability of the source's schema; of a source with a primary
    /// key only the columns of the key are NOT NULL.
    pub batch: RecordBatch,
    /// Which rows say that the row of their key is gone; see [`crate::format::Rows::deletes`]. `None`: none of them.
    pub deletes: Option<BooleanArray>,
    /// Records that could not be read, in offset order; empty with `on_error = 'skip'`.
    pub dead: Vec<DeadLetter>,
    /// Records that could not be read and were dropped with `on_error = 'skip'`.
    pub skipped: u64,
    /// Bytes of keys and payloads as they came, plus a little for each record: what the queue's bound counts.
    pub bytes: usize,
    /// When the first record of the chunk was taken from the client library.
    pub arrived: Instant,
    /// Latest timestamp of the chunk's records as the broker has it, in milliseconds since 1970; `i64::MIN` if none has.
    pub produced_ms_max: i64,
    /// What the offsets are of, where that was not known before or has changed: the id of the topic.
    pub origin: Option<Arc<str>>,
}

/// A record that could not be read, with what is needed to repair and replay it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    pub error: String,
    pub key: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
}

/// A queue of chunks from the reader threads of one source to the engine, bounded in bytes. Clones are the same queue.
#[derive(Debug, Clone)]
pub struct ChunkQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    not_empty: Condvar,
    not_full: Condvar,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    rows: usize,
    closed: bool,
    generation: u64,
}

impl ChunkQueue {
    /// A queue that makes its writers wait while it holds `bytes_max` bytes or more. A single chunk may go past the bound.
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State::default()),
            not_empty: Condvar::new(),
            not_full: Condvar::new(),
            bytes_max: bytes_max.max(1),
        }))
    }

    /// Takes whole chunks, oldest first, until `rows_max` rows or `bytes_max` bytes are reached or passed; at least one
    /// chunk if there is any. Never waits. Chunks without rows and bytes cost nothing and are taken along.
    pub fn take(&self, rows_max: usize, bytes_max: usize) -> Vec<Chunk> {
        let mut state = self.0.state.lock();
        let (mut rows, mut bytes, mut taken) = (0, 0, Vec::new());
        while let Some(chunk) = state.chunks.front() {
            let free = chunk.bytes == 0 && chunk.batch.num_rows() == 0;
            if !free && !taken.is_empty() && (rows >= rows_max || bytes >= bytes_max) {
                break;
            }
            let Some(chunk) = state.chunks.pop_front() else { break };
            rows += chunk.batch.num_rows();
            bytes += chunk.bytes;
            state.rows -= chunk.batch.num_rows();
            state.bytes -= chunk.bytes;
            taken.push(chunk);
        }
        if !taken.is_empty() {
            self.0.not_full.notify_all();
        }
        taken
    }

    /// Waits until there is a chunk, the queue is closed, or `timeout` is over. Whether there is a chunk.
    pub fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.0.state.lock();
        if state.chunks.is_empty() && !state.closed {
            self.0.not_empty.wait_for(&mut state, timeout);
        }
        !state.chunks.is_empty()
    }

    /// Whether no chunk waits.
    pub fn is_empty(&self) -> bool {
        self.0.state.lock().chunks.is_empty()
    }

    /// Rows waiting.
    pub fn rows(&self) -> usize {
        self.0.state.lock().rows
    }

    /// Bytes waiting, as [`Chunk::bytes`] counts them.
    pub fn bytes(&self) -> usize {
        self.0.state.lock().bytes
    }

    /// Ends the queue: writers stop, what waits can still be taken.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.not_full.notify_all();
        self.0.not_empty.notify_all();
    }

    /// Starts a generation of writers and returns its number; older ones fail from here on. With `clear`, drops what
    /// waits: what a rewind starts with.
    pub(crate) fn begin(&self, clear: bool) -> u64 {
        let mut state = self.0.state.lock();
        if clear {
            *state = State { generation: state.generation, ..State::default() };
        }
        state.generation += 1;
        state.closed = false;
        self.0.not_full.notify_all();
        state.generation
    }

    /// Makes the writers of a generation fail, those that wait for room too.
    pub(crate) fn retire(&self, generation: u64) {
        let mut state = self.0.state.lock();
        if state.generation == generation {
            state.generation += 1;
            self.0.not_full.notify_all();
        }
    }

    /// Adds chunks at once, after waiting for room. False if the queue was closed or reset meanwhile: the chunks are gone.
    pub(crate) fn push(&self, generation: u64, chunks: impl IntoIterator<Item = Chunk>) -> bool {
        let mut state = self.0.state.lock();
        while state.bytes >= self.0.bytes_max && !state.closed && state.generation == generation {
            self.0.not_full.wait(&mut state);
        }
        if state.closed || state.generation != generation {
            return false;
        }
        for chunk in chunks {
            state.rows += chunk.batch.num_rows();
            state.bytes += chunk.bytes;
            state.chunks.push_back(chunk);
        }
        self.0.not_empty.notify_all();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int32Array};

    fn chunk(rows: usize, bytes: usize) -> Chunk {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![0; rows]));
        Chunk {
            partition: 0,
            first_offset: 0,
            next_offset: rows as i64,
            batch: RecordBatch::try_from_iter([("a", column)]).unwrap(),
            deletes: None,
            dead: vec![],
            skipped: 0,
            bytes,
            arrived: Instant::now(),
            produced_ms_max: i64::MIN,
            origin: None,
        }
    }

    #[test]
    fn take_stops_at_the_bound_but_takes_free_chunks_along() {
        let queue = ChunkQueue::new(1 << 20);
        let generation = queue.begin(false);
        assert!(queue.push(generation, [chunk(10, 100), chunk(0, 0), chunk(10, 100)]));
        assert_eq!(queue.take(5, 1 << 20).len(), 2);
        assert_eq!((queue.rows(), queue.bytes()), (10, 100));
        assert_eq!(queue.take(1, 1).len(), 1);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_writer_waits_for_room_and_a_reset_sends_it_away() {
        let queue = ChunkQueue::new(100);
        let generation = queue.begin(false);
        assert!(queue.push(generation, [chunk(1, 150)]));
        let writer = std::thread::spawn({
            let queue = queue.clone();
            move || queue.push(generation, [chunk(1, 1)])
        });
        std::thread::sleep(Duration::from_millis(30));
        assert!(!writer.is_finished());
        assert_eq!(queue.take(usize::MAX, usize::MAX).len(), 1);
        assert!(writer.join().unwrap());
        queue.begin(true);
        assert!(queue.is_empty());
        assert!(!queue.push(generation, [chunk(1, 1)]));
    }
}
