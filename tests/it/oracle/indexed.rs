//! Indexes on views of a case: what one finds is what a scan finds.

use std::collections::BTreeSet;

use super::case::Relation;

/// The statement that gives every second view an index, by its last columns.
pub fn ddl(view: &Relation, n: usize) -> Option<String> {
    let columns: Vec<&str> = by(view, n)?.collect();
    Some(format!("CREATE INDEX ON {} ({})", view.name, columns.join(", ")))
}

/// A SELECT that finds all rows of the view by its index: those of every value of its first column, and those without.
pub fn select(view: &Relation, n: usize, rows: &[Vec<Option<String>>]) -> Option<String> {
    let first = by(view, n)?.next()?;
    let at = view.columns.len() - 1;
    let values: BTreeSet<&str> = rows.iter().filter_map(|row| row[at].as_deref()).collect();
    let values: Vec<String> = values.iter().map(|v| format!("'{}'", v.replace('\'', "''"))).collect();
    let found = if values.is_empty() { "false".into() } else { format!("{first} IN ({})", values.join(", ")) };
    Some(format!("SELECT * FROM {} WHERE {first} IS NULL OR {found}", view.name))
}

/// The columns of a view's index: the last two, the last first.
fn by(view: &Relation, n: usize) -> Option<impl Iterator<Item = &str>> {
    (n.is_multiple_of(2)).then(|| view.columns.iter().rev().take(2).map(|c| c.name.as_str()))
}
