//! The first row of each key in an order, where rows only come: `ROW_NUMBER() … = 1`, `DISTINCT ON`, `ORDER BY … LIMIT 1`.
//!
//! Of an epoch's rows only the first columns of the order are encoded; the others where those are equal, for an order is often
//! made complete by all columns; whole rows only where they come before the stored one of their key. Rows that no column of
//! the order tells apart are ordered by their bytes.
//!
//! With a `state_ttl` a key whose first row did not change for long is forgotten (`ttl`), which puts nothing out: the next
//! row that comes is a first one.
//!
//! State: key -> length of the first columns of the order (u32), these, row.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use millstream_catalog::ObjectId;

use super::groups::Groups;
use super::order_key::{OrderKey, SortColumn};
use super::sharded::Keyed;
use super::ttl::{Ttl, TtlSpec};
use super::{Description, EpochContext, Operator, PortWatermarks, StateDescription, Watermarks};
use crate::error::{Error, Result, sqlstate};
use crate::state::{ByteRows, KeyCodec, RowCodec, TableId};
use crate::stream::cached::CachedTable;
use crate::stream::changelog::Delta;

/// What a [`FirstRow`] is made from.
#[derive(Debug, Clone)]
pub struct FirstRowSpec {
    /// The view that holds the state.
    pub object: ObjectId,
    /// The state part that it takes.
    pub part: u16,
    pub input: SchemaRef,
    /// Positions of the key columns.
    pub key: Vec<usize>,
    pub order_by: Vec<SortColumn>,
    /// The input's columns, then columns of the row's number, which is one.
    pub output: SchemaRef,
    /// What forgets keys that were not written for long.
    pub ttl: Option<TtlSpec>,
}

/// Keeps the first row of each key of an append-only input.
pub struct FirstRow {
    spec: FirstRowSpec,
    key: KeyCodec,
    /// The first columns of the order, and how many they are.
    order: OrderKey,
    ordered: usize,
    /// The others.
    rest: OrderKey,
    rows: RowCodec,
    table: CachedTable,
    ttl: Option<Ttl>,
}

/// A stored row with the first columns of its order.
struct Stored<'v> {
    order: &'v [u8],
    row: &'v [u8],
}

impl<'v> Stored<'v> {
    fn of(value: &'v [u8]) -> Result<Self> {
        let parts = value.split_first_chunk::<4>().and_then(|(length, rest)| {
            let (order, row) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            Some(Self { order, row })
        });
        parts.ok_or_else(|| {
            Error::new(sqlstate::DATA_CORRUPTED, "stored data cannot be decoded: the first row of a key is damaged")
        })
    }
}

impl FirstRow {
    /// State parts that it takes.
    pub const PARTS: u16 = 1;

    /// Checks the specification and makes the operator, with nothing cached.
    ///
    /// # Errors
    /// 0A000 for types that cannot be keys or ordered by.
    pub fn new(spec: FirstRowSpec) -> Result<Self> {
        let data_type = |column: usize| spec.input.field(column).data_type().clone();
        let order: Vec<(SortColumn, DataType)> =
            spec.order_by.iter().map(|sort| (*sort, data_type(sort.column))).collect();
        // One column at least, and more while they are short.
        let short = order.iter().take_while(|(_, data_type)| data_type.is_primitive()).count();
        let ordered = short.max(1).min(order.len());
        Ok(Self {
            key: KeyCodec::new(&spec.key.iter().map(|c| data_type(*c)).collect::<Vec<_>>())?,
            order: OrderKey::new(&order[..ordered])?,
            ordered,
            rest: OrderKey::new(&order[ordered..])?,
            rows: RowCodec::new(&(0..spec.input.fields().len()).map(data_type).collect::<Vec<_>>())?,
            table: CachedTable::new(TableId::new(spec.object.0, spec.part)),
            ttl: spec.ttl.map(|ttl| Ttl::new(spec.object.0, ttl)),
            spec,
        })
    }

    /// The same with another budget for its cache.
    pub fn with_cache_bytes(mut self, bytes: usize) -> Self {
        self.table = CachedTable::with_bytes(self.table.table(), bytes);
        self
    }

    fn columns(batch: &RecordBatch, positions: impl Iterator<Item = usize>) -> Vec<ArrayRef> {
        positions.map(|column| batch.column(column).clone()).collect()
    }

    fn groups(&self, batch: &RecordBatch) -> Result<Groups> {
        match self.spec.key.is_empty() {
            true => Ok(Groups::single(batch.num_rows())),
            false => Ok(Groups::assign(&self.keys(0, batch)?)),
        }
    }

    /// The first columns of the order of each row.
    fn orders(&self, batch: &RecordBatch) -> Result<ByteRows> {
        let none: ByteRows = (0..batch.num_rows()).map(|_| []).collect();
        self.order.encode(&Self::columns(batch, self.spec.order_by[..self.ordered].iter().map(|s| s.column)), &none)
    }

    /// What tells these rows apart where those columns do not: the others, and then the rows' bytes.
    fn rests(&self, columns: &[ArrayRef], rows: &ByteRows) -> Result<ByteRows> {
        let others = self.spec.order_by[self.ordered..].iter().map(|sort| columns[sort.column].clone());
        self.rest.encode(&others.collect::<Vec<_>>(), rows)
    }

    /// Forgets the keys that were not written for long.
    fn expire(&mut self, context: &mut EpochContext<'_>) -> Result<()> {
        let Self { ttl: Some(ttl), table, .. } = self else { return Ok(()) };
        let (now_us, shard) = (context.now_us, context.shard);
        ttl.expire(context.state, now_us, |ttl, state, _, keys| {
            let gone = ttl.unwritten(state, now_us, shard, keys)?;
            table.delete_many(state, &gone);
            Ok(())
        })
    }

    /// The epoch's rows: what comes before the stored rows replaces them.
    fn change(&mut self, batch: &RecordBatch, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        let groups = self.groups(batch)?;
        let orders = self.orders(batch)?;
        let mut first: Vec<Option<u32>> = vec![None; groups.len()];
        for (row, group) in groups.of_row.iter().enumerate() {
            let first = &mut first[*group as usize];
            if first.is_none_or(|first| orders.get(row) < orders.get(first as usize)) {
                *first = Some(row as u32);
            }
        }
        let order_of = |group: usize| first[group].map_or(&[][..], |row| orders.get(row as usize));
        // The old values outlive the table's cache, which the new ones are written to.
        let mut old = ByteRows::new();
        let mut old_of: Vec<Option<usize>> = vec![None; groups.len()];
        let mut comes_first = vec![Ordering::Less; groups.len()];
        for (group, value) in self.table.get_many(context.state, &groups.keys)?.iter().enumerate() {
            if let Some(value) = value {
                let stored = Stored::of(value)?;
                comes_first[group] = order_of(group).cmp(stored.order);
                if comes_first[group].is_le() {
                    old_of[group] = Some(old.len());
                    old.push(stored.row);
                }
            }
        }

        // The rows that may be the first of their keys: several where the order's first columns are equal.
        let candidates: Vec<u32> = (0..batch.num_rows())
            .filter(|row| {
                let group = groups.of_row[*row] as usize;
                comes_first[group].is_le() && orders.get(*row) == order_of(group)
            })
            .map(|row| row as u32)
            .collect();
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let rows = take_record_batch(batch, &UInt32Array::from(candidates.clone()))?;
        let encoded = self.rows.encode(rows.columns())?;
        let group_of = |candidate: usize| groups.of_row[candidates[candidate] as usize] as usize;
        let mut chosen: Vec<Option<usize>> = vec![None; groups.len()];
        let mut tied: Vec<u32> = Vec::new();
        for candidate in 0..candidates.len() {
            match &mut chosen[group_of(candidate)] {
                chosen @ None => *chosen = Some(candidate),
                Some(chosen) => tied.extend([*chosen as u32, candidate as u32]),
            }
        }
        let equal = |group: usize| comes_first[group].is_eq();
        tied.extend((0..candidates.len()).filter(|c| equal(group_of(*c))).map(|candidate| candidate as u32));
        if !tied.is_empty() {
            self.untie(&rows, &encoded, &tied, group_of, &mut chosen)?;
            self.keep_equal(&rows, &encoded, &old, &old_of, equal, &mut chosen)?;
        }

        let changed: Vec<(usize, usize)> =
            chosen.into_iter().enumerate().filter_map(|(group, candidate)| Some((group, candidate?))).collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut output = Vec::new();
        let gone: Vec<&[u8]> = changed.iter().filter_map(|(group, _)| Some(old.get(old_of[*group]?))).collect();
        if !gone.is_empty() {
            output.push(numbered(&self.spec.output, self.rows.decode(gone.iter().copied())?, gone.len(), -1)?);
        }
        let came = UInt32Array::from_iter_values(changed.iter().map(|(_, candidate)| *candidate as u32));
        let came = take_record_batch(&rows, &came)?;
        output.push(numbered(&self.spec.output, came.columns().to_vec(), came.num_rows(), 1)?);

        let mut keys = ByteRows::new();
        let mut values = ByteRows::with_capacity(changed.len(), 0);
        let mut head = Vec::new();
        for (group, candidate) in &changed {
            let order = order_of(*group);
            head.clear();
            head.extend_from_slice(&(order.len() as u32).to_le_bytes());
            head.extend_from_slice(order);
            keys.push(groups.keys.get(*group));
            values.push_pair(&head, encoded.get(*candidate));
        }
        self.table.put_many(context.state, &keys, &values);
        if let Some(ttl) = &mut self.ttl {
            ttl.note(context.state, context.now_us, &keys);
        }
        Ok(output)
    }

    /// Chooses the first of candidates that are equal in the first columns of the order.
    fn untie(
        &self,
        rows: &RecordBatch,
        encoded: &ByteRows,
        tied: &[u32],
        group_of: impl Fn(usize) -> usize,
        chosen: &mut [Option<usize>],
    ) -> Result<()> {
        let columns = take_record_batch(rows, &UInt32Array::from(tied.to_vec()))?;
        let bytes: ByteRows = tied.iter().map(|candidate| encoded.get(*candidate as usize)).collect();
        let rests = self.rests(columns.columns(), &bytes)?;
        let mut least: HashMap<usize, usize, FixedState> = HashMap::default();
        for (at, candidate) in tied.iter().enumerate() {
            let group = group_of(*candidate as usize);
            let best = least.entry(group).or_insert(at);
            if rests.get(at) < rests.get(*best) {
                *best = at;
            }
        }
        for (group, at) in least {
            chosen[group] = Some(tied[at] as usize);
        }
        Ok(())
    }

    /// Takes back the choice of rows that do not come before the stored ones, to which they are equal in the first columns
    /// of the order.
    fn keep_equal(
        &self,
        rows: &RecordBatch,
        encoded: &ByteRows,
        old: &ByteRows,
        old_of: &[Option<usize>],
        is_equal: impl Fn(usize) -> bool,
        chosen: &mut [Option<usize>],
    ) -> Result<()> {
        let pairs: Vec<(usize, usize, usize)> = (0..chosen.len())
            .filter(|group| is_equal(*group))
            .filter_map(|group| Some((group, chosen[group]?, old_of[group]?)))
            .collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let new = UInt32Array::from_iter_values(pairs.iter().map(|(_, candidate, _)| *candidate as u32));
        let new_bytes: ByteRows = pairs.iter().map(|(_, candidate, _)| encoded.get(*candidate)).collect();
        let old_bytes: ByteRows = pairs.iter().map(|(_, _, old_row)| old.get(*old_row)).collect();
        let new = self.rests(take_record_batch(rows, &new)?.columns(), &new_bytes)?;
        let old = self.rests(&self.rows.decode(old_bytes.iter())?, &old_bytes)?;
        for (at, (group, _, _)) in pairs.iter().enumerate() {
            if new.get(at) >= old.get(at) {
                chosen[*group] = None;
            }
        }
        Ok(())
    }
}

/// Rows with their number, which is one.
fn numbered(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize, weight: i64) -> Result<Delta> {
    let one: ArrayRef = Arc::new(Int64Array::from_value(1, rows));
    let numbers = schema.fields()[columns.len()..].iter().map(|field| cast(&one, field.data_type()));
    let columns = columns.iter().cloned().map(Ok).chain(numbers).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Delta::new(RecordBatch::try_new(schema.clone(), columns)?, Int64Array::from_value(weight, rows)))
}

impl Keyed for FirstRow {
    fn keys(&self, _input: usize, batch: &RecordBatch) -> Result<ByteRows> {
        self.key.encode(&Self::columns(batch, self.spec.key.iter().copied()))
    }
}

impl Operator for FirstRow {
    fn run(&mut self, inputs: Vec<Vec<Delta>>, context: &mut EpochContext<'_>) -> Result<Vec<Delta>> {
        self.expire(context)?;
        let deltas = inputs.into_iter().next().unwrap_or_default();
        let delta = Delta::concat(&self.spec.input, &deltas)?;
        let output = if delta.is_empty() { Vec::new() } else { self.change(&delta.batch, context)? };
        self.table.end_epoch();
        Ok(output)
    }

    fn watermarks(&self, _inputs: &[Watermarks]) -> Watermarks {
        // A key's row may go at any time.
        vec![None; self.spec.output.fields().len()]
    }

    fn wakes(&self, _watermarks: &[PortWatermarks], now_us: i64) -> bool {
        self.ttl.as_ref().is_some_and(|ttl| ttl.is_due(now_us))
    }

    fn next_wake_us(&self) -> Option<i64> {
        self.ttl.as_ref()?.next_wake_us()
    }

    fn reset(&mut self) {
        self.table.reset();
        if let Some(ttl) = &mut self.ttl {
            ttl.reset();
        }
    }

    fn describe(&self) -> Description {
        let name = |column: usize| self.spec.input.field(column).name().clone();
        let key: Vec<String> = self.spec.key.iter().map(|c| name(*c)).collect();
        let order: Vec<String> = self.spec.order_by.iter().map(|sort| sort.describe(name)).collect();
        let by = if key.is_empty() { String::new() } else { format!("by [{}], ", key.join(", ")) };
        let mut title = format!("FirstRow: {by}order by [{}]", order.join(", "));
        if let Some(ttl) = &self.ttl {
            title += &format!(", {}", ttl.title());
        }
        Description {
            title,
            state: [StateDescription {
                part: self.table.table().part,
                layout: "keyed",
                key: if key.is_empty() { "none".into() } else { key.join(", ") },
                cost: "1 get per key; 1 put if its first row changes".into(),
            }]
            .into_iter()
            .chain(self.ttl.as_ref().map(|ttl| ttl.describe("key")))
            .collect(),
            append_only: false,
            stream_key: key,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringViewArray};
    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

    use super::{FirstRow, FirstRowSpec, SortColumn, TtlSpec};
    use crate::stream::changelog::Delta;
    use crate::stream::operator::testing::{After, Harness, OBJECT, ZSet, add};

    type Row = (Option<i32>, Option<i32>, &'static str);

    fn input() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("k", DataType::Int32, true),
            Field::new("n", DataType::Int32, true),
            Field::new("v", DataType::Utf8View, true),
        ]))
    }

    fn delta(rows: &[Row]) -> Delta {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|r| r.0).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|r| r.1).collect::<Int32Array>()),
            Arc::new(rows.iter().map(|r| Some(r.2)).collect::<StringViewArray>()),
        ];
        Delta::inserts(RecordBatch::try_new(input(), columns).unwrap())
    }

    fn any_row() -> impl Strategy<Value = Row> {
        let number = || proptest::option::weighted(0.8, 0..4);
        (number(), number(), prop_oneof![Just(""), Just("a"), Just("b")])
    }

    proptest! {
        #![proptest_config(proptest::test_runner::Config { cases: 64, ..Default::default() })]

        #[test]
        fn the_first_row_of_each_key_is_kept(
            has_key in any::<bool>(),
            descending in any::<bool>(),
            nulls_first in any::<bool>(),
            last_first in any::<bool>(),
            has_ttl in any::<bool>(),
            epochs in proptest::collection::vec(
                (proptest::collection::vec(any_row(), 0..12),
                 prop_oneof![Just(After::Commit), Just(After::FailOnce), Just(After::Reopen)]), 1..8),
        ) {
            let input_schema = input();
            let fields = input_schema.fields().iter().cloned().chain([Arc::new(Field::new("rn", DataType::UInt64, false))]);
            let spec = FirstRowSpec {
                object: OBJECT,
                part: 1,
                input: input(),
                key: if has_key { vec![0] } else { Vec::new() },
                order_by: vec![
                    SortColumn { column: 1, descending, nulls_first },
                    SortColumn { column: 2, descending: last_first, nulls_first: last_first },
                ],
                output: Arc::new(Schema::new(fields.collect::<Vec<_>>())),
                ttl: has_ttl.then_some(TtlSpec { ttl_us: 1 << 40, part: 2 }),
            };
            let mut operator = FirstRow::new(spec).unwrap().with_cache_bytes(400);
            let mut harness = Harness::new();
            let (mut all, mut shown) = (Vec::new(), ZSet::new());
            for (rows, after) in &epochs {
                all.extend(rows.iter().copied());
                let outcome = harness.epoch(&mut operator, &[vec![delta(rows)]], &[], *after);
                outcome.deltas.iter().for_each(|d| add(&mut shown, d));
                // NULLs where they are wanted, then the numbers; then the text, whose order may be turned.
                let order = |row: &Row| {
                    let null = if nulls_first { i32::MIN } else { i32::MAX };
                    let text = ["", "a", "b"].iter().position(|text| *text == row.2).unwrap() as i32;
                    (row.1.map_or(null, |n| if descending { -n } else { n }), if last_first { -text } else { text })
                };
                let mut first: BTreeMap<Option<i32>, (i32, i32)> = BTreeMap::new();
                for row in &all {
                    let least = first.entry(if has_key { row.0 } else { None }).or_insert((i32::MAX, i32::MAX));
                    *least = order(row).min(*least);
                }
                prop_assert_eq!(shown.len(), first.len());
                for (row, weight) in &shown {
                    prop_assert_eq!(*weight, 1);
                    let number = |text: &str| text.parse::<i32>().ok();
                    let found = all.iter().find(|r| r.0 == number(&row[0]) && r.1 == number(&row[1]) && r.2 == row[2]);
                    let found = found.expect("a row of the input");
                    prop_assert_eq!(order(found), first[&if has_key { found.0 } else { None }]);
                    prop_assert_eq!(row[3].as_str(), "1");
                }
            }
        }
    }

    /// A key whose first row does not change for long goes, and the next row is a first one.
    #[test]
    fn keys_are_forgotten() {
        for after in [After::Commit, After::CommitLater, After::Reset, After::Reopen, After::FailOnce] {
            let fields = input()
                .fields()
                .iter()
                .cloned()
                .chain([Arc::new(Field::new("rn", DataType::UInt64, false))])
                .collect::<Vec<_>>();
            let spec = FirstRowSpec {
                object: OBJECT,
                part: 1,
                input: input(),
                key: vec![0],
                order_by: vec![SortColumn { column: 1, descending: false, nulls_first: false }],
                output: Arc::new(Schema::new(fields)),
                ttl: Some(TtlSpec { ttl_us: 1600, part: 2 }),
            };
            let mut operator = FirstRow::new(spec).unwrap();
            let mut harness = Harness::new();
            let mut epoch = |now_us: i64, rows: &[Row]| {
                harness.now_us = now_us;
                let outcome = harness.epoch(&mut operator, &[vec![delta(rows)]], &[], after);
                let mut shown = ZSet::new();
                outcome.deltas.iter().for_each(|d| add(&mut shown, d));
                let numbers: Vec<(String, i64)> =
                    shown.into_iter().map(|(row, weight)| (row[1].clone(), weight)).collect();
                (numbers, [1, 2].map(|part| harness.stored_rows(part)))
            };
            assert_eq!(epoch(0, &[(Some(1), Some(5), ""), (Some(2), Some(5), "")]).1, [2, 2]);
            // A later row is no reason to keep a key longer, an earlier one is.
            assert_eq!(epoch(1000, &[(Some(1), Some(6), "")]), (vec![], [2, 2]));
            let (numbers, _) = epoch(1000, &[(Some(2), Some(4), "")]);
            assert_eq!(numbers, [("4".to_string(), 1), ("5".to_string(), -1)]);
            assert_eq!(epoch(1700, &[]), (vec![], [1, 1]), "{after:?}");
            let (numbers, stored) = epoch(1750, &[(Some(1), Some(9), ""), (Some(2), Some(9), "")]);
            assert_eq!((numbers, stored), (vec![("9".to_string(), 1)], [2, 2]), "{after:?}");
            assert_eq!(epoch(9000, &[]), (vec![], [0, 0]));
        }
    }
}
