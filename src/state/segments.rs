//! Append-only rows as column segments: many rows in one value, in Arrow IPC, so that appends cost little and scans are
//! columnar.
//!
//! A row is known by its [`RowId`]: the epoch that appended it and its ordinal among the rows that this epoch appended to
//! the table. A segment's key is the id of its *last* row (epoch u64, ordinal u32, both big endian), so that the first
//! segment at or after a row's key is the one that holds it. Merging adjacent segments keeps order and ids.
//!
//! Version 1 of the value, little endian: version byte `01`, three zero bytes; number of pieces, columns and bytes of IPC
//! metadata (u32 each); for each piece, a range of consecutive rows of one epoch, its epoch (u64), first ordinal and rows
//! (u32 each); then one encapsulated Arrow IPC RecordBatch message, aligned to 16 bytes, without a schema: that is the
//! table's. RocksDB compresses it. A segment with fewer columns than the schema was written before the others were added:
//! they are NULL.

mod merge;

use std::ops::Bound;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::buffer::Buffer;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::ipc::reader::FileDecoder;
use datafusion::arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use datafusion::arrow::ipc::{Block, MetadataVersion};
use serde::{Deserialize, Serialize};

use super::scan::Scan;
use super::snapshot::Snapshot;
use super::{Level, State, TableId};
use crate::error::{Error, Result, sqlstate};

pub(super) use self::merge::Tail;

const VERSION: u8 = 1;
const ALIGNMENT: usize = 16;
const HEADER_LEN: usize = 16;
const PIECE_LEN: usize = 16;
const KEY_LEN: usize = 12;

/// A segment is cut at about this many bytes, and not merged further once it has half of them.
const SEGMENT_BYTES: usize = 1 << 20;
const SEGMENT_ROWS: usize = 1 << 16;

/// Names a row of an append-only table for ever; ids are in append order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowId(i64);

impl RowId {
    const ORDINAL_BITS: u32 = 25;
    /// Rows that one epoch can append to one table.
    pub const ROWS_PER_EPOCH_MAX: u32 = 1 << Self::ORDINAL_BITS;

    /// The row with that ordinal among the rows that an epoch appended.
    ///
    /// # Panics
    /// In debug builds, if either number is out of range.
    pub fn new(epoch: u64, ordinal: u32) -> Self {
        debug_assert!(epoch < 1 << (63 - Self::ORDINAL_BITS) && ordinal < Self::ROWS_PER_EPOCH_MAX);
        Self((epoch << Self::ORDINAL_BITS | u64::from(ordinal)) as i64)
    }

    /// The id as the value of a BIGINT column: the epoch above the ordinal's 25 bits.
    pub fn as_i64(self) -> i64 {
        self.0
    }

    /// The id of a BIGINT value.
    pub fn from_i64(id: i64) -> Self {
        Self(id)
    }

    /// The epoch that appended the row.
    pub fn epoch(self) -> u64 {
        self.0 as u64 >> Self::ORDINAL_BITS
    }

    /// The row's place among the rows that the epoch appended to the table.
    pub fn ordinal(self) -> u32 {
        self.0 as u32 & (Self::ROWS_PER_EPOCH_MAX - 1)
    }

    /// The key of a segment that ends with this row; [`State::truncate_below`] it to forget the rows before the segment
    /// that holds this row.
    pub fn key(self) -> [u8; KEY_LEN] {
        let mut key = [0; KEY_LEN];
        key[..8].copy_from_slice(&self.epoch().to_be_bytes());
        key[8..].copy_from_slice(&self.ordinal().to_be_bytes());
        key
    }
}

/// Appends rows to a table and returns the id of the first; the others follow it. Nothing is written for no rows. Now and
/// then merges small segments at the end of the table, in the same epoch.
///
/// # Errors
/// 54000 if the open epoch appends more than [`RowId::ROWS_PER_EPOCH_MAX`] rows to the table; those of [`State::get`].
pub fn append(state: &mut State, table: TableId, batch: &RecordBatch) -> Result<RowId> {
    let epoch = state.epoch();
    let ordinal = *state.ordinal_mut(table);
    let end = usize::try_from(ordinal).unwrap_or(usize::MAX).saturating_add(batch.num_rows());
    if end > RowId::ROWS_PER_EPOCH_MAX as usize {
        return Err(Error::new(
            sqlstate::PROGRAM_LIMIT_EXCEEDED,
            format!("more than {} rows in one epoch", RowId::ROWS_PER_EPOCH_MAX),
        )
        .with_hint("write the rows with several statements"));
    }
    let first = RowId::new(epoch, ordinal.min(RowId::ROWS_PER_EPOCH_MAX - 1));
    if batch.num_rows() == 0 {
        return Ok(first);
    }
    let batch = compact_views(batch)?;
    let rows_at_once = rows_per_segment(&batch);
    let mut ordinal = ordinal;
    let mut tail = state.take_tail(table);
    tail.look_back(state, table)?;
    for start in (0..batch.num_rows()).step_by(rows_at_once) {
        let slice = batch.slice(start, rows_at_once.min(batch.num_rows() - start));
        let rows = slice.num_rows() as u32;
        let value = encode(&slice, &[Piece { epoch, first: ordinal, rows }])?;
        ordinal += rows;
        let last = RowId::new(epoch, ordinal - 1);
        state.put(table, &last.key(), &value);
        tail.push(last, value.len());
    }
    *state.ordinal_mut(table) = ordinal;
    tail.merge(state, table, &batch.schema())?;
    state.put_tail(table, tail);
    Ok(first)
}

/// The rows of a table after `after`, or all, as of a snapshot. `projection` picks columns of `schema` by position.
///
/// # Errors
/// XX000 if the projection is not of the schema.
pub fn scan_snapshot(
    snapshot: &Arc<Snapshot>,
    table: TableId,
    schema: &SchemaRef,
    projection: Option<&[usize]>,
    after: Option<RowId>,
) -> Result<SegmentScan<'static>> {
    let start = after.map(RowId::key);
    let scan = snapshot.scan(table, from(start.as_ref()), Bound::Unbounded);
    SegmentScan::new(scan, schema, projection, after)
}

/// The rows of a table after `after`, or all, as the epoch loop sees them.
///
/// # Errors
/// As [`scan_snapshot`].
pub fn scan_state<'a>(
    state: &'a State,
    table: TableId,
    schema: &SchemaRef,
    projection: Option<&[usize]>,
    after: Option<RowId>,
    level: Level,
) -> Result<SegmentScan<'a>> {
    let start = after.map(RowId::key);
    let scan = state.scan(table, from(start.as_ref()), Bound::Unbounded, level);
    SegmentScan::new(scan, schema, projection, after)
}

fn from(key: Option<&[u8; KEY_LEN]>) -> Bound<&[u8]> {
    key.map_or(Bound::Unbounded, |key| Bound::Included(key.as_slice()))
}

/// Some rows of an append-only table.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The projected columns.
    pub batch: RecordBatch,
    /// [`RowId::as_i64`] of each row, increasing.
    pub row_ids: Int64Array,
}

/// Segments of a table in order.
pub struct SegmentScan<'a> {
    scan: Scan<'a>,
    decoder: Decoder,
    after: Option<RowId>,
}

impl<'a> SegmentScan<'a> {
    fn new(scan: Scan<'a>, schema: &SchemaRef, projection: Option<&[usize]>, after: Option<RowId>) -> Result<Self> {
        Ok(Self { scan, decoder: Decoder::new(schema, projection)?, after })
    }

    fn next_segment(&mut self) -> Result<Option<Segment>> {
        while let Some((_, value)) = self.scan.next_row()? {
            let (batch, pieces) = self.decoder.decode(value)?;
            let ids: Vec<i64> = pieces.iter().flat_map(|p| p.ids()).collect();
            if ids.len() != batch.num_rows() {
                return Err(corrupt("its row numbers do not match its rows"));
            }
            let skip = self.after.map_or(0, |after| ids.partition_point(|id| *id <= after.0));
            if skip == ids.len() {
                continue;
            }
            let row_ids = Int64Array::from(ids);
            return Ok(Some(match skip {
                0 => Segment { batch, row_ids },
                _ => {
                    let rows = batch.num_rows() - skip;
                    Segment { batch: batch.slice(skip, rows), row_ids: row_ids.slice(skip, rows) }
                }
            }));
        }
        Ok(None)
    }
}

impl Iterator for SegmentScan<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_segment().transpose()
    }
}

/// Consecutive rows of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    epoch: u64,
    first: u32,
    rows: u32,
}

impl Piece {
    fn ids(self) -> impl Iterator<Item = i64> {
        let first = RowId::new(self.epoch, self.first).0;
        first..first + i64::from(self.rows)
    }
}

fn parse_key(key: &[u8]) -> Result<RowId> {
    let (epoch, rest) = key.split_first_chunk::<8>().ok_or_else(|| corrupt("its key is cut off"))?;
    let ordinal = rest.first_chunk::<4>().ok_or_else(|| corrupt("its key is cut off"))?;
    Ok(RowId::new(u64::from_be_bytes(*epoch), u32::from_be_bytes(*ordinal)))
}

fn encode(batch: &RecordBatch, pieces: &[Piece]) -> Result<Vec<u8>> {
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
    let mut dictionaries = DictionaryTracker::new(true);
    let (_, message) =
        IpcDataGenerator::default().encode(batch, &mut dictionaries, &options, &mut Default::default())?;
    let header_len = HEADER_LEN + PIECE_LEN * pieces.len();
    let mut out = Vec::with_capacity(header_len + message.ipc_message.len() + message.arrow_data.len() + 64);
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
    out.extend_from_slice(&(pieces.len() as u32).to_le_bytes());
    out.extend_from_slice(&(batch.num_columns() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for piece in pieces {
        out.extend_from_slice(&piece.epoch.to_le_bytes());
        out.extend_from_slice(&piece.first.to_le_bytes());
        out.extend_from_slice(&piece.rows.to_le_bytes());
    }
    let (metadata_len, _) = write_message(&mut out, message, &options)?;
    out[12..16].copy_from_slice(&(metadata_len as u32).to_le_bytes());
    Ok(out)
}

/// Decodes segments to some columns of a schema.
struct Decoder {
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    projected: SchemaRef,
    /// For segments with all columns.
    full: FileDecoder,
}

impl Decoder {
    fn new(schema: &SchemaRef, projection: Option<&[usize]>) -> Result<Self> {
        let projected = match projection {
            Some(columns) => Arc::new(schema.project(columns)?),
            None => schema.clone(),
        };
        let mut full = FileDecoder::new(schema.clone(), MetadataVersion::V5);
        if let Some(columns) = projection {
            full = full.with_projection(columns.to_vec());
        }
        Ok(Self { schema: schema.clone(), projection: projection.map(<[usize]>::to_vec), projected, full })
    }

    fn decode(&self, value: &[u8]) -> Result<(RecordBatch, Vec<Piece>)> {
        let u32_at = |at: usize| {
            value.get(at..).and_then(|rest| rest.first_chunk::<4>()).map(|bytes| u32::from_le_bytes(*bytes) as usize)
        };
        match value.first() {
            Some(&VERSION) => {}
            Some(other) => return Err(corrupt(&format!("version {other} is unknown, this server reads {VERSION}"))),
            None => return Err(corrupt("it is empty")),
        }
        let (Some(count), Some(columns), Some(metadata_len)) = (u32_at(4), u32_at(8), u32_at(12)) else {
            return Err(corrupt("its header is cut off"));
        };
        let pieces_end = HEADER_LEN + PIECE_LEN * count;
        let (Some(stored_pieces), Some(message)) = (value.get(HEADER_LEN..pieces_end), value.get(pieces_end..)) else {
            return Err(corrupt("its header is cut off"));
        };
        let Some(body_len) = message.len().checked_sub(metadata_len) else {
            return Err(corrupt("its metadata is cut off"));
        };
        let block = Block::new(0, metadata_len as i32, body_len as i64);
        let message = Buffer::from(message);
        let batch = match columns == self.schema.fields().len() {
            true => self.full.read_record_batch(&block, &message)?.ok_or_else(|| corrupt("it holds no rows"))?,
            false => self.decode_older(&block, &message, columns)?,
        };
        let pieces = stored_pieces.chunks_exact(PIECE_LEN).map(parse_piece).collect::<Result<_>>()?;
        Ok((batch, pieces))
    }

    /// A segment from before the last columns were added.
    fn decode_older(&self, block: &Block, message: &Buffer, columns: usize) -> Result<RecordBatch> {
        if columns > self.schema.fields().len() {
            return Err(corrupt("it has more columns than its table"));
        }
        let stored: Vec<usize> = (0..columns).collect();
        let decoder = FileDecoder::new(Arc::new(self.schema.project(&stored)?), MetadataVersion::V5);
        let batch = decoder.read_record_batch(block, message)?.ok_or_else(|| corrupt("it holds no rows"))?;
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let arrays = self.projection.as_deref().unwrap_or(&all).iter().map(|i| match batch.columns().get(*i) {
            Some(array) => array.clone(),
            None => new_null_array(self.schema.field(*i).data_type(), batch.num_rows()),
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.projected.clone(), arrays.collect(), &options)?)
    }
}

fn parse_piece(bytes: &[u8]) -> Result<Piece> {
    let (epoch, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| corrupt("its header is cut off"))?;
    let (first, rest) = rest.split_first_chunk::<4>().ok_or_else(|| corrupt("its header is cut off"))?;
    let rows = rest.first_chunk::<4>().ok_or_else(|| corrupt("its header is cut off"))?;
    Ok(Piece { epoch: u64::from_le_bytes(*epoch), first: u32::from_le_bytes(*first), rows: u32::from_le_bytes(*rows) })
}

/// Rows of such a batch that make about [`SEGMENT_BYTES`].
fn rows_per_segment(batch: &RecordBatch) -> usize {
    let bytes: usize = batch.columns().iter().map(|c| c.get_array_memory_size()).sum();
    let rows = batch.num_rows();
    (SEGMENT_BYTES * rows).checked_div(bytes).unwrap_or(rows).clamp(1, SEGMENT_ROWS)
}

/// The batch without the text that no row of it refers to: a filtered batch shares the buffers of the whole, and IPC
/// would write them all.
pub fn compact_views(batch: &RecordBatch) -> Result<RecordBatch> {
    let mut changed = false;
    let columns = batch.columns().iter().map(|column| {
        let compact: Option<ArrayRef> = match column.data_type() {
            DataType::Utf8View => {
                let views = column.as_string_view();
                let held: usize = views.data_buffers().iter().map(|b| b.len()).sum();
                (held > 2 * views.total_buffer_bytes_used()).then(|| Arc::new(views.gc()) as ArrayRef)
            }
            DataType::BinaryView => {
                let views = column.as_binary_view();
                let held: usize = views.data_buffers().iter().map(|b| b.len()).sum();
                (held > 2 * views.total_buffer_bytes_used()).then(|| Arc::new(views.gc()) as ArrayRef)
            }
            _ => None,
        };
        changed |= compact.is_some();
        compact.unwrap_or_else(|| column.clone())
    });
    let columns: Vec<ArrayRef> = columns.collect();
    if !changed {
        return Ok(batch.clone());
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns, &options)?)
}

fn corrupt(message: &str) -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, format!("a stored segment cannot be decoded: {message}"))
}

#[cfg(test)]
mod tests;
