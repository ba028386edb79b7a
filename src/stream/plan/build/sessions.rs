//! Sessions: the first and last time of each row's, as window functions over its session.

use datafusion::logical_expr::{Expr, UserDefinedLogicalNodeCore};
use millstream_sql::Sessions;

use super::over::Group;
use super::{Builder, Edge, arrow_schema, plain_column};
use crate::error::Result;
use crate::stream::operator::order_key::SortColumn;
use crate::stream::operator::over::frame::Frame;
use crate::stream::operator::over::function::{WindowCall, WindowKind};

impl Builder<'_> {
    pub(super) fn sessions(&mut self, node: &Sessions) -> Result<Edge> {
        let schema = node.input.schema();
        let width = schema.fields().len();
        let mut columns: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
        let mut position = |expr: &Expr| {
            plain_column(expr, schema).or_else(|| columns.iter().position(|c| c == expr)).unwrap_or_else(|| {
                columns.push(expr.clone());
                columns.len() - 1
            })
        };
        // Constants tell nothing apart.
        let keys = node.keys.iter().filter(|key| !matches!(key, Expr::Literal(..)));
        let partition_by = keys.map(&mut position).collect();
        let time = position(&node.time);
        let call = |kind| WindowCall {
            kind,
            argument: Some(time),
            default: None,
            filter: None,
            distinct: false,
            frame: Frame::session(node.gap),
        };
        let group = Group {
            partition_by,
            order_by: vec![SortColumn { column: time, descending: false, nulls_first: false }],
            members: Vec::new(),
            calls: vec![call(WindowKind::FirstValue), call(WindowKind::LastValue)],
            limit: None,
        };
        let edge = self.edge(&node.input)?;
        let edge = self.with_computed(edge, schema, &columns)?;
        let inputs = edge.properties.schema.fields().len();
        let results = node.schema().fields()[width..].to_vec();
        let mut edge = self.over(edge, group, results)?;
        let output = arrow_schema(node.schema());
        if inputs == width {
            edge.properties.schema = output;
            return Ok(edge);
        }
        let keep: Vec<usize> = (0..width).chain([inputs, inputs + 1]).collect();
        self.select(edge, &keep, output)
    }
}
