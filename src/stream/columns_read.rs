//! Which columns of a relation are read, and of columns of records which fields.

use std::collections::{BTreeMap, BTreeSet};

use millstream_connectors::FieldsRead;

/// Columns by position, each with the fields that are read of it; `None`: all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnsRead(BTreeMap<usize, Option<BTreeSet<usize>>>);

impl ColumnsRead {
    /// Columns of which `fields` says where only some fields are read.
    pub fn of(columns: impl IntoIterator<Item = usize>, fields: &FieldsRead) -> Self {
        Self(columns.into_iter().map(|c| (c, fields.get(&c).cloned())).collect())
    }

    /// Adds a whole column.
    pub fn add(&mut self, column: usize) {
        self.0.insert(column, None);
    }

    /// Adds one field of a column.
    pub fn add_field(&mut self, column: usize, field: usize) {
        if let Some(fields) = self.0.entry(column).or_insert_with(|| Some(BTreeSet::new())) {
            fields.insert(field);
        }
    }

    /// Adds what another one reads.
    pub fn extend(&mut self, other: &Self) {
        for (column, fields) in &other.0 {
            match fields {
                None => self.add(*column),
                Some(fields) => {
                    self.0.entry(*column).or_insert_with(|| Some(BTreeSet::new()));
                    fields.iter().for_each(|field| self.add_field(*column, *field));
                }
            }
        }
    }

    /// Whether all that `other` reads is read.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.iter().all(|(column, fields)| match (self.0.get(column), fields) {
            (None, _) => false,
            (Some(None), _) => true,
            (Some(Some(own)), Some(fields)) => fields.is_subset(own),
            (Some(Some(_)), None) => false,
        })
    }

    /// The columns, ascending.
    pub fn columns(&self) -> impl Iterator<Item = usize> {
        self.0.keys().copied()
    }

    /// The columns of which not all fields are read, with those that are.
    pub fn fields(&self) -> FieldsRead {
        self.0.iter().filter_map(|(column, fields)| Some((*column, fields.clone()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_read_as_far_as_anybody_reads_it() {
        let some = |fields: &[usize]| FieldsRead::from([(1, fields.iter().copied().collect())]);
        let mut all = ColumnsRead::of([0, 1], &some(&[2]));
        let more = ColumnsRead::of([1, 3], &some(&[4]));
        assert!(!all.contains(&more));
        all.extend(&more);
        assert!(all.contains(&more));
        assert_eq!(all.columns().collect::<Vec<_>>(), [0, 1, 3]);
        assert_eq!(all.fields(), some(&[2, 4]));
        let whole = ColumnsRead::of([1], &FieldsRead::new());
        assert!(!all.contains(&whole));
        all.extend(&whole);
        assert!(all.contains(&whole) && all.contains(&more) && all.fields().is_empty());
    }
}
