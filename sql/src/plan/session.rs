//! What the session carries out of prepared statements, cursors, notifications and subscriptions.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use datafusion_sql::sqlparser::ast;
use millstream_catalog::{Column, ObjectId, SqlType};

use super::{Plan, PlannedQuery, output_schema};
use crate::statement::Parsed;

/// `PREPARE`.
#[derive(Debug, Clone)]
pub struct PreparePlan {
    pub name: String,
    /// The types that are declared; the others are inferred.
    pub parameters: Vec<Option<SqlType>>,
    pub statement: Parsed,
}

/// `EXECUTE`. The types of the arguments are those of the prepared statement, which the session knows.
#[derive(Debug, Clone)]
pub struct ExecutePlan {
    pub name: String,
    pub arguments: Vec<ast::Expr>,
}

/// `DECLARE`.
#[derive(Debug, Clone)]
pub struct DeclarePlan {
    pub name: String,
    /// Whether rows are sent in the binary format.
    pub binary: bool,
    /// Whether it goes back.
    pub scroll: bool,
    /// Whether it outlives its transaction.
    pub hold: bool,
    /// A [`Plan::Query`] or [`Plan::Subscribe`].
    pub rows: Box<Plan>,
}

/// `SUBSCRIBE`.
#[derive(Debug, Clone)]
pub struct SubscribePlan {
    pub target: Subscribed,
    /// What the client sees: `epoch`, `op`, then the columns of the relation or query.
    pub columns: Vec<Column>,
    /// Whether the rows that are there come first.
    pub snapshot: bool,
    /// Whether the end of each epoch is told.
    pub progress: bool,
    /// The last epoch whose changes are known already.
    pub as_of: Option<u64>,
}

impl SubscribePlan {
    /// Schema of what the client sees.
    pub fn output_schema(&self) -> SchemaRef {
        output_schema(&self.columns)
    }
}

/// What a subscription follows.
#[derive(Debug, Clone)]
pub enum Subscribed {
    /// A table or continuous view, whose changes there are anyhow.
    Object(ObjectId),
    /// A query, which is kept current for the time of the subscription.
    Query { query: Box<PlannedQuery>, text: String },
}

/// `COPY (SUBSCRIBE …) TO STDOUT`.
#[derive(Debug, Clone)]
pub struct CopySubscribePlan {
    pub subscribe: SubscribePlan,
    /// `text` or what option FORMAT says.
    pub format: String,
    pub options: BTreeMap<String, String>,
}
