//! Real guests: a [`ComputeDriver`](whimbrel_virt::ComputeDriver) over libvirt, for QEMU with KVM or on its own.
//!
//! ```text
//! driver                  the trait, one line each
//!   spawn power inventory guests of this host
//!   migrate_checks        can it move?  (destination, then source)
//!   migrate_destination   make ready, take over, roll back
//!   migrate_source        drive the job (migrate_plan: how; move_control: stop, hurry)
//!   migrate_follow        follow one that runs (verdict: what became of it; migrate_mend: a broken post-copy)
//! domains connection raw  libvirt: what is asked, on which thread, and the calls that `virt` lacks
//! domain_xml domain_read cpu xml_tree job_stats      libvirt's XML and figures
//! images qemu_img disks epochs incoming probe files paths     this host's files
//! ```
//!
//! Every call that starts or resumes a guest first asks `epochs`, which remembers the highest fencing token
//! of each guest.

mod cold;
mod config;
mod config_drive;
mod connection;
mod cpu;
mod disks;
mod domain_read;
mod domain_xml;
mod domains;
mod driver;
mod epochs;
mod error;
mod files;
mod images;
mod incoming;
mod inventory;
mod job_stats;
mod migrate_checks;
mod migrate_destination;
mod migrate_follow;
mod migrate_mend;
mod migrate_plan;
mod migrate_source;
mod move_control;
mod paths;
mod power;
mod probe;
mod qemu_img;
mod raw;
mod spawn;
#[cfg(test)]
mod test_support;
mod verdict;
mod volumes;
mod xml_tree;

pub use config::{
    Compression, DiskCache, HostContext, InvalidConfig, LibvirtConfig, MigrationConfig, VirtType,
};
pub use driver::LibvirtDriver;
