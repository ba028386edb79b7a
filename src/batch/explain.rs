//! A physical plan as a tree of JSON objects, for `EXPLAIN (FORMAT JSON)`.

use datafusion::physical_plan::metrics::MetricValue;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use serde_json::{Map, Value, json};

/// A node with those below it: what it is, what it does, and what it has counted if it has run.
pub fn tree(plan: &dyn ExecutionPlan) -> Value {
    let line = displayable(plan).one_line().to_string();
    let details = line.trim().split_once(": ").map_or("", |(_, details)| details);
    let mut node = Map::new();
    node.insert("Node Type".into(), json!(plan.name()));
    if !details.is_empty() {
        node.insert("Details".into(), json!(details));
    }
    if let Some(metrics) = plan.metrics() {
        let mut others = Map::new();
        for metric in metrics.aggregate_by_name().iter() {
            match metric.value() {
                MetricValue::OutputRows(rows) => drop(node.insert("Actual Rows".into(), json!(rows.value()))),
                MetricValue::ElapsedCompute(time) => {
                    node.insert("Compute Time".into(), json!(time.value() as f64 / 1e6));
                }
                MetricValue::StartTimestamp(_) | MetricValue::EndTimestamp(_) => {}
                value => drop(others.insert(value.name().to_string(), json!(value.as_usize()))),
            }
        }
        others.retain(|_, value| *value != json!(0));
        if !others.is_empty() {
            node.insert("Metrics".into(), Value::Object(others));
        }
    }
    let below: Vec<Value> = plan.children().into_iter().map(|child| tree(child.as_ref())).collect();
    if !below.is_empty() {
        node.insert("Plans".into(), json!(below));
    }
    Value::Object(node)
}
