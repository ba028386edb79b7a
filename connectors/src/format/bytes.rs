//! ENCODE BYTES: the payload as it is, in the one column that there is; also for keys as text and as bytes.

use crate::format::Failure;
use crate::format::payload::{Columns, ReadPayload};

/// Payloads that are one value: bytes as they are, or text of any type's form.
pub(super) struct WholePayload {
    /// The column's position among the builders.
    pub at: usize,
    /// The column's name, for errors.
    pub name: Box<str>,
}

impl ReadPayload for WholePayload {
    fn read(&mut self, payload: &[u8], mut columns: Columns<'_>) -> Result<(), Failure> {
        let outcome = columns.cleared(self.at).append_bytes(payload);
        outcome.map_err(|e| format!("column \"{}\": {e}", self.name).into())
    }
}
