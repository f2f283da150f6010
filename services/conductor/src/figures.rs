//! Figures of the whole installation, for monitoring. Each conductor shows the same, so that losing one loses none;
//! queries take the largest.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use whimbrel_db::Database;
use whimbrel_db::figures::{Figure, figures};
use whimbrel_rpc::Amqp;
use whimbrel_service::metrics::{self, Label};

/// How often the database is asked.
const PERIOD: Duration = Duration::from_secs(10);

/// What each figure is, and the names of its labels.
const KNOWN: [(&str, &[&str], &str); 10] = [
    ("migrations", &["type", "status"], "Migrations on record."),
    ("sagas_active", &["saga"], "Operations under way."),
    ("sagas_stuck", &[], "Operations that can go neither on nor back; should be 0."),
    ("saga_lag_seconds", &[], "How long the most overdue operation waits for a conductor."),
    ("outbox_messages", &[], "Messages that are not confirmed by the broker."),
    ("outbox_oldest_age_seconds", &[], "Age of the oldest of them."),
    ("obligations", &[], "Work that waits for hosts that are down."),
    ("dead_letters", &[], "Messages that nobody could read."),
    ("hosts", &["state"], "Hosts that report, and that do not."),
    ("instances", &["state"], "Instances."),
];

/// Keeps them current for as long as it is polled.
pub(crate) async fn keep(database: Database, amqp: Amqp, down_after_ms: i64) -> &'static str {
    for (name, _, what) in KNOWN {
        metrics::describe_gauge!(format!("whimbrel_{name}"), what);
    }
    metrics::describe_gauge!("whimbrel_amqp_connected", "1 while the broker is connected.");
    metrics::describe_gauge!("whimbrel_db_pool_connections", "Connections to the database.");
    let mut shown = HashSet::new();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        metrics::gauge!("whimbrel_amqp_connected").set(f64::from(u8::from(amqp.is_ready())));
        let pool = database.pool_use();
        for (state, number) in [("idle", pool.idle), ("busy", pool.open - pool.idle.min(pool.open))]
        {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            metrics::gauge!("whimbrel_db_pool_connections", "state" => state)
                .set(f64::from(number));
        }
        match figures(&database, down_after_ms).await {
            Ok(read) => show(&read, &mut shown),
            // Old figures stay; their age is seen by the figure that alerts on this.
            Err(error) => tracing::warn!(%error, "figures not read"),
        }
    }
}

type Series = (String, Vec<Label>);

/// Shows what was read. What was shown before and is not there any more becomes 0.
fn show(read: &[Figure], shown: &mut HashSet<Series>) {
    let mut gone = std::mem::take(shown);
    for figure in read {
        let Some((name, labels, _)) = KNOWN.iter().find(|(name, ..)| *name == figure.name) else {
            continue;
        };
        let values = [&figure.one, &figure.two];
        let labels =
            labels.iter().zip(values).map(|(label, value)| Label::new(*label, value.clone()));
        let series = (format!("whimbrel_{name}"), labels.collect::<Vec<_>>());
        metrics::gauge!(series.0.clone(), series.1.iter()).set(figure.value);
        gone.remove(&series);
        shown.insert(series);
    }
    for (name, labels) in gone {
        metrics::gauge!(name, labels.iter()).set(0.0);
    }
    metrics::gauge!("whimbrel_figures_read_timestamp_seconds").set(now());
}

fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}
