//! `whimbrel hypervisor`

use clap::{Args, Subcommand};
use serde_json::Value;

use super::host::{hypervisors, used};
use super::{Session, fields};
use crate::error::Failure;
use crate::output::{Cell, List};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List hypervisors with what they have and use
    List,
    /// Show a hypervisor
    Show(Name),
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The hypervisor's name or id
    hypervisor: String,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let all = hypervisors(session).await?;
    match command {
        Command::List => session.list(&List {
            columns: vec![
                "name",
                "type",
                "state",
                "status",
                "address",
                "running",
                "vcpus_used",
                "memory_used_mib",
                "disk_used_gib",
            ],
            rows: all.iter().map(row).collect(),
        }),
        Command::Show(name) => {
            let is = |one: &&Value| {
                [&one["hypervisor_hostname"], &one["id"]]
                    .into_iter()
                    .any(|value| *value == *name.hypervisor)
            };
            let found = all.iter().find(is).ok_or_else(|| {
                Failure::refused(format!(
                    "There is no hypervisor with the name or id '{}'.",
                    name.hypervisor
                ))
                .next("See which there are: whimbrel hypervisor list")
            })?;
            let mut shown = fields(
                found,
                &[
                    ("name", "hypervisor_hostname"),
                    ("id", "id"),
                    ("type", "hypervisor_type"),
                    ("version", "hypervisor_version"),
                    ("state", "state"),
                    ("status", "status"),
                    ("address", "host_ip"),
                    ("running", "running_vms"),
                    ("vcpus", "vcpus"),
                    ("vcpus_used", "vcpus_used"),
                    ("memory_mib", "memory_mb"),
                    ("memory_used_mib", "memory_mb_used"),
                    ("disk_gib", "local_gb"),
                    ("disk_used_gib", "local_gb_used"),
                ],
            );
            let cpu = &found["cpu_info"];
            shown.push(("cpu_arch", cpu["arch"].clone().into()));
            shown.push(("cpu_model", cpu["model"].clone().into()));
            shown.push(("cpu_features", cpu["features"].clone().into()));
            session.show(&shown)
        }
    }
}

fn row(one: &Value) -> Vec<Cell> {
    let names =
        ["hypervisor_hostname", "hypervisor_type", "state", "status", "host_ip", "running_vms"];
    let mut row: Vec<Cell> = names.map(|name| one[name].clone().into()).into();
    row.extend([
        used(one, "vcpus_used", "vcpus"),
        used(one, "memory_mb_used", "memory_mb"),
        used(one, "local_gb_used", "local_gb"),
    ]);
    row
}
