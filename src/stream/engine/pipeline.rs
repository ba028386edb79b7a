//! One continuous view or sink in the loop: its operators, its inputs, and where its rows go.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringViewArray, TimestampMicrosecondArray};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use millstream_catalog::{ObjectId, SqlType};
use serde::{Deserialize, Serialize};

use super::indexes::KeptIndexes;
use super::outbox::Outbox;
use super::stats::Activity;
use super::throttle::Throttle;
use super::work::over_limit;
use crate::error::{Error, Result, sqlstate};
use crate::failpoint;
use crate::state::{Layout, Level, Relation, ScanPosition, Snapshot, State, TableId};
use crate::stream::changelog::{Delta, total_rows};
use crate::stream::operator::sharded::Shard;
use crate::stream::operator::{EpochContext, LateRows, PortWatermarks, RowError, Watermarks};
use crate::stream::plan::{Input, Node, PlannedView, Scan, part, readable};

/// The changes of a relation in one epoch, for those who read it.
#[derive(Clone, Default)]
pub struct Changes {
    /// With all columns of the relation (of a source: those that are decoded).
    pub deltas: Vec<Delta>,
    pub watermarks: PortWatermarks,
    /// The positions of the deltas' columns, for a source that decodes only some; `None`: all columns in order.
    pub decoded: Option<Vec<usize>>,
}

/// Key in the status table: the watermarks of the scans, without which a restart could judge rows otherwise.
const WATERMARKS: &[u8] = b"watermarks";

/// Bounds of one pipeline in an epoch.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// Rows that each scan takes from a relation that was there before the view.
    pub backfill_rows: usize,
    /// Memory of the open epoch's writes and of what the pipeline's operators hand on.
    pub held_bytes: usize,
}

/// What a pipeline reads from in an epoch.
pub trait Upstream {
    /// The changes of a relation in this epoch.
    fn changes(&self, id: ObjectId) -> Changes;
    /// The stored rows of a relation; `None` for a source, which stores none.
    fn relation(&self, id: ObjectId) -> Option<Arc<Relation>>;
}

/// Where a pipeline's rows go.
pub enum Target {
    View(Arc<Relation>),
    Sink(Box<Outbox>),
}

/// A running view or sink.
pub struct Pipeline {
    pub id: ObjectId,
    pub name: String,
    scans: Vec<ScanInput>,
    nodes: Vec<Node>,
    /// How many take each node's result.
    uses: Vec<usize>,
    output: Input,
    output_schema: SchemaRef,
    /// Whether the result needs no consolidation before it is stored by its key (`Operator::is_net`).
    output_is_net: bool,
    /// Whether rows may come again ([`PlannedView::restarts`]).
    restarts: bool,
    pub target: Target,
    /// Of a view.
    pub indexes: KeptIndexes,
    /// Output watermarks of each scan and node: committed and current.
    scan_watermarks: Vec<PortWatermarks>,
    node_watermarks: Vec<PortWatermarks>,
    errors: Relation,
    /// Where late rows are kept, if they are.
    late: Option<Relation>,
    /// How fast it takes what was there before it, if that is bounded.
    pub throttle: Option<Throttle>,
    /// Whether it stands still: it takes nothing.
    pub suspended: bool,
    pub counters: Counters,
    counters_changed: bool,
    /// What stopped it since the server started.
    pub failure: Option<Error>,
    /// Whether an epoch has run in which all inputs were read to their present and their time counted.
    settled: bool,
    /// What its steps do, for people.
    pub activity: Arc<Activity>,
}

struct ScanInput {
    scan: Scan,
    /// Whether what it reads stores rows.
    stored: bool,
    backfill: Backfill,
}

/// How far a scan has read the rows that were there before the view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Backfill {
    Done,
    /// All rows up to and with this position are in the view, and changes at or below it are forwarded.
    Reading {
        position: Option<ScanPosition>,
        rows: u64,
    },
}

impl Backfill {
    /// That of a new view.
    fn first(stored: bool) -> Self {
        if stored { Self::Reading { position: None, rows: 0 } } else { Self::Done }
    }
}

/// Numbers of a view that survive a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    pub rows: i64,
    pub errors: i64,
    pub late_rows: u64,
    /// Rows that took back what `state_ttl` had forgotten.
    #[serde(default)]
    pub expired_rows: u64,
    /// When it was made, microseconds since 1970; 0 if that was not kept.
    #[serde(default)]
    pub made_us: i64,
    /// Whether it held all that there was once: then it is not dropped for being incomplete.
    #[serde(default)]
    pub built: bool,
    /// Why the view stopped, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// What a pipeline did in an epoch.
pub struct Ran {
    /// The changes of the view, for its dependents.
    pub changes: Changes,
    /// Whether anything changed on disk.
    pub changed: bool,
    /// Rows that it took of what was there before it.
    pub backfilled: usize,
    /// Whether late rows came that are kept.
    pub kept_late: bool,
}

impl Ran {
    fn nothing(changed: bool) -> Self {
        Self { changes: Changes::default(), changed, backfilled: 0, kept_late: false }
    }
}

impl Pipeline {
    /// A pipeline that starts with what its inputs hold now: `stored` says which of them store rows.
    pub fn new(
        id: ObjectId,
        name: String,
        plan: PlannedView,
        target: Target,
        stored: &dyn Fn(ObjectId) -> bool,
    ) -> Result<Self> {
        let scans: Vec<ScanInput> = plan
            .scans
            .into_iter()
            .map(|scan| {
                let stored = stored(scan.object);
                ScanInput { backfill: Backfill::first(stored), stored, scan }
            })
            .collect();
        let scan_watermarks = vec![PortWatermarks::default(); scans.len()];
        let node_watermarks = vec![PortWatermarks::default(); plan.nodes.len()];
        let errors = errors_relation(id)?;
        let settled = scans.iter().all(|s| s.backfill == Backfill::Done);
        let activity = Arc::new(Activity::new(scans.len(), plan.nodes.len()));
        let output_is_net = is_net(&plan.nodes, plan.output);
        let mut uses = vec![0; plan.nodes.len()];
        for input in plan.nodes.iter().flat_map(|node| &node.inputs).chain([&plan.output]) {
            if let Input::Node(n) = input {
                uses[*n] += 1;
            }
        }
        Ok(Self {
            id,
            name,
            scans,
            nodes: plan.nodes,
            uses,
            output: plan.output,
            output_schema: plan.properties.schema,
            output_is_net,
            restarts: plan.restarts,
            target,
            indexes: KeptIndexes::default(),
            scan_watermarks,
            node_watermarks,
            errors,
            late: None,
            throttle: None,
            suspended: false,
            counters: Counters::default(),
            counters_changed: true,
            failure: None,
            settled,
            activity,
        })
    }

    /// Keeps late rows, which are counted in any case, or no more of them.
    pub fn keep_late_rows(&mut self, keep: bool) -> Result<()> {
        if keep != self.late.is_some() {
            self.late = if keep { Some(late_relation(self.id)?) } else { None };
        }
        Ok(())
    }

    /// Removes kept late rows of epochs before `epoch`.
    pub fn forget_late_before(&self, state: &mut State, epoch: u64) {
        if let Some(late) = &self.late {
            late.truncate_before(state, epoch);
        }
    }

    /// Takes nothing from here on, or goes on. `was_complete` says whether it held all that there was.
    pub fn stand_still(&mut self, suspended: bool, was_complete: bool) {
        self.suspended = suspended;
        self.counters.built |= was_complete;
        self.counters_changed = true;
    }

    /// Whether it takes what comes.
    fn is_running(&self) -> bool {
        !self.suspended && self.counters.failed.is_none()
    }

    /// Takes up counters, backfill positions and watermarks of the last committed epoch, and forgets all caches.
    pub fn recover(&mut self, snapshot: &Arc<Snapshot>) -> Result<()> {
        let corrupt = |e: serde_json::Error| {
            Error::new(sqlstate::DATA_CORRUPTED, format!("status of view \"{}\" cannot be read: {e}", self.name))
        };
        let counters = snapshot.get(self.status_table(), b"counters")?;
        self.counters = match &counters {
            Some(bytes) => serde_json::from_slice(bytes).map_err(corrupt)?,
            None => Counters { made_us: self.counters.made_us, ..Counters::default() },
        };
        self.counters_changed = counters.is_none();
        self.failure = None;
        for i in 0..self.scans.len() {
            self.scans[i].backfill = match snapshot.get(self.backfill_table(), &(i as u32).to_be_bytes())? {
                Some(bytes) => serde_json::from_slice(&bytes).map_err(corrupt)?,
                None => Backfill::first(self.scans[i].stored),
            };
        }
        self.settled = self.scans.iter().all(|s| s.backfill == Backfill::Done);
        let stored: Option<Vec<Watermarks>> = match snapshot.get(self.status_table(), WATERMARKS)? {
            Some(bytes) => Some(serde_json::from_slice(&bytes).map_err(corrupt)?),
            None => None,
        };
        self.scan_watermarks = match &stored {
            Some(stored) => stored.iter().map(PortWatermarks::of_committed).collect(),
            None => vec![PortWatermarks::default(); self.scans.len()],
        };
        match stored {
            Some(_) => self.derive_watermarks(),
            None => self.node_watermarks = vec![PortWatermarks::default(); self.nodes.len()],
        }
        if let Target::Sink(outbox) = &mut self.target {
            outbox.recover(snapshot)?;
        }
        for node in &mut self.nodes {
            node.operator.reset();
        }
        Ok(())
    }

    /// The relations that it reads, with the columns it needs of each.
    pub fn reads(&self) -> impl Iterator<Item = &Scan> {
        self.scans.iter().map(|s| &s.scan)
    }

    /// Rows of what was there before it that it may take now.
    pub fn backfill_allowed(&mut self, now: Instant) -> usize {
        self.throttle.as_mut().map_or(usize::MAX, |throttle| throttle.allowed(now))
    }

    /// Whether it still reads rows that were there before it.
    pub fn is_backfilling(&self) -> bool {
        !self.settled || self.scans.iter().any(|s| s.backfill != Backfill::Done)
    }

    /// How many of its scans still do.
    pub fn scans_backfilling(&self) -> usize {
        match self.is_running() {
            false => 0,
            true => self.scans.iter().filter(|s| s.backfill != Backfill::Done).count(),
        }
    }

    /// The relations that it reads, with the rows that it has read of what was there before it; `None` if that is all.
    pub fn backfilled(&self) -> impl Iterator<Item = (ObjectId, Option<u64>)> {
        self.scans.iter().map(|s| match s.backfill {
            Backfill::Done => (s.scan.object, None),
            Backfill::Reading { rows, .. } => (s.scan.object, Some(rows)),
        })
    }

    /// When one of its operators has work even if nothing comes, microseconds since 1970.
    pub fn next_wake_us(&self) -> Option<i64> {
        match self.is_running() {
            false => None,
            true => self.nodes.iter().filter_map(|node| node.operator.next_wake_us()).min(),
        }
    }

    /// Whether one of its operators holds rows back until a watermark is far enough.
    pub fn holds_rows(&self) -> bool {
        self.is_running() && self.nodes.iter().any(|node| node.operator.held_until().is_some())
    }

    /// Whether rows that are held back would be let go if the watermarks of its inputs were these and nothing came, and the
    /// watermarks of its result then. `None` if it reads none of those that `known` has.
    pub fn at_watermarks<'a>(&self, known: &dyn Fn(ObjectId) -> Option<&'a Watermarks>) -> Option<(bool, Watermarks)> {
        if !self.is_running() || self.reads().all(|scan| known(scan.object).is_none()) {
            return None;
        }
        let of_scan = |(i, scan): (usize, &ScanInput)| {
            let mut port = self.scan_watermarks[i].clone();
            if let (Some(all), true) = (known(scan.scan.object), scan.backfill == Backfill::Done) {
                let moved = PortWatermarks { committed: all.clone(), current: all.clone() };
                port.keep_monotone(&project_watermarks(&moved, &scan.scan.columns));
            }
            port.current
        };
        let scans: Vec<Watermarks> = self.scans.iter().enumerate().map(of_scan).collect();
        let mut nodes: Vec<Watermarks> = Vec::with_capacity(self.nodes.len());
        let mut closes = false;
        for node in &self.nodes {
            let inputs: Vec<Watermarks> = node.inputs.iter().map(|input| at(*input, &scans, &nodes).clone()).collect();
            if let (Some((column, until)), Some(first)) = (node.operator.held_until(), inputs.first()) {
                closes |= first.get(column).copied().flatten().is_some_and(|watermark| watermark >= until);
            }
            nodes.push(node.operator.watermarks(&inputs));
        }
        Some((closes, at(self.output, &scans, &nodes).clone()))
    }

    /// The stored rows of a view.
    pub fn relation(&self) -> Option<&Arc<Relation>> {
        match &self.target {
            Target::View(relation) => Some(relation),
            Target::Sink(_) => None,
        }
    }

    /// Runs the epoch. A failure of the view itself marks it failed and leaves the others alone; only failures of the
    /// store come back as errors.
    ///
    /// # Errors
    /// Those of the store; 54000 if the epoch has grown past a limit, which need not be this view's fault.
    pub fn run(
        &mut self,
        epoch: u64,
        now_us: i64,
        state: &mut State,
        upstream: &dyn Upstream,
        limits: &RunLimits,
    ) -> Result<Ran> {
        if self.suspended {
            // The epoch that suspends it says so.
            let changed = self.counters_changed;
            self.put_counters(state)?;
            return Ok(Ran::nothing(changed));
        }
        if self.counters.failed.is_some() {
            return Ok(Ran::nothing(false));
        }
        let result = catch_unwind(AssertUnwindSafe(|| self.try_run(epoch, now_us, state, upstream, limits)));
        let failure = match result {
            Ok(Ok(ran)) => return Ok(ran),
            Ok(Err(e)) if is_store_failure(&e) || e.sqlstate() == sqlstate::PROGRAM_LIMIT_EXCEEDED => return Err(e),
            Ok(Err(e)) => e,
            Err(panic) => Error::internal(format!("internal error: {}", panic_text(panic.as_ref()))),
        };
        self.fail(epoch, state, failure)
    }

    /// Stops the view for good: what it wrote in the open epoch is forgotten, what it held before stays and can no longer
    /// be trusted to follow its inputs.
    pub fn fail(&mut self, epoch: u64, state: &mut State, failure: Error) -> Result<Ran> {
        let reason = format!("{} (SQLSTATE {})", failure.message(), failure.sqlstate());
        tracing::error!(view = %self.name, epoch, reason, "continuous view failed");
        state.discard(self.id.0);
        self.indexes.discard(state);
        self.counters.failed = Some(format!("failed in epoch {epoch}: {reason}"));
        self.failure = Some(failure);
        self.counters_changed = true;
        self.put_counters(state)?;
        Ok(Ran::nothing(true))
    }

    fn try_run(
        &mut self,
        epoch: u64,
        now_us: i64,
        state: &mut State,
        upstream: &dyn Upstream,
        limits: &RunLimits,
    ) -> Result<Ran> {
        failpoint::pass_for("view.run", &self.name)?;
        let mut changed = !self.settled;
        let mut backfilled = 0;
        self.settled = self.scans.iter().all(|s| s.backfill == Backfill::Done);
        let mut scanned: Vec<Vec<Delta>> = Vec::with_capacity(self.scans.len());
        let mut moved = false;
        for i in 0..self.scans.len() {
            let changes = upstream.changes(self.scans[i].scan.object);
            let mut watermarks = project_watermarks(&changes.watermarks, &self.scans[i].scan.columns);
            if self.scans[i].backfill != Backfill::Done {
                // Rows from before the view are history, not late.
                watermarks = watermarks.unknown();
            }
            // A view that has caught up goes on with another reader, whose time may be a little behind.
            watermarks.follow(&self.scan_watermarks[i]);
            watermarks.keep_monotone(&self.scan_watermarks[i]);
            moved |= watermarks.current != self.scan_watermarks[i].current
                || watermarks.committed != self.scan_watermarks[i].committed;
            self.scan_watermarks[i] = watermarks;
            let relation = upstream.relation(self.scans[i].scan.object);
            let allowed = limits.backfill_rows.min(self.backfill_allowed(Instant::now()));
            let (rows, old_rows) = self.scan(i, changes, relation.as_deref(), state, allowed)?;
            if let (Some(throttle), Some(rows)) = (&mut self.throttle, old_rows) {
                throttle.took(rows);
            }
            changed |= old_rows.is_some();
            backfilled += old_rows.unwrap_or_default();
            if total_rows(&rows) > 0 {
                self.activity.scans[i].add(0, total_rows(&rows), Duration::ZERO);
            }
            scanned.push(rows);
        }
        if moved {
            self.derive_watermarks();
            let current: Vec<&Watermarks> = self.scan_watermarks.iter().map(|w| &w.current).collect();
            let bytes = serde_json::to_vec(&current).map_err(|e| Error::internal(e.to_string()))?;
            state.put(self.status_table(), WATERMARKS, &bytes);
        }
        let mut outputs: Vec<Vec<Delta>> = Vec::with_capacity(self.nodes.len());
        let mut errors: Vec<RowError> = Vec::new();
        let mut late: Vec<LateRows> = Vec::new();
        let mut expired = 0;
        for i in 0..self.nodes.len() {
            let ports: Vec<PortWatermarks> =
                self.nodes[i].inputs.iter().map(|p| self.watermarks_of(*p).clone()).collect();
            let inputs: Vec<Vec<Delta>> = self.nodes[i]
                .inputs
                .iter()
                .map(|input| match input {
                    Input::Scan(s) => scanned[*s].clone(),
                    Input::Node(n) if self.uses[*n] > 1 => outputs[*n].clone(),
                    Input::Node(n) => std::mem::take(&mut outputs[*n]),
                })
                .collect();
            let operator = &mut self.nodes[i].operator;
            let started = Instant::now();
            let rows_in: usize = inputs.iter().map(|d| total_rows(d)).sum();
            if rows_in == 0 && !operator.wakes(&ports, now_us) {
                outputs.push(Vec::new());
                continue;
            }
            let mut context = EpochContext {
                epoch,
                now_us,
                object: self.id,
                state,
                watermarks: &ports,
                shard: Shard::ONLY,
                errors: &mut errors,
                late: &mut late,
                expired: &mut expired,
            };
            let output = operator.run(inputs, &mut context)?;
            self.activity.nodes[i].add(rows_in, total_rows(&output), started.elapsed());
            outputs.push(output);
            let held = state.bytes() + outputs.iter().flatten().map(least_bytes).sum::<usize>();
            if held > limits.held_bytes {
                return Err(over_limit(limits.held_bytes));
            }
        }
        let result = match self.output {
            Input::Scan(s) => scanned.swap_remove(s),
            Input::Node(n) => std::mem::take(&mut outputs[n]),
        };
        let result: Vec<Delta> = result.into_iter().filter(|d| !d.is_empty()).collect();
        let mut deltas = Vec::new();
        if !result.is_empty() {
            let result = Delta::concat(&self.output_schema, &result)?;
            let by_key = matches!(&self.target, Target::View(r) if matches!(r.layout(), Layout::Keyed(_)));
            let mut result = if self.output_is_net && by_key { result } else { result.consolidate()? };
            if let (true, Target::View(relation)) = (self.restarts && by_key, &self.target) {
                let (batch, weights) = relation.replacing(state, &result.batch, result.weights.as_ref())?;
                result = Delta::new(batch, weights);
            }
            if !result.is_empty() {
                self.counters.rows += match &mut self.target {
                    Target::View(relation) => relation.apply(state, &result.batch, result.weights.as_ref())?,
                    Target::Sink(outbox) => outbox.append(state, &result, now_us)? as i64,
                };
                self.indexes.apply(state, &result.batch, result.weights.as_ref())?;
                self.counters_changed = true;
                deltas.push(result);
            }
        }
        if !errors.is_empty() {
            self.counters.errors += self.put_errors(state, &errors)?;
            self.counters_changed = true;
        }
        if !late.is_empty() {
            self.counters.late_rows += late.iter().map(|l| l.rows.rows() as u64).sum::<u64>();
            self.put_late(epoch, state, &late)?;
            self.counters_changed = true;
        }
        self.counters.expired_rows += expired;
        self.counters_changed |= expired > 0;
        changed |= self.counters_changed || moved;
        self.put_counters(state)?;
        let watermarks = self.watermarks_of(self.output).clone();
        let kept_late = !late.is_empty() && self.late.is_some();
        Ok(Ran { changes: Changes { deltas, watermarks, decoded: None }, changed, backfilled, kept_late })
    }

    /// The epoch's rows of one scan: its relation's changes, and while the scan still reads what was there before, the
    /// next part of that (at most about `rows_max` rows; their number comes back too) with only those changes that concern
    /// what was read.
    fn scan(
        &mut self,
        i: usize,
        changes: Changes,
        relation: Option<&Relation>,
        state: &mut State,
        rows_max: usize,
    ) -> Result<(Vec<Delta>, Option<usize>)> {
        let columns = match &changes.decoded {
            Some(decoded) => self.scans[i]
                .scan
                .columns
                .iter()
                .map(|w| decoded.iter().position(|c| c == w))
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| Error::internal(format!("view \"{}\" needs columns that are not decoded", self.name)))?,
            None => self.scans[i].scan.columns.clone(),
        };
        let Backfill::Reading { position, rows } = self.scans[i].backfill.clone() else {
            let deltas = changes.deltas.iter().map(|d| d.project(&columns)).collect::<Result<_>>()?;
            return Ok((deltas, None));
        };
        let relation =
            relation.ok_or_else(|| Error::internal(format!("view \"{}\" reads a relation that is gone", self.name)))?;
        let mut out = Vec::new();
        // The rows of a snapshot come in the epoch that makes the view; of many not more than an epoch's share is read at once.
        let is_snapshot = self.scans[i].scan.taken_us.is_some();
        if is_snapshot && position.is_none() && total_rows(&changes.deltas) > rows_max {
            return Ok((out, Some(0)));
        }
        // The right side of a join as of now is read whole before the first left row comes.
        let budget = if self.scans[i].scan.as_of_now { usize::MAX } else { rows_max };
        let (batches, reached) = match (budget, position) {
            // Not now; nothing of what changes was read before.
            (0, None) => return Ok((out, Some(0))),
            (0, position) => (Vec::new(), position),
            (_, position) => relation.read(state, position.as_ref(), budget, Level::Committing)?,
        };
        let taken = batches.iter().map(RecordBatch::num_rows).sum();
        for batch in batches {
            out.push(Delta::inserts(batch.project(&columns)?));
        }
        for delta in &changes.deltas {
            let forwarded = match &reached {
                // The scan has seen the end of what was there before this epoch: all its changes are new.
                None => Some(delta.clone()),
                Some(reached) => match relation.at_or_below(&delta.batch, reached)? {
                    Some(mask) => Some(delta.filter(&mask)?),
                    None => None,
                },
            };
            if let Some(delta) = forwarded {
                out.push(delta.project(&columns)?);
            }
        }
        self.scans[i].backfill = match reached {
            Some(position) => Backfill::Reading { position: Some(position), rows: rows + taken as u64 },
            None => Backfill::Done,
        };
        let bytes = serde_json::to_vec(&self.scans[i].backfill).map_err(|e| Error::internal(e.to_string()))?;
        state.put(self.backfill_table(), &(i as u32).to_be_bytes(), &bytes);
        Ok((out, Some(taken)))
    }

    /// Takes the watermarks of the scans through the operators.
    fn derive_watermarks(&mut self) {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let inputs = || node.inputs.iter().map(|p| self.watermarks_of(*p));
            let committed: Vec<Watermarks> = inputs().map(|p| p.committed.clone()).collect();
            let current: Vec<Watermarks> = inputs().map(|p| p.current.clone()).collect();
            self.node_watermarks[i] = PortWatermarks {
                committed: node.operator.watermarks(&committed),
                current: node.operator.watermarks(&current),
            };
        }
    }

    fn watermarks_of(&self, input: Input) -> &PortWatermarks {
        at(input, &self.scan_watermarks, &self.node_watermarks)
    }

    /// Adds failed rows to the view's errors, or takes them away with their cause; returns the net number.
    fn put_errors(&self, state: &mut State, errors: &[RowError]) -> Result<i64> {
        let text = |f: fn(&RowError) -> &str| -> ArrayRef {
            Arc::new(errors.iter().map(|e| Some(f(e))).collect::<StringViewArray>())
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(errors.iter().map(|e| Some(e.operator as i32)).collect::<Int32Array>()),
            text(|e| &e.sqlstate),
            text(|e| &e.message),
            text(|e| &e.row),
        ];
        let batch = RecordBatch::try_new(errors_schema(), columns)?;
        let weights: Int64Array = errors.iter().map(|e| Some(e.weight)).collect();
        let delta = Delta::new(batch, weights).consolidate()?;
        self.errors.apply(state, &delta.batch, delta.weights.as_ref())
    }

    /// Keeps late rows, if that was asked for.
    fn put_late(&self, epoch: u64, state: &mut State, late: &[LateRows]) -> Result<()> {
        let Some(relation) = &self.late else { return Ok(()) };
        for late in late {
            let batch = &late.rows.batch;
            let n = batch.num_rows();
            let weights = late.rows.weights.clone().unwrap_or_else(|| Int64Array::from_value(1, n));
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int32Array::from_value(late.operator as i32, n)),
                Arc::new(json_rows(batch)?),
                Arc::new(weights),
                Arc::new(TimestampMicrosecondArray::from_value(late.watermark, n)),
                Arc::new(Int64Array::from_value(epoch as i64, n)),
            ];
            relation.apply(state, &RecordBatch::try_new(relation.schema().clone(), columns)?, None)?;
        }
        Ok(())
    }

    fn put_counters(&mut self, state: &mut State) -> Result<()> {
        if std::mem::take(&mut self.counters_changed) {
            let bytes = serde_json::to_vec(&self.counters).map_err(|e| Error::internal(e.to_string()))?;
            state.put(self.status_table(), b"counters", &bytes);
        }
        Ok(())
    }

    fn status_table(&self) -> TableId {
        TableId { object: self.id.0, part: part::STATUS }
    }

    fn backfill_table(&self) -> TableId {
        TableId { object: self.id.0, part: part::BACKFILL }
    }
}

/// What a scan or node has, of both lists.
fn at<'a, T>(input: Input, scans: &'a [T], nodes: &'a [T]) -> &'a T {
    match input {
        Input::Scan(s) => &scans[s],
        Input::Node(n) => &nodes[n],
    }
}

/// Memory that a delta takes at least: long texts not counted, for batches share them.
fn least_bytes(delta: &Delta) -> usize {
    let width: usize =
        delta.batch.schema_ref().fields().iter().map(|f| f.data_type().primitive_width().unwrap_or(16)).sum();
    delta.rows() * width
}

/// Why a view stopped, from the store; `None` while it runs.
pub fn read_failure(snapshot: &Snapshot, id: ObjectId) -> Result<Option<String>> {
    let table = TableId { object: id.0, part: part::STATUS };
    let Some(bytes) = snapshot.get(table, b"counters")? else { return Ok(None) };
    let counters: Counters = serde_json::from_slice(&bytes).map_err(|e| Error::internal(e.to_string()))?;
    Ok(counters.failed)
}

/// Columns of a view's stored errors.
pub fn errors_schema() -> SchemaRef {
    let columns =
        [("operator", SqlType::Int4), ("sqlstate", SqlType::Text), ("message", SqlType::Text), ("row", SqlType::Text)];
    Schema::new(columns.iter().map(|(n, t)| t.field(*n, true)).collect::<Vec<_>>()).into()
}

/// The stored errors of a view.
pub fn errors_relation(id: ObjectId) -> Result<Relation> {
    Relation::new(TableId { object: id.0, part: part::ERRORS }, errors_schema(), Layout::Counted)
}

/// The stored late rows of a view.
pub fn late_relation(id: ObjectId) -> Result<Relation> {
    let columns = [
        ("operator", SqlType::Int4),
        ("row", SqlType::Text),
        ("weight", SqlType::Int8),
        ("watermark", SqlType::Timestamp),
        ("epoch", SqlType::Int8),
    ];
    let fields: Vec<_> = columns.iter().map(|(n, t)| t.field(*n, true)).collect();
    let schema = Schema::new(fields);
    Relation::new(TableId { object: id.0, part: part::LATE }, schema.into(), Layout::Segments)
}

/// Each row as a JSON object.
fn json_rows(batch: &RecordBatch) -> Result<StringViewArray> {
    let fields = batch.schema_ref().fields().iter();
    let fields: Vec<_> = fields.map(|f| f.as_ref().clone().with_name(readable(f.name()))).collect();
    let batch = &batch.clone().with_schema(Arc::new(Schema::new(fields)))?;
    let mut lines = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    lines.write(batch)?;
    lines.finish()?;
    let text = String::from_utf8(lines.into_inner()).map_err(|e| Error::internal(e.to_string()))?;
    Ok(text.lines().map(Some).collect())
}

/// As `Operator::is_net`, of what a node or scan gives.
fn is_net(nodes: &[Node], input: Input) -> bool {
    match input {
        Input::Scan(_) => false,
        Input::Node(n) => {
            let inputs: Vec<bool> = nodes[n].inputs.iter().map(|input| is_net(nodes, *input)).collect();
            nodes[n].operator.is_net(&inputs)
        }
    }
}

/// Watermarks of some columns of a relation.
fn project_watermarks(all: &PortWatermarks, columns: &[usize]) -> PortWatermarks {
    let pick = |w: &Watermarks| columns.iter().map(|c| w.get(*c).copied().flatten()).collect();
    PortWatermarks { committed: pick(&all.committed), current: pick(&all.current) }
}

/// Whether an error is of the store and so concerns everybody, not one view.
pub fn is_store_failure(e: &Error) -> bool {
    ["53", "58", "XX001"].iter().any(|class| e.sqlstate().starts_with(class))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_string(),
        (_, Some(text)) => text.clone(),
        _ => "panic".to_string(),
    }
}

/// Changes by relation, as the loop collects them in an epoch.
pub type ChangesByRelation = BTreeMap<ObjectId, Changes>;
