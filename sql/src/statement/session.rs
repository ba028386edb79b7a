//! The statements of sessions as they are written: prepared statements, cursors, notifications, subscriptions.

use datafusion_sql::sqlparser::ast;

use super::Parsed;

/// `PREPARE name [(type, …)] AS statement`.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepare {
    pub name: String,
    /// Those that are declared; `None` is `unknown`.
    pub types: Vec<Option<ast::DataType>>,
    /// A query or DML.
    pub statement: Box<Parsed>,
}

/// `EXECUTE name [(argument, …)]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Execute {
    pub name: String,
    pub arguments: Vec<ast::Expr>,
}

/// `DECLARE name [BINARY] [INSENSITIVE] [NO SCROLL] CURSOR [{ WITH | WITHOUT } HOLD] FOR { query | SUBSCRIBE … }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Declare {
    pub name: String,
    pub binary: bool,
    pub scroll: bool,
    pub hold: bool,
    /// A query or SUBSCRIBE.
    pub statement: Box<Parsed>,
}

/// `FETCH` and `MOVE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    pub cursor: String,
    pub direction: Direction,
    /// Whether it is MOVE: the rows are passed over.
    pub moves: bool,
    /// `WITH (timeout = '…')`: how long the first row of a subscription is waited for.
    pub timeout: Option<String>,
}

/// Which rows FETCH and MOVE are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// The next rows.
    Forward(u64),
    /// All that are left.
    All,
    /// The row that is so many ahead; 1 is the next one.
    Relative(u64),
    /// The row of that number; 1 is the first one.
    Absolute(u64),
    /// What goes back, or stays, with the words of the statement.
    Backward(Back, String),
}

/// How FETCH and MOVE go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// So many rows, the last one first.
    Rows(u64),
    /// All, the last one first.
    AllRows,
    /// The row that was fetched last, once more.
    Stay,
    /// The row that is so many behind.
    Relative(u64),
    /// The row of that number counted from the end; 1 is the last one.
    FromEnd(u64),
    /// Before the first row.
    ToStart,
}

/// `NOTIFY channel [, 'payload']`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notify {
    pub channel: String,
    pub payload: String,
}

/// `SUBSCRIBE { relation | (query) } [WITH (snapshot = …, progress = …)] [AS OF epoch]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    pub target: SubscribeTarget,
    /// `None` if it is not said.
    pub snapshot: Option<bool>,
    pub progress: bool,
    /// The last epoch that is known already.
    pub as_of: Option<u64>,
}

/// What SUBSCRIBE follows.
#[derive(Debug, Clone, PartialEq)]
pub enum SubscribeTarget {
    Relation(ast::ObjectName),
    /// With its text.
    Query(Box<ast::Query>, String),
}
