//! Many byte strings in one allocation: keys, rows and values on their way between operators and RocksDB.

/// A list of byte strings in one arena, in insertion order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByteRows {
    data: Vec<u8>,
    /// Where each row ends in `data`; a row starts where the one before it ends.
    ends: Vec<usize>,
}

impl ByteRows {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty list with room for `rows` rows of `bytes` bytes in total.
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        Self { data: Vec::with_capacity(bytes), ends: Vec::with_capacity(rows) }
    }

    /// `lengths.len()` rows of these lengths, all zeros, to be filled through [`ByteRows::parts_mut`].
    pub(crate) fn zeroed(lengths: &[usize]) -> Self {
        let mut end = 0;
        let ends = lengths
            .iter()
            .map(|length| {
                end += length;
                end
            })
            .collect();
        Self { data: vec![0; end], ends }
    }

    /// The arena and where each row ends in it.
    pub(crate) fn parts_mut(&mut self) -> (&mut [u8], &[usize]) {
        (&mut self.data, &self.ends)
    }

    /// Appends a row.
    pub fn push(&mut self, row: &[u8]) {
        self.data.extend_from_slice(row);
        self.ends.push(self.data.len());
    }

    /// Appends the row `head` followed by `tail`.
    pub fn push_pair(&mut self, head: &[u8], tail: &[u8]) {
        self.data.extend_from_slice(head);
        self.push(tail);
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.data[start..self.ends[i]]
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all rows together.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Forgets the rows from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.ends.truncate(len);
        self.data.truncate(self.ends.last().copied().unwrap_or_default());
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.data.clear();
        self.ends.clear();
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|i| self.get(i))
    }

    /// The order of rows by their bytes; equal rows stay in insertion order.
    pub fn sort_permutation(&self) -> Vec<u32> {
        // Keys of one table often begin alike: what they share is left out of the comparisons.
        let first = if self.is_empty() { &[] } else { self.get(0) };
        let shared = self.iter().fold(first.len(), |shared, row| common_prefix(&first[..shared], row));
        let mut order: Vec<(u64, u32)> =
            self.iter().enumerate().map(|(i, row)| (head(&row[shared..]), i as u32)).collect();
        if !order.is_sorted_by(|a, b| a.0 < b.0) {
            order.sort_unstable_by(|a, b| {
                a.0.cmp(&b.0)
                    .then_with(|| self.get(a.1 as usize)[shared..].cmp(&self.get(b.1 as usize)[shared..]))
                    .then_with(|| a.1.cmp(&b.1))
            });
        }
        order.into_iter().map(|(_, i)| i).collect()
    }
}

impl<R: AsRef<[u8]>> FromIterator<R> for ByteRows {
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        let mut out = Self::new();
        for row in rows {
            out.push(row.as_ref());
        }
        out
    }
}

/// The first eight bytes of a key as a number that compares as they do, so that most comparisons touch no other memory.
pub(crate) fn head(key: &[u8]) -> u64 {
    match key.first_chunk::<8>() {
        Some(chunk) => u64::from_be_bytes(*chunk),
        None => {
            let mut padded = [0; 8];
            padded[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(padded)
        }
    }
}

/// Bytes that both start with.
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    if b.starts_with(a) {
        return a.len();
    }
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The values found for a batch of keys, in the order of the keys.
#[derive(Debug, Clone, Default)]
pub struct Found {
    data: Vec<u8>,
    /// Offset and length of each value in `data`; an offset of [`ABSENT`] says that the key has none.
    spans: Vec<(usize, u32)>,
}

const ABSENT: usize = usize::MAX;

impl Found {
    pub(crate) fn absent(len: usize) -> Self {
        Self { data: Vec::new(), spans: vec![(ABSENT, 0); len] }
    }

    pub(crate) fn set(&mut self, i: usize, value: &[u8]) {
        self.spans[i] = (self.data.len(), value.len() as u32);
        self.data.extend_from_slice(value);
    }

    /// The value of key `i`, if it has one.
    ///
    /// # Panics
    /// If there was no such key.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let (offset, len) = self.spans[i];
        (offset != ABSENT).then(|| &self.data[offset..offset + len as usize])
    }

    /// Number of keys asked for.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether no key was asked for.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The values in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&[u8]>> + Clone {
        (0..self.len()).map(|i| self.get(i))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::ByteRows;

    proptest! {
        #[test]
        fn the_permutation_sorts_stably(
            rows in proptest::collection::vec(proptest::collection::vec(0u8..3, 0..11), 0..40), prefix in any::<Vec<u8>>(),
        ) {
            let rows: Vec<Vec<u8>> = rows.into_iter().map(|row| [prefix.clone(), row].concat()).collect();
            let bytes: ByteRows = rows.iter().collect();
            let mut expected: Vec<usize> = (0..rows.len()).collect();
            expected.sort_by(|a, b| rows[*a].cmp(&rows[*b]));
            let order: Vec<usize> = bytes.sort_permutation().into_iter().map(|i| i as usize).collect();
            prop_assert_eq!(order, expected);
        }

        #[test]
        fn rows_come_back(rows in proptest::collection::vec(any::<Vec<u8>>(), 0..20)) {
            let bytes: ByteRows = rows.iter().collect();
            prop_assert_eq!(bytes.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), rows);
        }
    }
}
