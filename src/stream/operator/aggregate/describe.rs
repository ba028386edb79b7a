//! What EXPLAIN says of an aggregate.

use super::HashAggregate;
use super::function::Function;
use crate::stream::operator::ttl::Ttl;
use crate::stream::operator::{Description, StateDescription};

impl HashAggregate {
    pub(super) fn description(&self) -> Description {
        let name = |column: usize| self.spec.input.field(column).name().as_str();
        let group_names: Vec<&str> = self.spec.group_by.iter().map(|c| name(*c)).collect();
        let mut parts = Vec::new();
        if !self.is_global() {
            parts.push(format!("group by [{}]", group_names.join(", ")));
        }
        for call in &self.spec.aggregates {
            let filter = call.filter.map_or(String::new(), |c| format!(" filter ({})", name(c)));
            let distinct = if call.distinct { "distinct " } else { "" };
            let mut inside = format!("{distinct}{}", call.argument.map_or("*", name));
            if let Some(separator) = &call.separator {
                inside += &format!(", '{separator}'");
            }
            if let Some(fraction) = call.fraction {
                inside += &format!(", {fraction}");
            }
            for (i, sort) in call.order_by.iter().enumerate() {
                inside += if i == 0 { " order by " } else { ", " };
                inside += &sort.describe(|column| name(column).to_string());
            }
            parts.push(format!("{}({inside}){filter}", call.kind.name()));
        }
        if self.spec.emit_on_window_close {
            parts.push("emit on window close".into());
        }
        parts.extend(self.ttl.as_ref().map(Ttl::title));
        let key: Vec<&str> = self.key_order.iter().map(|i| group_names[*i]).collect();
        let mut state = vec![StateDescription {
            part: self.groups.table().part,
            layout: "keyed",
            key: key.join(", "),
            cost: "1 get, 1 put per changed group".into(),
        }];
        if self.functions.iter().any(Function::keeps_values) {
            state.push(StateDescription {
                part: self.values.table().part,
                layout: "multimap",
                key: [key.as_slice(), &["aggregate", "value"]].concat().join(", "),
                cost: "1 get, 1 put per value of a group; 1 scan when the extreme is taken back or an ordered value changes"
                    .into(),
            });
        }
        state.extend(self.ttl.as_ref().map(|ttl| ttl.describe("group")));
        let output = self.spec.output.fields();
        Description {
            title: format!("HashAggregate: {}", parts.join(", ")),
            state,
            append_only: self.spec.emit_on_window_close,
            stream_key: self.spec.key.iter().map(|c| output[*c].name().clone()).collect(),
        }
    }
}
