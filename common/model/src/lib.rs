//! The nouns of Whimbrel and their rules: identities, states, the events that move between them.
//!
//! Nothing here does I/O, reads a clock or knows of a database or broker, so every rule can be tested
//! exhaustively. States move only through `on(event)`; nobody assigns one.

mod change;
mod host;
mod ids;
mod instance;
mod migration;
mod resources;
mod volume;

pub use change::Change;
pub use host::{HostName, InvalidHostName, ServiceStatus};
pub use ids::{ImageId, InstanceId, MigrationId, NetworkId, PortId, RequestId, SagaId, VolumeId};
pub use instance::{
    IllegalInstanceEvent, InstanceEvent, InstanceState, PowerState, TaskState, VmState,
};
pub use migration::{IllegalMigrationEvent, MigrationEvent, MigrationStatus, MigrationType};
pub use resources::{DiskFormat, FlavorSnapshot, Resources};
pub use volume::{IllegalVolumeEvent, VolumeEvent, VolumeStatus};
