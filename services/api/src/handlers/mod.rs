//! What is done for each request. One file for each noun.

mod cold_actions;
pub(crate) mod flavors;
pub(crate) mod hypervisors;
pub(crate) mod image_data;
pub(crate) mod images;
pub(crate) mod instance_actions;
pub(crate) mod migrations;
pub(crate) mod misc;
pub(crate) mod networks;
pub(crate) mod own;
pub(crate) mod server_actions;
pub(crate) mod server_create;
pub(crate) mod server_migrations;
pub(crate) mod servers;
pub(crate) mod services;
