//! `whimbrel server migrate`, `resize`, `confirm`, `revert`, `evacuate`.

use clap::Args;
use serde_json::{Value, json};

use super::Session;
use crate::client::Client;
use crate::error::Failure;
use crate::model::{Migration, Server};
use crate::names;
use crate::progress::clock;
use crate::wait::WaitOptions;

/// The last version in which a server that was evacuated is started.
const EVACUATED_STARTS: &str = "2.94";
/// Where servers rest that were not asked to be decided on.
const RESTS: [&str; 2] = ["ACTIVE", "SHUTOFF"];
const DECIDE: [&str; 1] = ["VERIFY_RESIZE"];

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  whimbrel server migrate --live --wait guest\n  whimbrel server migrate --live --host host-b --block-migration guest\n  whimbrel server migrate --wait guest && whimbrel server confirm --wait guest"
)]
pub(crate) struct Migrate {
    /// The server's name or id
    server: String,
    /// Move it while it runs. Without this it is shut off on the way, and waits on the new host to be confirmed
    #[arg(long)]
    live: bool,
    /// The host to move it to; else the scheduler chooses
    #[arg(long)]
    host: Option<String>,
    /// Copy its disks, too; else that is found out
    #[arg(long, requires = "live", conflicts_with = "shared_migration")]
    block_migration: bool,
    /// Copy no disks: both hosts have them; else that is found out
    #[arg(long, requires = "live")]
    shared_migration: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  whimbrel server resize --flavor large --wait guest && whimbrel server confirm guest"
)]
pub(crate) struct Resize {
    /// The server's name or id
    server: String,
    /// The new size
    #[arg(long)]
    flavor: String,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    /// The server's name or id
    server: String,
    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The host must have been forced down (whimbrel host force-down HOST), and that only after it was made sure\nthat it is off: a guest that runs twice destroys its disk.\n\nExample:\n  whimbrel server evacuate --start --wait guest"
)]
pub(crate) struct Evacuate {
    /// The server's name or id
    server: String,
    /// The host to have it on; else the scheduler chooses
    #[arg(long)]
    host: Option<String>,
    /// Start it there if it ran; else it stays shut off
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    wait: WaitOptions,
}

/// The request for a live migration.
pub(super) fn live(host: Option<&str>, block_migration: &Value) -> Value {
    json!({ "os-migrateLive": { "host": host, "block_migration": block_migration } })
}

/// The request for a cold one.
pub(super) fn cold(host: Option<&str>) -> Value {
    match host {
        Some(host) => json!({ "migrate": { "host": host } }),
        None => json!({ "migrate": null }),
    }
}

pub(super) async fn migrate(session: &Session, migrate: Migrate) -> Result<(), Failure> {
    let server = names::server(&session.client, &migrate.server).await?;
    let host = migrate.host.as_deref();
    if !migrate.live {
        let order = Order::new(cold(host), &DECIDE);
        return carry_out(session, &server, order, migrate.wait).await;
    }
    let block_migration = match (migrate.block_migration, migrate.shared_migration) {
        (true, _) => json!(true),
        (_, true) => json!(false),
        _ => json!("auto"),
    };
    let order = Order::new(live(host, &block_migration), &RESTS);
    carry_out(session, &server, order, migrate.wait).await
}

pub(super) async fn resize(session: &Session, resize: Resize) -> Result<(), Failure> {
    let server = names::server(&session.client, &resize.server).await?;
    let flavor = names::flavor(&session.client, &resize.flavor).await?;
    let order = Order::new(json!({ "resize": { "flavorRef": flavor["id"] } }), &DECIDE);
    carry_out(session, &server, order, resize.wait).await
}

pub(super) async fn evacuate(session: &Session, evacuate: Evacuate) -> Result<(), Failure> {
    let server = names::server(&session.client, &evacuate.server).await?;
    let mut argument = json!({});
    if let Some(host) = &evacuate.host {
        argument["host"] = json!(host);
    }
    let mut order = Order::new(json!({ "evacuate": argument }), &RESTS);
    order.version = evacuate.start.then_some(EVACUATED_STARTS);
    carry_out(session, &server, order, evacuate.wait).await
}

/// A move to ask for.
struct Order {
    action: Value,
    goals: &'static [&'static str],
    version: Option<&'static str>,
}

impl Order {
    fn new(action: Value, goals: &'static [&'static str]) -> Self {
        Self { action, goals, version: None }
    }
}

async fn carry_out(
    session: &Session,
    server: &Server,
    order: Order,
    wait: WaitOptions,
) -> Result<(), Failure> {
    let watch = session.watch(wait.timeout);
    if !wait.wait {
        names::act(&session.client, &server.id, &order.action, order.version).await?;
        let watch = format!("Begun. Watch it: whimbrel migration watch {}", server.name);
        session.board.note(&watch);
        return Ok(());
    }
    let begun = watch.begin(&server.id, &order.action, order.version).await?;
    let goes_on = match &begun.0 {
        Some(one) if one.is_live() => format!(
            "It goes on. Watch it: whimbrel migration watch {id}; call it off: whimbrel migration abort {id}",
            id = one.id
        ),
        Some(one) => format!("It goes on. Watch it: whimbrel migration watch {}", one.id),
        None => format!("It goes on. Look: whimbrel server show {}", server.id),
    };
    let mut line = session.board.line(&server.name);
    let moved = watch.moved(&mut line, server, &begun, order.goals);
    let (server, migration) = watch.over(&goes_on, moved).await?;
    // Whether and for how long it stood still is told once it is over.
    let migration = match migration {
        Some(migration) => Some(watch.migration_now(&migration).await?),
        None => None,
    };
    line.end(&arrived(&server, migration.as_ref()));
    if server.status == DECIDE[0] {
        let name = &server.name;
        session.board.note(&format!(
            "Look whether it is well, then: whimbrel server confirm {name}; or else: whimbrel server revert {name}"
        ));
    }
    Ok(())
}

/// How a move has ended.
pub(crate) fn arrived(server: &Server, migration: Option<&Migration>) -> String {
    let mut parts = Vec::new();
    if let Some(migration) = migration {
        parts.push(format!("{}, {}", migration.status, migration.way()));
        if let Some(ms) = migration.total_ms {
            parts.push(format!("took {}", clock(std::time::Duration::from_millis(ms))));
        }
        if let Some(ms) = migration.downtime_ms {
            parts.push(format!("stood still for {ms} ms"));
        }
    }
    parts.push(format!("the server is {}", server.status));
    parts.join(", ")
}

/// Decides a move that waits for it, and waits until that is done.
pub(super) async fn decide(
    session: &Session,
    server: &Server,
    action: &Value,
    wait: WaitOptions,
) -> Result<(), Failure> {
    let client: &Client = &session.client;
    let request_id = names::act(client, &server.id, action, None).await?;
    if !wait.wait {
        return Ok(());
    }
    let watch = session.watch(wait.timeout);
    let mut line = session.board.line(&server.name);
    let goes_on = format!("It goes on; look: whimbrel server show {}", server.id);
    let work = watch.server(&mut line, &server.id, &RESTS, request_id.as_deref());
    let server = watch.over(&goes_on, work).await?;
    let host = server.host.as_deref().map(|host| format!(" on {host}")).unwrap_or_default();
    line.end(&format!("{}{host}", server.status));
    Ok(())
}

pub(super) async fn confirm(session: &Session, one: One) -> Result<(), Failure> {
    let server = names::server(&session.client, &one.server).await?;
    decide(session, &server, &json!({ "confirmResize": null }), one.wait).await
}

pub(super) async fn revert(session: &Session, one: One) -> Result<(), Failure> {
    let server = names::server(&session.client, &one.server).await?;
    decide(session, &server, &json!({ "revertResize": null }), one.wait).await
}
