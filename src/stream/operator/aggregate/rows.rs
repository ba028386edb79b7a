//! The rows of an epoch as one aggregate sees them: argument, filter, weight and group of each.

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::buffer::BooleanBuffer;

/// The rows that an aggregate takes in: those whose filter is true and, for most, whose argument is not NULL.
pub(super) struct Rows<'a> {
    groups: &'a [u32],
    weights: Option<&'a [i64]>,
    argument: Option<&'a ArrayRef>,
    order: &'a [ArrayRef],
    included: Option<BooleanBuffer>,
}

impl<'a> Rows<'a> {
    /// Rows with their groups and, where some are not +1, their weights.
    pub fn new(
        groups: &'a [u32],
        weights: Option<&'a [i64]>,
        argument: Option<&'a ArrayRef>,
        filter: Option<&BooleanArray>,
    ) -> Self {
        Self::with_nulls(groups, weights, argument, filter).without_nulls()
    }

    /// The same with the rows whose argument is NULL.
    pub fn with_nulls(
        groups: &'a [u32],
        weights: Option<&'a [i64]>,
        argument: Option<&'a ArrayRef>,
        filter: Option<&BooleanArray>,
    ) -> Self {
        let included = filter.map(|f| match f.nulls() {
            Some(nulls) => f.values() & nulls.inner(),
            None => f.values().clone(),
        });
        Self { groups, weights, argument, order: &[], included }
    }

    fn without_nulls(mut self) -> Self {
        let nulls = self.argument.and_then(|a| a.logical_nulls()).filter(|n| n.null_count() > 0);
        if let Some(nulls) = nulls {
            let valid = nulls.into_inner();
            self.included = Some(self.included.map_or_else(|| valid.clone(), |included| &included & &valid));
        }
        self
    }

    /// The same with the columns of the aggregate's ORDER BY.
    pub fn ordered_by(mut self, order: &'a [ArrayRef]) -> Self {
        self.order = order;
        self
    }

    /// The columns of the aggregate's ORDER BY.
    pub fn order(&self) -> &'a [ArrayRef] {
        self.order
    }

    /// The argument column.
    pub fn argument(&self) -> Option<&'a ArrayRef> {
        self.argument
    }

    /// Calls `f` with row, group and weight of each row that counts.
    pub fn each(&self, mut f: impl FnMut(usize, usize, i64)) {
        match (&self.included, self.weights) {
            (None, None) => self.groups.iter().enumerate().for_each(|(row, g)| f(row, *g as usize, 1)),
            (None, Some(w)) => self.groups.iter().zip(w).enumerate().for_each(|(row, (g, w))| f(row, *g as usize, *w)),
            (Some(included), None) => included.set_indices().for_each(|row| f(row, self.groups[row] as usize, 1)),
            (Some(included), Some(w)) => {
                included.set_indices().for_each(|row| f(row, self.groups[row] as usize, w[row]));
            }
        }
    }
}
