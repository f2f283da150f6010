//! What is counted, and the text form of it. Counting costs nothing where nobody serves it.

use std::sync::OnceLock;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Seconds, for answers to callers.
const LATENCY: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Starts counting. Does nothing the second time in one process, as in tests.
pub(crate) fn install(service: &'static str) -> anyhow::Result<()> {
    if RECORDER.get().is_none() {
        let built = PrometheusBuilder::new()
            .set_buckets_for_metric(
                Matcher::Suffix("http_request_duration_seconds".into()),
                &LATENCY,
            )
            .context("buckets of metrics")?
            .install_recorder();
        match built {
            Ok(handle) => drop(RECORDER.set(handle)),
            // Somebody in this process was faster; what is counted goes there.
            Err(_) if RECORDER.get().is_some() => {}
            Err(error) => return Err(error).context("starting to count"),
        }
    }
    metrics::describe_gauge!("whimbrel_build_info", "1, with the version of the process.");
    let labels = [("service", service), ("version", env!("CARGO_PKG_VERSION"))];
    metrics::gauge!("whimbrel_build_info", &labels).set(1.0);
    Ok(())
}

pub(crate) fn render() -> String {
    RECORDER.get().map_or_else(String::new, |recorder| {
        recorder.run_upkeep();
        recorder.render()
    })
}
