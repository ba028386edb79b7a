//! A file's lines, read in large pieces and handed out where they lie.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;
/// A line longer than this is no record.
const LINE_BYTES_MAX: usize = 64 << 20;

/// A file from a position on.
pub(super) struct Lines {
    file: File,
    buffer: Vec<u8>,
    /// What of the buffer was read and not handed out.
    from: usize,
    to: usize,
    /// Up to where the buffer has no line break.
    searched: usize,
    /// Position in the file of `buffer[from]`.
    offset: u64,
}

impl Lines {
    /// Opens a file at a position, which is the beginning of a line.
    pub fn open(path: &Path, offset: u64) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, buffer: Vec::new(), from: 0, to: 0, searched: 0, offset })
    }

    /// Position behind the lines that were handed out.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Position behind what was read of the file.
    pub fn read_to(&self) -> u64 {
        self.offset + (self.to - self.from) as u64
    }

    /// Whether what was read ends within a line.
    pub fn is_within_line(&self) -> bool {
        self.from < self.to
    }

    /// The next line before `end`, without its line break; the last line needs none if it ends there. `None` if there is no
    /// such line so far.
    ///
    /// # Errors
    /// Of reading, and for a line that is too long.
    pub fn next(&mut self, end: u64) -> io::Result<Option<&[u8]>> {
        if self.offset >= end {
            return Ok(None);
        }
        let line_end = loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..self.to]) {
                break self.searched + at;
            }
            self.searched = self.to;
            if !self.fill()? {
                if self.is_within_line() && self.read_to() == end {
                    break self.to;
                }
                return Ok(None);
            }
        };
        let from = std::mem::replace(&mut self.from, self.to.min(line_end + 1));
        self.searched = self.from;
        self.offset += (self.from - from) as u64;
        let line = &self.buffer[from..line_end];
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// Reads on behind what is there. False at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        if self.to - self.from > LINE_BYTES_MAX {
            let message = format!("a line is longer than {} MiB", LINE_BYTES_MAX >> 20);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.buffer.copy_within(self.from..self.to, 0);
        self.to -= self.from;
        self.searched -= self.from;
        self.from = 0;
        self.buffer.resize(self.buffer.len().max(self.to + READ_BYTES), 0);
        let read = self.file.read(&mut self.buffer[self.to..])?;
        self.to += read;
        Ok(read > 0)
    }
}
