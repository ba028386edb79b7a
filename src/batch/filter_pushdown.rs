//! Physical filter pushdown that stays away from where columns cannot be told apart by their names.
//!
//! DataFusion 55.2 finds the columns of a filter that it pushes through a plan by name (apache/datafusion#21246, #25296).
//! Above a join of which two columns have one name, the filter lands on the first of them: a wrong answer without an error.
//! [`FilterPushdownByName`] lets DataFusion's rule see only those parts of a plan in which names are enough. Filters above
//! such a join stay where they are; those below it are still pushed into their scans.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;

/// DataFusion's physical optimizer rules with both filter pushdowns confined.
pub fn physical_optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let confined = [FilterPushdown::new(), FilterPushdown::new_post_optimization()];
    let rules = PhysicalOptimizer::new().rules.into_iter();
    rules
        .map(|rule| match confined.iter().any(|c| c.name() == rule.name()) {
            true => Arc::new(FilterPushdownByName(rule)) as Arc<dyn PhysicalOptimizerRule + Send + Sync>,
            false => rule,
        })
        .collect()
}

/// A filter pushdown of DataFusion's that sees only plans in which names tell columns apart.
#[derive(Debug)]
struct FilterPushdownByName(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

impl PhysicalOptimizerRule for FilterPushdownByName {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        // No filter comes into the topmost node, so only the columns below it are looked up.
        if plan.children().into_iter().all(names_suffice) {
            return self.0.optimize(plan, config);
        }
        let children = plan.children().into_iter().map(|child| self.optimize(child.clone(), config));
        let children = children.collect::<Result<Vec<_>>>()?;
        replace_children_if_necessary(plan, children)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// Whether no node of a plan has two columns of one name.
fn names_suffice(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let schema = plan.schema();
    let mut names = HashSet::new();
    schema.fields().iter().all(|field| names.insert(field.name())) && plan.children().into_iter().all(names_suffice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_pushdowns_of_datafusion_are_confined() {
        let confined =
            physical_optimizer_rules().iter().filter(|r| format!("{r:?}").starts_with("FilterPushdownByName")).count();
        assert_eq!(confined, 2);
    }
}
