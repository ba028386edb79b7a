//! OVER and top-N kept current: window functions over ordered partitions, and the first rows of them.
//!
//! An epoch's changes are sorted by partition and sort key. For each changed partition the operator finds which results
//! the changes can alter (`frame`, `function`), reads only the chunks that these rows and their frames lie in (`chunks`,
//! batched over all partitions, in a few rounds), computes the results before and after, and puts out the difference.
//!
//! **Top-N.** With a [`Limit`] only the first rows by row number, rank or dense rank are put out, so that only changes among
//! them cost anything. If the input only grows, rows behind the limit are forgotten.
//!
//! State, two tables under the view's object: *partitions*: partition key, the time column first -> directory, with the
//! rows of a small partition; *chunks*: partition key, chunk number -> rows in order.
//!
//! **Time.** If a partition column carries a watermark, partitions that it has passed are closed: their state is freed,
//! later rows are late, and with EMIT ON WINDOW CLOSE their result appears then. For a watermark on the first column of
//! ORDER BY see `closing`, for sessions `sessions`.
//!
//! **`state_ttl`.** A partition that no row came to or went from for long is forgotten with all its rows (`ttl`). That puts
//! nothing out; what comes for it later begins it anew, and what takes back forgotten rows is counted and ignored.

mod chunks;
mod closing;
mod epoch;
pub mod frame;
pub mod function;
mod intervals;
mod order;
mod sessions;
mod slide;
#[cfg(test)]
mod tests;

use std::ops::Bound;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use millstream_catalog::ObjectId;

use self::closing::{OrderTime, Spans};
use self::epoch::Epoch;
use self::function::WindowCall;
use self::order::OrderCodec;
use self::sessions::Sessions;
use super::event_time::TimeColumn;
use super::order_key::SortColumn;
use super::sharded::Keyed;
use super::ttl::{Ttl, TtlSpec};
use super::{Description, EpochContext, LateRows, Operator, PortWatermarks, StateDescription, Watermarks};
use crate::error::{Error, Result};
use crate::state::{ByteRows, KeyCodec, Level, RowCodec, TableId};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;

/// Partitions that are read and emitted together when they close.
const CLOSE_CHUNK_ROWS: usize = 1024;

/// What a [`Limit`] counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitBy {
    RowNumber,
    Rank,
    DenseRank,
}

/// Which rows of a partition there are: those after the first `skip` rows whose number is at most `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub by: LimitBy,
    pub skip: usize,
    pub upto: usize,
}

/// What an [`Over`] is made from.
#[derive(Debug, Clone)]
pub struct OverSpec {
    /// Number of the operator in its view.
    pub operator: u32,
    /// The view that holds the state.
    pub object: ObjectId,
    /// First of the state parts that it takes ([`Over::PARTS`]).
    pub first_part: u16,
    pub input: SchemaRef,
    /// Whether rows are only ever added.
    pub append_only: bool,
    pub partition_by: Vec<usize>,
    pub order_by: Vec<SortColumn>,
    pub functions: Vec<WindowCall>,
    pub limit: Option<Limit>,
    /// The input's columns, then one for each function.
    pub output: SchemaRef,
    /// Columns that are unique in the result, if there are such.
    pub stream_key: Option<Vec<usize>>,
    /// Position in `partition_by` of a column that carries a watermark; its partitions close.
    pub time_column: Option<usize>,
    /// Whether the first column of `order_by`, which is ascending, carries a watermark that frees rows.
    pub order_time: bool,
    /// Whether a partition's result, or with `order_time` a row's, appears only when it closes.
    pub emit_on_window_close: bool,
    /// What forgets partitions that were not written for long.
    pub ttl: Option<TtlSpec>,
}

/// Window functions over one PARTITION BY and ORDER BY, or the first rows of each partition.
pub struct Over {
    spec: OverSpec,
    /// Order of the partition columns in the key: positions in the input.
    key_columns: Vec<usize>,
    key_codec: KeyCodec,
    order: OrderCodec,
    /// Of the sessions that the functions' frames are.
    sessions: Option<Sessions>,
    rows: RowCodec,
    time: Option<(usize, TimeColumn)>,
    order_time: Option<OrderTime>,
    ttl: Option<Ttl>,
    partitions: CachedTable,
    chunks: CachedTable,
    chunk_rows: usize,
    /// The watermark up to which partitions are known to be closed.
    closed: Option<i64>,
    /// With EMIT ON WINDOW CLOSE, what the watermark has to reach for the next results to appear: `None` if none wait, the
    /// least there is while that is not known.
    next_close: Option<i64>,
}

impl Over {
    /// State parts that it takes.
    pub const PARTS: u16 = 4;

    /// Checks the specification and makes the operator, with nothing cached.
    ///
    /// # Errors
    /// 0A000 for types that cannot be partitioned or ordered by.
    pub fn new(spec: OverSpec) -> Result<Self> {
        let data_type = |c: &usize| spec.input.field(*c).data_type().clone();
        if spec.output.fields().len() != spec.input.fields().len() + spec.functions.len() {
            return Err(Error::internal("OVER has not one output column for each input column and function"));
        }
        let mut key_columns = spec.partition_by.clone();
        let mut time = None;
        if let Some(first) = spec.time_column {
            let column = key_columns.remove(first);
            key_columns.insert(0, column);
            time = Some((column, TimeColumn::new(&data_type(&column))?));
        }
        let order_time = OrderTime::new(&spec)?;
        if spec.emit_on_window_close
            && time.is_none()
            && !order_time.as_ref().is_some_and(|_| Self::closes(&spec.functions))
        {
            return Err(Error::unsupported(
                "EMIT ON WINDOW CLOSE of window functions whose results never become final",
            ));
        }
        let key_types: Vec<DataType> = key_columns.iter().map(data_type).collect();
        let order_types: Vec<DataType> = spec.order_by.iter().map(|s| data_type(&s.column)).collect();
        let row_types: Vec<DataType> = spec.input.fields().iter().map(|f| f.data_type().clone()).collect();
        let table = |part| TableId::new(spec.object.0, spec.first_part + part);
        let order = OrderCodec::new(&spec.order_by, &order_types)?;
        let session = Spans::of(&spec.functions).and_then(Spans::session);
        Ok(Self {
            key_columns,
            key_codec: KeyCodec::new(&key_types)?,
            sessions: session.map(|(gap, gap_us_max)| Sessions::new(order.clone(), gap, gap_us_max)),
            order,
            rows: RowCodec::new(&row_types)?,
            time,
            order_time,
            ttl: spec.ttl.map(|ttl| Ttl::new(spec.object.0, ttl)),
            partitions: CachedTable::new(table(0)),
            chunks: CachedTable::new(table(1)),
            chunk_rows: chunks::CHUNK_ROWS,
            closed: None,
            next_close: spec.emit_on_window_close.then_some(i64::MIN),
            spec,
        })
    }

    /// Whether these functions look at no more than a bounded time or number of rows, so that others can be freed.
    pub fn frees(functions: &[WindowCall]) -> bool {
        Spans::of(functions).is_some()
    }

    /// Whether their results are final once the watermark is far enough.
    pub fn closes(functions: &[WindowCall]) -> bool {
        Spans::of(functions).is_some_and(Spans::close)
    }

    /// Columns of the result that carry a watermark if the first of ORDER BY does.
    pub fn timed_columns(functions: &[WindowCall], inputs: usize, order: usize) -> Vec<usize> {
        match Spans::of(functions) {
            Some(spans) if spans.session().is_some() => {
                let lasts = functions.iter().enumerate().filter(|(_, f)| f.is_last_of_session(order));
                lasts.map(|(i, _)| inputs + i).collect()
            }
            Some(spans) if spans.close() => vec![order],
            _ => Vec::new(),
        }
    }

    /// The column whose watermark makes rows late.
    fn event_time(&self) -> Option<(usize, &TimeColumn)> {
        let of_order = self.order_time.as_ref().map(|order| (order.column, &order.time));
        self.time.as_ref().map(|(column, time)| (*column, time)).or(of_order)
    }

    /// The same with another budget for each of its caches.
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.partitions = CachedTable::with_bytes(self.partitions.table(), bytes);
        self.chunks = CachedTable::with_bytes(self.chunks.table(), bytes);
        self
    }

    /// The same with another number of rows at which chunks of small partitions are split.
    pub fn with_chunk_rows(mut self, rows: usize) -> Self {
        self.chunk_rows = rows;
        self
    }

    /// Whether rows behind the limit can never come to the front.
    fn forgets(&self) -> bool {
        self.spec.append_only && self.spec.limit.is_some() && self.spec.functions.iter().all(WindowCall::is_ranking)
    }

    /// Forgets the partitions that were not written for long.
    fn expire(&mut self, context: &mut EpochContext<'_>) -> Result<()> {
        let Self { ttl: Some(ttl), partitions, chunks, .. } = self else { return Ok(()) };
        let (now_us, shard) = (context.now_us, context.shard);
        ttl.expire(context.state, now_us, |ttl, state, _, keys| {
            let gone = ttl.unwritten(state, now_us, shard, keys)?;
            epoch::forget(partitions, chunks, state, &gone)
        })
    }

    /// All rows, the late ones left out and recorded.
    fn take_in(&self, deltas: &[Delta], context: &mut EpochContext<'_>) -> Result<Delta> {
        let mut kept = Vec::with_capacity(deltas.len());
        for delta in deltas.iter().filter(|d| !d.is_empty()) {
            let late = self.event_time().and_then(|(column, time)| {
                let watermark = watermark(&context.watermarks.first()?.committed, column)?;
                Some((time.below(delta.batch.column(column), watermark)?, watermark))
            });
            let Some((late, watermark)) = late else {
                kept.push(delta.clone());
                continue;
            };
            context.late.push(LateRows { operator: self.spec.operator, rows: delta.filter(&late)?, watermark });
            kept.push(delta.filter(&arrow::compute::not(&late)?)?);
        }
        Delta::concat(&self.spec.input, &kept)
    }

    /// Frees the partitions that the watermark has passed; puts out their result first if that is when it appears.
    fn close(&mut self, context: &mut EpochContext<'_>, output: &mut Vec<Delta>) -> Result<()> {
        let Some((column, time)) = &self.time else { return Ok(()) };
        let Some(current) = context.watermarks.first().and_then(|port| watermark(&port.current, *column)) else {
            return Ok(());
        };
        if self.closed.is_some_and(|closed| closed >= current) {
            return Ok(());
        }
        let bound = time.key_of(current)?;
        if self.spec.emit_on_window_close {
            let mut after = Bound::Unbounded;
            loop {
                let (mut keys, mut values) = (ByteRows::new(), ByteRows::new());
                let from = after.as_ref().map(Vec::as_slice);
                let mut scan = context.state.scan(self.partitions.table(), from, Bound::Excluded(&bound), Level::Open);
                let found = scan.fill(&mut keys, &mut values, CLOSE_CHUNK_ROWS)?;
                drop(scan);
                if found == 0 {
                    break;
                }
                after = Bound::Excluded(keys.get(found - 1).to_vec());
                let (keys, values) = context.shard.own_entries(keys, values);
                let mut epoch = Epoch::over_whole(&keys, &values)?;
                epoch.take_all(self, context)?;
                output.extend(epoch.results(self, context)?);
            }
        }
        self.partitions.truncate_below(context.state, &bound);
        self.chunks.truncate_below(context.state, &bound);
        self.closed = Some(current);
        Ok(())
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let schema =
            match columns.iter().zip(self.spec.output.fields()).all(|(c, f)| f.is_nullable() || c.null_count() == 0) {
                true => self.spec.output.clone(),
                // Rather a value than a crash where a plan was too sure that it has no NULL.
                false => {
                    let fields = self.spec.output.fields().iter().map(|f| f.as_ref().clone().with_nullable(true));
                    arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()).into()
                }
            };
        Ok(RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))?)
    }
}

impl Keyed for Over {
    fn keys(&self, _input: usize, batch: &RecordBatch) -> Result<ByteRows> {
        let columns: Vec<ArrayRef> = self.key_columns.iter().map(|c| batch.column(*c).clone()).collect();
        self.key_codec.encode(&columns)
    }
}

impl Operator for Over {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let deltas = inputs.into_iter().next().unwrap_or_default();
        self.expire(context)?;
        let delta = self.take_in(&deltas, context)?;
        let mut output = Vec::new();
        if !delta.is_empty() {
            let mut epoch = Epoch::take_in(self, &delta)?;
            epoch.apply(self, context)?;
            if !self.spec.emit_on_window_close {
                epoch.find_regions(self, context)?;
                output.extend(epoch.results(self, context)?);
            }
            self.wait_and_trim(&mut epoch, &delta, context)?;
            epoch.write(self, context)?;
            if let Some(ttl) = &mut self.ttl {
                ttl.note(context.state, context.now_us, epoch.keys());
            }
        }
        self.close(context, &mut output)?;
        self.run_timers(context, &mut output)?;
        self.find_next_close(context)?;
        self.partitions.end_epoch();
        self.chunks.end_epoch();
        Ok(output)
    }

    fn wakes(&self, watermarks: &[PortWatermarks], now_us: i64) -> bool {
        if self.ttl.as_ref().is_some_and(|ttl| ttl.is_due(now_us)) {
            return true;
        }
        let current = self.event_time().and_then(|(column, _)| watermark(&watermarks.first()?.current, column));
        let closed = self.order_time.as_ref().map_or(self.closed, |order| order.closed);
        current.is_some_and(|w| closed.is_none_or(|closed| closed < w))
    }

    fn next_wake_us(&self) -> Option<i64> {
        self.ttl.as_ref()?.next_wake_us()
    }

    fn held_until(&self) -> Option<(usize, i64)> {
        let (column, _) = self.event_time()?;
        Some((column, self.next_close?))
    }

    fn watermarks(&self, inputs: &[Watermarks]) -> Watermarks {
        let mut out: Watermarks = vec![None; self.spec.output.fields().len()];
        if let (Some(input), Some((column, _))) = (inputs.first(), &self.time) {
            out[*column] = input.get(*column).copied().flatten();
        }
        if let (Some(input), Some(order)) = (inputs.first(), &self.order_time) {
            let passed = watermark(input, order.column);
            let inputs = self.spec.input.fields().len();
            for column in Self::timed_columns(&self.spec.functions, inputs, order.column) {
                out[column] = passed.and_then(|w| match column == order.column {
                    true => order.result_watermark(w),
                    false => order.session_watermark(w),
                });
            }
        }
        out
    }

    fn reset(&mut self) {
        self.partitions.reset();
        self.chunks.reset();
        if let Some(ttl) = &mut self.ttl {
            ttl.reset();
        }
        self.closed = None;
        if let Some(order) = &mut self.order_time {
            order.closed = None;
        }
        self.next_close = self.spec.emit_on_window_close.then_some(i64::MIN);
    }

    fn describe(&self) -> Description {
        let name = |column: usize| self.spec.input.field(column).name().clone();
        let names = |columns: &[usize]| columns.iter().map(|c| name(*c)).collect::<Vec<_>>().join(", ");
        let mut parts: Vec<String> = self.spec.functions.iter().map(|f| f.describe(name)).collect();
        if !self.spec.partition_by.is_empty() {
            parts.push(format!("partition by [{}]", names(&self.spec.partition_by)));
        }
        let order: Vec<String> = self.spec.order_by.iter().map(|sort| sort.describe(name)).collect();
        parts.push(format!("order by [{}]", order.join(", ")));
        if let Some(Limit { by, skip, upto }) = self.spec.limit {
            let by = match by {
                LimitBy::RowNumber => "rows",
                LimitBy::Rank => "ranks",
                LimitBy::DenseRank => "dense ranks",
            };
            parts.push(format!("{by} {} to {upto}", skip + 1));
            if self.forgets() {
                parts.push("keeps no more".into());
            }
        }
        if self.spec.emit_on_window_close {
            parts.push("emit on window close".into());
        }
        let key = names(&self.key_columns);
        if let Some(order) = &self.order_time {
            parts.push(format!("freed by the watermark of {}", name(order.column)));
        }
        parts.extend(self.ttl.as_ref().map(Ttl::title));
        let title = if self.spec.limit.is_some() { "TopN" } else { "Over" };
        Description {
            title: format!("{title}: {}", parts.join(", ")),
            state: [
                StateDescription {
                    part: self.partitions.table().part,
                    layout: "keyed",
                    key: key.clone(),
                    cost: "1 get, 1 put per changed partition".into(),
                },
                StateDescription {
                    part: self.chunks.table().part,
                    layout: "multimap",
                    key: format!("{key}{}chunk", if key.is_empty() { "" } else { ", " }),
                    cost: "1 get, 1 put per changed chunk of a partition that has several; \
                           1 get per chunk that rows with a new result or the ends of their frames lie in"
                        .into(),
                },
            ]
            .into_iter()
            .chain(self.ttl.as_ref().map(|ttl| ttl.describe("partition")))
            .collect(),
            append_only: self.spec.emit_on_window_close,
            stream_key: self
                .spec
                .stream_key
                .iter()
                .flatten()
                .map(|c| self.spec.output.field(*c).name().clone())
                .collect(),
        }
    }
}

fn watermark(watermarks: &Watermarks, column: usize) -> Option<i64> {
    watermarks.get(column).copied().flatten()
}
