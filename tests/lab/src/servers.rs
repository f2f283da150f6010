//! A PostgreSQL and a RabbitMQ of the project's own, never the machine's.
//!
//! They live in one directory, listen on free loopback ports, and end with their owner, also when that is killed.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::Rng;

mod daemon;
mod management;
mod postgres;
mod rabbitmq;
mod run;

pub use postgres::Postgres;
pub use rabbitmq::RabbitMq;
pub use run::ServersCommand;

/// User of both servers, and its password.
pub const USER: &str = "whimbrel";

/// What the servers promise when the machine loses power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: PostgreSQL leaves it to the kernel when commits reach the disk. For tests, whose data is thrown
    /// away. What was acknowledged still survives when the server is killed.
    Throwaway,
    /// Commits survive, as in production: for measurements, and for faults that crash the database.
    Durable,
}

/// Both servers, running.
#[derive(Debug)]
pub struct Servers {
    database: Postgres,
    broker: RabbitMq,
    directory: PathBuf,
}

impl Servers {
    /// Starts both at the same time, with fresh data; what an earlier run left in `directory` is removed.
    /// Returns when both answer. The directory is to be an absolute path that is used for nothing else.
    ///
    /// # Errors
    /// When a program is missing or doesn't come up; the message holds the end of its log.
    pub fn start(directory: &Path, durability: Durability) -> anyhow::Result<Self> {
        for old in ["postgres", "rabbitmq"] {
            remove(&directory.join(old))?;
        }
        std::fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
        let ports = free_ports::<5>()?;
        let (database, broker) = std::thread::scope(|scope| {
            let database =
                scope.spawn(|| Postgres::create(&directory.join("postgres"), ports[0], durability));
            let broker = RabbitMq::create(
                &directory.join("rabbitmq"),
                rabbitmq::Ports {
                    amqp: ports[1],
                    management: ports[2],
                    epmd: ports[3],
                    distribution: ports[4],
                },
            );
            (database.join().expect("starting PostgreSQL doesn't panic"), broker)
        });
        Ok(Self { database: database?, broker: broker?, directory: directory.to_owned() })
    }

    /// `postgres://whimbrel@127.0.0.1:PORT/whimbrel`; the user is a superuser.
    pub fn database_url(&self) -> String {
        self.database.url(USER)
    }

    /// `amqp://whimbrel:whimbrel@127.0.0.1:PORT/VHOST`; the broker comes with the vhost `/`.
    pub fn amqp_url(&self, vhost: &str) -> String {
        self.broker.url(vhost)
    }

    /// `http://whimbrel:whimbrel@127.0.0.1:PORT`, the broker's management API.
    pub fn management_url(&self) -> String {
        self.broker.management_url()
    }

    /// Makes a vhost on which the user may do everything. One that is there stays as it is.
    ///
    /// # Errors
    /// When the broker doesn't answer or refuses.
    pub fn create_vhost(&self, vhost: &str) -> anyhow::Result<()> {
        self.broker.create_vhost(vhost)
    }

    /// Deletes a vhost with everything in it; its connections are closed.
    ///
    /// # Errors
    /// When the broker doesn't answer or refuses.
    pub fn delete_vhost(&self, vhost: &str) -> anyhow::Result<()> {
        self.broker.delete_vhost(vhost)
    }

    /// The database server, to be stopped, killed and started.
    pub fn database(&self) -> &Postgres {
        &self.database
    }

    /// The broker, to be stopped, killed and started.
    pub fn broker(&self) -> &RabbitMq {
        &self.broker
    }

    /// What tests read to find the servers: names and values of environment variables.
    pub fn test_environment(&self) -> [(&'static str, String); 3] {
        [
            ("WHIMBREL_TEST_DATABASE_URL", self.database.url("postgres")),
            ("WHIMBREL_TEST_AMQP_URL", self.amqp_url("").trim_end_matches('/').to_owned()),
            ("WHIMBREL_TEST_MANAGEMENT_URL", self.management_url()),
        ]
    }

    /// Ends both at once and removes their data and logs.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn remove(self) -> anyhow::Result<()> {
        let Self { database, broker, directory } = self;
        // Dropping kills: nobody needs a checkpoint of what is removed next.
        drop((database, broker));
        remove(&directory)
    }
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Distinct ports that nobody listens on. They lie below the range from which the kernel takes the ports of
/// outgoing connections: none of those can come in between.
pub(crate) fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = (0..1000)
            .find_map(|_| {
                let candidate = rand::rng().random_range(20_000..32_000);
                TcpListener::bind((Ipv4Addr::LOCALHOST, candidate)).ok()
            })
            .context("no free port from 20000 to 32000")?;
        *port = listener.local_addr()?.port();
        // Kept until all are found, so that they are distinct.
        held.push(listener);
    }
    Ok(ports)
}
