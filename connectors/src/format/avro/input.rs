//! The bytes of one value in Avro's binary encoding, taken piece by piece.

use super::schema::{NamedKind, Schema, Type};

/// Values within values of data; deeper ones are an error rather than a stack overflow.
pub(super) const DEPTH_MAX: usize = 128;
/// So many items that take no bytes may a record have.
const EMPTY_ITEMS_MAX: usize = 10_000;

/// What is left of a value.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Items that may still come: no more than there are bytes, and a few that take none.
    items: usize,
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, items: bytes.len() + EMPTY_ITEMS_MAX }
    }

    #[cold]
    pub fn error<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("invalid Avro at byte {}: {what}", self.at))
    }

    /// Where it is, for [`Input::since`].
    pub fn mark(&self) -> usize {
        self.at
    }

    pub fn since(&self, mark: usize) -> &'a [u8] {
        &self.bytes[mark..self.at]
    }

    /// All must have been taken.
    pub fn end(&self) -> Result<(), String> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            more => self.error(&format!("{more} bytes behind the value")),
        }
    }

    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..n)) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => self.error("the value ends too early"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A whole number: base 128, the lowest digits first, the sign in the lowest bit.
    #[inline]
    pub fn long(&mut self) -> Result<i64, String> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let Some(b) = self.bytes.get(self.at) else { return self.error("the value ends within a number") };
            self.at += 1;
            if shift == 63 && *b > 1 {
                return self.error("a number of more than 64 bits");
            }
            value |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            shift += 7;
        }
    }

    pub fn int(&mut self) -> Result<i32, String> {
        let value = self.long()?;
        i32::try_from(value).or_else(|_| self.error("an int of more than 32 bits"))
    }

    pub fn boolean(&mut self) -> Result<bool, String> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => self.error("a boolean that is neither 0 nor 1"),
        }
    }

    pub fn float(&mut self) -> Result<f32, String> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    pub fn double(&mut self) -> Result<f64, String> {
        Ok(f64::from_le_bytes(self.array()?))
    }

    /// Bytes with their length before them.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.long()?;
        match usize::try_from(length) {
            Ok(n) => self.take(n),
            Err(_) => self.error("a negative length"),
        }
    }

    /// A string, which is UTF-8.
    pub fn text(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).or_else(|_| self.error("a string that is not valid UTF-8"))
    }

    /// The index of one of `n` branches or symbols.
    pub fn index(&mut self, n: usize, what: &str) -> Result<usize, String> {
        let value = self.long()?;
        match usize::try_from(value) {
            Ok(i) if i < n => Ok(i),
            _ => self.error(&format!("{what} {value} of {n}")),
        }
    }

    /// The items of the next block of an array or map; `None` behind the last one.
    pub fn block(&mut self) -> Result<Option<usize>, String> {
        let count = self.long()?;
        if count == 0 {
            return Ok(None);
        }
        if count < 0 {
            // Its bytes, which are of use to who passes over it.
            self.long()?;
        }
        let count = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        match self.items.checked_sub(count) {
            Some(rest) => {
                self.items = rest;
                Ok(Some(count))
            }
            None => self.error("more items than the value has bytes"),
        }
    }

    /// Passes over a value, checking it.
    pub fn skip(&mut self, schema: &Schema, t: &Type, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return self.error("values nested too deeply");
        }
        match t {
            Type::Null => Ok(()),
            Type::Boolean => self.boolean().map(|_| ()),
            Type::Int(_) => self.int().map(|_| ()),
            Type::Long(_) => self.long().map(|_| ()),
            Type::Float => self.float().map(|_| ()),
            Type::Double => self.double().map(|_| ()),
            Type::Bytes(_) => self.bytes().map(|_| ()),
            Type::String { .. } => self.text().map(|_| ()),
            Type::Array(item) => {
                while let Some(count) = self.block()? {
                    (0..count).try_for_each(|_| self.skip(schema, item, depth + 1))?;
                }
                Ok(())
            }
            Type::Map(value) => {
                while let Some(count) = self.block()? {
                    for _ in 0..count {
                        self.text()?;
                        self.skip(schema, value, depth + 1)?;
                    }
                }
                Ok(())
            }
            Type::Union(branches) => {
                let branch = self.index(branches.len(), "branch")?;
                self.skip(schema, &branches[branch], depth + 1)
            }
            Type::Named(i) => match &schema.names[*i].kind {
                NamedKind::Record(fields) => {
                    fields.iter().try_for_each(|f| self.skip(schema, &f.field_type, depth + 1))
                }
                NamedKind::Enum { symbols, .. } => self.index(symbols.len(), "symbol").map(|_| ()),
                NamedKind::Fixed { size, .. } => self.take(*size).map(|_| ()),
                NamedKind::Open => self.error("a type that is not complete"),
            },
        }
    }
}
