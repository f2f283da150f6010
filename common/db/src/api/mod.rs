//! What the HTTP API reads and writes. One file for each noun; a row type is what the API sees of a table.

mod action;
mod aggregate;
mod flavor;
mod flavor_access;
mod host;
mod image;
mod keypair;
mod migration;
mod network;
mod operate;
mod port;
mod quota;
mod server;
mod server_group;
mod server_list;
mod server_update;
mod volume;

pub use action::{ActionRow, HistoryRow, action_get, actions_list, history_list};
pub use aggregate::{
    AggregateRow, AggregateUpdate, DEFAULT_ZONE, aggregate_add_host, aggregate_create,
    aggregate_delete, aggregate_get, aggregate_remove_host, aggregate_update, aggregates_list,
    zones_of_hosts,
};
pub use flavor::{
    FlavorRow, flavor_create, flavor_delete, flavor_get, flavor_of_server, flavor_update,
    flavor_with_server, flavors_list,
};
pub use flavor_access::{
    flavor_access_add, flavor_access_list, flavor_access_remove, flavors_granted,
};
pub use host::{
    AllocationRow, HostRow, HostUpdate, ObligationRow, ServiceRow, allocations_list, host_delete,
    host_get, host_update, hosts_list, obligations_list, services_list,
};
pub use image::{
    ImageRow, ImageUpdate, NewImage, image_activate, image_create, image_delete, image_get,
    image_update, images_list,
};
pub use keypair::{
    KeypairRow, NewKeypair, keypair_create, keypair_delete, keypair_get, keypairs_list,
};
pub use migration::{
    MigrationFilter, MigrationRow, SagaView, migration_get, migration_saga, migrations_list,
};
pub use network::{
    NetworkRow, NewNetwork, network_create, network_delete, network_get, networks_list,
};
pub use operate::{
    Caller, EvacuateOrder, LiveMigrateOrder, ResizeOrder, Started, abort_migration, attach_volume,
    confirm_resize, delete_server, detach_volume, due_confirmations, evacuate_server,
    force_complete, live_migrate_server, reboot_server, resize_server, revert_resize, start_server,
    stop_server,
};
pub use port::{PortRow, PortView, WantedPort, ports_list};
pub use quota::{
    RESOURCES, Usage, keypairs_count, quotas_get, quotas_reset, quotas_set, server_groups_count,
    usage,
};
pub use server::{NewServer, ServerRow, server_get, server_project, servers_create};
pub use server_group::{
    ServerGroupRow, groups_of_servers, server_group_create, server_group_delete, server_group_get,
    server_group_members, server_groups_list,
};
pub use server_list::{ServerFilter, SortKey, servers_list};
pub use server_update::{
    ServerUpdate, server_lock, server_metadata, server_reset_state, server_tags, server_unlock,
    server_update,
};
pub use volume::{
    AttachmentRow, NewVolume, VolumeRow, volume_create, volume_delete, volume_get, volumes_list,
};
