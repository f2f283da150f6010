//! What runs in a lab.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config_files::VirtType;
use crate::host::Storage;
use crate::lab::Lab;
use crate::unit::Unit;

/// What runs in a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabStatus {
    /// The lab's name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Where the HTTP API is.
    pub api_url: String,
    /// Where the database is.
    pub database_url: String,
    /// Where the broker is.
    pub broker_url: String,
    /// Where the broker's management pages are, with user and password.
    pub management_url: String,
    /// Where new guests' disks are.
    pub storage: Storage,
    /// How guests' instructions are carried out.
    pub virt_type: VirtType,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
    /// Its hosts.
    pub hosts: Vec<HostStatus>,
}

/// A process of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// What faults call it.
    pub name: String,
    /// Its id, if it runs.
    pub pid: Option<i32>,
    /// Memory that it has of its own or its share of, in KiB (PSS).
    pub memory_kib: Option<u64>,
    /// How often it has ended by itself and was started again.
    pub restarts: u32,
}

/// A host of a lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// Its address on the management network.
    pub address: Ipv4Addr,
    /// Whether it is up.
    pub up: bool,
    /// What its compute service is to the API: `up`, `down`, or nothing if it never reported.
    pub compute: Option<String>,
    /// The servers whose emulators run on it.
    pub guests: Vec<String>,
}

impl Lab {
    /// What runs in it.
    pub fn status(&self) -> LabStatus {
        let services = self.api().compute_services().unwrap_or_default();
        let hosts = self
            .hosts()
            .iter()
            .map(|host| HostStatus {
                name: host.name().to_owned(),
                address: host.address(),
                up: host.is_up(),
                compute: services
                    .iter()
                    .find(|service| service.host == host.name())
                    .map(|service| service.state.clone()),
                guests: host
                    .guests()
                    .unwrap_or_default()
                    .into_iter()
                    .map(|guest| guest.uuid)
                    .collect(),
            })
            .collect();
        let management = self.servers().map(|servers| servers.management_url());
        LabStatus {
            name: self.name().to_owned(),
            dir: self.dir().to_owned(),
            api_url: self.api().url().to_owned(),
            database_url: self.database_url().to_owned(),
            broker_url: self.broker_url().to_owned(),
            management_url: management.unwrap_or_default(),
            storage: self.storage(),
            virt_type: self.virt_type(),
            processes: self.all_units().iter().map(|unit| self.process_status(unit)).collect(),
            hosts,
        }
    }

    fn all_units(&self) -> Vec<Unit> {
        let libvirtds = self.hosts().iter().map(|host| Unit::libvirtd(host.name()));
        [Unit::Database, Unit::Broker]
            .into_iter()
            .chain(self.own_units())
            .chain(libvirtds)
            .collect()
    }

    fn process_status(&self, unit: &Unit) -> ProcessStatus {
        let pid = self.process_id(unit);
        let restarts = self.restarts(unit);
        ProcessStatus {
            name: unit.to_string(),
            pid,
            memory_kib: pid.and_then(memory_kib),
            restarts,
        }
    }

    /// Memory that a process has of its own or its share of, in KiB (PSS).
    pub fn memory_kib(&self, unit: &Unit) -> Option<u64> {
        self.process_id(unit).and_then(memory_kib)
    }
}

fn memory_kib(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Processor time that a process and all that it has started, as far as it lives, have used, in milliseconds.
pub fn cpu_ms_of_tree(pid: i32) -> f64 {
    let mut ticks = cpu_ticks(pid).unwrap_or_default();
    let mut todo = vec![pid];
    while let Some(parent) = todo.pop() {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        for child in
            children.unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok())
        {
            ticks += cpu_ticks(child).unwrap_or_default();
            todo.push(child);
        }
    }
    // `USER_HZ`, which Linux keeps at 100 for what it tells programs.
    ticks as f64 * 10.0
}

/// User and system time of a process and of its children that have ended, in ticks.
fn cpu_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may contain anything: the fields from the third on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(memory_kib(own).unwrap() > 100);
    }

    #[test]
    fn the_processor_time_of_a_process_counts_what_it_has_started() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = cpu_ms_of_tree(own);
        let spun = std::process::Command::new("sh")
            .args(["-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"])
            .status();
        assert!(spun.unwrap().success());
        assert!(cpu_ms_of_tree(own) > before);
    }
}
