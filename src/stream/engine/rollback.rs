//! Back to the last committed epoch, after a commit or an epoch that failed.

use std::collections::BTreeSet;
use std::time::Duration;

use millstream_catalog::ObjectId;

use super::commit::commit_failed;
use super::epoch::EpochLoop;
use super::handle::Command;
use super::published::Published;
use super::work::{Made, Work};
use crate::error::{Error, Result, sqlstate};

/// How long the loop rests after a failure that has to do with the disk.
const PAUSE: Duration = Duration::from_millis(100);

impl EpochLoop {
    /// Goes back to the last committed epoch, tells those who wait for the failed one, and makes what can be done again
    /// lighter if it failed by its size.
    pub(super) fn recover_from(&mut self, error: &Error, mut work: Work) {
        work.waiters.ddl.extend(work.made.drain(..).map(|(_, reply)| reply));
        // Whoever is told finds everything as it was.
        self.roll_back(error);
        if error.sqlstate() == sqlstate::PROGRAM_LIMIT_EXCEEDED {
            return self.lighten(error, work);
        }
        let told = commit_failed(error);
        work.waiters.fail(&told);
        for statement in work.statements {
            let _ = statement.reply.send(Err(told.clone()));
        }
        std::thread::sleep(PAUSE);
    }

    /// Goes back to the last committed epoch and does all of the failed one again but the DDL statement whose view failed.
    pub(super) fn do_again_without(&mut self, (_, reply): Made, error: &Error, mut work: Work) {
        tracing::info!(epoch = work.epoch, %error, "the epoch is done again without a view that cannot be built");
        self.roll_back(error);
        let _ = reply.send(Err(error.clone()));
        for flush in std::mem::take(&mut work.waiters.flushes) {
            self.later(Command::Flush(flush));
        }
        self.again(work);
    }

    /// Decides what of an epoch that grew past the limit is done again: less input if there was any, else all but the
    /// largest statement, else all but the view that grew.
    fn lighten(&mut self, error: &Error, mut work: Work) {
        for flush in std::mem::take(&mut work.waiters.flushes) {
            self.later(Command::Flush(flush));
        }
        if !self.intake.shrink(work.rows_in) {
            let largest = (0..work.statements.len()).max_by_key(|i| work.statements[*i].request.bytes());
            if let Some(largest) = largest {
                let statement = work.statements.swap_remove(largest);
                let _ = statement.reply.send(Err(error.clone()));
            } else if !work.waiters.ddl.is_empty() {
                std::mem::take(&mut work.waiters).fail(error);
            } else if let Some(view) = work.running {
                self.condemned.insert(view, error.clone());
            }
        }
        self.again(work);
    }

    /// Puts an epoch's writes back into the queue; DDL statements, which were made against a catalog, their clients must
    /// run again.
    fn again(&self, work: Work) {
        for statement in work.statements {
            self.later(Command::Write(statement.request, statement.reply));
        }
        let again = Error::new(
            sqlstate::SERIALIZATION_FAILURE,
            "the epoch of the statement is done again without it, for another one failed",
        )
        .with_hint("run the statement again");
        work.waiters.fail(&again);
        for (_, reply) in work.made {
            let _ = reply.send(Err(again.clone()));
        }
    }

    fn roll_back(&mut self, error: &Error) {
        // A commit under way may still succeed or fail; what it did is what the store says afterwards.
        if let Err(e) = self.committer.wait() {
            tracing::error!(error = %e, "the commit under way failed too");
        }
        self.state.rollback();
        let published = self.publisher.current();
        self.epoch = published.epoch;
        self.catalog = published.catalog.clone();
        let told = commit_failed(error);
        // Views that were made in a committed epoch go on being built.
        let (made, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut self.ddl_waiting)
            .into_iter()
            .partition(|(ids, _)| ids.iter().all(|id| self.catalog.get(*id).is_some()));
        self.ddl_waiting = made;
        if let Err(e) = self.go_back_to(&published) {
            // Without a readable last epoch there is nothing to go on from: better stop than give wrong answers.
            tracing::error!(error = %e, "cannot go back to the last committed epoch, the server stops");
            std::process::abort();
        }
        for (_, reply) in lost {
            let _ = reply.send(Err(told.clone()));
        }
    }

    fn go_back_to(&mut self, published: &Published) -> Result<()> {
        for retired in std::mem::take(&mut self.retired) {
            if retired.epoch > published.epoch {
                self.sources.extend(retired.source.map(|s| (retired.id, s)));
                self.tables.extend(retired.table.map(|t| (retired.id, t)));
                self.pipelines.extend(retired.pipeline.map(|p| (retired.id, p)));
            } else {
                self.forget(retired);
            }
        }
        let keep: BTreeSet<ObjectId> = self.catalog.objects().map(|o| o.id).collect();
        let running = self.pipelines.keys().chain(self.tables.keys()).chain(self.sources.keys());
        let never_made: Vec<ObjectId> = running.filter(|id| !keep.contains(id)).copied().collect();
        for id in never_made {
            drop(self.retire(id, published.epoch)?);
        }
        // What stopping them wrote is of no object that there is.
        self.state.rollback();
        for (id, pipeline) in &mut self.pipelines {
            pipeline.suspended = self.catalog.get(*id).is_some_and(|o| o.suspended);
            pipeline.recover(&published.snapshot)?;
        }
        for table in self.tables.values_mut() {
            table.recover(&published.snapshot)?;
        }
        for source in self.sources.values_mut() {
            source.rewind(&published.snapshot, &self.doorbell)?;
        }
        self.retention.recover(&published.snapshot)?;
        self.recover_catch_ups(&published.snapshot)?;
        self.follow_catalog(published.epoch)?;
        self.start_readers()?;
        self.start_sinks(self.epoch)?;
        self.report_views();
        Ok(())
    }
}
