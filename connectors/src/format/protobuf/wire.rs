//! Protobuf's wire format: fields by number, each in one of four layouts.

/// What is left of a message.
pub(super) struct Wire<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A field's value as it stands in a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// Groups within groups; deeper ones are an error.
const DEPTH_MAX: usize = 64;

impl<'a> Wire<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[cold]
    fn error<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("invalid Protobuf at byte {}: {what}", self.at))
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// What has not been taken.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    #[inline]
    pub fn varint(&mut self) -> Result<u64, String> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let Some(b) = self.bytes.get(self.at) else { return self.error("the message ends within a number") };
            self.at += 1;
            if shift == 63 && *b > 1 {
                return self.error("a number of more than 64 bits");
            }
            value |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..n)) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => self.error("the message ends too early"),
        }
    }

    pub fn fixed64(&mut self) -> Result<u64, String> {
        let mut out = [0; 8];
        out.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(out))
    }

    pub fn fixed32(&mut self) -> Result<u32, String> {
        let mut out = [0; 4];
        out.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(out))
    }

    /// The next field; `None` at the end. Groups are passed over.
    pub fn field(&mut self) -> Result<Option<(u32, Value<'a>)>, String> {
        loop {
            if self.is_empty() {
                return Ok(None);
            }
            let (number, layout) = self.tag()?;
            if layout == 3 {
                self.skip_group(number, 0)?;
                continue;
            }
            return Ok(Some((number, self.value(layout)?)));
        }
    }

    fn tag(&mut self) -> Result<(u32, u8), String> {
        let tag = self.varint()?;
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 && number < 1 << 29 => Ok((number, (tag & 7) as u8)),
            _ => self.error("a field's number is out of range"),
        }
    }

    fn value(&mut self, layout: u8) -> Result<Value<'a>, String> {
        Ok(match layout {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(self.fixed64()?),
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => Value::Fixed32(self.fixed32()?),
            4 => return self.error("the end of a group that did not begin"),
            _ => return self.error("a field of an unknown layout"),
        })
    }

    fn skip_group(&mut self, number: u32, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return self.error("groups nested too deeply");
        }
        loop {
            match self.tag()? {
                (end, 4) if end == number => return Ok(()),
                (inner, 3) => self.skip_group(inner, depth + 1)?,
                (_, layout) => drop(self.value(layout)?),
            }
        }
    }
}

/// The number behind one that alternates in sign.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
