//! What EXPLAIN says of a join.

use std::time::Duration;

use super::side::{Layout, Side};
use super::{Join, JoinSide, TimeBound, is_stored};
use crate::stream::operator::{Description, StateDescription};

impl Join {
    pub(super) fn description(&self) -> Description {
        let [left, right] = &self.spec.sides;
        let on: Vec<String> = left
            .key
            .iter()
            .zip(&right.key)
            .zip(&self.spec.null_safe)
            .map(|((l, r), null_safe)| {
                let operator = if *null_safe { "is not distinct from" } else { "=" };
                format!("left.{} {operator} right.{}", left.schema.field(*l).name(), right.schema.field(*r).name())
            })
            .collect();
        let mut title = format!("Join: {}", self.spec.kind.name());
        if !on.is_empty() {
            title += &format!(" on {}", on.join(" and "));
        }
        if self.spec.as_of_now {
            title += " as of now";
        }
        if let Some(residual) = &self.spec.residual {
            title += &format!(" where {}", residual.text);
        }
        for (side, bound) in self.spec.bounds.iter().enumerate() {
            if let Some(TimeBound { column, offset_us, passed_by }) = bound {
                let word = |side: usize| if side == 0 { "left" } else { "right" };
                let name = |side: usize, column: usize| {
                    format!("{}.{}", word(side), self.spec.sides[side].schema.field(column).name())
                };
                let until = name(side, *column);
                let offset = Duration::from_micros(offset_us.unsigned_abs());
                let offset = match offset_us.signum() {
                    0 => String::new(),
                    1 => format!(" + {offset:?}"),
                    _ => format!(" - {offset:?}"),
                };
                let passed_by = name(1 - side, *passed_by);
                title += &format!(", {} rows until {passed_by} passes {until}{offset}", word(side));
            }
        }
        if let Some(ttl) = &self.ttl {
            title += &format!(", {}", ttl.title());
        }
        let rows = (0..2).filter(|side| is_stored(&self.spec, *side));
        let mut state: Vec<StateDescription> =
            rows.map(|side| describe_side(&self.spec.sides[side], &self.sides[side])).collect();
        for (spec, totals) in self.spec.sides.iter().zip(&self.totals) {
            if let Some(totals) = totals {
                let key: Vec<&str> = spec.key.iter().map(|c| spec.schema.field(*c).name().as_str()).collect();
                state.push(StateDescription {
                    part: totals.part(),
                    layout: "keyed",
                    key: key.join(", "),
                    cost: "number of rows; 1 get, 1 put per changed join key".into(),
                });
            }
        }
        state.extend(self.ttl.as_ref().map(|ttl| ttl.describe("side, join key, row")));
        Description {
            title,
            state,
            append_only: self.spec.append_only(),
            stream_key: self
                .spec
                .stream_key()
                .map_or_else(Vec::new, |key| key.iter().map(|c| self.spec.output.field(*c).name().clone()).collect()),
        }
    }
}

fn describe_side(spec: &JoinSide, side: &Side) -> StateDescription {
    let name = |c: &usize| spec.schema.field(*c).name().clone();
    let mut key: Vec<String> = spec.key.iter().map(name).collect();
    let (layout, cost) = match side.layout {
        Layout::Unique => ("keyed", "1 put; 1 get per row of the other side"),
        Layout::Keyed => {
            key.extend(spec.stream_key.iter().flatten().filter(|c| !spec.key.contains(c)).map(name));
            ("multimap", "1 put; 1 scan per join key of the other side")
        }
        Layout::Log => {
            key.push("row number".into());
            ("multimap", "1 put; 1 scan per join key of the other side")
        }
        Layout::Multiset => {
            key.push("row".into());
            ("multimap", "1 get, 1 put; 1 scan per join key of the other side")
        }
    };
    StateDescription { part: side.table().part, layout, key: key.join(", "), cost: cost.into() }
}
