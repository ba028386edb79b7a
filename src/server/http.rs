//! HTTP for operators: `/livez`, `/readyz` and Prometheus' `/metrics`.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::error::{Error, Result};

/// Bucket bounds of every histogram whose name ends in `_seconds`.
const SECONDS: [f64; 16] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// How far the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    Recovering,
    Ready,
    Stopping,
}

/// What writes the metrics of the engine, once it is open.
pub type EngineMetrics = Arc<OnceLock<Box<dyn Fn() -> String + Send + Sync>>>;

/// The process's metrics, recorded from the first call on.
pub fn metrics_handle() -> Result<PrometheusHandle> {
    static HANDLE: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
                .map_err(|e| e.to_string())?
                .build_recorder();
            let handle = recorder.handle();
            metrics::set_global_recorder(recorder).map_err(|e| e.to_string())?;
            describe();
            Ok(handle)
        })
        .clone()
        .map_err(|e| Error::internal(format!("cannot record metrics: {e}")))
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_gauge!("millstream_epoch", "Newest committed epoch.");
    describe_counter!("millstream_sink_rows_total", "Rows that sinks have sent since the start.");
    describe_counter!("millstream_sink_failures_total", "Attempts to send that failed since the start.");
    describe_histogram!("millstream_epoch_compute_seconds", Unit::Seconds, "Time to compute an epoch.");
    describe_histogram!("millstream_commit_seconds", Unit::Seconds, "Time to commit an epoch.");
    describe_histogram!(
        "millstream_visible_latency_seconds",
        Unit::Seconds,
        "Time from the arrival of an epoch's oldest record to its being visible."
    );
    describe_gauge!("millstream_connections", "Open client connections.");
    describe_counter!("millstream_delta_commits_total", "Versions of Delta tables that were written since the start.");
    describe_counter!(
        "millstream_delta_conflicts_total",
        "Changes of Delta tables that were computed again, or failed, because another writer was faster."
    );
    describe_counter!("millstream_connections_total", "Client connections since the start.");
    describe_counter!("millstream_statement_errors_total", "Errors that clients were sent.");
    describe_histogram!(
        "millstream_statement_duration_seconds",
        Unit::Seconds,
        "Time from a statement's execution to its response; rows are streamed after it."
    );
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, readiness: watch::Receiver<Readiness>, engine: EngineMetrics) -> Result<()> {
    let handle = metrics_handle()?;
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(render).with_state((handle, engine)));
    Ok(axum::serve(listener, router).await?)
}

async fn readyz(State(readiness): State<watch::Receiver<Readiness>>) -> (StatusCode, &'static str) {
    match *readiness.borrow() {
        Readiness::Ready => (StatusCode::OK, "ok\n"),
        Readiness::Recovering => (StatusCode::SERVICE_UNAVAILABLE, "recovering\n"),
        Readiness::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

async fn render(State((handle, engine)): State<(PrometheusHandle, EngineMetrics)>) -> impl IntoResponse {
    // Without an exporter task of its own, histograms are drained here.
    handle.run_upkeep();
    let text = handle.render() + &engine.get().map(|write| write()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
