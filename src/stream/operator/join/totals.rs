//! How many rows of a side have each join key: what decides whether the other side's rows have a match.

use arrow::array::Array;

use super::side::Changes;
use crate::error::{Error, Result, sqlstate};
use crate::state::{ByteRows, State, TableId};
use crate::stream::cached::CachedTable;
use crate::stream::operator::groups::Groups;

/// A table: join key -> number of rows.
#[derive(Debug)]
pub(super) struct Totals(CachedTable);

impl Totals {
    pub fn new(table: TableId) -> Self {
        Self(CachedTable::new(table))
    }

    pub fn set_cache_bytes(&mut self, bytes: usize) {
        self.0 = CachedTable::with_bytes(self.0.table(), bytes);
    }

    pub fn part(&self) -> u16 {
        self.0.table().part
    }

    /// Takes changes in; for each of their join keys, whether there was a row before and whether there is one now.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn change(&mut self, state: &mut State, changes: &Changes) -> Result<Vec<(bool, bool)>> {
        let keys = &changes.groups.keys;
        let net = changes.net();
        let stored = self.0.get_many(state, keys)?;
        let before = stored.iter().map(|count| count.map_or(Ok(0), decode)).collect::<Result<Vec<i64>>>()?;
        let after: Vec<i64> = before.iter().zip(&net).map(|(before, net)| before + net).collect();
        if after.iter().any(|count| *count < 0) {
            return Err(Error::internal("a join input takes back a row that it never gave"));
        }
        let moved: Vec<usize> = (0..keys.len()).filter(|key| net[*key] != 0).collect();
        let moved_keys: ByteRows = moved.iter().map(|key| keys.get(*key)).collect();
        let encoded: Vec<[u8; 8]> = moved.iter().map(|key| after[*key].to_le_bytes()).collect();
        self.0.write_many(state, &moved_keys, |i| (after[moved[i]] != 0).then_some(encoded[i].as_slice()));
        Ok(before.into_iter().zip(after).map(|(before, after)| (before > 0, after > 0)).collect())
    }

    /// Takes rows out that were forgotten, by their join keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn take_away(&mut self, state: &mut State, keys: &ByteRows, weights: &[i64]) -> Result<()> {
        let groups = Groups::assign(keys);
        let mut left: Vec<i64> = Vec::with_capacity(groups.len());
        for count in self.0.get_many(state, &groups.keys)?.iter() {
            left.push(count.map_or(Ok(0), decode)?);
        }
        groups.of_row.iter().zip(weights).for_each(|(key, weight)| left[*key as usize] -= weight);
        let encoded: Vec<[u8; 8]> = left.iter().map(|count| count.to_le_bytes()).collect();
        self.0.write_many(state, &groups.keys, |i| (left[i] > 0).then_some(encoded[i].as_slice()));
        Ok(())
    }

    /// Whether there is a row with each of the keys.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn any(&mut self, state: &State, keys: &ByteRows) -> Result<Vec<bool>> {
        Ok(self.0.get_many(state, keys)?.iter().map(|count| count.is_some()).collect())
    }

    pub fn truncate_below(&mut self, state: &mut State, key: &[u8]) {
        self.0.truncate_below(state, key);
    }

    pub fn end_epoch(&mut self) {
        self.0.end_epoch();
    }

    pub fn reset(&mut self) {
        self.0.reset();
    }
}

impl Changes {
    /// By join key, how many rows more there are.
    pub fn net(&self) -> Vec<i64> {
        let mut net = vec![0; self.groups.len()];
        match &self.delta.weights {
            Some(weights) => {
                debug_assert_eq!(weights.null_count(), 0);
                self.groups.of_row.iter().zip(weights.values()).for_each(|(key, w)| net[*key as usize] += w);
            }
            None => self.groups.of_row.iter().for_each(|key| net[*key as usize] += 1),
        }
        net
    }
}

fn decode(bytes: &[u8]) -> Result<i64> {
    let bytes = bytes.try_into().map_err(|_| {
        Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: a count of rows is not eight bytes")
    })?;
    Ok(i64::from_le_bytes(bytes))
}
