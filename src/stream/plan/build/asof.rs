//! ASOF joins.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::logical_expr::{Expr, Operator, UserDefinedLogicalNodeCore};
use millstream_sql::AsofJoin as AsofNode;

use super::{Builder, Edge, arrow_schema};
use crate::error::{Error, Result};
use crate::stream::operator::EdgeProperties;
use crate::stream::operator::asof::{AsofJoin, AsofSide, AsofSpec, Nearest};

impl Builder<'_> {
    pub(super) fn asof_join(&mut self, node: &AsofNode) -> Result<Edge> {
        let parts = node.parts()?;
        let nearest = match parts.operator {
            Operator::Gt => Nearest::Before,
            Operator::GtEq => Nearest::NotAfter,
            Operator::Lt => Nearest::After,
            Operator::LtEq => Nearest::NotBefore,
            other => return Err(Error::internal(format!("an ASOF join by {other}"))),
        };
        let (mut left_exprs, mut right_exprs): (Vec<Expr>, Vec<Expr>) =
            parts.keys.iter().map(|(l, r)| ((*l).clone(), (*r).clone())).unzip();
        left_exprs.push(parts.left_time.clone());
        right_exprs.push(parts.right_time.clone());
        let left = self.edge(&node.left)?;
        let right = self.edge(&node.right)?;
        let (left, left_columns) = self.keyed_side(left, &node.left, &left_exprs)?;
        let (right, right_columns) = self.keyed_side(right, &node.right, &right_exprs)?;
        let side = |edge: &Edge, mut columns: Vec<usize>| {
            let time = columns.pop().ok_or_else(|| Error::internal("an ASOF join without times"))?;
            Ok::<_, Error>(AsofSide { schema: edge.properties.schema.clone(), key: columns, time })
        };
        let left_width = left.properties.schema.fields().len();
        let right_fields = right.properties.schema.fields().iter();
        let padded = |f: &Arc<Field>| Arc::new(f.as_ref().clone().with_nullable(f.is_nullable() || node.is_outer));
        let fields: Vec<_> = left.properties.schema.fields().iter().cloned().chain(right_fields.map(padded)).collect();
        let properties = EdgeProperties {
            schema: Arc::new(Schema::new(fields)),
            append_only: false,
            stream_key: left.properties.stream_key.clone(),
            watermark_columns: Vec::new(),
        };
        let spec = AsofSpec {
            object: self.object,
            first_part: self.take_parts(AsofJoin::PARTS),
            sides: [side(&left, left_columns)?, side(&right, right_columns)?],
            nearest,
            is_outer: node.is_outer,
            properties: properties.clone(),
            ttl: self.ttl(true),
        };
        let forgets = spec.ttl.is_some();
        let mut edge = self.add(Box::new(AsofJoin::new(spec)?), vec![left.input, right.input], properties);
        self.restart(edge.input, forgets);
        let output = arrow_schema(node.schema());
        if edge.properties.schema.fields().len() == output.fields().len() {
            edge.properties.schema = output;
            return Ok(edge);
        }
        // What was computed to compare by goes again.
        let left_plain = node.left.schema().fields().len();
        let right_plain = node.right.schema().fields().len();
        let keep: Vec<usize> = (0..left_plain).chain(left_width..left_width + right_plain).collect();
        self.select(edge, &keep, output)
    }
}
