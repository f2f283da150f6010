//! Checks of the repository as a whole, and of the services together over simulated hypervisors.

mod bad_input;
mod cloud;
mod faults;
mod moves;
mod schemas;
mod tidy;
