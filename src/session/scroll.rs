//! Cursors that go back: the rows that were read are kept, and any of them can be fetched again.
//!
//! A position is the number of the row that was fetched last: 0 is before the first row, one more than there are rows is behind
//! the last. PostgreSQL's rules say where each direction ends.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use millstream_sql::statement::{Back, Direction};

use crate::batch::spool::Spool;
use crate::error::{Error, Result};

/// The rows of a cursor with SCROLL.
pub struct ScrollRows {
    /// The batches that were read.
    kept: Spool,
    /// The number of the first row of each, from 1.
    starts: Vec<u64>,
    /// Rows that were read.
    read: u64,
    /// `None` when it has ended.
    query: Option<SendableRecordBatchStream>,
    failed: Option<Error>,
    position: u64,
}

/// The rows that a FETCH gives: from one number backward or forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub count: u64,
    pub backward: bool,
}

impl ScrollRows {
    /// Of a query of which nothing was read.
    pub fn new(kept: Spool, query: SendableRecordBatchStream) -> Self {
        Self { kept, starts: Vec::new(), read: 0, query: Some(query), failed: None, position: 0 }
    }

    /// Moves as a FETCH or MOVE says; the rows that it passes, or gives.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn go(&mut self, direction: &Direction) -> Result<Span> {
        let here = self.position;
        match direction {
            Direction::Forward(n) => self.forward(*n).await,
            Direction::All => self.forward(u64::MAX).await,
            Direction::Relative(n) => self.to(here.saturating_add(*n)).await,
            Direction::Absolute(n) => self.to(*n).await,
            Direction::Backward(back, _) => match back {
                Back::Rows(n) => Ok(self.backward(*n)),
                Back::AllRows => Ok(self.backward(u64::MAX)),
                Back::Stay => self.to(here).await,
                Back::Relative(n) => self.to(here.saturating_sub(*n)).await,
                Back::FromEnd(n) => {
                    let total = self.total().await?;
                    self.to((total + 1).saturating_sub(*n)).await
                }
                Back::ToStart => self.to(0).await,
            },
        }
    }

    /// The first rows of a span that has some, in its order, and the rest of it.
    ///
    /// # Errors
    /// If they cannot be read back.
    pub async fn next_of(&mut self, span: Span) -> Result<(RecordBatch, Span)> {
        let index = self.starts.partition_point(|start| *start <= span.first).saturating_sub(1);
        let batch = self.kept.at(index).await?;
        let offset = (span.first - self.starts[index]) as usize;
        if span.backward {
            let taken = span.count.min(offset as u64 + 1);
            let part = batch.slice(offset + 1 - taken as usize, taken as usize);
            let reversed: UInt32Array = (0..taken as u32).rev().collect();
            let rest = Span { first: span.first.saturating_sub(taken), count: span.count - taken, ..span };
            return Ok((take_record_batch(&part, &reversed)?, rest));
        }
        let taken = span.count.min((batch.num_rows() - offset) as u64);
        let rest = Span { first: span.first + taken, count: span.count - taken, ..span };
        Ok((batch.slice(offset, taken as usize), rest))
    }

    /// Reads all that is left: an idle cursor holds no snapshot.
    ///
    /// # Errors
    /// Those of the query.
    pub async fn read_all(&mut self) -> Result<()> {
        self.read_to(u64::MAX).await
    }

    async fn forward(&mut self, count: u64) -> Result<Span> {
        let wanted = self.position.saturating_add(count);
        self.read_to(wanted).await?;
        let first = self.position + 1;
        let last = wanted.min(self.read);
        self.position = if wanted > self.read { self.read + 1 } else { wanted };
        Ok(Span { first, count: (last + 1).saturating_sub(first), backward: false })
    }

    fn backward(&mut self, count: u64) -> Span {
        let first = self.position.saturating_sub(1);
        let taken = count.min(first);
        self.position = if count > first { 0 } else { self.position - count };
        Span { first, count: taken, backward: true }
    }

    /// Goes to a row; that row, if it is there.
    async fn to(&mut self, number: u64) -> Result<Span> {
        self.read_to(number).await?;
        self.position = number.min(self.read + 1);
        let is_row = number >= 1 && number <= self.read;
        Ok(Span { first: number, count: u64::from(is_row), backward: false })
    }

    async fn total(&mut self) -> Result<u64> {
        self.read_to(u64::MAX).await?;
        Ok(self.read)
    }

    /// Reads until that row is kept, or all are.
    async fn read_to(&mut self, number: u64) -> Result<()> {
        if let Some(failed) = &self.failed
            && self.read < number
        {
            return Err(failed.clone());
        }
        while self.read < number {
            let Some(query) = &mut self.query else { return Ok(()) };
            match query.next().await {
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => {
                    self.starts.push(self.read + 1);
                    self.read += batch.num_rows() as u64;
                    self.kept.push(batch).await?;
                }
                Some(Err(e)) => {
                    let error = Error::from(e);
                    (self.query, self.failed) = (None, Some(error.clone()));
                    return Err(error);
                }
                None => self.query = None,
            }
        }
        Ok(())
    }
}
