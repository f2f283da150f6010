//! The lab: hosts with real hypervisors on one machine, private servers, faults, and observers that don't
//! trust what they observe. The library half is what tests use; the binary is for people.
//!
//! ```text
//! root namespace                       switch namespace           host namespaces
//! PostgreSQL, RabbitMQ ◀─┐
//! api, conductor,        ├─ forwarders ◀─ 10.77.0.1:5672, :8774 ◀── whimbrel-compute, libvirtd, QEMU
//! scheduler            ◀─┘               bridges brm, brt            eth0 10.77.0.11 …, bridge brt
//! ```

mod agent;
pub mod api;
mod builder;
pub mod checks;
mod cloud;
mod config_files;
mod console;
mod disk_image;
mod faults;
mod forward;
pub mod guest;
mod history;
mod host;
mod hosts;
mod initramfs;
mod kvm;
mod lab;
mod libvirt;
mod netns;
mod observe;
mod ping;
mod process;
pub mod servers;
mod services;
mod status;
mod storage;
mod switch;
mod unit;
mod wait;

pub use agent::Agent;
pub use api::{Api, BlockMigration, NewServer};
pub use builder::{Driver, LabBuilder};
pub use cloud::{MAX_HOSTS, labs_dir};
pub use config_files::{MigrationTuning, VirtType};
pub use console::{Console, Pulse};
pub use faults::Path;
pub use host::{GuestProcess, Host, Storage};
pub use hosts::Hosts;
pub use lab::Lab;
pub use ping::{PingReport, Pinger};
pub use status::{HostStatus, LabStatus, ProcessStatus, cpu_ms_of_tree};
pub use storage::Volume;
pub use switch::{Link, SWITCH_ADDRESS, Switch, TENANT_CIDR};
pub use unit::{Replica, Unit};
pub use wait::{Deadline, interrupt, is_interrupted, until, until_done};
