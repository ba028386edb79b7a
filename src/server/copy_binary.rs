//! COPY in PostgreSQL's binary format: rows as data for the client, and the client's data as rows.
//!
//! The data begins with a signature, flags and an extension, and ends with -1 in the place of a row. A row is the number of its
//! columns, then each value with its length, as in a DataRow message.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::{BufMut, BytesMut};
use datafusion::common::ScalarValue;
use millstream_catalog::SqlType;
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use tokio::io::{AsyncRead, AsyncWrite};

use super::encode::{Format, RowEncoder};
use super::message::put;
use super::parameters::decode;
use super::rows::{Failure, Interrupts, flush, next_item, put_copy_data};
use super::socket::{FLUSH_BYTES, Socket};
use crate::error::{Error, Result, sqlstate};
use crate::session::api::{CopyColumns, OutputFormat, RowSet};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";
/// Flags and length of the extension, both zero.
const NO_EXTENSION: [u8; 8] = [0; 8];
/// Letter and length of a message.
const MESSAGE_HEAD: usize = 5;
/// Signature, flags, length of the extension.
const HEADER_BYTES: usize = 19;
/// The bit of the flags that says that rows have OIDs, which nothing writes any more.
const HAS_OIDS: u32 = 1 << 16;
/// Flags that a reader must know.
const CRITICAL_FLAGS: u32 = 0xffff_0000;
/// Rows that are made at a time.
const BATCH_ROWS: usize = 8192;

/// Sends rows as the data of a COPY; their number.
pub async fn send<S>(
    socket: &mut Socket<S>,
    rows: RowSet,
    output: &OutputFormat,
    interrupts: &Interrupts,
) -> Result<u64, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let RowSet { schema, mut stream, .. } = rows;
    let formats = vec![Format::Binary; schema.fields().len()];
    put(&mut socket.output, &CopyOutResponse::new(1, formats.len() as i16, vec![1; formats.len()]));
    // The first message begins with the header: clients take a message for a row.
    let mut header = [SIGNATURE.as_slice(), &NO_EXTENSION].concat();
    let mut sent = 0;
    while let Some(batch) = next_item(socket, &mut stream, interrupts, true).await? {
        let batch = batch.map_err(Error::from)?;
        let encoder = RowEncoder::new(&schema, &batch, &formats, output)?;
        for row in 0..encoder.len() {
            let start = socket.output.len();
            encoder.put(row, &mut socket.output)?;
            // A row of the data is what a DataRow message holds.
            if header.is_empty() {
                socket.output[start] = b'd';
            } else {
                let row = socket.output.split_off(start);
                put_copy_data(&mut socket.output, &[&std::mem::take(&mut header)[..], &row[MESSAGE_HEAD..]].concat());
            }
            sent += 1;
            if socket.output.len() >= FLUSH_BYTES {
                flush(socket, interrupts).await?;
            }
        }
    }
    put_copy_data(&mut socket.output, &[&header[..], &(-1_i16).to_be_bytes()].concat());
    put(&mut socket.output, &CopyDone::new());
    Ok(sent)
}

/// Takes the client's data, in pieces that end anywhere, and gives rows.
///
/// A column has the layout of its type, or is text where the session has to look at the value once more: texts with a length
/// and numerics.
pub struct Decoder {
    columns: CopyColumns,
    schema: SchemaRef,
    zone: String,
    pending: BytesMut,
    before_header: bool,
    /// The end of the data was read.
    ended: bool,
    values: Vec<Vec<ScalarValue>>,
    rows: usize,
    /// Rows of the batches before.
    before: u64,
}

/// A value, NULL or not, and what comes behind it.
type Taken<'a> = (Option<&'a [u8]>, &'a [u8]);

impl Decoder {
    /// Of the columns of a COPY; `zone` is the session's.
    pub fn new(columns: CopyColumns, zone: &str) -> Self {
        let field = |(name, sql_type): &(String, SqlType)| read_as(sql_type).field(name, true);
        let fields: Vec<Field> = columns.columns.iter().map(field).collect();
        let values = vec![Vec::new(); columns.columns.len()];
        Self {
            schema: Arc::new(Schema::new(fields)),
            columns,
            zone: zone.to_string(),
            pending: BytesMut::new(),
            before_header: true,
            ended: false,
            values,
            rows: 0,
            before: 0,
        }
    }

    /// Takes the next bytes; a batch when there are enough rows.
    ///
    /// # Errors
    /// 22P04 for what is not the format, 22P03 for a value that is not of its type.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<RecordBatch>> {
        if self.ended && !bytes.is_empty() {
            return Err(bad_format("received copy data after EOF marker"));
        }
        self.pending.put_slice(bytes);
        let pending = std::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        if self.before_header {
            match header(rest)? {
                Some(length) => rest = &rest[length..],
                None => {
                    self.pending = pending;
                    return Ok(None);
                }
            }
            self.before_header = false;
        }
        while !self.ended {
            match self.row(rest)? {
                Some(length) => rest = &rest[length..],
                None => break,
            }
        }
        if self.ended && !rest.is_empty() {
            return Err(bad_format("received copy data after EOF marker"));
        }
        self.pending = BytesMut::from(rest);
        Ok(if self.rows >= BATCH_ROWS { Some(self.take()?) } else { None })
    }

    /// The rows that are left when all data was taken.
    ///
    /// # Errors
    /// 22P04 if the data ends within the header or a row.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        if self.before_header {
            return Err(bad_format("COPY file signature not recognized"));
        }
        // The end may be left out.
        if self.pending.len() >= 2 {
            return Err(bad_format("unexpected EOF in COPY data").with_context(self.place()));
        }
        self.take()
    }

    /// Takes a row from the start of `bytes`; how long it is, or `None` if it is not there whole.
    fn row(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let Some((count, mut rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
        let count = i16::from_be_bytes(*count);
        if count == -1 {
            self.ended = true;
            return Ok(Some(2));
        }
        let wanted = self.columns.columns.len();
        if usize::try_from(count) != Ok(wanted) {
            return Err(bad_format(format!("row field count is {count}, expected {wanted}")).with_context(self.place()));
        }
        // First whether all of it is there: a value is decoded once.
        let mut ahead = rest;
        for _ in 0..wanted {
            let Some((_, tail)) = self.field(ahead)? else { return Ok(None) };
            ahead = tail;
        }
        for number in 0..wanted {
            let Some((value, tail)) = self.field(rest)? else { return Ok(None) };
            rest = tail;
            let value = self.value(number, value).map_err(|e| {
                let (name, _) = &self.columns.columns[number];
                e.with_context(format!("{}, column {name}", self.place()))
            })?;
            self.values[number].push(value);
        }
        self.rows += 1;
        Ok(Some(bytes.len() - rest.len()))
    }

    /// The value at the start of `bytes` (`None` inside is NULL) and what follows it.
    fn field<'a>(&self, bytes: &'a [u8]) -> Result<Option<Taken<'a>>> {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        match i32::from_be_bytes(*length) {
            -1 => Ok(Some((None, rest))),
            length => {
                let length =
                    usize::try_from(length).map_err(|_| bad_format("invalid field size").with_context(self.place()))?;
                Ok(rest.split_at_checked(length).map(|(value, rest)| (Some(value), rest)))
            }
        }
    }

    fn value(&self, number: usize, bytes: Option<&[u8]>) -> Result<ScalarValue> {
        let (_, sql_type) = &self.columns.columns[number];
        let wanted = self.schema.field(number).data_type();
        let Some(bytes) = bytes else { return Ok(ScalarValue::try_from(wanted)?) };
        if let SqlType::Numeric(_) = sql_type {
            let (digits, scale) = super::encode::binary::read_numeric(bytes).ok_or_else(|| not_of(sql_type))?;
            let mut text = BytesMut::new();
            super::encode::text::put_numeric(&mut text, digits, scale as i8, false);
            return Ok(ScalarValue::Utf8View(Some(String::from_utf8_lossy(&text).into_owned())));
        }
        let value = decode(number + 1, &read_as(sql_type), Format::Binary, Some(bytes), &self.zone)
            .map_err(|e| if e.sqlstate() == NOT_OF_TYPE { not_of(sql_type) } else { e })?
            .value;
        Ok(if value.data_type() == *wanted { value } else { value.cast_to(wanted)? })
    }

    fn take(&mut self) -> Result<RecordBatch> {
        let (rows, schema) = (std::mem::take(&mut self.rows), self.schema.clone());
        self.before += rows as u64;
        let column = |(values, field): (&mut Vec<ScalarValue>, &Arc<Field>)| -> Result<ArrayRef> {
            Ok(match std::mem::take(values) {
                none if none.is_empty() => new_empty_array(field.data_type()),
                values => ScalarValue::iter_to_array(values)?,
            })
        };
        let columns = self.values.iter_mut().zip(schema.fields()).map(column).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    fn place(&self) -> String {
        format!("COPY {}, line {}", self.columns.table, self.before + self.rows as u64 + 1)
    }
}

const NOT_OF_TYPE: &str = "22P03";

/// The type that values are given to the session in.
fn read_as(sql_type: &SqlType) -> SqlType {
    match sql_type {
        SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Numeric(_) => SqlType::Text,
        other => other.clone(),
    }
}

/// Length of the header at the start of `bytes`, or `None` if it is not there whole.
fn header(bytes: &[u8]) -> Result<Option<usize>> {
    let given = &bytes[..bytes.len().min(SIGNATURE.len())];
    if !SIGNATURE.starts_with(given) {
        return Err(bad_format("COPY file signature not recognized"));
    }
    let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let (Some(flags), Some(extension)) = (word(SIGNATURE.len()), word(SIGNATURE.len() + 4)) else { return Ok(None) };
    if flags & HAS_OIDS != 0 {
        return Err(bad_format("invalid COPY file header (WITH OIDS)"));
    }
    if flags & CRITICAL_FLAGS != 0 {
        return Err(bad_format("unrecognized critical flags in COPY file header"));
    }
    let length = i32::try_from(extension).map_err(|_| bad_format("invalid COPY file header (wrong length)"))?;
    let length = HEADER_BYTES + length as usize;
    Ok((bytes.len() >= length).then_some(length))
}

fn bad_format(message: impl Into<String>) -> Error {
    Error::new(sqlstate::BAD_COPY_FILE_FORMAT, message)
}

fn not_of(sql_type: &SqlType) -> Error {
    Error::new(NOT_OF_TYPE, format!("incorrect binary data format for type {sql_type}"))
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::Int32Type;

    use super::*;

    fn columns() -> CopyColumns {
        let columns = vec![("a".to_string(), SqlType::Int4), ("b".to_string(), SqlType::Varchar(Some(5)))];
        CopyColumns { table: "t".into(), columns }
    }

    fn data(rows: &[(i32, Option<&str>)]) -> Vec<u8> {
        let mut out = [SIGNATURE.as_slice(), &[0, 0, 0, 0, 0, 0, 0, 3], b"xyz"].concat();
        for (number, text) in rows {
            out.put_i16(2);
            out.put_i32(4);
            out.put_i32(*number);
            match text {
                None => out.put_i32(-1),
                Some(text) => {
                    out.put_i32(text.len() as i32);
                    out.put_slice(text.as_bytes());
                }
            }
        }
        out
    }

    #[test]
    fn pieces_may_end_anywhere() {
        let mut whole = data(&[(1, Some("one")), (-2, None), (3, Some(""))]);
        whole.put_i16(-1);
        for size in 1..whole.len() {
            let mut decoder = Decoder::new(columns(), "UTC");
            for piece in whole.chunks(size) {
                assert!(decoder.push(piece).unwrap().is_none());
            }
            let batch = decoder.finish().unwrap();
            assert_eq!(batch.column(0).as_primitive::<Int32Type>().values().to_vec(), [1, -2, 3]);
            let texts: Vec<_> = batch.column(1).as_string_view().iter().map(|t| t.map(str::to_string)).collect();
            assert_eq!(texts, [Some("one".to_string()), None, Some(String::new())]);
        }
    }

    #[test]
    fn what_is_not_the_format_says_where() {
        let error = |bytes: &[u8]| {
            let mut decoder = Decoder::new(columns(), "UTC");
            let error = decoder.push(bytes).and_then(|_| decoder.finish()).unwrap_err();
            format!("{} {} [{}]", error.sqlstate(), error.message(), error.context().unwrap_or_default())
        };
        assert_eq!(error(b"PGDUMP"), "22P04 COPY file signature not recognized []");
        assert_eq!(error(b""), "22P04 COPY file signature not recognized []");
        let good = data(&[(1, Some("one")), (2, Some("two"))]);
        assert_eq!(error(&good[..good.len() - 1]), "22P04 unexpected EOF in COPY data [COPY t, line 2]");
        assert_eq!(error(&[&good[..], &[0, 3]].concat()), "22P04 row field count is 3, expected 2 [COPY t, line 3]");
        assert_eq!(error(&[&good[..], &[255, 255, 0]].concat()), "22P04 received copy data after EOF marker []");
        assert_eq!(
            error(&[&good[..], &[0, 2, 0, 0, 0, 1, 7, 255, 255, 255, 255]].concat()),
            "22P03 incorrect binary data format for type integer [COPY t, line 3, column a]"
        );
        assert_eq!(
            error(&[&good[..], &[0, 2, 0, 0, 0, 4, 0, 0, 0, 1, 255, 255, 255, 254]].concat()),
            "22P04 invalid field size [COPY t, line 3]"
        );
    }
}
