//! Checks of the repository as a whole, and of the services together over simulated hypervisors.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod bad_input;
mod client_session;
mod clients;
mod cloud;
mod cold_moves;
mod configuration;
mod faults;
mod identity;
mod lost_hosts;
mod moves;
mod schemas;
mod tidy;
mod volumes;
