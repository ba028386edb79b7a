//! Indexes in the loop: whoever writes a relation keeps its indexes in the same epoch.
//!
//! What runs has the indexes that the catalog says. A new one is made from all rows of its
//! relation in the epoch of its statement, behind that transaction's own writes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use millstream_catalog::{Object, ObjectId, ObjectKind};

use super::epoch::EpochLoop;
use crate::error::{Error, Result, sqlstate};
use crate::state::{Index, Relation, State, TableId};
use crate::stream::changelog::Delta;
use crate::stream::plan::part;

/// An index of a relation that runs.
pub struct KeptIndex {
    pub id: ObjectId,
    pub name: String,
    pub unique: bool,
    pub index: Index,
}

/// The indexes of one relation.
#[derive(Default)]
pub struct KeptIndexes(pub Vec<KeptIndex>);

impl KeptIndex {
    /// The index of an object over its relation.
    ///
    /// # Errors
    /// 0A000 if a column has a type that cannot be a key; XX000 if the object is no index.
    pub fn new(object: &Object, relation: Arc<Relation>) -> Result<Self> {
        let ObjectKind::Index(index) = &object.kind else {
            return Err(Error::internal(format!("{} is no index", object.describe())));
        };
        let table = TableId { object: object.id.0, part: part::ROWS };
        let kept = Index::new(table, relation, index.positions())?;
        Ok(Self { id: object.id, name: object.name.clone(), unique: index.unique, index: kept })
    }

    /// 23505: another row has the values of this one.
    pub fn violated(&self, rows: &RecordBatch, row: usize) -> Error {
        let message = format!("duplicate key value violates unique constraint \"{}\"", self.name);
        let detail = format!("Key {} already exists.", self.index.describe_row(rows, row));
        Error::new(sqlstate::UNIQUE_VIOLATION, message).with_detail(detail)
    }
}

impl KeptIndexes {
    /// Follows changes that the relation has just taken.
    ///
    /// # Errors
    /// As [`Index::apply`].
    pub fn apply(&self, state: &mut State, batch: &RecordBatch, weights: Option<&Int64Array>) -> Result<()> {
        self.0.iter().try_for_each(|kept| kept.index.apply(state, batch, weights))
    }

    /// Takes changes back, the last first; of a relation that is not in segments.
    ///
    /// # Errors
    /// As [`Index::apply`].
    pub fn undo(&self, state: &mut State, deltas: &[Delta]) -> Result<()> {
        for delta in deltas.iter().rev().filter(|_| !self.0.is_empty()) {
            let weights = match &delta.weights {
                Some(weights) => weights.clone(),
                None => Int64Array::from_value(1, delta.batch.num_rows()),
            };
            let weights: Int64Array = weights.values().iter().map(|w| Some(-w)).collect();
            self.apply(state, &delta.batch, Some(&weights))?;
        }
        Ok(())
    }

    /// Those that no two rows may agree on.
    pub fn unique(&self) -> impl Iterator<Item = &KeptIndex> {
        self.0.iter().filter(|kept| kept.unique)
    }

    /// Forgets what the open epoch wrote to them.
    pub fn discard(&self, state: &mut State) {
        self.0.iter().for_each(|kept| state.discard(kept.id.0));
    }
}

impl EpochLoop {
    /// Gives everything that runs the indexes that the catalog says it has, apart from those of `new`, which are not made yet.
    ///
    /// # Errors
    /// None for indexes that CREATE accepted.
    pub(super) fn follow_indexes(&mut self, new: &[ObjectId]) -> Result<()> {
        let mut of: BTreeMap<ObjectId, Vec<Arc<Object>>> = BTreeMap::new();
        for object in self.catalog.objects().filter(|o| !new.contains(&o.id)) {
            if let ObjectKind::Index(index) = &object.kind {
                of.entry(index.of).or_default().push(object.clone());
            }
        }
        let kept = |relation: &Arc<Relation>, objects: Option<&Vec<Arc<Object>>>| -> Result<KeptIndexes> {
            let objects = objects.into_iter().flatten();
            Ok(KeptIndexes(objects.map(|o| KeptIndex::new(o, relation.clone())).collect::<Result<_>>()?))
        };
        for (id, table) in &mut self.tables {
            table.indexes = kept(&table.relation, of.get(id))?;
        }
        for (id, pipeline) in &mut self.pipelines {
            let Some(relation) = pipeline.relation().cloned() else { continue };
            pipeline.indexes = kept(&relation, of.get(id))?;
        }
        Ok(())
    }

    /// Makes new indexes from the rows that their relations have in the open epoch, from where on they are kept.
    ///
    /// # Errors
    /// 23505 if rows agree on a unique index, 54000 if the rows are too many for one epoch. What was written to the indexes
    /// is then to be discarded.
    pub(super) fn build_indexes(&mut self, new: &[ObjectId]) -> Result<()> {
        let limit = self.intake.limits().write_set_limit_bytes;
        for id in new {
            let object = self.catalog.get(*id).cloned();
            let object = object.ok_or_else(|| Error::internal(format!("object {id} is not in the catalog")))?;
            let ObjectKind::Index(index) = &object.kind else { continue };
            let of_table = self.tables.get(&index.of).map(|table| table.relation.clone());
            let of_view = || self.pipelines.get(&index.of)?.relation().cloned();
            let relation = of_table
                .or_else(of_view)
                .ok_or_else(|| Error::internal(format!("the relation of {} does not run", object.describe())))?;
            let kept = KeptIndex::new(&object, relation)?;
            let too_large = |state: &State| match state.bytes() > limit {
                false => Ok(()),
                true => Err(Error::new(
                    sqlstate::PROGRAM_LIMIT_EXCEEDED,
                    format!("{} cannot be made: it takes more than {limit} bytes in one epoch", object.describe()),
                )
                .with_hint("make it while its relation is small, or raise state.write_set_limit_bytes")),
            };
            kept.index.build(&mut self.state, too_large)?;
            if kept.unique
                && let Some(values) = kept.index.duplicate(&self.state)?
            {
                let message = format!("could not create unique index \"{}\"", kept.name);
                return Err(
                    Error::new(sqlstate::UNIQUE_VIOLATION, message).with_detail(format!("Key {values} is duplicated."))
                );
            }
            if let Some(table) = self.tables.get_mut(&index.of) {
                table.indexes.0.push(kept);
            } else if let Some(pipeline) = self.pipelines.get_mut(&index.of) {
                pipeline.indexes.0.push(kept);
            }
        }
        Ok(())
    }
}
