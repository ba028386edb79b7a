//! How files of text are compressed.

use std::io::{self, Read, Write};

use crate::error::{Error, Result, sqlstate};

/// One way, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the value of the option `compression`.
    ///
    /// # Errors
    /// 22023 for an unknown one.
    pub fn new(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "none" | "uncompressed" => Ok(Self::None),
            "gzip" | "gz" => Ok(Self::Gzip),
            "zstd" | "zst" => Ok(Self::Zstd),
            _ => {
                let message = format!("invalid value \"{name}\" for option \"compression\"");
                Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
                    .with_hint("known values are none, gzip, zstd; without the option, the name of a file says it"))
            }
        }
    }

    /// By the name of a file.
    pub fn of_name(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match () {
            () if name.ends_with(".gz") => Self::Gzip,
            () if name.ends_with(".zst") => Self::Zstd,
            () => Self::None,
        }
    }

    /// What is added to a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    /// The text behind compressed bytes; several compressed texts behind each other are one.
    ///
    /// # Errors
    /// If the decoder has no memory.
    pub fn reader(self, bytes: Box<dyn Read>) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::None => bytes,
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes)?),
        })
    }

    /// Compresses what is written.
    ///
    /// # Errors
    /// If the encoder has no memory.
    pub fn writer<W: Write>(self, to: W) -> io::Result<Compressing<W>> {
        Ok(match self {
            Self::None => Compressing::None(to),
            Self::Gzip => {
                Compressing::Gzip(Box::new(flate2::write::GzEncoder::new(to, flate2::Compression::default())))
            }
            Self::Zstd => Compressing::Zstd(Box::new(zstd::stream::write::Encoder::new(to, 0)?)),
        })
    }
}

/// A writer that compresses.
pub enum Compressing<W: Write> {
    None(W),
    Gzip(Box<flate2::write::GzEncoder<W>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, W>>),
}

impl<W: Write> Compressing<W> {
    /// Writes what is left and gives the writer below back.
    ///
    /// # Errors
    /// Of the writer.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::None(to) => Ok(to),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(to) => to.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(to) => to.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_read_again() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut writer = compression.writer(Vec::new()).unwrap();
            writer.write_all(b"one\ntwo\n").unwrap();
            let once = writer.finish().unwrap();
            let mut text = String::new();
            let twice = [once.clone(), once].concat();
            compression.reader(Box::new(io::Cursor::new(twice))).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "one\ntwo\none\ntwo\n");
        }
        assert_eq!(Compression::of_name("s3://b/x.CSV.GZ"), Compression::Gzip);
        assert_eq!(Compression::new("rar").unwrap_err().sqlstate(), "22023");
    }
}
