//! Prepared statements: those of PREPARE and those of Parse messages, which have their names in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::metadata::{FieldMetadata, ScalarAndMetadata};
use futures::StreamExt;
use millstream_catalog::SqlType;
use millstream_sql::plan::{ExecutePlan, PreparePlan};
use millstream_sql::{Parsed, PlanContext, PlannedQuery};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::api::{Description, Parameter, Prepared, Response};
use super::{Scope, Session, complete, query};
use crate::batch::pg_catalog::PreparedRow;
use crate::error::{Error, Result, sqlstate};

const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
const UNDEFINED_PREPARED_STATEMENT: &str = "26000";

/// The prepared statements of a session. Clones are the same ones.
#[derive(Clone, Default)]
pub struct PreparedStatements(Arc<Mutex<BTreeMap<String, Kept>>>);

struct Kept {
    prepared: Prepared<Arc<Parsed>>,
    /// The statement that prepared it, or the text of the message.
    text: String,
    prepared_us: i64,
    /// Whether PREPARE has made it.
    from_sql: bool,
}

impl PreparedStatements {
    /// Keeps a statement; the one without a name takes the place of the one before.
    ///
    /// # Errors
    /// 42P05 if the name is taken.
    pub fn add(&self, name: &str, prepared: Prepared<Arc<Parsed>>, text: String, from_sql: bool) -> Result<()> {
        let mut all = self.0.lock();
        if !name.is_empty() && all.contains_key(name) {
            let message = format!("prepared statement \"{name}\" already exists");
            return Err(
                Error::new(DUPLICATE_PREPARED_STATEMENT, message).with_hint("DEALLOCATE it first, or use another name")
            );
        }
        let prepared_us = chrono::Utc::now().timestamp_micros();
        all.insert(name.to_string(), Kept { prepared, text, prepared_us, from_sql });
        Ok(())
    }

    /// The statement of that name.
    ///
    /// # Errors
    /// 26000 if there is none.
    pub fn get(&self, name: &str) -> Result<Prepared<Arc<Parsed>>> {
        self.0.lock().get(name).map(|kept| kept.prepared.clone()).ok_or_else(|| undefined(name))
    }

    /// Forgets a statement. Whether there was one of that name.
    pub fn remove(&self, name: &str) -> bool {
        self.0.lock().remove(name).is_some()
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.lock().clear();
    }

    /// Those that have a name, as `pg_prepared_statements` shows them.
    pub fn rows(&self) -> Vec<PreparedRow> {
        let all = self.0.lock();
        let named = all.iter().filter(|(name, _)| !name.is_empty());
        let names = |types: &[SqlType]| types.iter().map(SqlType::to_string).collect();
        let row = |(name, kept): (&String, &Kept)| {
            let Description { parameters, columns } = &kept.prepared.description;
            PreparedRow {
                name: name.clone(),
                statement: millstream_sql::masked(&kept.text),
                prepared_us: kept.prepared_us,
                parameters: names(parameters),
                results: columns.as_ref().map(|schema| {
                    schema.fields().iter().map(|f| SqlType::of(f).unwrap_or(SqlType::Text).to_string()).collect()
                }),
                from_sql: kept.from_sql,
            }
        };
        named.map(row).collect()
    }
}

impl Session {
    pub(super) fn prepare_statement(&mut self, p: PreparePlan, parsed: &Parsed, scope: &Scope) -> Result<Response> {
        let plan = self.plan(&p.statement, scope, &p.parameters)?;
        let prepared = Prepared { description: query::describe(&plan), statement: Some(Arc::new(p.statement)) };
        self.prepared.add(&p.name, prepared, parsed.text.clone(), true)?;
        Ok(complete("PREPARE"))
    }

    pub(super) async fn execute_prepared(
        &mut self,
        p: ExecutePlan,
        parameters: &[Parameter],
        scope: &Scope,
        cancel: CancellationToken,
    ) -> Result<Response> {
        let prepared = self.prepared.get(&p.name)?;
        let Some(statement) = prepared.statement else { return Ok(Response::Empty) };
        let types = &prepared.description.parameters;
        let given: Vec<Option<SqlType>> = parameters.iter().map(super::sql_type_of).collect();
        let arguments = match self.plan_arguments(&p, types, scope, &given)? {
            Some(arguments) => self.values_of(arguments, types, parameters, scope, &cancel).await?,
            None => Vec::new(),
        };
        self.plans.enter(&statement);
        // Its own text is not what the client has sent now.
        let rows = match self.point_read(&statement, &arguments) {
            Ok(Some(rows)) => Ok(rows),
            Ok(None) => Box::pin(self.run(&statement, &arguments, cancel)).await,
            Err(e) => Err(e),
        };
        rows.map_err(Error::without_position)
    }

    /// The arguments of EXECUTE as a query of one row; `None` if there are none.
    ///
    /// # Errors
    /// 42601 for another number of arguments than the statement has parameters.
    pub(super) fn plan_arguments(
        &self,
        p: &ExecutePlan,
        types: &[SqlType],
        scope: &Scope,
        parameters: &[Option<SqlType>],
    ) -> Result<Option<PlannedQuery>> {
        let (wanted, given) = (types.len(), p.arguments.len());
        if wanted != given {
            let message = format!("wrong number of parameters for prepared statement \"{}\"", p.name);
            return Err(Error::new(sqlstate::SYNTAX_ERROR, message)
                .with_detail(format!("Expected {wanted} parameters but got {given}."))
                .with_hint("pg_prepared_statements shows the types of its parameters"));
        }
        if given == 0 {
            return Ok(None);
        }
        let context = PlanContext {
            catalog: &scope.published.catalog,
            search_path: &self.search_path,
            bindings: None,
            system: &scope.inside,
            external: &scope.external_schemas,
            session: &scope.vars,
            parameters,
            rights: self.rights(),
        };
        Ok(Some(millstream_sql::plan_arguments(&p.arguments, types, &context)?))
    }

    async fn values_of(
        &self,
        arguments: PlannedQuery,
        types: &[SqlType],
        parameters: &[Parameter],
        scope: &Scope,
        cancel: &CancellationToken,
    ) -> Result<Vec<Parameter>> {
        let mut rows = self.rows_of(arguments.plan, parameters, scope, cancel).await?;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            if batch.num_rows() == 0 {
                continue;
            }
            let value = |(column, t): (&arrow::array::ArrayRef, &SqlType)| {
                let field = t.field("", true);
                let column = arrow::compute::cast(column, field.data_type())?;
                let metadata = (!field.metadata().is_empty()).then(|| FieldMetadata::from(&field));
                Ok(ScalarAndMetadata::new(ScalarValue::try_from_array(&column, 0)?, metadata))
            };
            return batch.columns().iter().zip(types).map(value).collect();
        }
        Err(Error::internal("the arguments of EXECUTE have no values"))
    }

    pub(super) fn deallocate(&mut self, name: Option<String>) -> Result<Response> {
        match name {
            None => {
                self.prepared.clear();
                Ok(complete("DEALLOCATE ALL"))
            }
            Some(name) if self.prepared.remove(&name) => Ok(complete("DEALLOCATE")),
            Some(name) => Err(undefined(&name)),
        }
    }
}

/// 26000: no such prepared statement.
fn undefined(name: &str) -> Error {
    let message = match name {
        "" => "unnamed prepared statement does not exist".to_string(),
        name => format!("prepared statement \"{name}\" does not exist"),
    };
    Error::new(UNDEFINED_PREPARED_STATEMENT, message).with_hint("pg_prepared_statements lists those of the session")
}
