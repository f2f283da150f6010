//! The program, against all services with simulated hypervisors.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod callers;
#[path = "../../../tests/it/cloud.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod cloud;
mod hosts;
mod keystone;
mod manual;
mod program;
mod servers;
