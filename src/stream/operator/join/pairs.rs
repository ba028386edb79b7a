//! Pairs of changed and stored rows that have one join key.

use arrow::array::UInt32Array;

use super::CHUNK_ROWS;
use super::side::Matches;
use crate::error::Result;

/// The changed rows of each join key.
pub(super) struct RowsOfKey {
    rows: Vec<u32>,
    ends: Vec<u32>,
}

impl RowsOfKey {
    pub fn new(key_of_row: &[u32], keys: usize) -> Self {
        let mut ends = vec![0u32; keys];
        key_of_row.iter().for_each(|key| ends[*key as usize] += 1);
        let mut end = 0;
        for slot in &mut ends {
            end += *slot;
            *slot = end;
        }
        let mut next = ends.clone();
        let mut rows = vec![0; key_of_row.len()];
        for (row, key) in key_of_row.iter().enumerate().rev() {
            let slot = &mut next[*key as usize];
            *slot -= 1;
            rows[*slot as usize] = row as u32;
        }
        Self { rows, ends }
    }

    pub fn get(&self, key: usize) -> &[u32] {
        let start = if key == 0 { 0 } else { self.ends[key - 1] };
        &self.rows[start as usize..self.ends[key] as usize]
    }

    /// Calls `f` with the row numbers of changed and stored rows of one key, some thousand pairs at a time.
    pub fn pairs(&self, matches: &Matches, mut f: impl FnMut(UInt32Array, UInt32Array) -> Result<()>) -> Result<()> {
        let (mut changed, mut stored) = (Vec::new(), Vec::new());
        for (i, key) in matches.keys.iter().enumerate() {
            for row in self.get(*key as usize) {
                changed.push(*row);
                stored.push(i as u32);
                if changed.len() == CHUNK_ROWS {
                    f(std::mem::take(&mut changed).into(), std::mem::take(&mut stored).into())?;
                }
            }
        }
        if changed.is_empty() { Ok(()) } else { f(changed.into(), stored.into()) }
    }
}
