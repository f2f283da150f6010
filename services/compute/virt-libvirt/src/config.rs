//! Section `[libvirt]` of the compute service's configuration.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_model::HostName;

/// How guests run on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LibvirtConfig {
    /// The hypervisor of this host.
    pub uri: String,
    /// What carries out the guests' instructions.
    pub virt_type: VirtType,
    /// The emulator's program; libvirt's choice if not given.
    pub emulator: Option<PathBuf>,
    /// The machine that new guests get. The hypervisor turns `q35` and `pc` into its newest version; pin an
    /// older one (`pc-q35-7.2`) where guests are to move to hosts with an older emulator.
    pub machine: String,
    /// `host-model`, `host-passthrough`, or a model that libvirt knows by name. Without it, guests get
    /// `host-model` on KVM and a plain `qemu64` on QEMU's own emulation, which both can migrate.
    pub cpu_model: Option<String>,
    /// Where guests' disks are. The same path on all hosts, whether they share it or not.
    pub instances_path: PathBuf,
    /// Address that other hosts reach this one at for migrations: IPv4, IPv6 or name.
    pub migration_address: String,
    /// The bridge for ports that name none.
    pub bridge: Option<String>,
    /// How the host caches guests' disks. Only `none` and `directsync` keep guests safe on network
    /// storage; the others are for file systems that lack direct I/O.
    pub disk_cache: DiskCache,
    /// Cache of translated code for each guest that runs on QEMU's own emulation, in MiB.
    pub tcg_tb_cache_mib: u32,
    /// Devices that can be plugged into a new guest of machine `q35` while it runs, volumes above all; 16 at most.
    pub hotplug_ports: u8,
    /// Seconds between signs of life on the connection to libvirt.
    pub keepalive_interval_s: i32,
    /// How many of them may be missed.
    pub keepalive_count: u32,
    /// How long libvirt may take for an answer (except for a migration), in milliseconds.
    pub call_timeout_ms: u64,
    /// Threads that talk to libvirt. It handles at most `max_client_requests` (5) of a client at once.
    pub call_threads: usize,
    /// How long a soft reboot waits for the guest before it becomes a hard one, in milliseconds.
    pub soft_reboot_timeout_ms: u64,
    /// The `qemu-img` program.
    pub qemu_img: PathBuf,
    /// How guests move.
    pub migration: MigrationConfig,
}

impl Default for LibvirtConfig {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            virt_type: VirtType::Kvm,
            emulator: None,
            machine: "q35".to_owned(),
            cpu_model: None,
            instances_path: PathBuf::from("/var/lib/whimbrel/instances"),
            migration_address: String::new(),
            bridge: None,
            disk_cache: DiskCache::None,
            tcg_tb_cache_mib: 32,
            hotplug_ports: 8,
            keepalive_interval_s: 5,
            keepalive_count: 3,
            call_timeout_ms: 60_000,
            call_threads: 4,
            soft_reboot_timeout_ms: 60_000,
            qemu_img: PathBuf::from("qemu-img"),
            migration: MigrationConfig::default(),
        }
    }
}

/// Section `[libvirt.migration]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationConfig {
    /// Most that a migration may send, in MiB a second, memory and disks each; 0 is no limit.
    pub bandwidth_mib_s: u64,
    /// How long a guest may stand still at the switch-over, in milliseconds; 0 is the hypervisor's default.
    pub max_downtime_ms: u64,
    /// Connections for memory; more than one sends in parallel.
    pub parallel_connections: u32,
    /// How memory is compressed.
    pub compression: Compression,
    /// Slow a guest down that dirties memory faster than it can be sent.
    pub auto_converge: bool,
    /// Permit the switch to post-copy, which `force_complete` then uses instead of pausing the guest.
    pub post_copy: bool,
    /// Most that a migration may send after the switch to post-copy, in MiB a second; 0 is no limit.
    pub post_copy_bandwidth_mib_s: u64,
    /// Encrypt memory and disks on their way, with the certificates of the emulator's configuration.
    pub tls: bool,
    /// What sources connect to for moves to this host; `qemu+tcp://MIGRATION_ADDRESS/system` if not given.
    pub destination_uri: Option<String>,
    /// Moves that this host drives at once; others wait. libvirt answers other calls only as long as
    /// this is below its `max_workers` (20).
    pub max_concurrent: usize,
    /// Port at `migration_address` that takes disks of guests which are moved while shut off.
    pub disk_port: u16,
    /// How often a running move's figures are read, in milliseconds.
    pub poll_interval_ms: u64,
}

impl Default for MigrationConfig {
    fn default() -> Self {
        Self {
            bandwidth_mib_s: 0,
            max_downtime_ms: 0,
            parallel_connections: 1,
            compression: Compression::None,
            auto_converge: false,
            post_copy: false,
            post_copy_bandwidth_mib_s: 0,
            tls: false,
            destination_uri: None,
            max_concurrent: 8,
            disk_port: 49_100,
            poll_interval_ms: 250,
        }
    }
}

/// What carries out the guests' instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VirtType {
    /// The processor, through the kernel.
    Kvm,
    /// The emulator. Slow, but works anywhere.
    Qemu,
}

impl VirtType {
    /// libvirt's name for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

/// How the host caches guests' disks, as QEMU names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DiskCache {
    /// Not at all.
    None,
    /// Not at all, and each write reaches the disk.
    Directsync,
    /// Written when the guest flushes.
    Writeback,
    /// Each write reaches the disk.
    Writethrough,
}

impl DiskCache {
    /// QEMU's name for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Directsync => "directsync",
            Self::Writeback => "writeback",
            Self::Writethrough => "writethrough",
        }
    }
}

/// How memory is compressed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    None,
    /// Only what changed in a page is sent again. Not together with parallel connections.
    Xbzrle,
    /// zlib, on parallel connections.
    Zlib,
    /// zstd, on parallel connections.
    Zstd,
}

/// What the compute service's own configuration adds.
#[derive(Clone, Debug)]
pub struct HostContext {
    /// This host.
    pub host: HostName,
    /// A directory of this host alone, which survives reboots.
    pub state_dir: PathBuf,
    /// Base images are fetched from `{image_url}/v2/images/{id}/file`.
    pub image_url: String,
}

/// A configuration that can't work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libvirt.{key}: {problem}")]
pub struct InvalidConfig {
    /// The key, below `[libvirt]`.
    pub key: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn invalid(key: &'static str, problem: impl Into<String>) -> InvalidConfig {
    InvalidConfig { key, problem: problem.into() }
}

impl LibvirtConfig {
    /// Whether it can work.
    ///
    /// # Errors
    ///
    /// The first key that can't.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let address = &self.migration_address;
        if address.is_empty() {
            return Err(invalid("migration_address", "must be set to this host's address"));
        }
        if !address.chars().all(|c| c.is_ascii_alphanumeric() || ".-:".contains(c)) {
            return Err(invalid("migration_address", "is an address or a name, without a port"));
        }
        if !self.instances_path.is_absolute() {
            return Err(invalid("instances_path", "must be absolute"));
        }
        if self.call_threads == 0 {
            return Err(invalid("call_threads", "must be at least 1"));
        }
        let migration = &self.migration;
        if migration.max_concurrent == 0 || migration.max_concurrent > 16 {
            return Err(invalid("migration.max_concurrent", "must be 1 to 16"));
        }
        if migration.poll_interval_ms == 0 {
            return Err(invalid("migration.poll_interval_ms", "must be at least 1"));
        }
        let parallel = migration.parallel_connections > 1;
        match migration.compression {
            Compression::Xbzrle if parallel => {
                Err(invalid("migration.compression", "xbzrle needs parallel_connections = 1"))
            }
            Compression::Zlib | Compression::Zstd if !parallel => Err(invalid(
                "migration.compression",
                "zlib and zstd need parallel_connections of at least 2",
            )),
            _ if migration.post_copy && parallel => Err(invalid(
                "migration.post_copy",
                "needs parallel_connections = 1: emulators before QEMU 10.1 lose the guest with both",
            )),
            _ => Ok(()),
        }
    }

    /// The address in the form that a URI needs.
    fn uri_address(&self) -> String {
        if self.migration_address.contains(':') {
            format!("[{}]", self.migration_address)
        } else {
            self.migration_address.clone()
        }
    }

    /// What a source connects to for a move to this host.
    pub(crate) fn destination_uri(&self) -> String {
        match &self.migration.destination_uri {
            Some(uri) => uri.clone(),
            None => format!("qemu+tcp://{}/system", self.uri_address()),
        }
    }

    /// Where this host's emulators listen for the memory of guests that come.
    pub(crate) fn migrate_uri(&self) -> String {
        format!("tcp://{}", self.uri_address())
    }

    /// The processor that new guests get.
    pub(crate) fn cpu_model(&self) -> &str {
        match (&self.cpu_model, self.virt_type) {
            (Some(model), _) => model,
            (None, VirtType::Kvm) => "host-model",
            (None, VirtType::Qemu) => "qemu64",
        }
    }
}

#[cfg(test)]
mod tests;
