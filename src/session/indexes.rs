//! CREATE INDEX, and the indexes that a statement may read by.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_catalog::{Catalog, Object, ObjectId, ObjectKind};
use millstream_sql::Parsed;
use millstream_sql::plan::CreateIndexPlan;

use super::api::Response;
use super::ddl::gone;
use super::{Scope, Session, complete};
use crate::error::Result;
use crate::state::{Relation, TableId};
use crate::stream::engine::NewObject;
use crate::stream::engine::indexes::KeptIndex;
use crate::stream::engine::table::table_relation;
use crate::stream::plan::{part, view_layout};

impl Session {
    pub(super) async fn create_index(
        &mut self,
        p: CreateIndexPlan,
        parsed: &Parsed,
        scope: &Scope,
    ) -> Result<Response> {
        if p.concurrently {
            self.check_outside("CREATE INDEX CONCURRENTLY", true)?;
        }
        let mut draft = self.draft(scope);
        let of = draft.catalog().get(p.index.of).cloned().ok_or_else(|| gone(p.index.of))?;
        let id = draft.new_id();
        let object = self.object(id, &p.name, parsed, ObjectKind::Index(p.index), BTreeMap::new());
        let object = Object { owner: of.owner.clone(), ..object };
        // A column type that cannot be a key is found here and not in the loop.
        KeptIndex::new(&object, Arc::new(relation_of(&of)?))?;
        draft.create(object)?;
        self.apply(draft, vec![NewObject::Index { id }], Vec::new(), parsed).await?;
        Ok(complete("CREATE INDEX"))
    }
}

/// The stored rows of a table or materialized view.
pub fn relation_of(object: &Object) -> Result<Relation> {
    match &object.kind {
        ObjectKind::MaterializedView(view) => {
            Relation::new(TableId::new(object.id.0, part::ROWS), object.arrow_schema(), view_layout(view))
        }
        _ => table_relation(object),
    }
}

/// The indexes of a relation that have the rows of the statement's snapshot: all but those that its transaction has made.
///
/// # Errors
/// None for indexes that CREATE accepted.
pub fn readable(
    catalog: &Catalog,
    relation: &Arc<Relation>,
    id: ObjectId,
    has_made: impl Fn(ObjectId) -> bool,
) -> Result<Vec<KeptIndex>> {
    let made = catalog.indexes(id).filter(|(object, _)| !has_made(object.id));
    made.map(|(object, _)| KeptIndex::new(object, relation.clone())).collect()
}
