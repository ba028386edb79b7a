//! Indexes: what the catalog holds of one, and which of them a relation has.

use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::object::{Object, ObjectId, ObjectKind};

/// Longest name that PostgreSQL gives an object by itself, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// Rows of a table or materialized view by some of its columns. It is in the schema of its relation, takes a name there as
/// relations do, and goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The table or materialized view.
    pub of: ObjectId,
    /// At least one.
    pub columns: Vec<IndexColumn>,
    /// Whether no two rows may agree on all columns; rows with a NULL in one agree with none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unique: bool,
}

/// A column of an [`Index`]. Its order is kept for those who look at the definition: what an index finds it finds in either.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexColumn {
    /// Position in the relation, from 0.
    pub column: usize,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub descending: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nulls_first: bool,
}

impl Index {
    /// Positions of its columns in the relation.
    pub fn positions(&self) -> Vec<usize> {
        self.columns.iter().map(|c| c.column).collect()
    }
}

impl Catalog {
    /// The indexes of a relation, in the order they were made.
    pub fn indexes(&self, of: ObjectId) -> impl Iterator<Item = (&std::sync::Arc<Object>, &Index)> {
        self.objects().filter_map(move |object| match &object.kind {
            ObjectKind::Index(index) if index.of == of => Some((object, index)),
            _ => None,
        })
    }

    /// The name that PostgreSQL gives an index that was given none: `table_column_column_idx`, with a number behind it if
    /// that is taken in the schema.
    pub fn free_index_name(&self, schema: &str, relation: &str, columns: &[&str]) -> String {
        let columns = columns.join("_");
        let name = |label: &str| {
            let room = NAME_BYTES_MAX - label.len() - 2;
            let (mut first, mut second) = (relation.len(), columns.len());
            // The longer of the two is cut first.
            while first + second > room {
                if first > second { first -= 1 } else { second -= 1 }
            }
            format!("{}_{}_{label}", cut(relation, first), cut(&columns, second))
        };
        let plain = name("idx");
        if self.find(schema, &plain).is_none() {
            return plain;
        }
        (1_u32..).map(|n| name(&format!("idx{n}"))).find(|name| self.find(schema, name).is_none()).unwrap_or(plain)
    }
}

/// At most so many bytes from the start of a text, whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectKind;
    use crate::catalog::Draft;
    use crate::object::{Column, Table};
    use crate::types::SqlType;

    fn object(draft: &mut Draft, name: &str, kind: ObjectKind) -> Object {
        Object::named(draft.new_id(), ObjectId::PUBLIC, name, kind)
    }

    fn with_index(draft: &mut Draft) -> (ObjectId, ObjectId) {
        let kind = ObjectKind::Table(Table {
            columns: vec![Column::new("a", SqlType::Int4, true)],
            primary_key: vec![],
            append_only: false,
            watermark: None,
            checks: vec![],
        });
        let table = object(draft, "t", kind);
        let of = table.id;
        draft.create(table).unwrap();
        let columns = vec![IndexColumn { column: 0, descending: true, nulls_first: false }];
        let index = object(draft, "t_a_idx", ObjectKind::Index(Index { of, columns, unique: true }));
        assert_eq!(Object::from_record(index.id.0, &index.to_record()).unwrap(), index);
        let id = index.id;
        draft.create(index).unwrap();
        (of, id)
    }

    #[test]
    fn an_index_goes_with_its_relation_and_holds_it_by_nothing() {
        let mut draft = Draft::new(&Catalog::new());
        let (table, index) = with_index(&mut draft);
        assert_eq!(draft.catalog().indexes(table).map(|(o, _)| o.id).collect::<Vec<_>>(), [index]);
        let dropped: Vec<_> = draft.drop(&[table], false).unwrap().iter().map(|o| o.id).collect();
        assert_eq!(dropped, [index, table]);
        assert!(draft.catalog().find("public", "t_a_idx").is_none());
    }

    #[test]
    fn an_index_moves_with_its_relation() {
        let mut draft = Draft::new(&Catalog::new());
        let (table, index) = with_index(&mut draft);
        let mut schema = object(&mut draft, "s", ObjectKind::Schema);
        schema.schema = schema.id;
        let schema_id = schema.id;
        draft.create(schema).unwrap();
        draft.set_schema(table, schema_id).unwrap();
        assert_eq!(draft.catalog().find("s", "t_a_idx").unwrap().id, index);
        assert!(draft.catalog().find("public", "t_a_idx").is_none());
        let dropped: Vec<_> = draft.drop(&[schema_id], true).unwrap().iter().map(|o| o.id).collect();
        assert_eq!(dropped, [index, table, schema_id]);
    }

    #[test]
    fn names_are_free_and_short() {
        let mut draft = Draft::new(&Catalog::new());
        with_index(&mut draft);
        assert_eq!(draft.catalog().free_index_name("public", "t", &["a"]), "t_a_idx1");
        assert_eq!(draft.catalog().free_index_name("public", "t", &["a", "b"]), "t_a_b_idx");
        let long = "x".repeat(70);
        let name = draft.catalog().free_index_name("public", &long, &[&long]);
        assert_eq!((name.len(), name.ends_with("_idx")), (63, true));
    }
}
