//! From a query's logical plan to the operators that keep its result, or a refusal that names what cannot be kept.
//!
//! 1. [`rules`] analyses and optimises the plan with those of DataFusion's rules that hold for a changing input.
//! 2. [`build::Builder`] turns each node into an [`Operator`] and derives what is known of its output: append-only or not, its
//!    stream key, its watermarks.

mod build;
mod clock;
mod expressions;
mod group_key;
mod readable;
mod relations;
mod rules;
mod shift;
mod single_row;
mod subqueries;

use std::collections::BTreeSet;

use chrono::DateTime;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use millstream_catalog::ObjectId;
use millstream_connectors::FieldsRead;

use crate::error::{Error, Result};
use crate::stream::columns_read::ColumnsRead;
use crate::stream::operator::{Description, EdgeProperties, Operator};

pub use crate::state::Layout;
pub use expressions::{columns_read, physical};
pub use readable::readable;
pub use relations::{CatalogRelations, layout, view_layout};
pub use rules::{RULES, RuleUse};

/// State parts of a view's key space; see [`crate::state::TableId`].
pub mod part {
    /// The view's or table's rows.
    pub const ROWS: u16 = 0;
    /// Rows on which an expression failed, with counts.
    pub const ERRORS: u16 = 1;
    /// Pending output of a sink.
    pub const OUTBOX: u16 = 2;
    /// Progress of reading inputs that existed before the view.
    pub const BACKFILL: u16 = 3;
    /// Late rows: count and, if kept, the rows.
    pub const LATE: u16 = 4;
    /// Why the view stopped, if it did; how far a sink has sent.
    pub const STATUS: u16 = 5;
    /// Positions and watermarks of a source's partitions.
    pub const POSITIONS: u16 = 6;
    /// First of the operators' own tables.
    pub const OPERATORS: u16 = 16;
}

/// What the planner asks of the relations that a query reads.
pub trait Relations {
    /// Properties of a stored or streamed relation with all its columns.
    ///
    /// # Errors
    /// 0A000 if the relation cannot be read as a stream (an external table, a system table).
    fn properties(&self, id: ObjectId) -> Result<EdgeProperties>;

    /// The snapshot of an external table that a view or sink reads, and when it was taken, microseconds since 1970.
    ///
    /// # Errors
    /// XX000 if there is none.
    fn snapshot(&self, external_table: ObjectId, reader: ObjectId) -> Result<(ObjectId, i64)>;
}

/// Where an operator takes an input from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A relation of the catalog, by position in [`PlannedView::scans`].
    Scan(usize),
    /// Another operator, by position in [`PlannedView::nodes`].
    Node(usize),
}

/// An operator with its inputs; operators come after their inputs.
pub struct Node {
    pub operator: Box<dyn Operator>,
    pub inputs: Vec<Input>,
}

/// A part of a plan that has a line of its own in EXPLAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The rows of the view, or the sink's outbox.
    Output,
    /// By position in [`PlannedView::scans`].
    Scan(usize),
    /// By position in [`PlannedView::nodes`].
    Node(usize),
    /// An operator's state table, by its part number.
    State(u16),
}

/// A relation that a view reads, with the columns that it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    pub object: ObjectId,
    /// Name as the query wrote it.
    pub name: String,
    /// Column positions in the relation, ascending.
    pub columns: Vec<usize>,
    /// Of those that are records and of which not all fields are needed, those that are.
    pub fields: FieldsRead,
    /// Their names.
    pub column_names: Vec<String>,
    pub append_only: bool,
    /// Whether it is the right side of a join as of now: then rows that were there before the view are read first.
    pub as_of_now: bool,
    /// Of a snapshot of an external table: when it was taken, microseconds since 1970.
    pub taken_us: Option<i64>,
}

impl Scan {
    /// What it reads of the relation.
    pub fn columns_read(&self) -> ColumnsRead {
        ColumnsRead::of(self.columns.iter().copied(), &self.fields)
    }
}

/// A continuous query, ready to run.
pub struct PlannedView {
    pub scans: Vec<Scan>,
    pub nodes: Vec<Node>,
    pub output: Input,
    pub properties: EdgeProperties,
    /// Whether a row may come whose key has one already, and one go that is not there, because of what was forgotten.
    pub restarts: bool,
}

impl PlannedView {
    /// How the result's rows are kept.
    pub fn layout(&self) -> Layout {
        layout(self.properties.append_only, self.properties.stream_key.as_deref())
    }

    /// The operators, their inputs and their state as text: equal texts read each other's state.
    pub fn fingerprint(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for (i, scan) in self.scans.iter().enumerate() {
            let now = if scan.as_of_now { " as of now" } else { "" };
            lines.push(format!("scan {i}: {} {:?} append_only={}{now}", scan.object, scan.columns, scan.append_only));
        }
        for (i, node) in self.nodes.iter().enumerate() {
            let d = node.operator.describe();
            lines.push(format!("node {i}: {} <- {:?} {:?}", d.title, node.inputs, d.state));
        }
        lines.push(format!("output: {:?} {:?}", self.output, self.layout()));
        lines.join("\n")
    }

    /// The operators' descriptions as a tree, outermost first, each line indented by its depth.
    pub fn explain(&self) -> Vec<String> {
        self.explain_with(&|_| None)
    }

    /// The same, each line with what `note` says of its part.
    pub fn explain_with(&self, note: &dyn Fn(Part) -> Option<String>) -> Vec<String> {
        let mut lines = Vec::new();
        let line = format!("Materialize: layout={}, {}", self.layout_in_words(), edge(&self.properties.append_only));
        lines.push(noted(line, note(Part::Output)));
        self.explain_input(self.output, 1, note, &mut lines, &mut BTreeSet::new());
        lines.iter().map(|line| readable(line)).collect()
    }

    /// The tables of state, the view's own rows first.
    pub fn state_tables(&self) -> Vec<StateTable> {
        let own = StateTable { operator: None, part: part::ROWS, layout: self.layout_in_words() };
        let of_nodes = self.nodes.iter().enumerate().flat_map(|(i, node)| {
            let Description { title, state, .. } = node.operator.describe();
            let title = readable(&title);
            state.into_iter().map(move |s| StateTable {
                operator: Some((i, title.clone())),
                part: s.part,
                layout: readable(&format!("{} by {}", s.layout, s.key)),
            })
        });
        std::iter::once(own).chain(of_nodes).collect()
    }

    fn layout_in_words(&self) -> String {
        match self.layout() {
            Layout::Segments => "segments (append-only)".to_string(),
            Layout::Keyed(key) if key.is_empty() => "keyed (a single row)".to_string(),
            Layout::Keyed(key) => format!("keyed by ({})", self.column_names(&key)),
            Layout::Counted => "counted (the whole row is the key)".to_string(),
        }
    }

    fn explain_input(
        &self,
        input: Input,
        depth: usize,
        note: &dyn Fn(Part) -> Option<String>,
        lines: &mut Vec<String>,
        shown: &mut BTreeSet<usize>,
    ) {
        let indent = "  ".repeat(depth);
        match input {
            Input::Scan(i) => {
                let scan = &self.scans[i];
                let columns = scan.column_names.join(", ");
                let moment = match scan.taken_us.and_then(DateTime::from_timestamp_micros) {
                    Some(at) => format!(" as of {}", at.format("%Y-%m-%d %H:%M:%S%.6f+00")),
                    None => String::new(),
                };
                let edge = edge(&scan.append_only);
                let line = format!("{indent}Scan: {}{moment} columns=[{columns}], {edge}", scan.name);
                lines.push(noted(line, note(Part::Scan(i))));
            }
            Input::Node(i) => {
                let node = &self.nodes[i];
                if !shown.insert(i) {
                    lines.push(format!("{indent}#{i} as above"));
                    return;
                }
                let Description { title, state, append_only, stream_key } = node.operator.describe();
                let key = match stream_key.is_empty() {
                    true => String::new(),
                    false => format!(", stream key=({})", stream_key.join(", ")),
                };
                let line = format!("{indent}#{i} {title}, {}{key}", edge(&append_only));
                lines.push(noted(line, note(Part::Node(i))));
                for s in state {
                    let line = format!("{indent}  state {}: {} by {}; {}", s.part, s.layout, s.key, s.cost);
                    lines.push(noted(line, note(Part::State(s.part))));
                }
                for input in &node.inputs {
                    self.explain_input(*input, depth + 1, note, lines, shown);
                }
            }
        }
    }

    fn column_names(&self, columns: &[usize]) -> String {
        let names: Vec<_> = columns.iter().map(|c| self.properties.schema.field(*c).name().as_str()).collect();
        names.join(", ")
    }
}

/// A table of a view's state.
pub struct StateTable {
    /// Number and title of the operator that has it; `None` for the view's own rows.
    pub operator: Option<(usize, String)>,
    /// Its part number in the view's key space.
    pub part: u16,
    /// How it is laid out, in words.
    pub layout: String,
}

/// Plans a continuous query.
///
/// # Errors
/// 0A000 naming the construct that cannot be kept incrementally.
pub fn plan(query: LogicalPlan, relations: &dyn Relations, object: ObjectId, options: Options) -> Result<PlannedView> {
    // As it is written: of a condition that is never true not even the scan is left.
    if !reads_relations(&query)? {
        return Err(Error::unsupported("a continuous view needs a source, table or view to read")
            .with_hint("use CREATE VIEW for a constant query"));
    }
    let optimized = rules::optimize(query)?;
    build::Builder::new(relations, object, options).build(&optimized)
}

fn reads_relations(query: &LogicalPlan) -> Result<bool> {
    let mut reads = false;
    query.apply_with_subqueries(|node| {
        reads |= matches!(node, LogicalPlan::TableScan(_));
        Ok(if reads { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(reads)
}

/// What a CREATE statement says beside the query.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// EMIT ON WINDOW CLOSE: only final rows. Every operator that closes by a watermark puts out its rows when it does; what
    /// then still changes is held back until the result's own watermark has passed it.
    pub emit_on_window_close: bool,
    /// Shards of the operators whose state falls apart by keys.
    pub parallelism: usize,
    /// `state_ttl`: after which time state is forgotten that no watermark bounds, microseconds.
    pub state_ttl_us: Option<i64>,
}

fn noted(line: String, note: Option<String>) -> String {
    match note {
        Some(note) => format!("{line} ({note})"),
        None => line,
    }
}

fn edge(append_only: &bool) -> &'static str {
    if *append_only { "append-only" } else { "retracting" }
}
