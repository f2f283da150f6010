//! What the HTTP API reads and writes. One file for each noun; a row type is what the API sees of a table.

mod action;
mod flavor;
mod host;
mod image;
mod migration;
mod network;
mod operate;
mod port;
mod server;
mod server_list;

pub use action::{ActionRow, HistoryRow, action_get, actions_list, history_list};
pub use flavor::{
    FlavorRow, flavor_create, flavor_delete, flavor_get, flavor_of_server, flavor_with_server,
    flavors_list,
};
pub use host::{
    AllocationRow, HostRow, HostUpdate, ObligationRow, ServiceRow, allocations_list, host_delete,
    host_get, host_update, hosts_list, obligations_list, services_list,
};
pub use image::{ImageRow, image_activate, image_create, image_delete, image_get, images_list};
pub use migration::{
    MigrationFilter, MigrationRow, SagaView, migration_get, migration_saga, migrations_list,
};
pub use network::{
    NetworkRow, NewNetwork, network_create, network_delete, network_get, networks_list,
};
pub use operate::{
    Caller, EvacuateOrder, LiveMigrateOrder, ResizeOrder, Started, abort_migration, confirm_resize,
    delete_server, due_confirmations, evacuate_server, force_complete, live_migrate_server,
    reboot_server, resize_server, revert_resize, start_server, stop_server,
};
pub use port::{PortRow, WantedPort};
pub use server::{NewServer, ServerRow, server_create, server_get};
pub use server_list::{ServerFilter, servers_list};
