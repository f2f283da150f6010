//! What goes wrong in a round.

use std::time::Duration;

use anyhow::Context;
use rand::Rng;
use whimbrel_lab::{Replica, Unit};

use super::{REPLICAS, Soak};

/// Longer than the time after which a silent host counts as down.
const FROZEN: Duration = Duration::from_millis(6_500);
/// Sessions of the services.
const DISCONNECT: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE datname = 'whimbrel' AND pid <> pg_backend_pid()";

impl Soak<'_> {
    /// Something goes wrong. What was killed may stay so until the end of the round.
    pub(super) fn fault(&mut self) -> anyhow::Result<()> {
        match self.rng.random_range(0..100) {
            0..=71 => self.kill(),
            72..=85 => {
                let servers = self.lab.servers()?;
                self.totals.count("database sessions ended");
                servers.database().query("postgres", DISCONNECT).map(drop)
            }
            86..=90 => {
                self.totals.count("database restarted");
                self.lab.restart(&Unit::Database)
            }
            91..=94 => {
                self.totals.count("broker restarted");
                self.lab.restart(&Unit::Broker)
            }
            _ => {
                let victim = self.victim();
                if self.lab.process_id(&victim).is_none() {
                    return Ok(());
                }
                self.totals.count("frozen for 6.5 s");
                self.lab.freeze(&victim)?;
                // The others go on, and are asked for more.
                std::thread::sleep(FROZEN / 2);
                if victim != Unit::Api {
                    self.wish();
                }
                std::thread::sleep(FROZEN / 2);
                self.lab.thaw(&victim)
            }
        }
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        let victim = self.victim();
        if self.lab.process_id(&victim).is_none() {
            return Ok(());
        }
        self.totals.count(match victim {
            Unit::Api => "API killed",
            Unit::Conductor | Unit::Replica(Replica::Conductor, _) => "conductor killed",
            Unit::Scheduler | Unit::Replica(Replica::Scheduler, _) => "scheduler killed",
            _ => "agent killed",
        });
        self.lab.kill(&victim)?;
        if self.rng.random_bool(0.7) {
            self.pause(300);
            self.lab.start_process(&victim)?;
        }
        Ok(())
    }

    /// Starts whatever is down.
    pub(super) fn repair(&mut self) -> anyhow::Result<()> {
        let mut all = vec![Unit::Api, Unit::Conductor, Unit::Scheduler];
        for number in 2..=REPLICAS {
            all.push(Unit::Replica(Replica::Conductor, number));
            all.push(Unit::Replica(Replica::Scheduler, number));
        }
        all.extend(self.lab.host_names().iter().map(|host| Unit::compute(host)));
        for unit in all {
            self.lab.start_process(&unit).with_context(|| format!("starting {unit}"))?;
        }
        Ok(())
    }
}
