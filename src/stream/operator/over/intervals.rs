//! Between which sort keys an epoch's changes alter the results of a partition: by the reach of its functions' frames.

use std::ops::Range;

use super::Over;
use super::chunks::{Entry, Memory, View};
use super::frame::{Edge, Reach, with_slack};
use super::sessions::{KeyRange, Sessions, Stop};
use crate::state::ByteRows;

/// Sort keys at an edge, one for each row of the epoch's input.
pub(super) struct EdgeKeys {
    pub edge: Edge,
    pub keys: ByteRows,
}

/// Sort keys between which results are computed again; `None` is the partition's end.
pub(super) type Interval = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Looks for the results that the changes of one partition alter.
pub(super) struct Finder<'a> {
    pub memory: &'a Memory,
    pub before: &'a View,
    pub after: &'a View,
    /// The changes of all partitions, and which are those of this one.
    pub changes: &'a [(Entry, i64)],
    pub of_partition: Range<usize>,
    pub sources: &'a [u32],
    pub edges: &'a [EdgeKeys],
    pub reaches: &'a [(Reach, Reach)],
    pub sessions: Option<&'a Sessions>,
}

impl Finder<'_> {
    /// The intervals of sort keys, in order and apart.
    pub fn intervals(&self) -> Result<Vec<Interval>, Stop> {
        let all_before = self.reaches.iter().any(|(back, _)| *back == Reach::All);
        let all_after = self.reaches.iter().any(|(_, forward)| *forward == Reach::All);
        let only_sessions = self.reaches.iter().all(|reach| *reach == (Reach::Session, Reach::Session));
        let mut intervals: Vec<Interval> = Vec::new();
        let mut previous: Option<&[u8]> = None;
        for i in self.of_partition.clone() {
            let order = self.memory.get(self.changes[i].0.order);
            if previous == Some(order) {
                continue;
            }
            previous = Some(order);
            // What alters a session that was found, and reaches further, is a change behind it.
            let is_in = |(_, last): &Interval| last.as_ref().is_some_and(|last| order <= last.as_slice());
            if only_sessions && intervals.last().is_some_and(is_in) {
                continue;
            }
            let low = if all_before { None } else { Some(self.low(order, i)?) };
            let high = if all_after { None } else { Some(self.high(order, i)?) };
            match intervals.last_mut() {
                // Changes come in order, but the first rows of their reaches need not.
                Some((first, last)) if !is_gap(last, &low) => {
                    if high.is_none() || last.as_ref().is_some_and(|last| high.as_ref().is_some_and(|h| h > last)) {
                        *last = high;
                    }
                    if first.as_ref().is_some_and(|first| low.as_ref().is_none_or(|low| low < first)) {
                        *first = low;
                    }
                }
                _ => intervals.push((low, high)),
            }
            if all_after {
                // Everything behind is computed anyway, and later changes are seen from no further before.
                break;
            }
        }
        intervals.dedup_by(|later, earlier| {
            let overlaps = !is_gap(&earlier.1, &later.0);
            if overlaps {
                if later.1.is_none() || (earlier.1.is_some() && later.1 > earlier.1) {
                    earlier.1 = later.1.take();
                }
                if earlier.0.is_some() && (later.0.is_none() || later.0 < earlier.0) {
                    earlier.0 = later.0.take();
                }
            }
            overlaps
        });
        Ok(intervals)
    }

    /// The first sort key whose result a change sees.
    fn low(&self, order: &[u8], change: usize) -> Result<Vec<u8>, Stop> {
        let mut low = order.to_vec();
        for (back, _) in self.reaches {
            match back {
                Reach::Peers | Reach::All => {}
                Reach::Rows(0) => {}
                Reach::Rows(n) => {
                    for view in [&self.before, &self.after] {
                        let at = view.lower_bound(self.memory, order)?.saturating_sub(*n as usize);
                        if at < view.rows() {
                            low = low.min(self.memory.get(view.entry(self.memory, at)?.order).to_vec());
                        }
                    }
                }
                Reach::Session => {
                    for (first, _) in self.sessions_around(order)? {
                        low = low.min(first);
                    }
                }
                Reach::Range(edge) => low = low.min(self.edge(with_slack(*edge, false), change, order)),
            }
        }
        Ok(low)
    }

    /// The last sort key whose result a change sees.
    fn high(&self, order: &[u8], change: usize) -> Result<Vec<u8>, Stop> {
        let mut high = order.to_vec();
        for (_, forward) in self.reaches {
            match forward {
                Reach::Peers | Reach::All => {}
                Reach::Rows(0) => {}
                Reach::Rows(n) => {
                    for view in [&self.before, &self.after] {
                        let last = (view.upper_bound(self.memory, order)? + *n as usize).min(view.rows());
                        if let Some(at) = last.checked_sub(1) {
                            high = high.max(self.memory.get(view.entry(self.memory, at)?.order).to_vec());
                        }
                    }
                }
                Reach::Session => {
                    for (_, last) in self.sessions_around(order)? {
                        high = high.max(last);
                    }
                }
                Reach::Range(edge) => high = high.max(self.edge(with_slack(*edge, true), change, order)),
            }
        }
        Ok(high)
    }

    /// The first and last sort keys of the sessions that a change is of, before it and after it.
    fn sessions_around(&self, order: &[u8]) -> Result<Vec<KeyRange>, Stop> {
        let Some(sessions) = self.sessions else { return Ok(Vec::new()) };
        let of = |view: &View| sessions.around(self.memory, view, order);
        Ok(of(self.before)?.into_iter().chain(of(self.after)?).collect())
    }

    fn edge(&self, edge: Edge, change: usize, order: &[u8]) -> Vec<u8> {
        let keys = self.edges.iter().find(|known| known.edge == edge);
        keys.map_or(order, |known| known.keys.get(self.sources[change] as usize)).to_vec()
    }
}

/// Whether there may be rows between the end of an interval and the start of the next.
fn is_gap(end: &Option<Vec<u8>>, start: &Option<Vec<u8>>) -> bool {
    match (end, start) {
        (Some(end), Some(start)) => start > end,
        _ => false,
    }
}

/// The edges that reaches of RANGE frames are computed with.
pub(super) fn range_edges(over: &Over) -> Vec<Edge> {
    let mut edges: Vec<Edge> = Vec::new();
    for function in &over.spec.functions {
        let (back, forward) = function.reach();
        for (reach, towards_end) in [(back, false), (forward, true)] {
            if let Reach::Range(edge) = reach {
                let edge = with_slack(edge, towards_end);
                if !edges.contains(&edge) {
                    edges.push(edge);
                }
            }
        }
    }
    edges
}
