//! The left side of a join without an equality, where it does not fit in memory.
//!
//! DataFusion 55.2 reads that side a second time then, and writes it to a file. A repartitioning below it cannot be read twice
//! and panics, so here a copy of the plan with fresh state is read. Joins that give left rows without a partner, or once each,
//! would give them once for every part of the right side (its own comment on the fallback says so): they fail with 53200.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, JoinType, Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::execution_plan::{replace_children_if_necessary, reset_plan_states};
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};

/// Puts a [`LeftAgainExec`] over the left side of each nested loop join. It has to be the last rule.
#[derive(Debug)]
pub struct LeftAgain;

impl PhysicalOptimizerRule for LeftAgain {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() else { return Ok(Transformed::no(node)) };
            use JoinType as J;
            let gives_left = matches!(join.join_type(), J::Left | J::LeftSemi | J::LeftAnti | J::LeftMark | J::Full);
            let left = LeftAgainExec {
                left: join.left().clone(),
                fits_or_fails: gives_left && join.right().output_partitioning().partition_count() > 1,
                is_read: AtomicBool::new(false),
            };
            let children: Vec<Arc<dyn ExecutionPlan>> = vec![Arc::new(left), join.right().clone()];
            Ok(Transformed::yes(replace_children_if_necessary(node, children)?))
        })
        .data()
    }

    fn name(&self) -> &'static str {
        "left_again"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Rows of a plan, which can be read again.
#[derive(Debug)]
struct LeftAgainExec {
    left: Arc<dyn ExecutionPlan>,
    /// Whether a second reading is refused.
    fits_or_fails: bool,
    is_read: AtomicBool,
}

impl DisplayAs for LeftAgainExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeftAgainExec")
    }
}

impl ExecutionPlan for LeftAgainExec {
    fn name(&self) -> &'static str {
        "LeftAgainExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.left.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.left]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let [left] = children.as_slice() else { return internal_err!("LeftAgainExec has one input") };
        let (left, fits_or_fails) = (left.clone(), self.fits_or_fails);
        Ok(Arc::new(Self { left, fits_or_fails, is_read: AtomicBool::new(false) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if !self.is_read.swap(true, Ordering::Relaxed) {
            return self.left.execute(partition, context);
        }
        if self.fits_or_fails {
            return Err(DataFusionError::ResourcesExhausted(
                "the left side of a join without an equality does not fit in memory".into(),
            ));
        }
        reset_plan_states(self.left.clone())?.execute(partition, context)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int32Array, RecordBatch};
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::physical_expr::Partitioning;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::repartition::RepartitionExec;
    use futures::TryStreamExt;

    use super::*;

    /// Three rows behind a repartitioning, which panics if it is read twice.
    fn left(fits_or_fails: bool) -> LeftAgainExec {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let rows = MemorySourceConfig::try_new_exec(&[vec![batch.clone()]], batch.schema(), None).unwrap();
        let parts = RepartitionExec::try_new(rows, Partitioning::RoundRobinBatch(2)).unwrap();
        let left = Arc::new(CoalescePartitionsExec::new(Arc::new(parts)));
        LeftAgainExec { left, fits_or_fails, is_read: AtomicBool::new(false) }
    }

    async fn rows(left: &LeftAgainExec) -> Result<usize> {
        let batches: Vec<RecordBatch> = left.execute(0, Arc::default())?.try_collect().await?;
        Ok(batches.iter().map(RecordBatch::num_rows).sum())
    }

    #[tokio::test]
    async fn rows_come_again_or_there_is_an_error() {
        let again = left(false);
        assert_eq!((rows(&again).await.unwrap(), rows(&again).await.unwrap(), rows(&again).await.unwrap()), (3, 3, 3));
        let once = left(true);
        assert_eq!(rows(&once).await.unwrap(), 3);
        assert!(matches!(rows(&once).await, Err(DataFusionError::ResourcesExhausted(_))));
    }
}
