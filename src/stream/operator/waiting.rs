//! Rows that wait for a moment: a table of moment, row -> count, read in order of time.

use std::ops::Bound;

use arrow::array::{Int64Array, RecordBatch};

use super::groups::Groups;
use crate::error::{Error, Result, sqlstate};
use crate::state::{ByteRows, Level, State, TableId};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;

/// Rows that are read and put out together.
const CHUNK_ROWS: usize = 8192;

/// Bytes of a moment.
pub(super) const MOMENT_BYTES: usize = 8;

/// A moment as a key that orders as time does.
pub(super) fn moment_key(moment_us: i64) -> [u8; MOMENT_BYTES] {
    ((moment_us as u64) ^ (1 << 63)).to_be_bytes()
}

/// The moment that a key begins with.
pub(super) fn moment(key: &[u8]) -> Result<i64> {
    let bytes = key.first_chunk::<MOMENT_BYTES>().ok_or_else(corrupt)?;
    Ok((u64::from_be_bytes(*bytes) ^ (1 << 63)) as i64)
}

/// The next keys and counts of a table below `bound`.
pub(super) fn past(
    state: &State,
    table: TableId,
    after: &mut Bound<Vec<u8>>,
    bound: &[u8],
) -> Result<(ByteRows, Vec<i64>)> {
    let (mut keys, mut values) = (ByteRows::new(), ByteRows::new());
    let from = after.as_ref().map(Vec::as_slice);
    state.scan(table, from, Bound::Excluded(bound), Level::Open).fill(&mut keys, &mut values, CHUNK_ROWS)?;
    if let Some(last) = keys.len().checked_sub(1) {
        *after = Bound::Excluded(keys.get(last).to_vec());
    }
    let counts = values.iter().map(decode_count).collect::<Result<_>>()?;
    Ok((keys, counts))
}

/// Adds to the counts of keys, of which some may be the same.
pub(super) fn add_counts(table: &mut CachedTable, state: &mut State, keys: &ByteRows, counts: &[i64]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let groups = Groups::assign(keys);
    let mut net = vec![0_i64; groups.len()];
    groups.of_row.iter().zip(counts).for_each(|(key, count)| net[*key as usize] += count);
    let stored = table.get_many(state, &groups.keys)?;
    for (net, stored) in net.iter_mut().zip(stored.iter()) {
        *net += stored.map_or(Ok(0), decode_count)?;
    }
    if net.iter().any(|count| *count < 0) {
        return Err(Error::internal("a row is taken back that was never given"));
    }
    let encoded: Vec<[u8; 8]> = net.iter().map(|count| count.to_le_bytes()).collect();
    table.write_many(state, &groups.keys, |i| (net[i] != 0).then_some(encoded[i].as_slice()));
    Ok(())
}

fn decode_count(bytes: &[u8]) -> Result<i64> {
    Ok(i64::from_le_bytes(bytes.try_into().map_err(|_| corrupt())?))
}

/// Puts out rows with their weights, without those of weight zero.
pub(super) fn push_rows(batch: RecordBatch, weights: &[i64], output: &mut Vec<Delta>) -> Result<()> {
    if weights.iter().all(|weight| *weight == 0) {
        return Ok(());
    }
    let delta = Delta::new(batch, Int64Array::from(weights.to_vec()));
    let delta = match weights.contains(&0) {
        true => delta.filter(&weights.iter().map(|weight| Some(*weight != 0)).collect())?,
        false => delta,
    };
    output.push(delta);
    Ok(())
}

fn corrupt() -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: a row that waits for a moment is damaged")
}
