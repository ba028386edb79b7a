//! The rows of a partition in chunks: how they are stored, looked up and changed in an epoch.
//!
//! A partition is a *directory*, one stored value, and the chunks that it lists in order. Peers (rows with one sort key)
//! are never in two chunks. A partition of one chunk has it inside its directory, so that a small partition costs one get
//! and one put. Chunks grow with the square root of the partition, so neither the directory nor a chunk gets large.
//!
//! Everything that an epoch looks at is copied into one arena ([`Memory`]) and spoken of by position.

use crate::error::{Error, Result, sqlstate};
use crate::state::ByteRows;

const VERSION: u8 = 1;
/// Rows at which a chunk of a small partition is split.
pub(super) const CHUNK_ROWS: usize = 128;
/// Rows at which any chunk is split.
const CHUNK_ROWS_MAX: usize = 1024;
/// Bytes at which a chunk is split.
const CHUNK_BYTES: usize = 32 << 10;

/// The time of a partition that waits for nothing.
pub(super) const NEVER: i64 = i64::MAX;

/// A byte string in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    at: usize,
    len: usize,
}

/// A stored row: its sort key and its columns, which are its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub order: Span,
    pub row: Span,
}

/// Some rows in order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct List {
    start: usize,
    len: usize,
}

/// What an epoch has read and been given.
#[derive(Debug, Default)]
pub(super) struct Memory {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Memory {
    pub fn get(&self, span: Span) -> &[u8] {
        &self.bytes[span.at..span.at + span.len]
    }

    pub fn entries(&self, list: List) -> &[Entry] {
        &self.entries[list.start..list.start + list.len]
    }

    /// Copies bytes in.
    pub fn keep(&mut self, bytes: &[u8]) -> Span {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Span { at, len: bytes.len() }
    }

    /// A position that tells entries apart.
    pub fn identity(entry: Entry) -> usize {
        entry.row.at
    }

    /// Entries by sort key, then by row.
    pub fn compare(&self, a: Entry, b: Entry) -> std::cmp::Ordering {
        self.get(a.order).cmp(self.get(b.order)).then_with(|| self.get(a.row).cmp(self.get(b.row)))
    }

    /// The rows of `old` with `changes` applied, which are sorted and of which each says how many copies come or go.
    ///
    /// # Errors
    /// XX000 if a row goes that is not there, unless those are counted.
    fn merge(&mut self, old: List, changes: &[(Entry, i64)], mut unknown: Option<&mut u64>) -> Result<List> {
        let start = self.entries.len();
        let mut next = old.start;
        let end = old.start + old.len;
        for (change, weight) in changes {
            while next < end && self.compare(self.entries[next], *change).is_lt() {
                self.entries.push(self.entries[next]);
                next += 1;
            }
            let mut weight = *weight;
            while weight < 0 {
                if next == end || self.compare(self.entries[next], *change).is_ne() {
                    if let Some(unknown) = &mut unknown {
                        **unknown += weight.unsigned_abs();
                        break;
                    }
                    return Err(Error::internal("the input of a window function takes back a row that it never gave"));
                }
                next += 1;
                weight += 1;
            }
            for _ in 0..weight {
                self.entries.push(*change);
            }
        }
        self.entries.extend_from_within(next..end);
        Ok(List { start, len: self.entries.len() - start })
    }

    fn read_list(&mut self, bytes: Span) -> Result<List> {
        let start = self.entries.len();
        let end = bytes.at + bytes.len;
        let mut at = bytes.at;
        while at < end {
            let mut cursor = &self.bytes[at..end];
            let (order, row) = (take_u32(&mut cursor)? as usize, take_u32(&mut cursor)? as usize);
            at += 8;
            if end - at < order + row {
                return Err(corrupt());
            }
            self.entries.push(Entry { order: Span { at, len: order }, row: Span { at: at + order, len: row } });
            at += order + row;
        }
        Ok(List { start, len: self.entries.len() - start })
    }

    fn write_list(&self, list: List, out: &mut Vec<u8>) {
        for entry in self.entries(list) {
            out.extend_from_slice(&(entry.order.len as u32).to_le_bytes());
            out.extend_from_slice(&(entry.row.len as u32).to_le_bytes());
            out.extend_from_slice(self.get(entry.order));
            out.extend_from_slice(self.get(entry.row));
        }
    }

    /// Distinct sort keys.
    fn groups(&self, list: List) -> usize {
        let entries = self.entries(list);
        let borders = entries.windows(2).filter(|pair| self.get(pair[0].order) != self.get(pair[1].order)).count();
        borders + usize::from(!entries.is_empty())
    }
}

/// A chunk as the directory has it.
#[derive(Debug, Clone, Copy)]
struct Slot {
    id: u32,
    rows: usize,
    groups: usize,
    /// No row of the chunk, and none of a later one, is below it; the first chunk has what is below its own too.
    fence: Span,
    /// Its rows, if they have been read.
    list: Option<List>,
}

/// A partition's directory, and what of its chunks is in memory.
#[derive(Debug)]
pub(super) struct Partition {
    /// The watermark that the partition waits for, microseconds since 1970.
    due: i64,
    due_changed: bool,
    next_id: u32,
    slots: Vec<Slot>,
    /// Whether the rows are in the directory.
    inline: bool,
    exists: bool,
    /// Slots that the epoch changes and their rows after it, ascending.
    changed: Vec<(usize, List)>,
}

impl Default for Partition {
    fn default() -> Self {
        let (slots, changed) = (Vec::new(), Vec::new());
        Self { due: NEVER, due_changed: false, next_id: 0, slots, inline: false, exists: false, changed }
    }
}

/// What a look into a partition needs first: the number of a slot whose rows have not been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unread(pub usize);

/// The stored values that a partition's change makes.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Number of the chunk, and its rows unless it goes.
    pub chunks: Vec<(u32, Option<Vec<u8>>)>,
    /// The directory, unless the partition is empty now.
    pub directory: Option<Vec<u8>>,
}

impl Partition {
    /// From the stored directory.
    ///
    /// # Errors
    /// XX001 if it is none.
    pub fn read(memory: &mut Memory, directory: Option<&[u8]>) -> Result<Self> {
        let Some(bytes) = directory else { return Ok(Self::default()) };
        let kept = memory.keep(bytes);
        let mut cursor = bytes;
        let (version, inline) = match cursor.split_first_chunk::<2>() {
            Some(([version, inline], rest)) => {
                cursor = rest;
                (*version, *inline == 1)
            }
            None => return Err(corrupt()),
        };
        if version != VERSION {
            return Err(corrupt());
        }
        let next_id = take_u32(&mut cursor)?;
        let due = match cursor.split_first_chunk::<8>() {
            Some((due, rest)) => {
                cursor = rest;
                i64::from_le_bytes(*due)
            }
            None => return Err(corrupt()),
        };
        let read = Self { due, next_id, inline, exists: true, ..Self::default() };
        let here = |cursor: &[u8]| kept.at + (bytes.len() - cursor.len());
        if inline {
            let list = memory.read_list(Span { at: here(cursor), len: cursor.len() })?;
            let fence = memory.entries(list).first().map_or(Span { at: kept.at, len: 0 }, |e| e.order);
            let (rows, groups) = (list.len, memory.groups(list));
            let slots = vec![Slot { id: 0, rows, groups, fence, list: Some(list) }];
            return Ok(Self { slots, ..read });
        }
        let mut slots = Vec::new();
        while !cursor.is_empty() {
            let id = take_u32(&mut cursor)?;
            let (rows, groups) = (take_u32(&mut cursor)? as usize, take_u32(&mut cursor)? as usize);
            let len = take_u32(&mut cursor)? as usize;
            let fence = Span { at: here(cursor), len };
            cursor = cursor.get(len..).ok_or_else(corrupt)?;
            slots.push(Slot { id, rows, groups, fence, list: None });
        }
        Ok(Self { slots, ..read })
    }

    /// The watermark that the partition waits for; [`NEVER`] if there is none.
    pub fn due(&self) -> i64 {
        self.due
    }

    pub fn set_due(&mut self, due: i64) {
        self.due_changed |= due != self.due;
        self.due = due;
    }

    /// Chunk number of a slot.
    pub fn chunk(&self, slot: usize) -> u32 {
        self.slots[slot].id
    }

    /// The numbers of the chunks that are stored on their own.
    pub fn own_chunks(&self) -> impl Iterator<Item = u32> {
        self.slots.iter().filter(|_| !self.inline).map(|slot| slot.id)
    }

    /// Takes in the rows of a slot.
    ///
    /// # Errors
    /// XX001 if the chunk is missing or damaged.
    pub fn load(&mut self, memory: &mut Memory, slot: usize, chunk: Option<&[u8]>) -> Result<()> {
        let bytes = memory.keep(chunk.ok_or_else(corrupt)?);
        self.slots[slot].list = Some(memory.read_list(bytes)?);
        Ok(())
    }

    /// The slot that holds a sort key, or would.
    fn slot_of(&self, memory: &Memory, order: &[u8]) -> usize {
        self.slots.partition_point(|slot| memory.get(slot.fence) <= order).saturating_sub(1)
    }

    /// The first slot that sorted changes fall into and that has not been read.
    pub fn unread_targets(&self, memory: &Memory, changes: &[(Entry, i64)], unread: &mut Vec<usize>) {
        if self.slots.is_empty() {
            return;
        }
        let mut last = None;
        for (change, _) in changes {
            let slot = self.slot_of(memory, memory.get(change.order));
            if last != Some(slot) && self.slots[slot].list.is_none() {
                unread.push(slot);
            }
            last = Some(slot);
        }
    }

    /// Applies sorted changes to slots that have been read.
    ///
    /// # Errors
    /// XX000 if a row goes that is not there, unless those are counted.
    pub fn change(
        &mut self,
        memory: &mut Memory,
        changes: &[(Entry, i64)],
        mut unknown: Option<&mut u64>,
    ) -> Result<()> {
        if let (true, Some((first, _))) = (self.slots.is_empty(), changes.first()) {
            let list = Some(List::default());
            self.slots.push(Slot { id: 0, rows: 0, groups: 0, fence: first.order, list });
            self.inline = true;
        }
        let mut rest = changes;
        while let Some((first, _)) = rest.first() {
            let slot = self.slot_of(memory, memory.get(first.order));
            let end = match self.slots.get(slot + 1) {
                Some(next) => rest.partition_point(|(e, _)| memory.get(e.order) < memory.get(next.fence)),
                None => rest.len(),
            };
            let (own, others) = rest.split_at(end);
            rest = others;
            let list = self.slots[slot].list.ok_or_else(|| Error::internal("a chunk is changed before it is read"))?;
            let merged = memory.merge(list, own, unknown.as_deref_mut())?;
            self.changed.push((slot, merged));
        }
        Ok(())
    }

    /// The partition before the epoch.
    pub fn before(&self) -> View {
        View::new(self.slots.iter().map(|slot| (slot.rows, slot.groups, slot.fence, slot.list)))
    }

    /// The partition with the epoch's changes.
    pub fn after(&self, memory: &Memory) -> View {
        let mut changed = self.changed.iter().peekable();
        View::new(self.slots.iter().enumerate().map(|(i, slot)| match changed.next_if(|(c, _)| *c == i) {
            Some((_, list)) => (list.len, memory.groups(*list), slot.fence, Some(*list)),
            None => (slot.rows, slot.groups, slot.fence, slot.list),
        }))
    }

    /// Forgets the rows from `position` on, which must be in slots that have been read or lie behind all that were.
    pub fn cut(&mut self, memory: &Memory, position: usize) {
        let mut first = 0;
        for slot in 0..self.slots.len() {
            let changed = self.changed.iter().position(|(c, _)| *c == slot);
            let list = changed.map(|i| self.changed[i].1).or(self.slots[slot].list);
            let rows = list.map_or(self.slots[slot].rows, |list| list.len);
            if first + rows > position {
                let list = list.unwrap_or_default();
                let kept = List { start: list.start, len: position.saturating_sub(first).min(list.len) };
                let stored = self.slots[slot].list;
                let same = stored.is_some_and(|old| memory.entries(old) == memory.entries(kept));
                match changed {
                    Some(i) if same => {
                        self.changed.remove(i);
                    }
                    Some(i) => self.changed[i].1 = kept,
                    None if same => {}
                    None => {
                        let at = self.changed.partition_point(|(c, _)| *c < slot);
                        self.changed.insert(at, (slot, kept));
                    }
                }
            }
            first += rows;
        }
    }

    /// Forgets the rows before a position of the partition with its changes. A chunk that is not changed otherwise goes as a
    /// whole or stays.
    pub fn trim(&mut self, position: usize) {
        let mut first = 0;
        for slot in 0..self.slots.len() {
            if first >= position {
                break;
            }
            let changed = self.changed.binary_search_by_key(&slot, |(slot, _)| *slot);
            let list = changed.map_or(self.slots[slot].list, |i| Some(self.changed[i].1));
            let rows = list.map_or(self.slots[slot].rows, |list| list.len);
            let gone = (position - first).min(rows);
            let list = list.unwrap_or_default();
            let kept = List { start: list.start + gone.min(list.len), len: list.len.saturating_sub(gone) };
            match changed {
                Ok(i) => self.changed[i].1 = kept,
                Err(i) if gone == rows => self.changed.insert(i, (slot, kept)),
                Err(_) => {}
            }
            first += rows;
        }
    }

    /// What is to be stored, if anything changed; chunks of a small partition have at most `chunk_rows` rows.
    pub fn writes(&mut self, memory: &Memory, chunk_rows: usize) -> Option<Writes> {
        if self.changed.is_empty() && !(self.due_changed && self.exists) {
            return None;
        }
        let mut writes = Writes::default();
        let total: usize = self.after(memory).rows();
        let rows_max = (total as f64).sqrt() as usize;
        let rows_max = rows_max.min(CHUNK_ROWS_MAX).max(chunk_rows);
        let mut slots: Vec<Slot> = Vec::with_capacity(self.slots.len() + self.changed.len());
        let mut dirty: Vec<usize> = Vec::new();
        let mut gone: Vec<u32> = Vec::new();
        let changed = std::mem::take(&mut self.changed);
        let mut changed = changed.into_iter().peekable();
        for (i, slot) in self.slots.iter().enumerate() {
            let Some((_, list)) = changed.next_if(|(c, _)| *c == i) else {
                slots.push(*slot);
                continue;
            };
            let pieces = split(memory, list, rows_max);
            if pieces.is_empty() && !self.inline {
                gone.push(slot.id);
            }
            for (n, piece) in pieces.into_iter().enumerate() {
                let id = if n == 0 {
                    slot.id
                } else {
                    self.next_id = self.next_id.max(slot.id) + 1;
                    self.next_id
                };
                // The first piece keeps the fence: rows below its present first one may come back.
                let fence = if n == 0 { slot.fence } else { memory.entries(piece)[0].order };
                dirty.push(slots.len());
                slots.push(Slot { id, rows: piece.len, groups: memory.groups(piece), fence, list: Some(piece) });
            }
        }
        let was_inline = self.inline && self.exists;
        self.slots = slots;
        match self.slots.as_slice() {
            [] => self.exists = false,
            [Slot { list: Some(list), id, .. }] => {
                if !was_inline && self.exists {
                    gone.push(*id);
                }
                let mut out = vec![VERSION, 1];
                out.extend_from_slice(&self.next_id.to_le_bytes());
                out.extend_from_slice(&self.due.to_le_bytes());
                memory.write_list(*list, &mut out);
                self.inline = true;
                self.exists = true;
                writes.directory = Some(out);
            }
            slots => {
                for i in dirty {
                    let mut out = Vec::new();
                    if let Some(list) = slots[i].list {
                        memory.write_list(list, &mut out);
                    }
                    writes.chunks.push((slots[i].id, Some(out)));
                }
                let mut out = vec![VERSION, 0];
                out.extend_from_slice(&self.next_id.to_le_bytes());
                out.extend_from_slice(&self.due.to_le_bytes());
                for slot in slots {
                    for number in [slot.id, slot.rows as u32, slot.groups as u32, slot.fence.len as u32] {
                        out.extend_from_slice(&number.to_le_bytes());
                    }
                    out.extend_from_slice(memory.get(slot.fence));
                }
                self.inline = false;
                self.exists = true;
                writes.directory = Some(out);
            }
        }
        writes.chunks.extend(gone.into_iter().map(|id| (id, None)));
        Some(writes)
    }
}

/// Pieces of a list that are small enough, cut between peers; none if it is empty.
fn split(memory: &Memory, list: List, rows_max: usize) -> Vec<List> {
    let entries = memory.entries(list);
    let size = |e: &Entry| e.order.len + e.row.len + 8;
    let bytes: usize = entries.iter().map(size).sum();
    if entries.is_empty() {
        return Vec::new();
    }
    if entries.len() <= rows_max && bytes <= CHUNK_BYTES {
        return vec![list];
    }
    let mut pieces = Vec::new();
    let (mut start, mut taken) = (0, 0);
    for i in 1..entries.len() {
        taken += size(&entries[i - 1]);
        let full = (i - start) * 4 >= rows_max * 3 || taken * 4 >= CHUNK_BYTES * 3;
        if full && memory.get(entries[i].order) != memory.get(entries[i - 1].order) {
            pieces.push(List { start: list.start + start, len: i - start });
            (start, taken) = (i, 0);
        }
    }
    pieces.push(List { start: list.start + start, len: entries.len() - start });
    pieces
}

/// A partition at one moment, its rows by position. Looks that meet a slot that has not been read say which.
#[derive(Debug)]
pub(super) struct View {
    slots: Vec<ViewSlot>,
    rows: usize,
    groups: usize,
}

#[derive(Debug)]
struct ViewSlot {
    first_row: usize,
    first_group: usize,
    rows: usize,
    fence: Span,
    list: Option<List>,
}

impl View {
    fn new(slots: impl Iterator<Item = (usize, usize, Span, Option<List>)>) -> Self {
        let (mut rows, mut groups) = (0, 0);
        let slots = slots
            .map(|(n, g, fence, list)| {
                let slot = ViewSlot { first_row: rows, first_group: groups, rows: n, fence, list };
                rows += n;
                groups += g;
                slot
            })
            .collect();
        Self { slots, rows, groups }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn list(&self, slot: usize) -> Result<List, Unread> {
        self.slots[slot].list.ok_or(Unread(slot))
    }

    /// The slot of a position below `rows`.
    fn slot_at(&self, position: usize) -> usize {
        self.slots.partition_point(|slot| slot.first_row <= position).saturating_sub(1)
    }

    /// Position of the first row whose sort key is not below `order`.
    pub fn lower_bound(&self, memory: &Memory, order: &[u8]) -> Result<usize, Unread> {
        let slot = self.slots.partition_point(|slot| memory.get(slot.fence) <= order);
        let Some(slot) = slot.checked_sub(1) else { return self.in_first(memory, |key| key < order) };
        let first = self.slots[slot].first_row;
        if slot > 0 && memory.get(self.slots[slot].fence) == order {
            return Ok(first);
        }
        let entries = memory.entries(self.list(slot)?);
        Ok(first + entries.partition_point(|e| memory.get(e.order) < order))
    }

    /// As [`View::lower_bound`], or the start of the chunk that it is in, if that has not been read.
    pub fn lower_bound_or_before(&self, memory: &Memory, order: &[u8]) -> usize {
        self.lower_bound(memory, order).unwrap_or_else(|Unread(slot)| self.slots[slot].first_row)
    }

    /// Position after the last row whose sort key is not above `order`.
    pub fn upper_bound(&self, memory: &Memory, order: &[u8]) -> Result<usize, Unread> {
        let slot = self.slots.partition_point(|slot| memory.get(slot.fence) <= order);
        let Some(slot) = slot.checked_sub(1) else { return self.in_first(memory, |key| key <= order) };
        let entries = memory.entries(self.list(slot)?);
        Ok(self.slots[slot].first_row + entries.partition_point(|e| memory.get(e.order) <= order))
    }

    /// For a key below all fences: only the first slot can have rows before it.
    fn in_first(&self, memory: &Memory, before: impl Fn(&[u8]) -> bool) -> Result<usize, Unread> {
        if self.slots.is_empty() {
            return Ok(0);
        }
        Ok(memory.entries(self.list(0)?).partition_point(|e| before(memory.get(e.order))))
    }

    /// The row at a position below `rows`.
    pub fn entry(&self, memory: &Memory, position: usize) -> Result<Entry, Unread> {
        let slot = self.slot_at(position);
        Ok(memory.entries(self.list(slot)?)[position - self.slots[slot].first_row])
    }

    /// Calls `f` with each row of a range of positions.
    pub fn each(
        &self,
        memory: &Memory,
        range: std::ops::Range<usize>,
        mut f: impl FnMut(usize, Entry),
    ) -> Result<(), Unread> {
        let mut position = range.start;
        while position < range.end {
            let slot = self.slot_at(position);
            let first = self.slots[slot].first_row;
            let entries = memory.entries(self.list(slot)?);
            let end = (first + entries.len()).min(range.end);
            for (i, entry) in entries[position - first..end - first].iter().enumerate() {
                f(position + i, *entry);
            }
            position = end;
        }
        Ok(())
    }

    /// Adds the slots of a range of positions that have not been read.
    pub fn unread(&self, range: std::ops::Range<usize>, unread: &mut Vec<usize>) {
        if range.is_empty() {
            return;
        }
        for slot in self.slot_at(range.start)..self.slots.len() {
            if self.slots[slot].first_row >= range.end {
                break;
            }
            if self.slots[slot].list.is_none() && self.slots[slot].rows > 0 {
                unread.push(slot);
            }
        }
    }

    /// Positions of the peers of the row at a position: from, and up to but without.
    pub fn peers(&self, memory: &Memory, position: usize) -> Result<(usize, usize), Unread> {
        let slot = self.slot_at(position);
        let first = self.slots[slot].first_row;
        let entries = memory.entries(self.list(slot)?);
        let at = position - first;
        let order = memory.get(entries[at].order);
        let same = |e: &Entry| memory.get(e.order) == order;
        // Most rows have no peers: only if a neighbour is one, all are looked for.
        let start = match at.checked_sub(1).is_some_and(|before| same(&entries[before])) {
            true => entries[..at].partition_point(|e| memory.get(e.order) < order),
            false => at,
        };
        let end = match entries.get(at + 1).is_some_and(same) {
            true => at + entries[at..].partition_point(|e| memory.get(e.order) <= order),
            false => at + 1,
        };
        Ok((first + start, first + end))
    }

    /// How many distinct sort keys are before that of the row at a position.
    pub fn groups_before(&self, memory: &Memory, position: usize) -> Result<usize, Unread> {
        let slot = self.slot_at(position);
        let list = self.list(slot)?;
        let upto = List { start: list.start, len: position - self.slots[slot].first_row + 1 };
        Ok(self.slots[slot].first_group + memory.groups(upto) - 1)
    }

    /// Position after the rows of the first `groups` distinct sort keys.
    pub fn rows_of_groups(&self, memory: &Memory, groups: usize) -> Result<usize, Unread> {
        if groups >= self.groups {
            return Ok(self.rows);
        }
        let slot = self.slots.partition_point(|slot| slot.first_group <= groups).saturating_sub(1);
        let entries = memory.entries(self.list(slot)?);
        let mut group = self.slots[slot].first_group;
        for (i, entry) in entries.iter().enumerate() {
            if i > 0 && memory.get(entry.order) != memory.get(entries[i - 1].order) {
                group += 1;
            }
            if group == groups {
                return Ok(self.slots[slot].first_row + i);
            }
        }
        Ok(self.slots[slot].first_row + entries.len())
    }
}

/// Chunk keys: the partition's key and the chunk's number.
pub(super) fn push_chunk_key(keys: &mut ByteRows, partition: &[u8], chunk: u32) {
    keys.push_pair(partition, &chunk.to_be_bytes());
}

fn take_u32(cursor: &mut &[u8]) -> Result<u32> {
    let (head, rest) = cursor.split_first_chunk::<4>().ok_or_else(corrupt)?;
    *cursor = rest;
    Ok(u32::from_le_bytes(*head))
}

fn corrupt() -> Error {
    Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: a partition of a window function is damaged")
}
