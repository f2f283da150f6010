//! What people and programs are shown of a running lab.

use std::process::ExitCode;

use anyhow::Context;
use comfy_table::{Table, TableComponent, presets};
use whimbrel_lab::{Lab, LabStatus};

use super::control::{self, Request};
use super::{Format, say};

/// Prints what runs in a lab. Exit status 1 if it doesn't run.
pub(super) fn show(name: &str, format: Format) -> anyhow::Result<ExitCode> {
    let value = control::ask(name, &Request::Status)?;
    match format {
        Format::Json => say(&serde_json::to_string_pretty(&value)?),
        Format::Table => {
            let status = serde_json::from_value(value).context("reading the status")?;
            say(&format!("{}\n\n{}", tables(&status), usage(&status)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn tables(status: &LabStatus) -> String {
    let mut hosts = table(&["host", "address", "", "compute", "guests"]);
    for host in &status.hosts {
        hosts.add_row([
            host.name.clone(),
            host.address.to_string(),
            if host.up { "up" } else { "dead" }.to_owned(),
            host.compute.clone().unwrap_or_else(|| "never reported".to_owned()),
            host.guests.join("\n"),
        ]);
    }
    let mut processes = table(&["process", "pid", "MiB", "restarts"]);
    for process in &status.processes {
        let memory = process.memory_kib.map(|kib| format!("{:.1}", kib as f64 / 1024.0));
        processes.add_row([
            process.name.clone(),
            process.pid.map_or_else(|| "not running".to_owned(), |pid| pid.to_string()),
            memory.unwrap_or_default(),
            process.restarts.to_string(),
        ]);
    }
    format!(
        "lab '{}' in {}\nAPI      {}\ndatabase {}\nbroker   {}  (pages: {})\n{}\n{processes}",
        status.name,
        status.dir.display(),
        status.api_url,
        status.database_url,
        status.broker_url,
        status.management_url,
        // Simulated hosts are but processes.
        if status.hosts.is_empty() { String::new() } else { format!("\n{hosts}\n") },
    )
}

/// A table in the lab's looks: a line under the header and no others.
pub(super) fn table(header: &[impl ToString]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_style(TableComponent::HeaderLines, '─')
        .set_style(TableComponent::MiddleHeaderIntersections, '─')
        .set_header(header.iter().map(ToString::to_string));
    table
}

/// How to point clients at a running lab.
fn usage(status: &LabStatus) -> String {
    let dir = status.dir.display();
    let endpoint = format!("{}/v2.1", status.api_url);
    format!(
        "Clients find the lab by {dir}/clouds.yaml:\n  \
         export OS_CLIENT_CONFIG_FILE={dir}/clouds.yaml OS_CLOUD=whimbrel\n  \
         target/debug/whimbrel host list\n  \
         openstack server list\nor without that file:\n  \
         target/debug/whimbrel --os-endpoint {endpoint} server list\n  \
         openstack --os-auth-type none --os-endpoint {endpoint} --os-identity-api-version 3 server list\n\
         End the lab with: make down"
    )
}

/// Writes what the `openstack` client needs into the lab's directory.
pub(super) fn write_clouds_yaml(lab: &Lab) -> anyhow::Result<()> {
    let url = lab.api().url();
    let text = format!(
        "clouds:\n  whimbrel:\n    auth_type: none\n    auth:\n      endpoint: {url}/v2.1\n    \
         identity_api_version: '3'\n    \
         compute_endpoint_override: {url}/v2.1\n    image_endpoint_override: {url}/v2\n    \
         network_endpoint_override: {url}/v2.0\n"
    );
    std::fs::write(lab.dir().join("clouds.yaml"), text).context("writing clouds.yaml")
}
