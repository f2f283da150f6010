//! `whimbrel migration`

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;

use super::{Session, each};
use crate::error::Failure;
use crate::model::Migration;
use crate::names;
use crate::output::{Cell, Fields, List};
use crate::progress::{clock, size};
use crate::wait::{WaitOptions, Watch};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List migrations, the newest first
    List(ListOptions),
    /// Show a migration with its bytes and times
    Show(Which),
    /// Watch migrations until they end
    Watch(WatchOptions),
    /// Call a live migration off: the server stays where it is
    Abort(Decide),
    /// Have a live migration end soon: the guest is stopped, or runs on at its destination, until the rest has come
    ForceComplete(Decide),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  whimbrel migration list --status running\n  whimbrel migration list --server guest -f json"
)]
pub(crate) struct ListOptions {
    /// Those of a server
    #[arg(long)]
    server: Option<String>,
    /// Those from or to a host
    #[arg(long)]
    host: Option<String>,
    /// Those in a state, such as running
    #[arg(long)]
    status: Option<String>,
    /// live-migration, migration, resize or evacuation
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// So many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The number or id of a migration, or a server, whose last one is meant
    migration: String,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Ctrl-C ends the watching, not the migrations.\n\nExamples:\n  whimbrel migration watch 17\n  whimbrel migration watch guest --timeout 600"
)]
pub(crate) struct WatchOptions {
    /// Numbers or ids of migrations, or servers, whose last ones are meant; all that go on if none is given
    migrations: Vec<String>,
    /// Watch for so long at most
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Decide {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    wait: WaitOptions,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(options) => list(session, &options).await,
        Command::Show(which) => {
            let found = names::migration(&session.client, &which.migration).await?;
            let migration = session.watch(None).migration_now(&found).await?;
            session.show(&fields(&migration))
        }
        Command::Watch(options) => watch(session, &options).await,
        Command::Abort(decide) => {
            let found = names::migration(&session.client, &decide.which.migration).await?;
            let watch = session.watch(decide.wait.timeout);
            watch.decide(&found, Method::DELETE, None).await?;
            ended(session, &watch, &found, decide.wait, "cancelled").await
        }
        Command::ForceComplete(decide) => {
            let found = names::migration(&session.client, &decide.which.migration).await?;
            let watch = session.watch(decide.wait.timeout);
            let action = json!({ "force_complete": null });
            watch.decide(&found, Method::POST, Some(&action)).await?;
            ended(session, &watch, &found, decide.wait, "completed").await
        }
    }
}

/// Waits if that was asked for; it is a failure unless the migration ends as wanted.
async fn ended(
    session: &Session,
    watch: &Watch<'_>,
    migration: &Migration,
    wait: WaitOptions,
    wanted: &str,
) -> Result<(), Failure> {
    if !wait.wait {
        let id = migration.id;
        session.board.note(&format!("Asked. Watch it: whimbrel migration watch {id}"));
        return Ok(());
    }
    let ended = follow(session, watch, migration).await?;
    if ended.status == wanted {
        return Ok(());
    }
    Err(Failure::failed(format!("Migration {} ended as {}.", ended.id, ended.status))
        .next(format!("See more: whimbrel migration show {}", ended.id)))
}

async fn follow(
    session: &Session,
    watch: &Watch<'_>,
    migration: &Migration,
) -> Result<Migration, Failure> {
    let mut line = session.board.line(&format!("migration {}", migration.id));
    let id = migration.id;
    let goes_on = format!("It goes on. Watch it again: whimbrel migration watch {id}");
    let ended = watch.over(&goes_on, watch.migration(&mut line, migration)).await?;
    let mut text = format!("{}, {}", ended.status, ended.way());
    if let Some(ms) = ended.downtime_ms {
        text += &format!(", stood still for {ms} ms");
    }
    line.end(&text);
    Ok(ended)
}

async fn watch(session: &Session, options: &WatchOptions) -> Result<(), Failure> {
    let watch = session.watch(options.timeout);
    let mut all = Vec::new();
    for name in &options.migrations {
        all.push(names::migration(&session.client, name).await?);
    }
    if options.migrations.is_empty() {
        let listed = names::migrations(&session.client, &[], None).await?;
        all.extend(listed.into_iter().filter(|one| !one.is_over()));
    }
    if all.is_empty() {
        session.board.note("No migration goes on.");
    }
    each(session, all, |migration| {
        let watch = &watch;
        async move {
            let ended = follow(session, watch, &migration).await?;
            if ended.ended_well() {
                return Ok(());
            }
            let why = ended.fault().map(|fault| format!(": {fault}")).unwrap_or_default();
            let what = format!("Migration {} ended as {}{why}", ended.id, ended.status);
            let server = &ended.instance_uuid;
            Err(Failure::failed(what)
                .next(format!("See what was tried: whimbrel event list {server}")))
        }
    })
    .await
}

async fn list(session: &Session, options: &ListOptions) -> Result<(), Failure> {
    let server = match &options.server {
        Some(name) => Some(names::server(&session.client, name).await?.id),
        None => None,
    };
    let filters = [
        ("instance_uuid", &server),
        ("host", &options.host),
        ("status", &options.status),
        ("migration_type", &options.kind),
    ];
    let query: Vec<(&str, &str)> =
        filters.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    let found = names::migrations(&session.client, &query, Some(options.limit)).await?;
    session.list(&listing(&found))
}

/// Migrations as a list.
pub(crate) fn listing(migrations: &[Migration]) -> List {
    let row = |one: &Migration| {
        vec![
            one.id.into(),
            one.uuid.clone().into(),
            one.migration_type.clone().into(),
            one.status.clone().into(),
            one.instance_uuid.clone().into(),
            one.source_compute.clone().into(),
            one.dest_compute.clone().into(),
            one.created_at.clone().into(),
            one.updated_at.clone().into(),
        ]
    };
    List {
        columns: vec![
            "id",
            "uuid",
            "type",
            "status",
            "server_id",
            "source",
            "destination",
            "created_at",
            "updated_at",
        ],
        rows: migrations.iter().map(row).collect(),
    }
}

fn bytes(value: Option<u64>) -> Cell {
    value.map_or_else(Cell::default, |value| Cell::shown(value, size(value as f64)))
}

fn fields(one: &Migration) -> Fields {
    let took = one.total_ms.map_or_else(Cell::default, |ms| {
        Cell::shown(ms, clock(std::time::Duration::from_millis(ms)))
    });
    let operation = one.operation.clone().unwrap_or_default();
    vec![
        ("id", one.id.into()),
        ("uuid", one.uuid.clone().into()),
        ("type", one.migration_type.clone().into()),
        ("status", one.status.clone().into()),
        ("server_id", one.instance_uuid.clone().into()),
        ("source", one.source_compute.clone().into()),
        ("destination", one.dest_compute.clone().into()),
        ("phase", operation.phase.into()),
        ("step", operation.step.into()),
        ("round", operation.round.into()),
        ("fault", one.fault().map(ToOwned::to_owned).into()),
        ("memory_total_bytes", bytes(one.memory_total_bytes)),
        ("memory_processed_bytes", bytes(one.memory_processed_bytes)),
        ("memory_remaining_bytes", bytes(one.memory_remaining_bytes)),
        ("disk_total_bytes", bytes(one.disk_total_bytes)),
        ("disk_processed_bytes", bytes(one.disk_processed_bytes)),
        ("disk_remaining_bytes", bytes(one.disk_remaining_bytes)),
        ("total_ms", took),
        ("downtime_ms", one.downtime_ms.into()),
        ("created_at", one.created_at.clone().into()),
        ("updated_at", one.updated_at.clone().into()),
    ]
}
