//! What this host has, and which guests.

use std::time::{Duration, Instant};

use virt::connect::Connect;
use virt::domain::Domain;
use whimbrel_messages::compute::InstanceSpec;
use whimbrel_messages::report::{CpuInfo, Guest, Inventory};
use whimbrel_model::{InstanceId, Resources};
use whimbrel_virt::DriverError;

use crate::cpu;
use crate::domain_xml::bridge_of;
use crate::domains::{self, DomainState, PausedFor};
use crate::driver::LibvirtDriver;
use crate::error::Doing;
use crate::files;

const GIB: u64 = 1 << 30;
/// A host's processor changes only with its emulator, so it is not asked for with every report.
const CPU_REMEMBERED: Duration = Duration::from_secs(60);

/// The host's own figures, as libvirt tells them.
struct HostFigures {
    vcpus: u32,
    memory_mib: u64,
    version: u32,
    hostname: String,
    kind: String,
    running: u32,
}

impl LibvirtDriver {
    pub(crate) async fn host_inventory(&self) -> Result<Inventory, DriverError> {
        let figures = self.hypervisor.call("ask for the host's figures", host_figures).await?;
        let cpu = self.host_cpu().await?;
        let instances = self.paths.instances().to_owned();
        let (disk_total, disk_free, uptime_s) =
            files::blocking("ask for the host's disk space", move || {
                let (total, free) = files::space(&instances)?;
                Ok((total, free, uptime(&std::fs::read_to_string("/proc/uptime")?)))
            })
            .await?;
        Ok(Inventory {
            total: Resources {
                vcpus: i32::try_from(figures.vcpus).unwrap_or(i32::MAX),
                memory_mib: signed(figures.memory_mib),
                disk_gib: signed(disk_total / GIB),
            },
            disk_free_gib: signed(disk_free / GIB),
            hypervisor_type: figures.kind,
            hypervisor_version: i64::from(figures.version),
            hypervisor_hostname: figures.hostname,
            host_ip: self.config.migration_address.clone(),
            cpu,
            running_vms: i32::try_from(figures.running).unwrap_or(i32::MAX),
            uptime_s,
        })
    }

    pub(crate) async fn known_guests(&self) -> Result<Vec<Guest>, DriverError> {
        self.hypervisor
            .call("list the guests", |connect| {
                let all = connect.list_all_domains(0).doing("list the guests")?;
                let guests = all.iter().filter_map(|domain| guest(domain).transpose());
                guests.collect()
            })
            .await
    }

    /// What the processors of this host can give guests.
    pub(crate) async fn host_cpu(&self) -> Result<CpuInfo, DriverError> {
        let mut remembered = self.cpu.lock().await;
        if let Some((at, cpu)) = &*remembered
            && at.elapsed() < CPU_REMEMBERED
        {
            return Ok(cpu.clone());
        }
        let (virt_type, machine) = (self.config.virt_type, self.config.machine.clone());
        let emulator =
            self.config.emulator.as_ref().map(|path| path.to_string_lossy().into_owned());
        let cpu = self
            .hypervisor
            .call("ask for the host's processors", move |connect| {
                cpu::host_cpu(connect, virt_type, emulator.as_deref(), &machine)
            })
            .await?;
        *remembered = Some((Instant::now(), cpu.clone()));
        Ok(cpu)
    }

    /// Whether this host has the bridges that the guest's interfaces are plugged into.
    pub(crate) fn check_bridges(&self, instance: &InstanceSpec) -> Result<(), DriverError> {
        for port in &instance.ports {
            let bridge = bridge_of(&self.config, port);
            let host = &self.context.host;
            if bridge.is_empty() || bridge == ".." || bridge.contains(['/', '\0']) {
                let problem = format!("'{bridge}' of port {} is not a bridge's name", port.id);
                return Err(DriverError::Refused(problem));
            }
            if !std::path::Path::new("/sys/class/net").join(bridge).join("bridge").exists() {
                return Err(DriverError::Refused(format!(
                    "host {host} has no bridge '{bridge}', which port {} is plugged into: make it, or \
                     choose another host",
                    port.id
                )));
            }
        }
        Ok(())
    }
}

fn host_figures(connect: &Connect) -> Result<HostFigures, DriverError> {
    const DOING: &str = "ask for the host's figures";
    let node = connect.get_node_info().doing(DOING)?;
    Ok(HostFigures {
        vcpus: node.cpus,
        memory_mib: node.memory / 1024,
        version: connect.get_hyp_version().doing(DOING)?,
        hostname: connect.get_hostname().doing(DOING)?,
        kind: connect.get_type().doing(DOING)?,
        running: connect.num_of_domains().doing(DOING)?,
    })
}

/// The guest that a domain is. `None` if it is not one of ours, or gone meanwhile.
fn guest(domain: &Domain) -> Result<Option<Guest>, DriverError> {
    let Some(owner_epoch) = domains::owner_epoch(domain)? else { return Ok(None) };
    let uuid = domain.get_uuid().doing("ask for the guest's id")?;
    let Some(state) = domains::state(domain)? else { return Ok(None) };
    let half_here = matches!(
        state,
        DomainState::Paused(PausedFor::Migration | PausedFor::PostCopy | PausedFor::PostCopyFailed)
    );
    let migrating = half_here
        || match domains::has_job(domain) {
            Ok(has_job) => has_job,
            // Something long holds the guest: that is a migration, or as good as one.
            Err(DriverError::Unavailable(_)) => true,
            Err(error) => return Err(error),
        };
    let instance_id = InstanceId(uuid);
    Ok(Some(Guest { instance_id, power_state: state.power_state(), owner_epoch, migrating }))
}

fn uptime(text: &str) -> i64 {
    let seconds = text.split(['.', ' ']).next().unwrap_or_default();
    seconds.parse().unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
