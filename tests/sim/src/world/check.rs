//! What must hold: at every moment, after every transaction, and once all is at rest.

use std::collections::BTreeMap;

use whimbrel_model::{InstanceEvent, MigrationId, MigrationStatus, VmState};
use whimbrel_saga::{Phase, Saga as _};
use whimbrel_sagas::{Evacuate, LiveMigrate, Resize};

use super::driver::Hypervisor;
use super::{HOSTS, Sim, name};
use crate::rows::{INSTANCE, MigrationRow};

impl Sim {
    /// I1: the guest never runs twice.
    pub(super) fn check_guests(&mut self) {
        let running =
            |host: &&super::Host| host.hypervisor.guest.is_some_and(|guest| guest.running);
        if self.hosts.iter().filter(running).count() > 1 {
            self.violated(|| "the guest runs twice".to_owned());
        }
        // I5: as long as nobody wants it deleted, there is a whole copy of its disks.
        let row = &self.rows.instance;
        let made = matches!(row.state.vm, VmState::Active | VmState::Stopped | VmState::Resized);
        let copies = self.hosts.iter().map(|host| host.hypervisor.copies()).sum::<usize>();
        if made && !row.delete_requested && copies == 0 {
            self.violated(|| "the last copy of the disks is gone".to_owned());
        }
    }

    /// What holds between any two transactions (I2, I3).
    pub(super) fn check_transaction(&mut self, saga: usize) {
        let row = &self.sagas[saga].row;
        if row.wake_at.is_none() != row.phase.is_terminal() {
            self.violated(|| "an active saga without a time to wake".to_owned());
        }
        self.check_rows();
    }

    fn check_rows(&mut self) {
        let active = self.active().is_some();
        if let Err(what) = self.rows.check(active) {
            self.violated(|| what);
        }
    }

    /// What holds once nothing more happens.
    pub(super) fn check_rest(&mut self) -> Result<(), String> {
        if let Some(saga) = self.active() {
            return Err(format!("saga {saga} has not ended"));
        }
        let mut owed = self.obligations.iter();
        if let Some((key, _)) = owed.find(|(_, (at, _))| !self.hosts[*at].gone) {
            return Err(format!("still owed: {key}"));
        }
        if let Some(at) = self.hosts.iter().position(|host| host.fenced && !host.gone) {
            return Err(format!("host {at} is still forced down"));
        }
        self.sync_power();
        self.check_rows();
        if let Some(saga) = self.sagas.iter().find(|saga| saga.row.phase == Phase::Stuck) {
            if self.chaos.is_random() {
                return Err(format!("{} is stuck: {:?}", saga.name, saga.row.fault));
            }
            match self.rows.instance.state.vm {
                // What an operator is shown. That nothing stays of it is asked when it is deleted.
                VmState::Error => return self.violation.take().map_or(Ok(()), Err),
                VmState::Deleted => {}
                other => return Err(format!("a saga is stuck and the instance {other}")),
            }
        }
        if self.refused_obligation && !self.chaos.is_random() {
            // Only hosts that refuse an undo do this; then an operator has to look there.
            return Ok(());
        }
        let row = &self.rows.instance;
        let home = row.host.as_ref().map(super::number);
        match row.state.vm {
            VmState::Building => return Err("it is still being built".to_owned()),
            VmState::Deleted if home.is_some() || row.has_ports => {
                return Err(format!("deleted, but {row:?}"));
            }
            VmState::Error
            | VmState::Deleted
            | VmState::Active
            | VmState::Stopped
            | VmState::Paused
            | VmState::Resized => {}
        }
        self.check_claims(home)?;
        for at in 0..HOSTS {
            let here = self.hosts[at].hypervisor.clone();
            if self.hosts[at].gone {
                // Nobody will ever look there.
            } else if Some(at) == home {
                self.check_home(at, &here)?;
            } else {
                self.check_elsewhere(at, &here)?;
            }
        }
        self.check_last_move()?;
        self.violation.take().map_or(Ok(()), Err)
    }

    /// What is held is what should be held (I4).
    fn check_claims(&self, home: Option<usize>) -> Result<(), String> {
        let mut expected: BTreeMap<_, _> =
            home.iter().map(|home| (INSTANCE, name(*home))).collect();
        for (id, row) in &self.rows.migrations {
            // The other end of a move that waits for a decision, or for a lost host.
            let gone = self.hosts[super::number(&row.source)].gone;
            if row.status == MigrationStatus::Done && !gone {
                return Err(format!("an evacuation is not closed: {row:?}"));
            }
            let held = matches!(row.status, MigrationStatus::Finished | MigrationStatus::Done);
            if held && home.is_some() {
                expected.insert(id.0, row.source.clone());
            }
        }
        if self.rows.claims == expected {
            return Ok(());
        }
        Err(format!("it is at {home:?} and holds {:?}", self.rows.claims))
    }

    /// What a host may keep of a move that nobody has decided on.
    fn kept(&self, at: usize) -> Option<MigrationId> {
        let undecided =
            |row: &MigrationRow| row.status == MigrationStatus::Finished && row.source == name(at);
        self.rows.migrations.iter().find(|(_, row)| undecided(row)).map(|(id, _)| *id)
    }

    /// The host that the row names has the guest, and nothing else of it.
    fn check_home(&mut self, at: usize, here: &Hypervisor) -> Result<(), String> {
        let Some(guest) = here.guest else {
            return Err(format!("the row names host {at}, the guest is not there: {here:?}"));
        };
        let rests = here.remains
            || here.incoming.is_some()
            || here.job.is_some()
            || here.arrival.is_some()
            || here.rollback != self.kept(at)
            || !here.probes.is_empty();
        if rests {
            return Err(format!("something was left at home: {here:?}"));
        }
        let row = &mut self.rows.instance;
        if guest.epoch > row.owner_epoch || here.seen > row.owner_epoch || !guest.persistent {
            return Err(format!("{row:?} but {here:?}"));
        }
        let (found, wrong) = match row.state.vm {
            VmState::Active => (InstanceEvent::FoundStopped, !guest.running),
            VmState::Stopped => (InstanceEvent::FoundRunning, guest.running),
            _ => return Ok(()),
        };
        if wrong && self.unfenced.is_empty() && !self.power_lost {
            return Err(format!("{row:?} but {guest:?}, and no fence was put off"));
        }
        if wrong {
            // The host's report tells what came of the call that nobody waited for.
            row.state = row.state.on(found).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn check_elsewhere(&self, at: usize, here: &Hypervisor) -> Result<(), String> {
        let deleted = self.rows.instance.state.vm == VmState::Deleted;
        let probes = !deleted && !here.probes.is_empty();
        let anything = here.guest.is_some()
            || here.remains
            || here.incoming.is_some()
            || here.arrival.is_some();
        if here.rollback != self.kept(at) {
            return Err(format!("host {at} keeps {:?} for the way back", here.rollback));
        }
        if anything || probes || here.job.is_some() {
            return Err(format!(
                "something was left at host {at}: {here:?}, {:?}",
                self.rows.instance
            ));
        }
        Ok(())
    }

    /// A move that completed, or did not, and after which nothing happened, says where the guest is.
    fn check_last_move(&self) -> Result<(), String> {
        let moves = [LiveMigrate::NAME, Resize::NAME, Evacuate::NAME];
        let Some(saga) = self.sagas.last().filter(|saga| moves.contains(&saga.name)) else {
            return Ok(());
        };
        let migration = saga.migration.and_then(|id| self.rows.migrations.get(&id));
        let migration = migration.ok_or("a move without a migration")?;
        let named = match saga.row.phase {
            Phase::Completed => migration.destination.as_ref(),
            _ => Some(&migration.source),
        };
        if saga.row.phase != Phase::Stuck && self.rows.instance.host.as_ref() != named {
            return Err(format!("{} but {:?}", saga.row.phase, self.rows.instance));
        }
        Ok(())
    }
}
