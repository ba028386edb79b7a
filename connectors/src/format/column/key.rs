//! Values as keys: compared with those of another column, and copied from it.

use super::{ColumnBuilder, Data};

impl ColumnBuilder {
    /// Whether a value is the same as one of another column of the same type; of types that a key can have.
    pub(in crate::format) fn equals(&self, row: usize, other: &Self, other_row: usize) -> bool {
        let (a, b) = (row, other_row);
        if self.is_null(a) || other.is_null(b) {
            return self.is_null(a) && other.is_null(b);
        }
        match (&self.data, &other.data) {
            (Data::Bool(x), Data::Bool(y)) => x.get_bit(a) == y.get_bit(b),
            (Data::Int2(x), Data::Int2(y)) => x[a] == y[b],
            (Data::Int4(x), Data::Int4(y)) | (Data::Date(x), Data::Date(y)) => x[a] == y[b],
            (Data::Int8(x), Data::Int8(y))
            | (Data::Time { values: x, .. }, Data::Time { values: y, .. })
            | (Data::Timestamp { values: x, .. }, Data::Timestamp { values: y, .. }) => x[a] == y[b],
            (Data::Oid(x), Data::Oid(y)) => x[a] == y[b],
            (Data::Float4(x), Data::Float4(y)) => x[a].to_bits() == y[b].to_bits(),
            (Data::Float8(x), Data::Float8(y)) => x[a].to_bits() == y[b].to_bits(),
            (Data::Numeric { values: x, .. }, Data::Numeric { values: y, .. }) => x[a] == y[b],
            (Data::Uuid(x), Data::Uuid(y)) => x[a * 16..][..16] == y[b * 16..][..16],
            _ => self.bytes_at(a).is_some_and(|x| other.bytes_at(b) == Some(x)),
        }
    }

    /// Appends a value of another column of the same type; of types that a key can have.
    ///
    /// # Errors
    /// For other types.
    pub(in crate::format) fn append_from(&mut self, other: &Self, row: usize) -> Result<(), String> {
        if other.is_null(row) {
            self.append_null();
            return Ok(());
        }
        if let Some(value) = other.bytes_at(row) {
            return self.append_bytes(&value);
        }
        match (&mut self.data, &other.data) {
            (Data::Bool(to), Data::Bool(v)) => to.append(v.get_bit(row)),
            (Data::Int2(to), Data::Int2(v)) => to.push(v[row]),
            (Data::Int4(to), Data::Int4(v)) | (Data::Date(to), Data::Date(v)) => to.push(v[row]),
            (Data::Int8(to), Data::Int8(v))
            | (Data::Time { values: to, .. }, Data::Time { values: v, .. })
            | (Data::Timestamp { values: to, .. }, Data::Timestamp { values: v, .. }) => to.push(v[row]),
            (Data::Oid(to), Data::Oid(v)) => to.push(v[row]),
            (Data::Float4(to), Data::Float4(v)) => to.push(v[row]),
            (Data::Float8(to), Data::Float8(v)) => to.push(v[row]),
            (Data::Numeric { values: to, .. }, Data::Numeric { values: v, .. }) => to.push(v[row]),
            (Data::Uuid(to), Data::Uuid(v)) => to.extend_from_slice(&v[row * 16..][..16]),
            _ => return Err("a value of this type cannot be a key".into()),
        }
        self.mark_valid();
        Ok(())
    }

    /// The bytes of a text or bytea.
    fn bytes_at(&self, row: usize) -> Option<Vec<u8>> {
        match &self.data {
            Data::Text { views, long, .. } => {
                // The length is in the lowest bytes of a view; a short text follows, of a long one the highest say where it is.
                let (view, length) = (views[row], views[row] as u32 as usize);
                Some(match length {
                    0..=12 => view.to_le_bytes()[4..][..length].to_vec(),
                    _ => long[(view >> 96) as usize..][..length].to_vec(),
                })
            }
            Data::Bytea { offsets, bytes } => Some(bytes[offsets[row] as usize..offsets[row + 1] as usize].to_vec()),
            _ => None,
        }
    }
}
