//! Faults by command.

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use whimbrel_lab::{Lab, Link, Path, Unit};

/// What is to go wrong. Processes are api, conductor, scheduler, broker, database, compute@HOST, libvirtd@HOST.
#[derive(Clone, Debug, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fault {
    /// Kill a host suddenly, with all that runs on it.
    KillHost {
        /// The host.
        host: String,
    },
    /// Start a host that was killed.
    StartHost {
        /// The host.
        host: String,
    },
    /// Kill a process with SIGKILL.
    Kill {
        /// The process.
        process: String,
    },
    /// Stop a process in order.
    Stop {
        /// The process.
        process: String,
    },
    /// Start a process that was killed or stopped.
    Start {
        /// The process.
        process: String,
    },
    /// Kill a process with SIGKILL and start it again.
    Restart {
        /// The process.
        process: String,
    },
    /// Make a process stand still.
    Freeze {
        /// The process.
        process: String,
    },
    /// Let it go on.
    Thaw {
        /// The process.
        process: String,
    },
    /// Kill the emulator of a guest.
    KillGuest {
        /// The host it runs on.
        host: String,
        /// The server's id.
        server: String,
    },
    /// Cut a host's cable.
    Cut {
        /// The host.
        host: String,
        /// The guests' cable instead of that for management and migrations.
        #[arg(long)]
        tenant: bool,
    },
    /// Mend it.
    Heal {
        /// The host.
        host: String,
        /// The guests' cable instead of that for management and migrations.
        #[arg(long)]
        tenant: bool,
    },
    /// Limit a host's cable in both directions.
    Limit {
        /// The host.
        host: String,
        /// MiB a second; leave out to lift the limit.
        mib_s: Option<u32>,
        /// The guests' cable instead of that for management and migrations.
        #[arg(long)]
        tenant: bool,
    },
    /// Swallow everything between the hosts and a server.
    Pause {
        /// `broker` or `api`.
        server: String,
    },
    /// Let it through again.
    Resume {
        /// `broker` or `api`.
        server: String,
    },
    /// Break all connections between the hosts and a server.
    Reset {
        /// `broker` or `api`.
        server: String,
    },
}

impl Fault {
    /// Does it, and says what was done.
    pub(super) fn inject(&self, lab: &Lab) -> anyhow::Result<String> {
        let unit = |process: &str| process.parse::<Unit>();
        Ok(match self {
            Self::KillHost { host } => lab.kill_host(host).map(|()| format!("{host} is dead"))?,
            Self::StartHost { host } => lab.start_host(host).map(|()| format!("{host} reports"))?,
            Self::Kill { process } => {
                lab.kill(&unit(process)?).map(|()| format!("{process} is dead"))?
            }
            Self::Stop { process } => {
                lab.stop_process(&unit(process)?).map(|()| format!("{process} has ended"))?
            }
            Self::Start { process } => {
                lab.start_process(&unit(process)?).map(|()| format!("{process} runs"))?
            }
            Self::Restart { process } => {
                lab.restart(&unit(process)?).map(|()| format!("{process} runs anew"))?
            }
            Self::Freeze { process } => {
                lab.freeze(&unit(process)?).map(|()| format!("{process} stands still"))?
            }
            Self::Thaw { process } => {
                lab.thaw(&unit(process)?).map(|()| format!("{process} goes on"))?
            }
            Self::KillGuest { host, server } => {
                lab.kill_guest(host, server).map(|()| format!("{server} is dead"))?
            }
            Self::Cut { host, tenant } => {
                lab.cut_link(host, link(*tenant)).map(|()| format!("{host} is cut off"))?
            }
            Self::Heal { host, tenant } => {
                lab.heal_link(host, link(*tenant)).map(|()| format!("{host} is connected"))?
            }
            Self::Limit { host, mib_s, tenant } => {
                lab.limit_link(host, link(*tenant), *mib_s)?;
                mib_s.map_or_else(
                    || format!("{host} has its full bandwidth"),
                    |rate| format!("{host} has {rate} MiB/s"),
                )
            }
            Self::Pause { server } => {
                lab.pause_path(path(server)?).map(|()| format!("nothing passes to the {server}"))?
            }
            Self::Resume { server } => {
                lab.resume_path(path(server)?).map(|()| format!("hosts reach the {server}"))?
            }
            Self::Reset { server } => lab
                .reset_path(path(server)?)
                .map(|()| format!("connections to the {server} broken"))?,
        })
    }
}

fn link(tenant: bool) -> Link {
    if tenant { Link::Tenant } else { Link::Management }
}

fn path(server: &str) -> anyhow::Result<Path> {
    match server {
        "broker" => Ok(Path::Broker),
        "api" => Ok(Path::Api),
        other => anyhow::bail!("'{other}' is neither broker nor api"),
    }
}
