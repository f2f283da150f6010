//! `whimbrel host`

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::drain::{self, Drain};
use super::{Session, each};
use crate::client::Service;
use crate::error::Failure;
use crate::names;
use crate::output::{Cell, Fields, List};

/// The last version in which hypervisors tell what they have and use.
pub(super) const WITH_USAGE: &str = "2.87";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List hosts
    List,
    /// Show a host
    Show(Name),
    /// Let servers come to hosts again
    Enable(Names),
    /// Let no more servers come to hosts; those that are there stay
    Disable(Disable),
    /// Move every server off a host: running ones live, others shut off
    Drain(Drain),
    /// Say that a host is off for good, so that its servers can be evacuated
    ForceDown(ForceDown),
    /// Forget a host that has nothing left
    Delete(Names),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The host's name
    host: String,
}

#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Hosts' names
    #[arg(required = true)]
    hosts: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Disable {
    #[command(flatten)]
    names: Names,
    /// Why, for those who see it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Only after you made sure that the host is off, or cut off from all storage and networks: its servers may then be\nevacuated, and a guest that runs on two hosts destroys its disk.\n\nExamples:\n  whimbrel host force-down host-a\n  whimbrel host force-down --undo host-a"
)]
pub(crate) struct ForceDown {
    #[command(flatten)]
    name: Name,
    /// The host is back
    #[arg(long)]
    undo: bool,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => list(session).await,
        Command::Show(name) => show(session, &name.host).await,
        Command::Enable(names) => {
            each(session, &names.hosts, |host| async move {
                change(session, host, &json!({ "status": "enabled" })).await
            })
            .await
        }
        Command::Disable(disable) => {
            let body = &disabled(disable.reason.as_deref());
            each(session, &disable.names.hosts, |host| change(session, host, body)).await
        }
        Command::Drain(drain) => drain::run(session, &drain).await,
        Command::ForceDown(ForceDown { name, undo }) => {
            change(session, &name.host, &json!({ "forced_down": !undo })).await?;
            if !undo {
                let host = &name.host;
                session.board.note(&format!(
                    "Its servers: whimbrel server list --host {host}; each can now go elsewhere: whimbrel server evacuate"
                ));
            }
            Ok(())
        }
        Command::Delete(names) => {
            each(session, &names.hosts, |host| async move {
                let service = names::host(&session.client, host).await?;
                let id = service["id"].as_str().unwrap_or_default();
                let path = ["os-services", id];
                session.client.ask(Method::DELETE, Service::Compute, &path).send().await.map(drop)
            })
            .await
        }
    }
}

/// The request for a host that no servers are to come to.
pub(super) fn disabled(reason: Option<&str>) -> Value {
    match reason {
        Some(reason) => json!({ "status": "disabled", "disabled_reason": reason }),
        None => json!({ "status": "disabled" }),
    }
}

/// Changes the compute service of a host.
pub(super) async fn change(session: &Session, host: &str, body: &Value) -> Result<(), Failure> {
    let service = names::host(&session.client, host).await?;
    let id = service["id"].as_str().unwrap_or_default();
    let ask = session.client.ask(Method::PUT, Service::Compute, &["os-services", id]);
    ask.json(body).send().await.map(drop)
}

/// What hosts have and use, by name.
pub(super) async fn hypervisors(session: &Session) -> Result<Vec<Value>, Failure> {
    let ask = session.client.get(Service::Compute, &["os-hypervisors", "detail"]);
    ask.version(WITH_USAGE).send().await?.read("hypervisors")
}

/// `3/64`
pub(super) fn used(hypervisor: &Value, used: &str, total: &str) -> Cell {
    let (used, total) = (&hypervisor[used], &hypervisor[total]);
    if used.is_null() {
        return Cell::default();
    }
    Cell::shown(used.clone(), format!("{used}/{total}"))
}

async fn list(session: &Session) -> Result<(), Failure> {
    let ask = session.client.get(Service::Compute, &["os-services"]);
    let query = [("binary", "nova-compute")];
    let services: Vec<Value> = ask.query(&query).send().await?.read("services")?;
    let hypervisors = hypervisors(session).await?;
    let row = |service: &Value| {
        let same = |one: &&Value| one["service"]["host"] == service["host"];
        let hypervisor = hypervisors.iter().find(same).cloned().unwrap_or_default();
        let mut row: Vec<Cell> = ["host", "status", "state", "forced_down", "zone"]
            .map(|name| service[name].clone().into())
            .into();
        row.extend([
            hypervisor["running_vms"].clone().into(),
            used(&hypervisor, "vcpus_used", "vcpus"),
            used(&hypervisor, "memory_mb_used", "memory_mb"),
            service["disabled_reason"].clone().into(),
        ]);
        row
    };
    session.list(&List {
        columns: vec![
            "host",
            "status",
            "state",
            "forced_down",
            "zone",
            "running",
            "vcpus_used",
            "memory_used_mib",
            "reason",
        ],
        rows: services.iter().map(row).collect(),
    })
}

async fn show(session: &Session, wanted: &str) -> Result<(), Failure> {
    let service = names::host(&session.client, wanted).await?;
    let all = hypervisors(session).await?;
    let same = |one: &&Value| one["service"]["host"] == service["host"];
    let hypervisor = all.iter().find(same).cloned().unwrap_or_default();
    let mut fields: Fields = Vec::new();
    for (shown, name) in [
        ("host", "host"),
        ("id", "id"),
        ("status", "status"),
        ("reason", "disabled_reason"),
        ("state", "state"),
        ("forced_down", "forced_down"),
        ("zone", "zone"),
        ("reported_at", "updated_at"),
    ] {
        fields.push((shown, service[name].clone().into()));
    }
    for (shown, name) in [
        ("address", "host_ip"),
        ("hypervisor", "hypervisor_type"),
        ("hypervisor_version", "hypervisor_version"),
        ("running", "running_vms"),
        ("vcpus", "vcpus"),
        ("vcpus_used", "vcpus_used"),
        ("memory_mib", "memory_mb"),
        ("memory_used_mib", "memory_mb_used"),
        ("disk_gib", "local_gb"),
        ("disk_used_gib", "local_gb_used"),
    ] {
        fields.push((shown, hypervisor[name].clone().into()));
    }
    fields.push(("put_off", put_off(session, &service["host"]).await?.into()));
    session.show(&fields)
}

/// How much work waits until the host is back. Only Whimbrel tells.
async fn put_off(session: &Session, host: &Value) -> Result<Value, Failure> {
    match session.client.get(Service::Own, &["obligations"]).send().await {
        Ok(answer) => {
            let all: Vec<Value> = answer.read("obligations")?;
            Ok(json!(all.iter().filter(|one| one["host"] == *host).count()))
        }
        Err(failure) if matches!(failure.status, Some(403 | 404)) => Ok(Value::Null),
        Err(failure) => Err(failure),
    }
}
