//! The lab: hosts with real hypervisors on one machine, private servers, faults, and observers that don't
//! trust what they observe. The library half is what tests use; the binary is for people.

mod cloud;
mod config_files;
mod forward;
mod host;
mod libvirt;
mod netns;
mod observe;
mod ping;
mod process;
pub mod servers;
mod switch;
mod wait;

pub use cloud::MAX_HOSTS;
pub use config_files::{MigrationTuning, VirtType};
pub use host::{GuestProcess, Host, Storage};
pub use ping::{PingReport, Pinger};
pub use switch::{Link, SWITCH_ADDRESS, Switch, TENANT_CIDR};
pub use wait::{Deadline, until};
