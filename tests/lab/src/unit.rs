//! The processes of a lab that faults are done to, by name.

use std::fmt;
use std::str::FromStr;

use anyhow::bail;

/// Services of which a lab may have several that do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Replica {
    /// `whimbrel-conductor`.
    Conductor,
    /// `whimbrel-scheduler`.
    Scheduler,
}

/// A process of a lab.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// `whimbrel-api`.
    Api,
    /// `whimbrel-conductor`.
    Conductor,
    /// `whimbrel-scheduler`.
    Scheduler,
    /// Another conductor or scheduler; the second has number 2.
    Replica(Replica, u8),
    /// `whimbrel-compute` of a host.
    Compute(String),
    /// libvirtd of a host.
    Libvirtd(String),
    /// RabbitMQ.
    Broker,
    /// PostgreSQL.
    Database,
}

impl Unit {
    /// The compute service of a host.
    pub fn compute(host: &str) -> Self {
        Self::Compute(host.to_owned())
    }

    /// libvirtd of a host.
    pub fn libvirtd(host: &str) -> Self {
        Self::Libvirtd(host.to_owned())
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("api"),
            Self::Conductor => f.write_str("conductor"),
            Self::Scheduler => f.write_str("scheduler"),
            Self::Replica(Replica::Conductor, number) => write!(f, "conductor@{number}"),
            Self::Replica(Replica::Scheduler, number) => write!(f, "scheduler@{number}"),
            Self::Compute(host) => write!(f, "compute@{host}"),
            Self::Libvirtd(host) => write!(f, "libvirtd@{host}"),
            Self::Broker => f.write_str("broker"),
            Self::Database => f.write_str("database"),
        }
    }
}

impl FromStr for Unit {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        Ok(match text.split_once('@') {
            None if text == "api" => Self::Api,
            None if text == "conductor" => Self::Conductor,
            None if text == "scheduler" => Self::Scheduler,
            None if text == "broker" => Self::Broker,
            None if text == "database" => Self::Database,
            Some(("conductor", number)) => Self::Replica(Replica::Conductor, number.parse()?),
            Some(("scheduler", number)) => Self::Replica(Replica::Scheduler, number.parse()?),
            Some(("compute", host)) => Self::compute(host),
            Some(("libvirtd", host)) => Self::libvirtd(host),
            _ => bail!(
                "no process '{text}': there are api, conductor, scheduler, broker, database, \
                 compute@HOST and libvirtd@HOST"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_read_again() {
        let all = [
            Unit::Api,
            Unit::Conductor,
            Unit::Scheduler,
            Unit::Broker,
            Unit::Database,
            Unit::Replica(Replica::Conductor, 2),
            Unit::Replica(Replica::Scheduler, 3),
            Unit::compute("host-a"),
            Unit::libvirtd("host-b"),
        ];
        for unit in all {
            assert_eq!(unit.to_string().parse::<Unit>().unwrap(), unit);
        }
        assert!("compute".parse::<Unit>().is_err());
    }
}
