//! What tests share: a database and a broker of their own, and waiting with a deadline.
//!
//! Both come from servers that `make test` starts; their addresses are in the environment. A database or vhost
//! lives as long as the value that stands for it.

mod broker;
mod database;
mod invariants;
mod wait;

pub use broker::TestBroker;
pub use database::TestDatabase;
pub use invariants::{broken_invariants, everything, holds, tamper};
pub use wait::{wait_for, wait_until};

/// Where the tests' PostgreSQL is: `postgres://USER@HOST:PORT/DATABASE`, the user being a superuser.
pub const DATABASE_URL: &str = "WHIMBREL_TEST_DATABASE_URL";
/// Where the tests' RabbitMQ is, without a vhost: `amqp://USER:PASSWORD@HOST:PORT`.
pub const AMQP_URL: &str = "WHIMBREL_TEST_AMQP_URL";
/// Where its management API is: `http://USER:PASSWORD@HOST:PORT`.
pub const MANAGEMENT_URL: &str = "WHIMBREL_TEST_MANAGEMENT_URL";

/// The address in an environment variable, without a trailing slash.
fn address(variable: &str) -> String {
    match std::env::var(variable) {
        Ok(address) if !address.is_empty() => address.trim_end_matches('/').to_owned(),
        _ => panic!(
            "{variable} is not set: this test needs the project's private servers.\n\
             Run `make test`, or `make servers` in another terminal and set the variables it prints."
        ),
    }
}

/// A name that no other test of this or another process has.
fn unique_name(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

/// Runs `work` to its end from a destructor, whatever runtime the caller is on or none.
fn finish<F>(what: &'static str, work: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = anyhow::Result<()>>,
{
    let worker = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work())
    });
    // The servers end after the tests and take everything with them, so a failure here costs nothing.
    match worker.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => report(&format!("{what} was not removed: {error:#}")),
        Err(_) => report(&format!("{what} was not removed: its removal panicked")),
    }
}

#[expect(clippy::print_stderr, reason = "a destructor has nobody to return an error to")]
fn report(message: &str) {
    eprintln!("{message}");
}
