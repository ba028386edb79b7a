//! The statements of the dialect as they are written, before any name is looked up.

use std::collections::BTreeMap;
use std::fmt;

use datafusion_sql::sqlparser::ast;
use millstream_catalog::object::Volatility;

use crate::error::SqlError;

mod index;
mod lake;
mod merge;
pub mod role;
mod session;
mod task;

pub use index::{CreateIndex, IndexedColumn};
pub use lake::{Optimize, Vacuum};
pub use merge::{Merge, MergeAction, MergeClause, MergeMatch};
pub use session::{Back, Declare, Direction, Execute, Fetch, Notify, Prepare, Subscribe, SubscribeTarget};
pub use task::{CreateTask, CronCall, CronFunction, ExecuteTask, ScheduleClause};

/// One statement of a text that may hold several.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub statement: Statement,
    /// The statement's own text, without the semicolon.
    pub text: String,
    /// Where `text` starts, in characters from 0; positions in errors count from the start of the whole text.
    pub offset: usize,
    /// Line and column where `text` starts, from 1.
    pub start: (u64, u64),
}

impl Parsed {
    /// Gives an error of planning this statement its character position.
    pub fn locate(&self, mut error: SqlError) -> SqlError {
        if let (None, Some((line, column))) = (error.position, error.location)
            && u64::from(line) >= self.start.0
        {
            let (line, column) = (u64::from(line), u64::from(column));
            let lines_down = (line - self.start.0) as usize;
            let before: usize = self.text.split_inclusive('\n').take(lines_down).map(|l| l.chars().count()).sum();
            let first_column = if lines_down == 0 { self.start.1 } else { 1 };
            error.position = Some(self.offset + before + column.saturating_sub(first_column) as usize + 1);
        }
        error
    }
}

/// A statement. Names are as the user wrote them; nothing is resolved.
#[derive(Debug, Clone, PartialEq)]
pub enum Statement {
    Query(Box<ast::Query>),
    Explain(Explain),
    ExplainRunning(ExplainRunning),
    CreateTable(CreateTable),
    CreateTableAs(CreateTableAs),
    CreateSource(CreateSource),
    CreateView(CreateView),
    CreateMaterializedView(CreateMaterializedView),
    CreateSink(CreateSink),
    CreateExternalTable(CreateExternalTable),
    CreateSchema(CreateSchema),
    CreateFunction(CreateFunction),
    CreateTask(CreateTask),
    ExecuteTask(ExecuteTask),
    /// A SELECT that is one call of a function of pg_cron's.
    Cron(CronCall),
    CreateSecret(CreateSecret),
    CreateIndex(CreateIndex),
    Drop(Drop),
    Rename(Rename),
    SetSchema(SetSchema),
    SetOptions(SetOptions),
    Suspend(Suspend),
    Resume(Resume),
    Comment(Comment),
    Insert(Insert),
    Update(Update),
    Delete(Delete),
    Merge(Box<Merge>),
    Optimize(Optimize),
    Vacuum(Vacuum),
    /// `DESCRIBE HISTORY name [LIMIT n]`.
    DescribeHistory {
        name: ast::ObjectName,
        limit: Option<u64>,
    },
    Truncate(Truncate),
    Copy(Copy),
    Show(Show),
    Set(Set),
    /// `RESET name`, or all with `None`.
    Reset(Option<String>),
    Begin(TransactionModes),
    /// COMMIT or END; `chain`: the next transaction begins at once.
    Commit {
        chain: bool,
    },
    /// ROLLBACK or ABORT; `chain`: the next transaction begins at once.
    Rollback {
        chain: bool,
    },
    /// `SET TRANSACTION`.
    SetTransaction(TransactionModes),
    Savepoint(String),
    /// `RELEASE [SAVEPOINT] name`.
    Release(String),
    /// `ROLLBACK TO [SAVEPOINT] name`.
    RollbackTo(String),
    Flush,
    /// `CANCEL JOB n, …`: ids as `SHOW JOBS` gives them.
    CancelJobs(Vec<u32>),
    DiscardAll,
    Prepare(Prepare),
    Execute(Execute),
    /// `DEALLOCATE name`, or all with `None`.
    Deallocate(Option<String>),
    Declare(Declare),
    /// FETCH and MOVE.
    Fetch(Fetch),
    /// `REFRESH MATERIALIZED VIEW name`.
    Refresh(Existing),
    /// `CLOSE name`, or all with `None`.
    Close(Option<String>),
    Listen(String),
    /// `UNLISTEN channel`, or all with `None`.
    Unlisten(Option<String>),
    Notify(Notify),
    Subscribe(Subscribe),
    Role(role::RoleStatement),
    Grant(role::GrantStatement),
    DefaultPrivileges(role::DefaultPrivilegesStatement),
    AlterOwner(role::AlterOwner),
}

/// `EXPLAIN`.
#[derive(Debug, Clone, PartialEq)]
pub struct Explain {
    pub analyze: bool,
    pub verbose: bool,
    pub format: ExplainFormat,
    pub statement: Box<Statement>,
}

/// How EXPLAIN prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ExplainFormat {
    #[default]
    Text,
    Json,
}

/// `EXPLAIN [ANALYZE] { MATERIALIZED VIEW | SINK } name`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainRunning {
    pub analyze: bool,
    pub format: ExplainFormat,
    pub kind: DropKind,
    pub name: Existing,
}

/// A column as CREATE TABLE or CREATE SOURCE declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnDefinition {
    pub name: ast::Ident,
    pub data_type: ast::DataType,
    pub not_null: bool,
    pub primary_key: bool,
    pub unique: bool,
    pub default: Option<ast::Expr>,
    /// CHECK constraints on the column, with their names if given.
    pub checks: Vec<(Option<ast::Ident>, ast::Expr)>,
    /// `GENERATED ALWAYS AS (expr) STORED`.
    pub generated: Option<ast::Expr>,
    /// `AS PROCTIME()`.
    pub processing_time: bool,
}

/// `WATERMARK FOR column AS expression`.
#[derive(Debug, Clone, PartialEq)]
pub struct WatermarkDefinition {
    pub column: ast::Ident,
    pub expression: ast::Expr,
}

/// `CREATE TABLE name (…)`; with connector options it keeps the rows of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTable {
    pub name: ast::ObjectName,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnDefinition>,
    /// From a `PRIMARY KEY (…)` clause; a column's own is in its definition.
    pub primary_key: Option<Vec<ast::Ident>>,
    pub checks: Vec<(Option<ast::Ident>, ast::Expr)>,
    pub watermark: Option<WatermarkDefinition>,
    pub append_only: bool,
    pub include: Vec<IncludeClause>,
    pub options: BTreeMap<String, String>,
    pub format: Option<FormatClause>,
}

/// `CREATE TABLE name AS query`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateTableAs {
    pub name: ast::ObjectName,
    pub if_not_exists: bool,
    pub columns: Vec<ast::Ident>,
    pub append_only: bool,
    pub query: Box<ast::Query>,
    pub with_data: bool,
}

/// `INCLUDE part [AS name]`.
#[derive(Debug, Clone, PartialEq)]
pub struct IncludeClause {
    /// `key`, `partition`, `offset`, `timestamp` or `headers`, in lower case, as written.
    pub part: ast::Ident,
    pub alias: Option<ast::Ident>,
}

/// `FORMAT f ENCODE e [(options)]`, words in lower case.
#[derive(Debug, Clone, PartialEq)]
pub struct FormatClause {
    pub format: String,
    pub encode: String,
    pub options: BTreeMap<String, String>,
}

/// `CREATE SOURCE`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSource {
    pub name: ast::ObjectName,
    pub if_not_exists: bool,
    /// Those that are listed, behind those of the schema if the list has a `*` or there is none.
    pub columns: Vec<ColumnDefinition>,
    /// Whether the list has a `*`.
    pub with_schema_columns: bool,
    pub primary_key: Option<Vec<ast::Ident>>,
    pub watermark: Option<WatermarkDefinition>,
    pub include: Vec<IncludeClause>,
    pub options: BTreeMap<String, String>,
    pub format: Option<FormatClause>,
}

impl CreateSource {
    /// Whether columns come from the schema of the records.
    pub fn takes_schema_columns(&self) -> bool {
        self.with_schema_columns || self.columns.is_empty()
    }
}

/// `CREATE VIEW`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateView {
    pub name: ast::ObjectName,
    pub if_not_exists: bool,
    pub or_replace: bool,
    pub columns: Vec<ast::Ident>,
    pub query: Box<ast::Query>,
    /// The query as written.
    pub query_text: String,
}

/// `CREATE MATERIALIZED VIEW`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateMaterializedView {
    pub name: ast::ObjectName,
    pub if_not_exists: bool,
    pub columns: Vec<ast::Ident>,
    pub options: BTreeMap<String, String>,
    pub query: Box<ast::Query>,
    /// The query as written, without its EMIT clause.
    pub query_text: String,
    pub emit_on_window_close: bool,
}

/// What a sink is fed from.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkInput {
    /// `FROM relation`.
    Relation(ast::ObjectName),
    /// `AS query`, with its text.
    Query(Box<ast::Query>, String),
}

/// `CREATE SINK`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSink {
    pub name: ast::ObjectName,
    pub if_not_exists: bool,
    pub input: SinkInput,
    pub options: BTreeMap<String, String>,
    pub format: Option<FormatClause>,
    pub emit_on_window_close: bool,
}

/// `CREATE EXTERNAL TABLE`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateExternalTable {
    pub name: ast::ObjectName,
    pub if_not_exists: bool,
    /// Empty: the schema is read from the files.
    pub columns: Vec<ColumnDefinition>,
    /// In upper case.
    pub stored_as: String,
    pub location: String,
    pub partition_by: Vec<ast::Ident>,
    pub options: BTreeMap<String, String>,
    /// `AS query`: its first rows, of a Delta table.
    pub query: Option<Box<ast::Query>>,
}

/// `CREATE SCHEMA`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateSchema {
    pub name: ast::Ident,
    pub if_not_exists: bool,
}

/// `CREATE SECRET`.
#[derive(Clone, PartialEq)]
pub struct CreateSecret {
    pub name: ast::Ident,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Keys in lower case, values in the clear.
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for CreateSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// `CREATE FUNCTION`.
#[derive(Debug, Clone, PartialEq)]
pub struct CreateFunction {
    pub name: ast::ObjectName,
    pub or_replace: bool,
    pub arguments: Vec<ArgumentDefinition>,
    pub returns: ast::DataType,
    /// The SELECT of one expression that it is, as written; `SELECT x` for `RETURN x`.
    pub body: String,
    pub strict: bool,
    pub volatility: Volatility,
}

/// An argument as CREATE FUNCTION declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct ArgumentDefinition {
    pub name: Option<ast::Ident>,
    pub data_type: ast::DataType,
    pub default: Option<ast::Expr>,
}

/// The kinds that DROP, ALTER and COMMENT speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropKind {
    Schema,
    Table,
    Source,
    View,
    MaterializedView,
    Sink,
    ExternalTable,
    Function,
    Task,
    Secret,
    Index,
}

impl DropKind {
    /// The word in errors and command tags, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Table => "table",
            Self::Source => "source",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
            Self::Sink => "sink",
            Self::ExternalTable => "external table",
            Self::Function => "function",
            Self::Task => "task",
            Self::Secret => "secret",
            Self::Index => "index",
        }
    }
}

/// How a statement names an object that is there.
#[derive(Debug, Clone, PartialEq)]
pub struct Existing {
    pub name: ast::ObjectName,
    /// The types of a function's arguments, if they are written.
    pub arguments: Option<Vec<ast::DataType>>,
}

/// `DROP kind name, …`.
#[derive(Debug, Clone, PartialEq)]
pub struct Drop {
    pub kind: DropKind,
    pub names: Vec<Existing>,
    pub if_exists: bool,
    pub cascade: bool,
}

/// `ALTER kind name RENAME TO name`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rename {
    pub kind: DropKind,
    pub name: Existing,
    pub if_exists: bool,
    pub to: ast::Ident,
}

/// `ALTER kind name SET SCHEMA schema`.
#[derive(Debug, Clone, PartialEq)]
pub struct SetSchema {
    pub kind: DropKind,
    pub name: Existing,
    pub if_exists: bool,
    pub to: ast::Ident,
}

/// `ALTER kind name SET (option = value, …)`, keys in lower case.
#[derive(Debug, Clone, PartialEq)]
pub struct SetOptions {
    pub kind: DropKind,
    pub name: Existing,
    pub if_exists: bool,
    pub options: BTreeMap<String, String>,
}

/// `ALTER kind name SUSPEND`, of a source, a materialized view, a sink or a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspend {
    pub kind: DropKind,
    pub name: Existing,
    pub if_exists: bool,
}

/// `ALTER kind name RESUME [AT position]`, of what can be suspended.
#[derive(Debug, Clone, PartialEq)]
pub struct Resume {
    pub kind: DropKind,
    pub name: Existing,
    pub if_exists: bool,
    /// Where to go on, if not where it stood.
    pub at: Option<ResumeAt>,
}

/// Where a source or sink is to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumeAt {
    Number(u64),
    /// In lower case.
    Word(String),
}

/// `COMMENT ON kind name IS 'text'`.
#[derive(Debug, Clone, PartialEq)]
pub struct Comment {
    pub target: CommentTarget,
    /// `None` removes the comment.
    pub text: Option<String>,
}

/// What COMMENT ON speaks of.
#[derive(Debug, Clone, PartialEq)]
pub enum CommentTarget {
    Object(DropKind, Existing),
    /// Name of the relation and of its column.
    Column(ast::ObjectName, ast::Ident),
}

/// `INSERT`.
#[derive(Debug, Clone, PartialEq)]
pub struct Insert {
    pub table: ast::ObjectName,
    pub alias: Option<ast::Ident>,
    /// Empty: all columns in order.
    pub columns: Vec<ast::Ident>,
    /// `None` is DEFAULT VALUES.
    pub source: Option<Box<ast::Query>>,
    /// What INSERT OVERWRITE replaces.
    pub overwrite: Option<OverwriteClause>,
    pub on_conflict: Option<ast::OnConflict>,
    pub returning: Option<Vec<ast::SelectItem>>,
}

/// What INSERT OVERWRITE replaces.
#[derive(Debug, Clone, PartialEq)]
pub enum OverwriteClause {
    Table,
    /// `PARTITION (a = 1, b)`: a column without a value stands for the partitions that new rows are in.
    Partition(Vec<(ast::Ident, Option<ast::Expr>)>),
}

/// `UPDATE`.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    pub table: ast::ObjectName,
    pub alias: Option<ast::TableAlias>,
    pub assignments: Vec<ast::Assignment>,
    pub from: Vec<ast::TableWithJoins>,
    pub selection: Option<ast::Expr>,
    pub returning: Option<Vec<ast::SelectItem>>,
}

/// `DELETE`.
#[derive(Debug, Clone, PartialEq)]
pub struct Delete {
    pub table: ast::ObjectName,
    pub alias: Option<ast::TableAlias>,
    pub using: Vec<ast::TableWithJoins>,
    pub selection: Option<ast::Expr>,
    pub returning: Option<Vec<ast::SelectItem>>,
}

/// `TRUNCATE`.
#[derive(Debug, Clone, PartialEq)]
pub struct Truncate {
    pub tables: Vec<ast::ObjectName>,
    pub cascade: bool,
}

/// `COPY`.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    pub source: CopyRelation,
    pub target: CopyEnd,
    /// Keys in lower case.
    pub options: BTreeMap<String, String>,
}

/// What COPY reads or fills.
#[derive(Debug, Clone, PartialEq)]
pub enum CopyRelation {
    Query(Box<ast::Query>),
    Subscribe(Box<Subscribe>),
    Table { name: ast::ObjectName, columns: Vec<ast::Ident> },
}

/// The other end of COPY.
#[derive(Debug, Clone, PartialEq)]
pub enum CopyEnd {
    ToFile(String),
    ToStdout,
    FromStdin,
    FromFile(String),
}

/// `SHOW`.
#[derive(Debug, Clone, PartialEq)]
pub enum Show {
    Tables,
    Sources,
    Views,
    MaterializedViews,
    Sinks,
    Schemas,
    Functions,
    Secrets,
    Jobs,
    Tasks,
    /// All settings.
    All,
    /// One setting, in lower case.
    Setting(String),
    /// `SHOW CREATE kind name`.
    Create(DropKind, Existing),
}

/// `SET`.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// Only for the current transaction.
    pub local: bool,
    /// In lower case; `SET TIME ZONE x` is `timezone`, `SET SESSION CHARACTERISTICS` is `default_transaction_*`.
    pub name: String,
    /// `None` is DEFAULT.
    pub value: Option<String>,
}

/// What BEGIN may say about its transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionModes {
    /// `None` if neither READ ONLY nor READ WRITE was said.
    pub read_only: Option<bool>,
}
