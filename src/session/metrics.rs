//! The numbers of schema `millstream` for Prometheus: one sample for each partition, view and sink that there is now.
//!
//! They are written out when they are asked for, and not kept as gauges, so that a dropped object leaves no sample behind.

use std::fmt::{Display, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use millstream_catalog::{Catalog, Object, ObjectKind};

use super::database::Inner;
use super::tasks::run::open_runs;
use super::tasks::{RunState, TaskState};
use crate::stream::engine::Published;
use crate::stream::engine::waiting::Waiting;

/// Samples of one metric in Prometheus' text format.
struct Family {
    text: String,
    name: &'static str,
}

impl Family {
    fn new(name: &'static str, kind: &str, help: &str) -> Self {
        Self { text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"), name }
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        for (i, (label, text)) in labels.iter().enumerate() {
            let open = if i == 0 { '{' } else { ',' };
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // Writing into a string cannot fail.
            let _ = write!(self.text, "{open}{label}=\"{text}\"");
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    /// The one sample of a metric without labels.
    fn value(&mut self, value: impl Display) {
        let _ = writeln!(self.text, "{} {value}", self.name);
    }
}

/// Every metric of the objects that there are.
pub fn render(database: &Inner) -> String {
    let published = database.engine.published();
    let mut families = sources(database, &published.catalog);
    families.extend(views(database, &published.catalog));
    families.extend(indexes(database, &published.catalog));
    families.extend(sinks(database, &published));
    families.extend(tasks(&published));
    families.extend(stores(database));
    families.extend(subscriptions(database));
    families.into_iter().map(|f| f.text).collect()
}

fn stores(database: &Inner) -> Vec<Family> {
    let traffic = database.batch.stores().traffic();
    let counters = [
        ("millstream_object_store_requests_total", "Requests to object stores since the start.", &traffic.requests),
        ("millstream_object_store_failures_total", "Requests to object stores that failed.", &traffic.failures),
        ("millstream_object_store_read_bytes_total", "Bytes read from object stores.", &traffic.bytes_read),
        ("millstream_object_store_written_bytes_total", "Bytes written to object stores.", &traffic.bytes_written),
    ];
    let family = |(name, help, counter): (&'static str, &str, &AtomicU64)| {
        let mut family = Family::new(name, "counter", help);
        family.sample(&[("type", "s3")], counter.load(Ordering::Relaxed));
        family
    };
    counters.into_iter().map(family).collect()
}

fn subscriptions(database: &Inner) -> Vec<Family> {
    let mut running = Family::new("millstream_subscriptions", "gauge", "Subscriptions that run.");
    running.value(database.subscriptions.running().len());
    let help = "Rows of subscriptions that clients have taken since the start.";
    let mut rows = Family::new("millstream_subscription_rows_total", "counter", help);
    rows.value(database.subscriptions.rows_total());
    vec![running, rows]
}

fn sources(database: &Inner, catalog: &Catalog) -> Vec<Family> {
    let mut rows = Family::new("millstream_source_rows_total", "counter", "Records read since the start.");
    let mut dead = Family::new(
        "millstream_source_dead_letters_total",
        "counter",
        "Records since the start that could not be read.",
    );
    let mut skipped = Family::new(
        "millstream_source_skipped_records_total",
        "counter",
        "Records since the start that could not be read and were dropped.",
    );
    let mut lag =
        Family::new("millstream_source_lag_records", "gauge", "Records of the broker that are not in the views.");
    let mut lag_seconds = Family::new(
        "millstream_source_lag_seconds",
        "gauge",
        "How long the oldest record that is not in the views has waited at most.",
    );
    let mut resets = Family::new(
        "millstream_source_resets_total",
        "counter",
        "How often a position was gone and the partition went on elsewhere.",
    );
    let mut lost =
        Family::new("millstream_source_lost_records_total", "counter", "Records that were passed over then.");
    let mut suspended = Family::new("millstream_source_suspended", "gauge", "1 if the source is suspended.");
    let mut watermark = Family::new(
        "millstream_source_watermark_timestamp_seconds",
        "gauge",
        "Event time that the partition has passed, since 1970.",
    );
    let mut idle = Family::new("millstream_source_idle", "gauge", "1 if the partition is left out of the watermark.");
    let mut up = Family::new(
        "millstream_source_up",
        "gauge",
        "0 if a partition has stopped or the last attempt to read failed.",
    );
    let stats = database.engine.stats().sources();
    let now_us = chrono::Utc::now().timestamp_micros();
    for object in catalog.objects().filter(|o| matches!(o.kind, ObjectKind::Source(_))) {
        let Some(stats) = stats.get(&object.id) else { continue };
        let (schema, name) = names(catalog, object);
        let failed =
            stats.status.error.is_some() || stats.status.partitions.iter().any(|p| p.stopped || p.error.is_some());
        up.sample(&[("schema", schema), ("source", name)], u8::from(!failed));
        suspended.sample(&[("schema", schema), ("source", name)], u8::from(object.suspended));
        for (number, partition) in &stats.partitions {
            let number_text = number.to_string();
            let labels = [("schema", schema), ("source", name), ("partition", number_text.as_str())];
            rows.sample(&labels, partition.rows);
            dead.sample(&labels, partition.dead_letters);
            skipped.sample(&labels, partition.skipped);
            idle.sample(&labels, u8::from(partition.idle));
            let reader = stats.status.partitions.iter().find(|p| p.partition == *number);
            if let Some(high) = reader.and_then(|r| r.high_watermark) {
                lag.sample(&labels, (high - partition.next_offset).max(0));
                if let Some(seconds) = partition.lag_seconds(partition.next_offset, Some(high), now_us) {
                    lag_seconds.sample(&labels, seconds);
                }
            }
            resets.sample(&labels, partition.resets);
            lost.sample(&labels, partition.lost);
            if let Some(us) = partition.watermark_us {
                watermark.sample(&labels, us as f64 / 1e6);
            }
        }
    }
    vec![rows, dead, skipped, lag, lag_seconds, resets, lost, watermark, idle, suspended, up]
}

fn views(database: &Inner, catalog: &Catalog) -> Vec<Family> {
    let mut rows = Family::new("millstream_view_rows", "gauge", "Rows of the view.");
    let mut bytes = Family::new("millstream_view_state_bytes", "gauge", "Bytes on disk of rows and state, about.");
    let mut epoch = Family::new("millstream_view_epoch", "gauge", "Last epoch that changed the view.");
    let mut failed = Family::new("millstream_view_failed_rows", "gauge", "Rows left out because an expression failed.");
    let mut late =
        Family::new("millstream_view_late_rows_total", "counter", "Rows that came after their window closed.");
    let mut expired = Family::new(
        "millstream_view_expired_rows_total",
        "counter",
        "Rows that took back what state_ttl had forgotten.",
    );
    let mut latency =
        Family::new("millstream_view_latency_seconds", "summary", "Time from a record's arrival to its being visible.");
    let mut suspended = Family::new("millstream_view_suspended", "gauge", "1 if the view is suspended.");
    let mut up = Family::new("millstream_view_up", "gauge", "0 if the view has failed.");
    let stats = database.engine.stats().views();
    for object in catalog.objects().filter(|o| matches!(o.kind, ObjectKind::MaterializedView(_))) {
        let Some(stats) = stats.get(&object.id) else { continue };
        let (schema, name) = names(catalog, object);
        let labels = [("schema", schema), ("view", name)];
        rows.sample(&labels, stats.rows);
        bytes.sample(&labels, database.size_of(catalog, object.id));
        epoch.sample(&labels, stats.epoch);
        failed.sample(&labels, stats.errors);
        late.sample(&labels, stats.late_rows);
        expired.sample(&labels, stats.expired_rows);
        up.sample(&labels, u8::from(stats.failed.is_none()));
        suspended.sample(&labels, u8::from(object.suspended));
        for (quantile, text) in [(0.5, "0.5"), (0.99, "0.99")] {
            if let Some(us) = stats.latency_us(quantile) {
                latency.sample(&[("schema", schema), ("view", name), ("quantile", text)], us as f64 / 1e6);
            }
        }
    }
    vec![rows, bytes, epoch, failed, late, expired, latency, suspended, up]
}

fn indexes(database: &Inner, catalog: &Catalog) -> Vec<Family> {
    let mut bytes =
        Family::new("millstream_index_state_bytes", "gauge", "Bytes on disk of the index's entries, about.");
    for object in catalog.objects().filter(|o| matches!(o.kind, ObjectKind::Index(_))) {
        let (schema, name) = names(catalog, object);
        bytes.sample(&[("schema", schema), ("index", name)], database.size_of(catalog, object.id));
    }
    vec![bytes]
}

fn sinks(database: &Inner, published: &Published) -> Vec<Family> {
    let mut waiting = Family::new("millstream_sink_outbox_rows", "gauge", "Rows that are not acknowledged yet.");
    let mut bytes = Family::new("millstream_sink_outbox_bytes", "gauge", "Bytes on disk of those rows, about.");
    let mut lag_seconds =
        Family::new("millstream_sink_lag_seconds", "gauge", "How long the oldest of those rows has waited.");
    let mut suspended = Family::new("millstream_sink_suspended", "gauge", "1 if the sink is suspended.");
    let mut last =
        Family::new("millstream_sink_last_sequence", "gauge", "Sequence number of the last row of the outbox.");
    let mut up = Family::new(
        "millstream_sink_up",
        "gauge",
        "0 if the last attempt to send, or the query, failed, or sending takes long.",
    );
    let stats = database.engine.stats().sinks();
    let queries = database.engine.stats().views();
    let now_us = chrono::Utc::now().timestamp_micros();
    let catalog = &published.catalog;
    for object in catalog.objects() {
        let ObjectKind::Sink(sink) = &object.kind else { continue };
        let Some(stats) = stats.get(&object.id) else { continue };
        let (schema, name) = names(catalog, object);
        let labels = [("schema", schema), ("sink", name)];
        let query_failed = queries.get(&object.id).is_some_and(|v| v.failed.is_some());
        let outbox_rows = stats.outbox_rows(sink);
        waiting.sample(&labels, outbox_rows);
        let waits = match outbox_rows {
            0 => Some(Waiting::NOTHING),
            // What cannot be read is left out, as what is not known.
            _ => Waiting::of(&published.snapshot, object.id).ok(),
        };
        if let Some(n) = waits.and_then(|w| w.bytes) {
            bytes.sample(&labels, n);
        }
        if let Some(seconds) = waits.and_then(|w| w.lag_seconds(now_us)) {
            lag_seconds.sample(&labels, seconds);
        }
        suspended.sample(&labels, u8::from(stats.suspended.is_some()));
        last.sample(&labels, stats.produced);
        up.sample(&labels, u8::from(stats.trouble().is_none() && !query_failed));
    }
    vec![waiting, bytes, lag_seconds, last, suspended, up]
}

fn tasks(published: &Published) -> Vec<Family> {
    let mut runs = Family::new(
        "millstream_task_runs_total",
        "counter",
        "Runs of the task that ended so, further tries not counted.",
    );
    let mut failures = Family::new("millstream_task_failures_in_a_row", "gauge", "Failed runs since the last success.");
    let mut success = Family::new(
        "millstream_task_last_success_timestamp_seconds",
        "gauge",
        "When the last run that succeeded ended, seconds since 1970.",
    );
    let mut duration =
        Family::new("millstream_task_last_run_seconds", "gauge", "How long the run took that ended last.");
    let mut running = Family::new("millstream_task_running", "gauge", "1 if a run of the task is under way.");
    let mut queued =
        Family::new("millstream_task_queued_runs", "gauge", "Runs that wait for their turn or another try.");
    let mut suspended = Family::new("millstream_task_suspended", "gauge", "1 if the task is suspended.");
    for object in published.catalog.objects().filter(|o| matches!(o.kind, ObjectKind::Task(_))) {
        let (schema, name) = names(&published.catalog, object);
        let labels = [("schema", schema), ("task", name)];
        // What cannot be read is told where it is asked for.
        let (Ok(state), Ok(open)) =
            (TaskState::read(&published.snapshot, object.id), open_runs(&published.snapshot, object.id))
        else {
            continue;
        };
        let state = state.unwrap_or_default();
        for (ended, count) in [("succeeded", state.succeeded), ("failed", state.failed), ("skipped", state.skipped)] {
            runs.sample(&[("schema", schema), ("task", name), ("state", ended)], count);
        }
        failures.sample(&labels, state.failures);
        if let Some((_, ended_us)) = state.last_success {
            success.sample(&labels, ended_us as f64 / 1e6);
        }
        if let Some((Some(started_us), ended_us)) = state.last.as_ref().map(|last| (last.started_us, last.ended_us)) {
            duration.sample(&labels, (ended_us - started_us).max(0) as f64 / 1e6);
        }
        let is_running = open.iter().any(|run| run.state == RunState::Running);
        running.sample(&labels, u8::from(is_running));
        queued.sample(&labels, open.iter().filter(|run| run.state == RunState::Queued).count());
        suspended.sample(&labels, u8::from(object.suspended));
    }
    vec![runs, failures, success, duration, running, queued, suspended]
}

fn names<'a>(catalog: &'a Catalog, object: &'a Object) -> (&'a str, &'a str) {
    (catalog.schema_name(object), &object.name)
}

#[cfg(test)]
mod tests {
    use super::Family;

    #[test]
    fn labels_are_escaped() {
        let mut family = Family::new("rows", "gauge", "Rows.");
        family.sample(&[("view", "a\"b\\c\n"), ("schema", "s")], 1.5);
        assert_eq!(
            family.text,
            "# HELP rows Rows.\n# TYPE rows gauge\nrows{view=\"a\\\"b\\\\c\\n\",schema=\"s\"} 1.5\n"
        );
    }
}
