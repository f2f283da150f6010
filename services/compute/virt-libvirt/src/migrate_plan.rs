//! How a migration's job is asked for: flags and parameters.

use std::ffi::CStr;

use virt_sys as sys;
use whimbrel_virt::LiveMigrationJob;

use crate::config::{Compression, MigrationConfig};
use crate::raw::Value;

/// A job, ready to be started.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MigrationPlan {
    /// The destination's libvirt.
    pub(crate) destination_uri: String,
    /// `VIR_MIGRATE_…`.
    pub(crate) flags: u32,
    /// `VIR_MIGRATE_PARAM_…`, but for the guest's definition.
    pub(crate) parameters: Vec<(&'static CStr, Value)>,
    /// How long the guest may stand still, in milliseconds; 0 is the hypervisor's default.
    pub(crate) max_downtime_ms: u64,
}

/// Whether libvirt can see for itself that the guest's storage is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedStorage {
    /// A network file system.
    Visible,
    /// It looks like a local disk: a bind mount, or a cluster file system that libvirt does not know.
    Hidden,
}

/// The plan for a job.
pub(crate) fn plan(
    config: &MigrationConfig,
    job: &LiveMigrationJob,
    storage: SharedStorage,
) -> MigrationPlan {
    let mut parameters = Vec::new();
    if let Some(uri) = &job.listen.migrate_uri {
        parameters.push((sys::VIR_MIGRATE_PARAM_URI, Value::Text(uri.clone())));
    }
    if let Some(address) = &job.listen.listen_address {
        parameters.push((sys::VIR_MIGRATE_PARAM_LISTEN_ADDRESS, Value::Text(address.clone())));
    }
    for (name, mib_s) in [
        (sys::VIR_MIGRATE_PARAM_BANDWIDTH, config.bandwidth_mib_s),
        (sys::VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY, config.post_copy_bandwidth_mib_s),
    ] {
        if mib_s > 0 {
            parameters.push((name, Value::Number(i64::try_from(mib_s).unwrap_or(i64::MAX))));
        }
    }
    if config.parallel_connections > 1 {
        let connections = Value::Number(i64::from(config.parallel_connections));
        parameters.push((sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, connections));
    }
    if let Some(method) = method(config.compression) {
        parameters.push((sys::VIR_MIGRATE_PARAM_COMPRESSION, Value::Text(method.to_owned())));
    }
    if job.data.block_migration {
        for disk in &job.data.disks {
            parameters
                .push((sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, Value::Text(disk.target.clone())));
        }
    }
    MigrationPlan {
        destination_uri: job.listen.destination_uri.clone(),
        flags: flags(config, job.data.block_migration, storage),
        parameters,
        max_downtime_ms: config.max_downtime_ms,
    }
}

fn method(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        Compression::Xbzrle => Some("xbzrle"),
        Compression::Zlib => Some("zlib"),
        Compression::Zstd => Some("zstd"),
    }
}

fn flags(config: &MigrationConfig, block_migration: bool, storage: SharedStorage) -> u32 {
    // Peer to peer, so that the job goes on when this service dies. Without UNDEFINE_SOURCE, since the
    // definition that stays, shut off and "migrated", is the proof that the guest has moved;
    // post_live_migration removes it.
    let mut flags = sys::VIR_MIGRATE_LIVE
        | sys::VIR_MIGRATE_PEER2PEER
        | sys::VIR_MIGRATE_PERSIST_DEST
        | sys::VIR_MIGRATE_ABORT_ON_ERROR;
    if block_migration {
        flags |= sys::VIR_MIGRATE_NON_SHARED_INC;
    } else if storage == SharedStorage::Hidden {
        // libvirt refuses what it can't see to be shared. The hosts have proved to each other, with fresh
        // files, that it is; and QEMU locks its images, so that they are never written from both.
        flags |= sys::VIR_MIGRATE_UNSAFE;
    }
    let permitted = [
        (config.auto_converge, sys::VIR_MIGRATE_AUTO_CONVERGE),
        (config.post_copy, sys::VIR_MIGRATE_POSTCOPY),
        (config.parallel_connections > 1, sys::VIR_MIGRATE_PARALLEL),
        (config.compression != Compression::None, sys::VIR_MIGRATE_COMPRESSED),
        (config.tls, sys::VIR_MIGRATE_TLS),
    ];
    for (_, flag) in permitted.iter().filter(|(permitted, _)| *permitted) {
        flags |= flag;
    }
    flags
}

impl MigrationPlan {
    /// The plan with the guest's definition at the destination: the one that it runs with and the one that
    /// is stored are the same, or a later restart there would use the source's devices (OSSA-2020-006).
    pub(crate) fn with_definition(mut self, xml: String) -> Self {
        self.parameters.push((sys::VIR_MIGRATE_PARAM_DEST_XML, Value::Text(xml.clone())));
        self.parameters.push((sys::VIR_MIGRATE_PARAM_PERSIST_XML, Value::Text(xml)));
        self
    }

    /// The plan that takes up a job whose post-copy broke.
    pub(crate) fn resuming_post_copy(mut self) -> Self {
        self.flags |= sys::VIR_MIGRATE_POSTCOPY | sys::VIR_MIGRATE_POSTCOPY_RESUME;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::live_migration_job;

    const ALWAYS: u32 = sys::VIR_MIGRATE_LIVE
        | sys::VIR_MIGRATE_PEER2PEER
        | sys::VIR_MIGRATE_PERSIST_DEST
        | sys::VIR_MIGRATE_ABORT_ON_ERROR;

    #[test]
    fn shared_storage_moves_memory_only() {
        let job = live_migration_job(false);
        let config = MigrationConfig::default();
        let made = plan(&config, &job, SharedStorage::Visible);
        assert_eq!(made.flags, ALWAYS);
        assert_eq!(made.destination_uri, "qemu+tcp://10.77.0.12/system");
        let uri = Value::Text("tcp://10.77.0.12".to_owned());
        assert_eq!(made.parameters, [(sys::VIR_MIGRATE_PARAM_URI, uri)]);

        let hidden = plan(&config, &job, SharedStorage::Hidden);
        assert_eq!(hidden.flags, ALWAYS | sys::VIR_MIGRATE_UNSAFE);
    }

    #[test]
    fn local_disks_move_by_name_over_what_was_made_ready() {
        let job = live_migration_job(true);
        let made = plan(&MigrationConfig::default(), &job, SharedStorage::Hidden);
        assert_eq!(made.flags, ALWAYS | sys::VIR_MIGRATE_NON_SHARED_INC);
        let vda = Value::Text("vda".to_owned());
        assert!(made.parameters.contains(&(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, vda)));
    }

    #[test]
    fn every_option_reaches_libvirt() {
        let config = MigrationConfig {
            bandwidth_mib_s: 50,
            max_downtime_ms: 400,
            parallel_connections: 4,
            compression: Compression::Zstd,
            auto_converge: true,
            tls: true,
            ..MigrationConfig::default()
        };
        let made = plan(&config, &live_migration_job(false), SharedStorage::Visible);
        let expected = ALWAYS
            | sys::VIR_MIGRATE_PARALLEL
            | sys::VIR_MIGRATE_COMPRESSED
            | sys::VIR_MIGRATE_AUTO_CONVERGE
            | sys::VIR_MIGRATE_TLS;
        assert_eq!(made.flags, expected);
        assert_eq!(made.max_downtime_ms, 400);
        for parameter in [
            (sys::VIR_MIGRATE_PARAM_BANDWIDTH, Value::Number(50)),
            (sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, Value::Number(4)),
            (sys::VIR_MIGRATE_PARAM_COMPRESSION, Value::Text("zstd".to_owned())),
        ] {
            assert!(made.parameters.contains(&parameter), "{parameter:?}");
        }
    }

    #[test]
    fn what_is_stored_at_the_destination_is_what_runs_there() {
        let job = live_migration_job(false);
        let made = plan(&MigrationConfig::default(), &job, SharedStorage::Visible)
            .with_definition("<domain/>".to_owned());
        let xml = Value::Text("<domain/>".to_owned());
        for name in [sys::VIR_MIGRATE_PARAM_DEST_XML, sys::VIR_MIGRATE_PARAM_PERSIST_XML] {
            assert!(made.parameters.contains(&(name, xml.clone())));
        }
    }
}
