//! The sagas: every operation on one page each. Pure, like the engine; the api starts them, the conductor
//! runs them.

mod boot;
mod delete;
mod evacuate;
mod live_migrate;
mod power;
mod resize;
mod resize_decided;
mod volume;

use whimbrel_messages::{Fault, FaultCode, Peer};
use whimbrel_model::{Change, HostName, InstanceEvent, MigrationEvent};
use whimbrel_saga::{Bug, Registry};

pub use boot::Boot;
pub use delete::Delete;
pub use evacuate::Evacuate;
pub use live_migrate::LiveMigrate;
pub use power::{Reboot, Start, Stop};
pub use resize::Resize;
pub use resize_decided::{Confirm, Revert};
pub use volume::{Attach, Detach};

/// All definitions that this binary can run.
pub fn registry() -> Registry {
    Registry::default()
        .with::<Boot>()
        .with::<Delete>()
        .with::<Start>()
        .with::<Stop>()
        .with::<Reboot>()
        .with::<LiveMigrate>()
        .with::<Resize>()
        .with::<Confirm>()
        .with::<Revert>()
        .with::<Evacuate>()
        .with::<Attach>()
        .with::<Detach>()
}

/// What an operation that can go neither on nor back leaves behind.
fn gave_up(fault: &Fault) -> Vec<Change> {
    vec![
        Change::Instance(InstanceEvent::GiveUp),
        Change::Migration(MigrationEvent::GiveUp),
        shown(fault),
    ]
}

/// The fault as the API shows it.
fn shown(fault: &Fault) -> Change {
    Change::Fault { code: fault.code.to_string(), message: fault.message.clone() }
}

/// The fault with what each host said that was tried before no other would do.
fn with_tried(fault: &Fault, tried: &[(HostName, String)]) -> Fault {
    let mut told = fault.clone();
    if fault.code == FaultCode::NoValidHost {
        for (host, why) in tried {
            told.message += &format!("; {host} was tried: {why}");
        }
    }
    told
}

fn scheduler<S>(_: &S) -> Result<Peer, Bug> {
    Ok(Peer::Scheduler)
}

fn compute(host: &HostName) -> Result<Peer, Bug> {
    Ok(Peer::Compute(host.clone()))
}

fn known<'a, T>(value: Option<&'a T>, what: &str) -> Result<&'a T, Bug> {
    value.ok_or_else(|| Bug(format!("{what} is not known at this step")))
}

#[cfg(test)]
mod tests;
