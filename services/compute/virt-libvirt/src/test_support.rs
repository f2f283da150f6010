//! What this crate's own tests share.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;
use whimbrel_messages::compute::{
    DiskSpec, ImageSpec, InstanceSpec, MigrateData, PortSpec, PreLiveMigrationReply,
};
use whimbrel_model::{DiskFormat, ImageId, InstanceId, MigrationId, PortId, Resources};
use whimbrel_virt::LiveMigrationJob;

use crate::config::{LibvirtConfig, VirtType};

/// A directory that goes away with the value.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("whimbrel-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A guest with one network interface.
pub(crate) fn instance() -> InstanceSpec {
    InstanceSpec {
        id: InstanceId(Uuid::from_u128(0x11)),
        name: "first".to_owned(),
        resources: Resources { vcpus: 1, memory_mib: 128, disk_gib: 1 },
        image: ImageSpec {
            id: ImageId(Uuid::from_u128(0x22)),
            format: DiskFormat::Raw,
            sha256: "0".repeat(64),
            size: 1 << 20,
            virtual_size: 1 << 20,
        },
        ports: vec![PortSpec {
            id: PortId(Uuid::from_u128(0x33)),
            mac: "fa:16:3e:4e:00:65".to_owned(),
            address: "10.78.0.101".to_owned(),
            bridge: "brt".to_owned(),
            prefix: 16,
        }],
        volumes: Vec::new(),
        config_drive: None,
    }
}

/// A host that runs guests on the emulator.
pub(crate) fn qemu_config() -> LibvirtConfig {
    LibvirtConfig {
        virt_type: VirtType::Qemu,
        migration_address: "10.77.0.11".to_owned(),
        hotplug_ports: 1,
        ..LibvirtConfig::default()
    }
}

/// A move of that guest to another host.
pub(crate) fn live_migration_job(block_migration: bool) -> LiveMigrationJob {
    LiveMigrationJob {
        instance: instance(),
        migration_id: MigrationId(Uuid::from_u128(0x44)),
        destination: "host-b".parse().unwrap(),
        data: MigrateData {
            block_migration,
            disks: vec![DiskSpec {
                target: "vda".to_owned(),
                file: "disk".to_owned(),
                format: DiskFormat::Qcow2,
                virtual_size: 1 << 30,
                allocated: 1 << 20,
                has_base: true,
            }],
        },
        listen: PreLiveMigrationReply {
            destination_uri: "qemu+tcp://10.77.0.12/system".to_owned(),
            migrate_uri: Some("tcp://10.77.0.12".to_owned()),
            listen_address: None,
        },
        owner_epoch: 2,
    }
}
