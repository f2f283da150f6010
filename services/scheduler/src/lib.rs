//! The scheduler: answers `select_destinations` by filters, weighers and an atomic claim, and says why.
//!
//! Any number of replicas; each takes what has arrived, ranks hosts in memory and claims in one transaction.

pub mod config;
pub mod filters;
mod manager;
pub mod rank;
pub mod weighers;

pub use config::Config;
pub use manager::run;
