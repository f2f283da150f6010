//! Disks on storage of the network: what they are, and what the compute service is asked about them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use whimbrel_model::{InstanceId, VolumeId};

use super::{Done, InstanceSpec};
use crate::Rpc;

/// A volume, as a guest has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct VolumeSpec {
    /// The volume. The guest sees it as the disk's serial number.
    pub id: VolumeId,
    /// `vdb` and the like.
    pub device: String,
    /// Where its bytes are.
    pub source: VolumeSource,
}

/// Where a volume's bytes are. The emulator itself connects there, so a host holds nothing of a volume between
/// the life of one emulator and the next. Always raw: a format would be read from what guests write.
///
/// Passwords are never part of it. Where storage wants one, hosts keep it as a secret of libvirt's, and this names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "protocol", rename_all = "lowercase", deny_unknown_fields)]
pub enum VolumeSource {
    /// Network Block Device.
    Nbd {
        /// The server.
        server: StorageAddress,
        /// The name that it exports the volume by.
        export: String,
        /// Whether the connection is encrypted, with the certificates that the host's emulators use.
        #[serde(default)]
        tls: bool,
    },
    /// Ceph.
    Rbd {
        /// The monitors.
        monitors: Vec<StorageAddress>,
        /// The pool.
        pool: String,
        /// The image in the pool.
        image: String,
        /// The user, if storage wants one.
        #[serde(default)]
        user: Option<String>,
        /// The user's key, as a secret that each host's libvirt has.
        #[serde(default)]
        secret: Option<Uuid>,
    },
    /// iSCSI, by the emulator's own initiator.
    Iscsi {
        /// The portal.
        portal: StorageAddress,
        /// The target's name, `iqn.…`.
        target: String,
        /// The logical unit.
        lun: u16,
        /// The user, if storage wants one.
        #[serde(default)]
        user: Option<String>,
        /// The user's password, as a secret that each host's libvirt has.
        #[serde(default)]
        secret: Option<Uuid>,
    },
}

/// A server of storage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageAddress {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Give a guest one of its volumes: at once if it runs, and for every start from now on. Its undo is [`DetachVolume`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachVolume {
    /// The guest, as it will be.
    pub instance: InstanceSpec,
    /// Which of its volumes.
    pub volume_id: VolumeId,
    /// The fencing token it runs under.
    pub owner_epoch: i64,
}
rpc!(AttachVolume, "attach_volume", Done);

/// Take a volume from a guest. Refused when the guest does not let go of it in time. Fine if it does not have it, or
/// is not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DetachVolume {
    /// The guest.
    pub instance_id: InstanceId,
    /// The volume.
    pub volume_id: VolumeId,
    /// How long its operating system is given, in milliseconds.
    pub timeout_ms: i64,
}
rpc!(DetachVolume, "detach_volume", Done);
