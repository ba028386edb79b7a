//! Point reads: a SELECT of columns that fixes the whole key of a table or continuous view, or the first columns of an index
//! that then finds few rows, is carried out by one lookup for each key, without an optimizer, operators and threads between.
//!
//! Only what is exactly that is taken: `SELECT columns FROM relation WHERE key = $1 [AND key = 'x'] …`, where values have the
//! type of their column. Everything else goes the usual way, and gives the same.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, TableScan};
use millstream_catalog::{Catalog, ObjectId, ObjectKind, SqlType};
use millstream_sql::{CatalogSource, Parsed, PlannedQuery, Target, Version};

use super::api::{Parameter, Response, RowsTag};
use super::overlay::Overlay;
use super::resolver::ViewCheck;
use super::transaction::Transaction;
use super::{Session, indexes, memory, sql_type_of};
use crate::batch::access;
use crate::error::Result;
use crate::state::index::key_ranges;
use crate::state::{Relation, Snapshot};
use crate::stream::engine::Published;
use crate::stream::engine::indexes::KeptIndex;

/// Most keys that are looked up so; more are read on threads of their own.
const KEYS_MAX: usize = 64;

/// A point read, worked out; a prepared statement keeps it ([`super::plans`]).
pub struct Point {
    object: ObjectId,
    relation: Arc<Relation>,
    /// What finds the rows; `None`: the key.
    index: Option<KeptIndex>,
    /// What the columns of the key, or the first of the index, are: each one of these.
    by: Vec<(usize, Vec<Value>)>,
    /// Positions of the columns that are asked for.
    columns: Vec<usize>,
    schema: SchemaRef,
}

enum Value {
    Literal(ScalarValue),
    /// Position from 0.
    Parameter(usize),
}

/// A plan of the shape that is taken.
struct Shape<'a> {
    scan: &'a TableScan,
    /// For each column of the node its position in the scanned relation.
    columns: Vec<usize>,
    /// The condition with the node that it is over.
    filter: Option<(&'a Expr, &'a LogicalPlan)>,
}

impl Point {
    /// The point read that a query is, if it is one.
    pub fn of(query: &PlannedQuery, catalog: &Catalog) -> Option<Self> {
        let shape = shape(&query.plan)?;
        let source = CatalogSource::of(&shape.scan.source)?;
        let Target::Object(object) = source.target else { return None };
        let found = catalog.get(object)?;
        let is_stored = matches!(found.kind, ObjectKind::Table(_) | ObjectKind::MaterializedView(_));
        if !is_stored || source.version != Version::Current || source.schema.fields().len() != found.columns().len() {
            return None;
        }
        let relation = Arc::new(indexes::relation_of(found).ok()?);
        let (filter, over) = shape.filter?;
        let below = self::shape(over)?.columns;
        let mut fixed: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
        for condition in split_conjunction(filter) {
            let (column, values) = equality(condition)?;
            let column = *below.get(over.schema().index_of_column(column).ok()?)?;
            let field = relation.schema().field(column);
            access::has_plain_equality(relation.schema(), column)?;
            if field.data_type().is_floating() {
                return None;
            }
            let value = |expr: &&Expr| value(expr, field.data_type(), &query.parameters);
            let values = values.iter().map(value).collect::<Option<_>>()?;
            if fixed.insert(column, values).is_some() {
                return None;
            }
        }
        let is_fixed = |columns: &[usize]| {
            let distinct: BTreeSet<&usize> = columns.iter().collect();
            distinct.len() == columns.len() && distinct.iter().copied().eq(fixed.keys())
        };
        let (index, columns) = match is_fixed(relation.key_columns()) {
            true => (None, relation.key_columns().to_vec()),
            false => {
                let first = |positions: &[usize]| positions.get(..fixed.len()).is_some_and(is_fixed);
                let (index, by) = catalog.indexes(object).find(|(_, index)| first(&index.positions()))?;
                (Some(KeptIndex::new(index, relation.clone()).ok()?), by.positions()[..fixed.len()].to_vec())
            }
        };
        let count = fixed.values().try_fold(1_usize, |n, values| n.checked_mul(values.len()))?;
        let by = columns.into_iter().filter_map(|c| Some((c, fixed.remove(&c)?))).collect();
        let schema = super::query::with_origins(query);
        let stored = relation.schema();
        let is_same =
            |(to, from): (&Arc<arrow::datatypes::Field>, &usize)| to.data_type() == stored.field(*from).data_type();
        if count > KEYS_MAX
            || schema.fields().len() != shape.columns.len()
            || !schema.fields().iter().zip(&shape.columns).all(is_same)
        {
            return None;
        }
        Some(Self { object, relation, index, by, columns: shape.columns, schema })
    }

    /// The values to look up, a column for each that is fixed, some rows twice perhaps; no columns if there is nothing to
    /// look up. `None` if a parameter is of another type than its column.
    fn values(&self, parameters: &[Parameter]) -> Option<Vec<Vec<ScalarValue>>> {
        let mut columns: Vec<Vec<ScalarValue>> = Vec::with_capacity(self.by.len());
        for (column, values) in &self.by {
            let wanted = self.relation.schema().field(*column).data_type();
            let mut found = Vec::with_capacity(values.len());
            for value in values {
                let value = match value {
                    Value::Literal(value) => value.clone(),
                    Value::Parameter(at) => parameters.get(*at)?.value.clone(),
                };
                // NULL equals nothing.
                if !value.is_null() {
                    found.push(as_type(value, wanted)?);
                }
            }
            if found.is_empty() {
                return Some(Vec::new());
            }
            columns.push(found);
        }
        Some(columns)
    }

    /// The rows that are found; `None` if they are many.
    fn rows(
        &self,
        values: &[Vec<ScalarValue>],
        snapshot: &Arc<Snapshot>,
        changes: Option<&Arc<Overlay>>,
    ) -> Result<Option<RecordBatch>> {
        if values.is_empty() {
            return Ok(Some(RecordBatch::new_empty(self.relation.schema().clone())));
        }
        let arrays: Vec<ArrayRef> = match values.iter().all(|values| values.len() == 1) {
            true => values.iter().map(|values| values[0].to_array()).collect::<datafusion::error::Result<_>>()?,
            false => access::product(values)?,
        };
        let count = arrays.first().map_or(0, |a| a.len());
        let Some(kept) = &self.index else {
            let mut keys = self.relation.encode_key(&arrays, count)?;
            if count > 1 {
                let mut seen = HashSet::new();
                keys = keys.iter().filter(|key| seen.insert(*key)).collect();
            }
            return Ok(Some(match changes {
                Some(changes) => changes.get(&self.relation, snapshot, &keys)?,
                None => self.relation.get(snapshot, &keys)?,
            }));
        };
        // What a transaction has changed is not in the index.
        if changes.is_some() {
            return Ok(None);
        }
        let mut found = kept.index.scan(snapshot, key_ranges(&arrays, count, None)?);
        let rows = found.next().transpose()?;
        match found.next().transpose()? {
            None => Ok(Some(rows.unwrap_or_else(|| RecordBatch::new_empty(self.relation.schema().clone())))),
            Some(_) => Ok(None),
        }
    }
}

impl Session {
    /// Carries out a statement whose plan is kept and is a point read; `None` if it has to go the usual way.
    ///
    /// # Errors
    /// As the usual way.
    pub(super) fn point_read(&mut self, parsed: &Parsed, parameters: &[Parameter]) -> Result<Option<Response>> {
        let Some(kept) = self.plans.get(parsed).filter(|kept| kept.point.is_some()).cloned() else { return Ok(None) };
        let Some(point) = kept.point.as_ref().filter(|_| self.reads.is_none()) else { return Ok(None) };
        self.enter_transaction(&parsed.statement)?;
        let view = self.transaction.as_ref().and_then(Transaction::view);
        let published = view.cloned().unwrap_or_else(|| self.database.engine.published());
        let types: Vec<Option<SqlType>> = parameters.iter().map(sql_type_of).collect();
        if self.seen(&published, &types).as_ref() != Some(kept.seen.as_ref()) {
            return Ok(None);
        }
        self.look_up(point, &kept.query, &published, parameters)
    }

    /// Carries out a query that was planned just now; `None` if it is no point read.
    ///
    /// # Errors
    /// As the usual way.
    pub(super) fn point_query(
        &mut self,
        query: &PlannedQuery,
        published: &Arc<Published>,
        parameters: &[Parameter],
    ) -> Result<Option<Response>> {
        // An index that a transaction makes has no rows yet.
        if self.reads.is_some() || self.transaction.as_ref().and_then(Transaction::draft).is_some() {
            return Ok(None);
        }
        let Some(point) = Point::of(query, &published.catalog) else { return Ok(None) };
        self.look_up(&point, query, published, parameters)
    }

    fn look_up(
        &mut self,
        point: &Point,
        query: &PlannedQuery,
        published: &Arc<Published>,
        parameters: &[Parameter],
    ) -> Result<Option<Response>> {
        let (Some(values), Some(object)) = (point.values(parameters), published.catalog.get(point.object)) else {
            return Ok(None);
        };
        let changes = self.transaction.as_ref().and_then(|t| t.changes(point.object));
        let Some(rows) = point.rows(&values, &published.snapshot, changes)? else { return Ok(None) };
        if matches!(object.kind, ObjectKind::MaterializedView(_)) {
            self.warn_of_errors(query, published);
            let (database, notices) = (&self.database, &self.late_notices);
            ViewCheck { database, published, transaction: self.transaction.as_ref(), notices }.check(object)?;
        }
        let columns: Vec<ArrayRef> = point.columns.iter().map(|c| rows.column(*c).clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let batch = RecordBatch::try_new_with_options(super::query::nullable(&point.schema), columns, &options)?;
        Ok(Some(memory::rows(point.schema.clone(), vec![batch], RowsTag::select())))
    }
}

/// A plan of projections of plain columns and one filter over a scan.
fn shape(plan: &LogicalPlan) -> Option<Shape<'_>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let below = shape(&projection.input)?;
            let column = |expr: &Expr| {
                let Expr::Column(column) = unaliased(expr) else { return None };
                below.columns.get(projection.input.schema().index_of_column(column).ok()?).copied()
            };
            let columns = projection.expr.iter().map(column).collect::<Option<_>>()?;
            Some(Shape { columns, ..below })
        }
        LogicalPlan::Filter(filter) => {
            let below = shape(&filter.input)?;
            match below.filter {
                None => Some(Shape { filter: Some((&filter.predicate, &filter.input)), ..below }),
                Some(_) => None,
            }
        }
        LogicalPlan::SubqueryAlias(alias) => shape(&alias.input),
        LogicalPlan::TableScan(scan) if scan.filters.is_empty() && scan.fetch.is_none() => {
            let all = || (0..scan.source.schema().fields().len()).collect();
            let columns = scan.projection.clone().unwrap_or_else(all);
            Some(Shape { scan, columns, filter: None })
        }
        _ => None,
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        expr => expr,
    }
}

/// The column that a condition fixes, and what to.
fn equality(condition: &Expr) -> Option<(&datafusion::common::Column, Vec<&Expr>)> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), value) | (value, Expr::Column(column)) => Some((column, vec![value])),
            _ => None,
        },
        Expr::InList(list) if !list.negated => match list.expr.as_ref() {
            Expr::Column(column) => Some((column, list.list.iter().collect())),
            _ => None,
        },
        _ => None,
    }
}

/// A literal or parameter of a column's type.
fn value(expr: &Expr, wanted: &DataType, parameters: &[SqlType]) -> Option<Value> {
    match expr {
        Expr::Literal(value, _) => Some(Value::Literal(as_type(value.clone(), wanted)?)),
        // A smaller integer.
        Expr::Cast(cast) if cast.field.data_type() == wanted => match cast.expr.as_ref() {
            Expr::Literal(value, _) if value.data_type().is_integer() && wanted.is_integer() => {
                Some(Value::Literal(value.cast_to(wanted).ok()?))
            }
            _ => None,
        },
        Expr::Placeholder(placeholder) => {
            let at = placeholder.id.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)?;
            let given = parameters.get(at)?.arrow_type();
            (given == *wanted || is_text(&given) && is_text(wanted)).then_some(Value::Parameter(at))
        }
        _ => None,
    }
}

/// A value in the type of its column, which it has already but for the layout of texts.
fn as_type(value: ScalarValue, wanted: &DataType) -> Option<ScalarValue> {
    let given = value.data_type();
    if given == *wanted {
        return Some(value);
    }
    (value.is_null() || is_text(&given) && is_text(wanted)).then(|| value.cast_to(wanted).ok()).flatten()
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}
