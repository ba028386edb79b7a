//! DataFusion's analyzer and optimizer rules, each used or left out for continuous plans, with the reason.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::analyzer::Analyzer;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::filter_null_join_keys::FilterNullJoinKeys;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerContext, OptimizerRule};

use super::clock;
use super::expressions::refuse_unstable;
use super::group_key::drop_unseen;
use super::subqueries::{refuse_subqueries, replace_scalar_subqueries};
use crate::error::{Error, Result};

/// A rule of DataFusion and what continuous plans do with it.
#[derive(Debug, Clone, Copy)]
pub struct RuleUse {
    /// The rule's name in DataFusion.
    pub name: &'static str,
    pub used: bool,
    pub reason: &'static str,
}

const fn used(name: &'static str, reason: &'static str) -> RuleUse {
    RuleUse { name, used: true, reason }
}

const fn left_out(name: &'static str, reason: &'static str) -> RuleUse {
    RuleUse { name, used: false, reason }
}

/// Every analyzer and optimizer rule of the DataFusion that this is built with. A test holds the list against DataFusion's
/// own, so that a new rule is decided on, not inherited.
pub const RULES: &[RuleUse] = &[
    left_out("resolve_grouping_function", "has run when the query was planned"),
    used("type_coercion", "types must agree before operators are made"),
    used("rewrite_set_comparison", "ANY / ALL over subqueries become EXISTS, for which there are joins"),
    left_out("optimize_unions", "the union operator takes any number of inputs as they are"),
    left_out("unions_to_filter", "merges branches by their text; both stay as written"),
    used("simplify_expressions", "constants are folded once; expressions of the clock were refused before"),
    used(
        "replace_distinct_aggregate",
        "DISTINCT is an aggregate without functions; DISTINCT ON became a row number before",
    ),
    left_out("eliminate_join", "joins on constants are refused"),
    used(
        "decorrelate_predicate_subquery",
        "semi, anti and mark joins; where that were wrong, the planner has replaced IN before",
    ),
    used(
        "scalar_subquery_to_join",
        "correlated aggregates; uncorrelated ones were replaced before, several rows and all",
    ),
    used("decorrelate_lateral_join", "what it cannot resolve is refused"),
    used("extract_equijoin_predicate", "finds the join keys"),
    used("eliminate_duplicated_expr", "GROUP BY a, a"),
    used("eliminate_filter", "WHERE true"),
    used("eliminate_cross_join", "finds the join keys in FROM a, b WHERE a.x = b.x"),
    left_out("eliminate_limit", "a LIMIT is a top-N of its ORDER BY"),
    left_out("propagate_empty_relation", "an input that is empty now may not stay so"),
    used("filter_null_join_keys", "NULL keys never match and need not be stored"),
    used("eliminate_outer_join", "where a filter drops the padded rows, an inner join costs less"),
    left_out("push_down_limit", "a limit of a changing input is not the limit of its parts"),
    used("push_down_filter", "rows that are not wanted should not be stored"),
    left_out("single_distinct_aggregation_to_group_by", "makes two aggregates with state of one"),
    left_out("eliminate_group_by_constant", "changes the stream key"),
    used("common_sub_expression_eliminate", "an expression is computed once a row"),
    left_out("extract_leaf_expressions", "splits projections for file scans that can prune struct fields"),
    left_out("push_down_leaf_projections", "goes with extract_leaf_expressions"),
    used("optimize_projections", "columns that are not wanted are not decoded"),
];

/// Analyses and optimises a query for continuous running.
///
/// # Errors
/// What the analysis finds wrong (types, functions), and 0A000 for expressions that depend on when they are evaluated.
pub fn optimize(query: LogicalPlan) -> Result<LogicalPlan> {
    let mut config = ConfigOptions::default();
    config.optimizer.filter_null_join_keys = true;
    config.optimizer.skip_failed_rules = false;
    let config = Arc::new(config);
    let analyzed = Analyzer::with_rules(vec![Arc::new(TypeCoercion::new())])
        .execute_and_check(query, &config, |_, _| {})
        .map_err(Error::from)?;
    let analyzed = millstream_sql::checked_arithmetic(analyzed)?;

    let analyzed = clock::mark_now(analyzed)?;
    refuse_unstable(&analyzed)?;
    let context = OptimizerContext::new_with_config_options(config);
    let decorrelation: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
    ];
    let compared: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![Arc::new(RewriteSetComparison::new())];
    let analyzed = Optimizer::with_rules(compared).optimize(analyzed, &context, |_, _| {})?;
    let joined = replace_scalar_subqueries(analyzed)?;
    let joined = Optimizer::with_rules(decorrelation).optimize(joined, &context, |_, _| {})?;
    refuse_subqueries(&joined)?;
    let joined = drop_unseen(joined)?;
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(FilterNullJoinKeys::default()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    let optimized = Optimizer::with_rules(rules).optimize(joined, &context, |_, _| {})?;
    clock::refuse_elsewhere(&optimized)?;
    Ok(optimized)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_of_datafusion_is_decided_on() {
        let mut theirs: Vec<String> = Analyzer::new().rules.iter().map(|r| r.name().to_string()).collect();
        theirs.extend(Optimizer::new().rules.iter().map(|r| r.name().to_string()));
        let ours: Vec<String> = RULES.iter().map(|r| r.name.to_string()).collect();
        assert_eq!(theirs, ours);
    }
}
