//! The threads that read files, each its own part of them; and a SELECT on the source.

use std::collections::VecDeque;
use std::collections::btree_map::{BTreeMap, Entry};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use parking_lot::Mutex;

use super::FilesSource;
use super::lines::Lines;
use crate::chunk::{Chunk, ChunkQueue, DeadLetter, Positions};
use crate::error::{ConnectorError, Result, sqlstate};
use crate::format::{Failure, Record, RecordDecoder, RecordFormat, Rows};
use crate::source::{Doorbell, OnError, PartitionStatus, ReadBounded, ReadSource, ReaderStatus};

/// A chunk is full at so many rows or bytes.
const CHUNK_ROWS_MAX: usize = 8192;
const CHUNK_BYTES_MAX: u64 = 4 << 20;
/// How often new files and lines are looked for; a file that has not grown in between has ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is to be read and where it goes.
pub(crate) struct ReadTask {
    pub source: FilesSource,
    pub format: RecordFormat,
    pub columns: Box<[usize]>,
    pub on_error: OnError,
    pub queue: ChunkQueue,
    pub doorbell: Doorbell,
    /// Where each file ends; others are not read. `None`: none of them ends.
    pub ends: Option<Positions>,
}

/// A source that is being read.
pub(crate) struct FilesReader {
    task: Arc<ReadTask>,
    run: Run,
}

/// The threads from one start or rewind to the next.
struct Run {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    generation: u64,
    stop: AtomicBool,
    partitions: Mutex<BTreeMap<i32, PartitionStatus>>,
    /// Why the files cannot be listed.
    error: Mutex<Option<String>>,
}

impl FilesReader {
    /// Starts the threads.
    ///
    /// # Errors
    /// XX000 for a column that is out of range, and if threads cannot be started.
    pub fn start(task: ReadTask, positions: Positions) -> Result<Self> {
        let task = Arc::new(task);
        task.format.decoder(&task.columns)?;
        let generation = task.queue.begin(false);
        let run = Run::start(&task, &positions, generation)?;
        Ok(Self { task, run })
    }
}

impl ReadSource for FilesReader {
    fn status(&self) -> ReaderStatus {
        let partitions = self.run.shared.partitions.lock().values().cloned().collect();
        ReaderStatus { partitions, error: self.run.shared.error.lock().clone() }
    }

    fn commit_offsets(&self, _positions: &[(i32, i64)]) {}

    fn rewind(&mut self, positions: Positions) -> Result<()> {
        self.stop();
        let generation = self.task.queue.begin(true);
        self.run = Run::start(&self.task, &positions, generation)?;
        Ok(())
    }

    fn stop(&mut self) {
        if self.run.threads.is_empty() {
            return;
        }
        self.run.shared.stop.store(true, Ordering::Relaxed);
        self.task.queue.retire(self.run.shared.generation);
        for thread in self.run.threads.drain(..) {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a thread that reads files has panicked");
            }
        }
    }
}

impl Run {
    fn start(task: &Arc<ReadTask>, positions: &Positions, generation: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            generation,
            stop: AtomicBool::new(false),
            partitions: Mutex::new(BTreeMap::new()),
            error: Mutex::new(None),
        });
        // One thread decodes a few hundred MB/s; more of them than files or cores are of no use.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = task.source.list().map_or(1, |files| files.len()).clamp(1, cores);
        let mut run = Self { shared: shared.clone(), threads: Vec::new() };
        for own in 0..count {
            let worker = Worker {
                task: task.clone(),
                shared: shared.clone(),
                positions: positions.clone(),
                own,
                count,
                parts: BTreeMap::new(),
            };
            let spawned = std::thread::Builder::new().name(format!("files-{own}")).spawn(move || {
                if let Err(e) = worker.run() {
                    tracing::error!("thread that reads files: {e}");
                }
            });
            run.threads
                .push(spawned.map_err(|e| ConnectorError::internal(format!("a thread cannot be started: {e}")))?);
        }
        Ok(run)
    }
}

/// A thread's own.
struct Worker {
    task: Arc<ReadTask>,
    shared: Arc<Shared>,
    /// Where files that were read before are to be read on.
    positions: Positions,
    /// Which of the files in their order this thread begins: those that are `own` modulo `count`.
    own: usize,
    count: usize,
    parts: BTreeMap<i32, Part>,
}

/// A file that is being read.
struct Part {
    path: PathBuf,
    lines: Lines,
    decoder: RecordDecoder,
    /// Where it ends for now.
    end: Option<u64>,
    /// Its size when it was last looked at.
    size: u64,
    /// Where its last line ends without a line break.
    rest_ends: Option<u64>,
    stopped: bool,
}

/// The queue does not take chunks of this run any more.
struct Retired;

impl Worker {
    fn run(mut self) -> Result<()> {
        let mut looked: Option<Instant> = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                looked = Some(Instant::now());
                if self.look()?.is_err() {
                    break;
                }
            }
            // In turns, so that event time advances alike in all.
            let mut read = false;
            let partitions: Vec<i32> = self.parts.keys().copied().collect();
            for partition in partitions {
                match self.read(partition)? {
                    Ok(some) => read |= some,
                    Err(Retired) => return Ok(()),
                }
            }
            if !read {
                std::thread::park_timeout(LOOK_EVERY);
            }
        }
        Ok(())
    }

    /// Looks for new files, and for files that have ended without a line break.
    fn look(&mut self) -> Result<Result<(), Retired>> {
        let files = match self.task.source.list() {
            Ok(files) => files,
            Err(e) => {
                *self.shared.error.lock() = Some(e.to_string());
                (self.task.doorbell)();
                return Ok(Ok(()));
            }
        };
        *self.shared.error.lock() = None;
        for (partition, path) in files.into_iter().skip(self.own).step_by(self.count) {
            if self.begin(partition, path)?.is_err() {
                return Ok(Err(Retired));
            }
        }
        let partitions: Vec<i32> = self.parts.keys().copied().collect();
        for partition in partitions {
            let Some(part) = self.parts.get_mut(&partition) else { continue };
            // A file that is gone is open still and can be read to its end.
            let Ok(size) = std::fs::metadata(&part.path).map(|m| m.len()) else { continue };
            let has_ended = size == std::mem::replace(&mut part.size, size) && size == part.lines.read_to();
            if size < part.lines.offset() {
                let path = part.path.display();
                let error = format!("file \"{path}\" is shorter than what was read of it");
                self.halt(partition, error);
            } else {
                part.rest_ends = has_ended.then_some(size);
            }
            if let Some(status) = self.shared.partitions.lock().get_mut(&partition) {
                status.high_watermark = Some(size as i64);
            }
        }
        Ok(Ok(()))
    }

    fn begin(&mut self, partition: i32, path: PathBuf) -> Result<Result<(), Retired>> {
        let end = match &self.task.ends {
            None => None,
            Some(ends) => match ends.get(&partition) {
                Some(end) => Some(*end as u64),
                None => return Ok(Ok(())),
            },
        };
        let position = self.positions.get(&partition).copied();
        let offset = position.unwrap_or(0);
        let status =
            PartitionStatus { partition, next_offset: offset, high_watermark: None, error: None, stopped: false };
        match self.shared.partitions.lock().entry(partition) {
            // Another thread has it, or it was begun before.
            Entry::Occupied(_) => return Ok(Ok(())),
            Entry::Vacant(entry) => drop(entry.insert(status)),
        }
        match Lines::open(&path, offset as u64) {
            Ok(lines) => {
                let mut decoder = self.task.format.decoder(&self.task.columns)?;
                let batch = decoder.finish()?.batch;
                let part = Part { path, lines, decoder, end, size: 0, rest_ends: None, stopped: false };
                self.parts.insert(partition, part);
                if position.is_none() {
                    let arrived = Instant::now();
                    return self.push(chunk(partition, offset, offset, batch, arrived));
                }
            }
            Err(e) => self.halt(partition, format!("file \"{}\" cannot be read: {e}", path.display())),
        }
        Ok(Ok(()))
    }

    /// Reads a chunk of a file. Whether there was something.
    fn read(&mut self, partition: i32) -> Result<Result<bool, Retired>> {
        let Some(part) = self.parts.get_mut(&partition).filter(|part| !part.stopped) else { return Ok(Ok(false)) };
        let (first, arrived) = (part.lines.offset(), Instant::now());
        let mut piece = Piece { on_error: self.task.on_error, dead: Vec::new(), skipped: 0 };
        let outcome = part.fill(partition, &mut piece);
        let next = match &outcome {
            Err((at, _)) => *at,
            Ok(()) => part.lines.offset(),
        };
        if next > first {
            let Rows { batch, deletes } = part.decoder.finish()?;
            let mut chunk = chunk(partition, first as i64, next as i64, batch, arrived);
            chunk.deletes = deletes;
            (chunk.dead, chunk.skipped, chunk.bytes) = (piece.dead, piece.skipped, (next - first) as usize);
            if self.push(chunk)?.is_err() {
                return Ok(Err(Retired));
            }
        }
        if let Err((_, error)) = outcome {
            self.halt(partition, error);
        }
        Ok(Ok(next > first))
    }

    fn push(&self, chunk: Chunk) -> Result<Result<(), Retired>> {
        let (partition, next) = (chunk.partition, chunk.next_offset);
        if !self.task.queue.push(self.shared.generation, [chunk]) {
            return Ok(Err(Retired));
        }
        if let Some(status) = self.shared.partitions.lock().get_mut(&partition) {
            status.next_offset = next;
        }
        (self.task.doorbell)();
        Ok(Ok(()))
    }

    /// Stops a file for good.
    fn halt(&mut self, partition: i32, error: String) {
        tracing::warn!("{error}");
        if let Some(part) = self.parts.get_mut(&partition) {
            part.stopped = true;
        }
        if let Some(status) = self.shared.partitions.lock().get_mut(&partition) {
            (status.error, status.stopped) = (Some(error), true);
        }
        (self.task.doorbell)();
    }
}

/// What of a chunk cannot be read.
struct Piece {
    on_error: OnError,
    dead: Vec<DeadLetter>,
    skipped: u64,
}

impl Part {
    /// Decodes lines until a chunk is full or nothing is there. The error is of the line at that position, which is not in
    /// the chunk.
    fn fill(&mut self, partition: i32, piece: &mut Piece) -> Result<(), (u64, String)> {
        let Self { path, lines, decoder, .. } = self;
        let (first, end) = (lines.offset(), self.end.or(self.rest_ends).unwrap_or(u64::MAX));
        while decoder.rows() < CHUNK_ROWS_MAX && lines.offset() - first < CHUNK_BYTES_MAX {
            let at = lines.offset();
            let named = |error: &dyn std::fmt::Display| {
                (at, format!("line at byte {at} of file \"{}\" cannot be read: {error}", path.display()))
            };
            let Some(line) = lines.next(end).map_err(|e| named(&e))? else { break };
            if let Err(error) = append(decoder, partition, at, line) {
                match piece.on_error {
                    OnError::Stop => return Err(named(&error)),
                    OnError::Skip => piece.skipped += 1,
                    OnError::DeadLetter => piece.dead.push(DeadLetter {
                        partition,
                        offset: at as i64,
                        timestamp_ms: None,
                        error,
                        key: None,
                        payload: Some(line.to_vec()),
                    }),
                }
            }
        }
        Ok(())
    }
}

/// Decodes a line; an empty one is no record.
fn append(decoder: &mut RecordDecoder, partition: i32, offset: u64, line: &[u8]) -> Result<(), String> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let record = Record { payload: Some(line), partition, offset: offset as i64, ..Record::default() };
    // What lines are read by does not go away.
    decoder.append(&record).map_err(|(Failure::Malformed(error) | Failure::Unavailable(error))| error)
}

fn chunk(partition: i32, first: i64, next: i64, batch: RecordBatch, arrived: Instant) -> Chunk {
    Chunk {
        partition,
        first_offset: first,
        next_offset: next,
        batch,
        deletes: None,
        dead: Vec::new(),
        skipped: 0,
        bytes: 0,
        arrived,
        produced_ms_max: i64::MIN,
        origin: None,
    }
}

/// All lines up to the end as of the start, file by file, for a SELECT.
pub(crate) struct BoundedReader {
    files: VecDeque<(i32, PathBuf)>,
    /// The file that is being read, and its size.
    current: Option<(i32, PathBuf, Lines, u64)>,
    decoder: RecordDecoder,
    on_error: OnError,
    unreadable: u64,
    failed: bool,
}

impl BoundedReader {
    /// Lists the files.
    pub fn start(source: &FilesSource, decoder: RecordDecoder, on_error: OnError) -> Result<Self> {
        let mut files: Vec<(i32, PathBuf)> = source.list()?.into_iter().collect();
        files.sort_by(|a, b| a.1.cmp(&b.1));
        Ok(Self { files: files.into(), current: None, decoder, on_error, unreadable: 0, failed: false })
    }

    fn fill(&mut self) -> Result<()> {
        while self.decoder.rows() < CHUNK_ROWS_MAX {
            let Some((partition, path, lines, end)) = &mut self.current else {
                let Some((partition, path)) = self.files.pop_front() else { return Ok(()) };
                let opened = std::fs::metadata(&path).and_then(|m| Ok((Lines::open(&path, 0)?, m.len())));
                let (lines, end) = opened.map_err(|e| unreadable(&path, &e))?;
                self.current = Some((partition, path, lines, end));
                continue;
            };
            let at = lines.offset();
            let Some(line) = lines.next(*end).map_err(|e| unreadable(path, &e))? else {
                self.current = None;
                continue;
            };
            if let Err(error) = append(&mut self.decoder, *partition, at, line) {
                if self.on_error == OnError::Stop {
                    return Err(ConnectorError::new(
                        sqlstate::INVALID_TEXT_REPRESENTATION,
                        format!("line at byte {at} of file \"{}\" cannot be read: {error}", path.display()),
                    ));
                }
                self.unreadable += 1;
            }
        }
        Ok(())
    }
}

fn unreadable(path: &Path, e: &io::Error) -> ConnectorError {
    ConnectorError::new(sqlstate::IO_ERROR, format!("file \"{}\" cannot be read: {e}", path.display()))
}

impl Iterator for BoundedReader {
    type Item = Result<Rows>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if let Err(e) = self.fill() {
            self.failed = true;
            return Some(Err(e));
        }
        (self.decoder.rows() > 0).then(|| self.decoder.finish())
    }
}

impl ReadBounded for BoundedReader {
    fn unreadable(&self) -> u64 {
        self.unreadable
    }
}
