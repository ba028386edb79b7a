//! What datafusion-sql's planner asks of us: tables by name, functions, options.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result as DfResult, TableReference};
use datafusion_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion_sql::sqlparser::ast::{self, ObjectName};
use millstream_catalog::object::ObjectKind;
use millstream_catalog::{Object, ObjectId, Privilege, SqlType};

use super::calls::UserFunction;
use super::operators::operator_planners;
use super::relations::WindowRelations;
use crate::context::{CatalogSource, PlanContext, ROW_ID, Target};
use crate::error::{Result, SqlError};
use crate::functions;
use crate::types::sql_type;

/// A relation found by name.
pub(crate) enum Relation {
    Object(Arc<Object>),
    System { schema: String, name: String, columns: SchemaRef },
}

/// Answers the planner's questions from a [`PlanContext`], and notes which objects were named.
pub(crate) struct Provider<'a> {
    pub(crate) ctx: PlanContext<'a>,
    references: RefCell<BTreeMap<String, ObjectId>>,
    /// The table whose hidden row id the statement needs.
    row_id_of: Option<ObjectId>,
    options: ConfigOptions,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    relation_planners: Vec<Arc<dyn RelationPlanner>>,
}

impl<'a> Provider<'a> {
    pub(crate) fn new(ctx: PlanContext<'a>) -> Self {
        Self {
            ctx,
            references: RefCell::default(),
            row_id_of: None,
            options: config(&ctx),
            expr_planners: operator_planners(&ctx),
            relation_planners: vec![Arc::new(WindowRelations::new(ctx.external, &ctx.session.time_zone))],
        }
    }

    /// Shows [`ROW_ID`] on scans of `table`.
    pub(crate) fn with_row_id(mut self, table: Option<ObjectId>) -> Self {
        self.row_id_of = table;
        self
    }

    /// The objects named so far, by the name as written.
    pub(crate) fn into_references(self) -> BTreeMap<String, ObjectId> {
        self.references.into_inner()
    }

    fn source(&self, name: &TableReference) -> Result<CatalogSource> {
        match resolve(&self.ctx, name)? {
            Relation::System { schema, name, columns } => {
                Ok(CatalogSource::new(Target::System { schema, name }, columns))
            }
            Relation::Object(object) => {
                self.ctx.require_select(&object)?;
                self.references.borrow_mut().insert(written(name), object.id);
                self.object_source(&object)
            }
        }
    }

    fn object_source(&self, object: &Object) -> Result<CatalogSource> {
        let mut source = CatalogSource::new(Target::Object(object.id), object.arrow_schema());
        match &object.kind {
            ObjectKind::Table(table) => {
                source.primary_key = table.primary_key.clone();
                if self.row_id_of == Some(object.id) && table.primary_key.is_empty() {
                    source.schema = with_row_id(&source.schema);
                }
            }
            ObjectKind::View(view) => {
                let query = crate::parser::parse_query(&view.query)?;
                let rights = self.ctx.of_owner(&object.owner);
                let ctx = PlanContext { bindings: Some(&object.references), parameters: &[], rights, ..self.ctx };
                let planned = super::query::plan_query(&query, &ctx)
                    .map_err(|e| e.with_detail(format!("in the definition of {}", object.describe())))?;
                source.view = Some(super::query::rename_output(planned.plan, &view.columns)?);
            }
            ObjectKind::Source(_) | ObjectKind::MaterializedView(_) => {}
            ObjectKind::ExternalTable(table) => {
                source.is_external = true;
                source.is_lake = table.is_lake();
                if table.is_lake() && self.row_id_of == Some(object.id) {
                    source.schema = with_row_id(&source.schema);
                }
            }
            ObjectKind::Sink(_)
            | ObjectKind::Schema
            | ObjectKind::Snapshot(_)
            | ObjectKind::Function(_)
            | ObjectKind::Task(_)
            | ObjectKind::Secret(_)
            | ObjectKind::Role(_)
            | ObjectKind::Database
            | ObjectKind::Index(_) => {
                return Err(SqlError::new("42809", format!("cannot read from {}", object.describe())));
            }
        }
        Ok(source)
    }
}

fn with_row_id(schema: &SchemaRef) -> SchemaRef {
    let id: FieldRef = Arc::new(SqlType::Int8.field(ROW_ID, false));
    Arc::new(Schema::new(schema.fields().iter().cloned().chain([id]).collect::<Vec<_>>()))
}

/// Looks a relation up: bindings first, then `pg_catalog`, then the search path.
///
/// # Errors
/// 42P01, 3F000 for an unknown schema, 0A000 for another database.
pub(crate) fn resolve(ctx: &PlanContext<'_>, name: &TableReference) -> Result<Relation> {
    if let Some(id) = ctx.bindings.and_then(|b| b.get(&written(name))) {
        let object = ctx
            .catalog
            .get(*id)
            .ok_or_else(|| SqlError::internal(format!("object {id} behind the name \"{name}\" does not exist")))?;
        return Ok(Relation::Object(object.clone()));
    }
    if let Some(catalog) = name.catalog()
        && catalog != ctx.session.database
    {
        return Err(SqlError::unsupported(format!("cross-database references are not supported: \"{name}\"")));
    }
    let system = |schema: &str| {
        ctx.system.table(schema, name.table()).map(|columns| Relation::System {
            schema: schema.to_string(),
            name: name.table().to_string(),
            columns,
        })
    };
    if let Some(schema) = name.schema() {
        if let Some(found) = system(schema) {
            return Ok(found);
        }
        return match ctx.catalog.find(schema, name.table()) {
            Some(object) => {
                ctx.require_in_schema(object.schema, Privilege::Usage)?;
                Ok(Relation::Object(object.clone()))
            }
            None => Err(SqlError::new("42P01", format!("relation \"{}.{}\" does not exist", schema, name.table()))),
        };
    }
    if let Some(found) = system("pg_catalog") {
        return Ok(found);
    }
    for schema in ctx.usable_path() {
        if let Some(object) = ctx.catalog.find(schema, name.table()) {
            return Ok(Relation::Object(object.clone()));
        }
        if let Some(found) = system(schema) {
            return Ok(found);
        }
    }
    Err(SqlError::new("42P01", format!("relation \"{}\" does not exist", name.table())))
}

/// The key of a name in [`Object::references`]: its parts with dots.
pub(crate) fn written(name: &TableReference) -> String {
    match (name.schema(), name.table()) {
        (Some(schema), table) => format!("{schema}.{table}"),
        (None, table) => table.to_string(),
    }
}

/// The key of a called function in [`Object::references`]. No name of a relation holds a NUL.
pub(crate) fn written_call(name: &TableReference, arguments: usize) -> String {
    format!("{}\0{arguments}", written(name))
}

/// A written name as a reference, its parts normalised.
///
/// # Errors
/// 42601 for a name with more than three parts.
pub(crate) fn table_reference(name: &ObjectName) -> Result<TableReference> {
    let parts: Option<Vec<String>> = name.0.iter().map(|p| p.as_ident().map(crate::types::normalize)).collect();
    match parts.unwrap_or_default().as_slice() {
        [table] => Ok(TableReference::bare(table.as_str())),
        [schema, table] => Ok(TableReference::partial(schema.as_str(), table.as_str())),
        [catalog, schema, table] => Ok(TableReference::full(catalog.as_str(), schema.as_str(), table.as_str())),
        _ => Err(SqlError::syntax(format!("improper qualified name: {name}"))),
    }
}

fn config(ctx: &PlanContext<'_>) -> ConfigOptions {
    let mut options = ConfigOptions::default();
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.enable_ident_normalization = true;
    options.sql_parser.map_string_types_to_utf8view = true;
    options.sql_parser.collect_spans = true;
    options.sql_parser.default_null_ordering = "nulls_max".into();
    options.execution.time_zone = Some(ctx.session.time_zone.clone());
    options
}

impl ContextProvider for Provider<'_> {
    fn get_table_source(&self, name: TableReference) -> DfResult<Arc<dyn TableSource>> {
        Ok(Arc::new(self.source(&name)?))
    }

    fn get_table_function_source(
        &self,
        name: &str,
        _args: Vec<datafusion_expr::Expr>,
    ) -> DfResult<Arc<dyn TableSource>> {
        Err(SqlError::new("42883", format!("table function {name} does not exist"))
            .with_hint(
                "the table functions are tumble, hop, generate_series, unnest, read_parquet, read_csv and read_json",
            )
            .into())
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> DfResult<Arc<dyn TableSource>> {
        Ok(Arc::new(CatalogSource::new(Target::WorkTable(name.to_string()), schema)))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.expr_planners
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let known = || self.ctx.system.function(name).or_else(|| functions::scalar(name));
        UserFunction::marked(name, self.ctx.catalog).or_else(known)
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        functions::aggregate(name)
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        functions::window(name)
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        functions::functions().scalar.iter().map(|f| f.name().to_string()).collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        functions::functions().aggregate.iter().map(|f| f.name().to_string()).collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        functions::functions().window.iter().map(|f| f.name().to_string()).collect()
    }
}

/// Types as they are written in queries, in our Arrow layout.
#[derive(Debug)]
struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, data_type: &ast::DataType) -> DfResult<Option<FieldRef>> {
        let sql_type = sql_type(data_type)?;
        Ok(Some(Arc::new(sql_type.field("", true))))
    }
}
