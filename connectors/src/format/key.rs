//! The key of a record: what identifies the row that `FORMAT UPSERT` and `FORMAT DEBEZIUM` speak of.

use crate::format::Failure;
use crate::format::json::{Cursor, ObjectReader, Reader, located};
use crate::format::payload::{Columns, ReadPayload, Target};

/// A key in JSON: an object with a field for each column, or the value itself where there is one column. The envelope that
/// Debezium puts around it (`{"schema": …, "payload": …}`) is taken off.
pub(super) struct JsonKey {
    reader: Reader,
    object: ObjectReader,
    /// The one column's position among the builders and its name.
    single: Option<(usize, Box<str>)>,
    unwrap: bool,
}

impl JsonKey {
    /// Of the key's columns; with `unwrap` there may be an envelope.
    pub fn new(targets: &[Target<'_>], unwrap: bool) -> Self {
        let single = match targets {
            [one] => Some((one.at, one.name.into())),
            _ => None,
        };
        let object = ObjectReader::new(targets.iter().map(|t| (t.name, t.at)));
        Self { reader: Reader::default(), object, single, unwrap }
    }
}

impl ReadPayload for JsonKey {
    fn read(&mut self, key: &[u8], mut columns: Columns<'_>) -> Result<(), Failure> {
        let mut key = key;
        if self.unwrap
            && let Some(inner) = Cursor::new(key)?.payload_of_envelope()
        {
            key = inner.as_bytes();
        }
        match &self.single {
            Some((at, name)) if !matches!(key.trim_ascii_start().first(), Some(b'{')) => {
                let column = columns.cleared(*at);
                Ok(self.reader.read_single(key, column).map_err(|e| located(e, || name))?)
            }
            _ => Ok(self.reader.read_object(key, &mut self.object, columns.reborrow())?),
        }
    }
}
