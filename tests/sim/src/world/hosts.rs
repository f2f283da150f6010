//! What happens to hosts as a whole: they lose power, they are forced down, they return.

use whimbrel_messages::{Fault, FaultCode, Outcome};
use whimbrel_model::{InstanceEvent, MigrationStatus, MigrationType};

use super::{Broken, Event, Sim, name, number};

/// A report may contradict the row only if that was left alone for this long, in milliseconds.
const SETTLED_MS: i64 = 5_000;
/// An operator who was told to wait tries again after this time, in milliseconds.
const AGAIN_MS: i64 = 10_000;

impl Sim {
    pub(super) fn dies(&mut self, at: usize) {
        if !self.hosts[at].powered {
            return;
        }
        self.goes_down(at);
        self.power_lost = true;
        self.chaos.count("hosts without power", true);
        let host = &mut self.hosts[at];
        host.powered = false;
        host.boots += 1;
        if let Some(guest) = &mut host.hypervisor.guest {
            guest.running = false;
        }
        if let Some(job) = host.hypervisor.job.as_mut().filter(|job| job.outcome.is_none()) {
            let fault = Fault::new(FaultCode::Hypervisor, "the job ended with its host");
            job.outcome = Some(Outcome::Refused { fault });
        }
        self.note(|| format!("host {at} has lost power"));
    }

    pub(super) fn boots(&mut self, at: usize) {
        let keeps_queue = self.broken == Some(Broken::QueueOutlivesRestart);
        let host = &mut self.hosts[at];
        if host.powered {
            return;
        }
        host.powered = true;
        if !keeps_queue {
            // Of the time before the restart. What is still wanted is asked for again.
            host.queued.clear();
        }
        self.comes_up(at, true);
    }

    /// Nobody says that a host runs nothing without having seen to it.
    pub(super) fn fences(&mut self, at: usize) {
        self.dies(at);
        self.hosts[at].fenced = true;
        self.chaos.count("hosts forced down", true);
    }

    /// As the API lets a host in again: not before evacuations from it are over.
    pub(super) fn lets_in(&mut self, at: usize) {
        let source = name(at);
        let open = self.rows.migrations.values().any(|row| {
            row.kind == MigrationType::Evacuation
                && row.source == source
                && !row.status.is_terminal()
        });
        let early = self.broken == Some(Broken::LetInTooEarly);
        if !self.hosts[at].reports || (open && !early) {
            if !self.hosts[at].gone {
                self.after(AGAIN_MS, Event::LetsIn(at));
            }
            return;
        }
        self.hosts[at].fenced = false;
    }

    /// Brings the row of a guest at rest up to what its host sees, as reports do.
    pub(super) fn sync_power(&mut self) {
        if self.unfenced.is_empty() && !self.power_lost {
            // Then they must agree anyway.
            return;
        }
        let row = &mut self.rows.instance;
        let Some(host) = row.host.as_ref().map(|host| &self.hosts[number(host)]) else { return };
        let settled = row.state.task.is_none() && self.now - self.changed_at >= SETTLED_MS;
        let Some(guest) = host.hypervisor.guest.filter(|_| settled && host.up && host.reports)
        else {
            return;
        };
        let found =
            if guest.running { InstanceEvent::FoundRunning } else { InstanceEvent::FoundStopped };
        if let Ok(state) = row.state.on(found) {
            row.state = state;
        }
    }

    /// The lost host of an evacuation has removed what it had.
    pub(super) fn close_evacuation(&mut self, saga: usize) {
        let Some(id) = self.sagas[saga].migration else { return };
        if let Some(row) = self.rows.migrations.get_mut(&id)
            && row.status == MigrationStatus::Done
        {
            row.status = MigrationStatus::Completed;
            self.rows.claims.remove(&id.0);
        }
    }
}
