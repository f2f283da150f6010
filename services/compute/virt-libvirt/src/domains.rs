//! A guest's domain: finding it, its state, its metadata, ending it. All of these block.

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt_sys as sys;
use whimbrel_model::{InstanceId, PowerState};
use whimbrel_virt::DriverError;

use crate::domain_read;
use crate::domain_xml::{METADATA_PREFIX, METADATA_URI, metadata_xml};
use crate::error::{Doing, is_no_domain};
use crate::raw;
use crate::xml_tree::Element;

/// What libvirt says of a domain, as far as it makes a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DomainState {
    /// Its processors run.
    Running,
    /// In memory, halted, for this reason.
    Paused(PausedFor),
    /// Not in memory.
    ShutOff(EndedBy),
    /// Its own operating system sleeps.
    Sleeping,
    /// Crashed, and kept to be looked at.
    Crashed,
}

/// Why a domain is halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PausedFor {
    /// A migration into or out of this host.
    Migration,
    /// It runs at the destination and takes the rest of its memory from here.
    PostCopy,
    /// As [`PausedFor::PostCopy`], but the hosts lost each other.
    PostCopyFailed,
    /// It is being started, perhaps by a migration into this host.
    Start,
    /// Anything else, a user's wish above all.
    Other,
}

/// Why a domain is not in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndedBy {
    /// A migration to another host, which libvirt knows to have succeeded.
    Migration,
    /// A crash of its emulator.
    Crash,
    /// Saved to disk.
    Save,
    /// Anything else, or libvirt was restarted and does not know.
    Other,
}

impl DomainState {
    /// Whether there is an emulator for it.
    pub(crate) fn is_active(self) -> bool {
        !matches!(self, Self::ShutOff(_))
    }

    /// The same in our terms.
    pub(crate) fn power_state(self) -> PowerState {
        match self {
            Self::Running => PowerState::Running,
            Self::Paused(_) => PowerState::Paused,
            Self::ShutOff(EndedBy::Save) | Self::Sleeping => PowerState::Suspended,
            Self::ShutOff(_) => PowerState::Shutdown,
            Self::Crashed => PowerState::Crashed,
        }
    }
}

/// The guest's domain, if libvirt knows one.
pub(crate) fn find(connect: &Connect, id: InstanceId) -> Result<Option<Domain>, DriverError> {
    match Domain::lookup_by_uuid(connect, id.0) {
        Ok(domain) => Ok(Some(domain)),
        Err(error) if is_no_domain(&error) => Ok(None),
        Err(error) => Err(error).doing("look for the guest"),
    }
}

/// The guest's domain, or [`DriverError::NotFound`].
pub(crate) fn get(connect: &Connect, id: InstanceId) -> Result<Domain, DriverError> {
    find(connect, id)?.ok_or(DriverError::NotFound(id))
}

/// What the domain does. `None` if it is gone meanwhile.
pub(crate) fn state(domain: &Domain) -> Result<Option<DomainState>, DriverError> {
    let (state, reason) = match domain.get_state() {
        Ok(state) => state,
        Err(error) if is_no_domain(&error) => return Ok(None),
        Err(error) => return Err(error).doing("ask for the guest's state"),
    };
    let reason = u32::try_from(reason).unwrap_or(0);
    Ok(Some(match state {
        sys::VIR_DOMAIN_PAUSED => DomainState::Paused(paused_for(reason)),
        sys::VIR_DOMAIN_SHUTOFF => DomainState::ShutOff(ended_by(reason)),
        sys::VIR_DOMAIN_CRASHED => DomainState::Crashed,
        sys::VIR_DOMAIN_PMSUSPENDED => DomainState::Sleeping,
        // Blocked, or about to shut down: both still run.
        _ => DomainState::Running,
    }))
}

fn paused_for(reason: u32) -> PausedFor {
    match reason {
        sys::VIR_DOMAIN_PAUSED_MIGRATION => PausedFor::Migration,
        sys::VIR_DOMAIN_PAUSED_POSTCOPY => PausedFor::PostCopy,
        sys::VIR_DOMAIN_PAUSED_POSTCOPY_FAILED => PausedFor::PostCopyFailed,
        sys::VIR_DOMAIN_PAUSED_STARTING_UP => PausedFor::Start,
        _ => PausedFor::Other,
    }
}

fn ended_by(reason: u32) -> EndedBy {
    match reason {
        sys::VIR_DOMAIN_SHUTOFF_MIGRATED => EndedBy::Migration,
        sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_FAILED => EndedBy::Crash,
        sys::VIR_DOMAIN_SHUTOFF_SAVED => EndedBy::Save,
        _ => EndedBy::Other,
    }
}

/// Whether a job is on the domain that is more than a moment's work. One that is over and cleans up still is.
pub(crate) fn has_job(domain: &Domain) -> Result<bool, DriverError> {
    match domain.get_job_info() {
        Ok(info) => Ok(info.r#type != sys::VIR_DOMAIN_JOB_NONE as i32),
        Err(error) if is_not_active(&error) => Ok(false),
        // "Only available on the source host": it is coming.
        Err(error) if matches!(error.code(), ErrorNumber::OperationUnsupported) => Ok(true),
        Err(error) => Err(error).doing("ask whether the guest migrates"),
    }
}

/// Whether the error says that the domain is gone, or not in memory.
pub(crate) fn is_not_active(error: &virt::error::Error) -> bool {
    is_no_domain(error) || matches!(error.code(), ErrorNumber::OperationInvalid)
}

/// The token in the domain's metadata. `None` if it is not a guest of ours.
pub(crate) fn owner_epoch(domain: &Domain) -> Result<Option<i64>, DriverError> {
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    match domain.get_metadata(kind, Some(METADATA_URI), sys::VIR_DOMAIN_AFFECT_CURRENT) {
        Ok(xml) => Ok(domain_read::owner_epoch(&Element::parse(&xml)?)),
        Err(error) if matches!(error.code(), ErrorNumber::NoDomainMetadata) => Ok(None),
        Err(error) if is_no_domain(&error) => Ok(None),
        Err(error) => Err(error).doing("read the guest's metadata"),
    }
}

/// Puts the token into the domain's metadata: the stored definition's, and the running guest's.
pub(crate) fn set_owner_epoch(
    domain: &Domain,
    id: InstanceId,
    owner_epoch: i64,
) -> Result<(), DriverError> {
    const DOING: &str = "write the guest's metadata";
    let mut places = 0;
    if domain.is_persistent().doing(DOING)? {
        places |= sys::VIR_DOMAIN_AFFECT_CONFIG;
    }
    if domain.is_active().doing(DOING)? {
        places |= sys::VIR_DOMAIN_AFFECT_LIVE;
    }
    let xml = metadata_xml(id, owner_epoch);
    let (key, uri) = (Some(METADATA_PREFIX), Some(METADATA_URI));
    let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
    domain.set_metadata(kind, Some(&xml), key, uri, places).doing(DOING)?;
    Ok(())
}

/// Starts the domain. Fine if it runs.
pub(crate) fn start(domain: &Domain) -> Result<(), DriverError> {
    match domain.create() {
        Ok(_) => Ok(()),
        Err(error) => match domain.is_active() {
            Ok(true) => Ok(()),
            _ => Err(error).doing("start the guest"),
        },
    }
}

/// Ends the domain, if it is in memory. Its disks are closed when this returns.
pub(crate) fn power_cut(domain: &Domain) -> Result<(), DriverError> {
    match domain.destroy() {
        Err(error) if !is_not_active(&error) => Err(error).doing("power the guest off"),
        _ => Ok(()),
    }
}

/// Ends the domain and forgets its definition. Fine if there is none.
pub(crate) fn remove(connect: &Connect, id: InstanceId) -> Result<(), DriverError> {
    let Some(domain) = find(connect, id)? else { return Ok(()) };
    power_cut(&domain)?;
    let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
    match domain.undefine_flags(flags) {
        // A domain that was never stored is gone with its emulator.
        Err(error) if !is_not_active(&error) => Err(error).doing("forget the guest's definition"),
        _ => Ok(()),
    }
}

/// Lets a guest run that is halted.
pub(crate) fn resume(domain: &Domain) -> Result<(), DriverError> {
    domain.resume().doing("let the guest run").map(drop)
}

/// The running or, with `completed`, the finished job's kind and figures. `None` if the domain is gone or
/// has none.
pub(crate) fn job(
    domain: &Domain,
    completed: bool,
) -> Result<Option<(u32, raw::Values)>, DriverError> {
    match raw::job_stats(domain, completed) {
        Ok((sys::VIR_DOMAIN_JOB_NONE, _)) => Ok(None),
        Ok(job) => Ok(Some(job)),
        Err(error) if is_not_active(&error) => Ok(None),
        Err(error) => Err(error).doing("ask for the figures of the guest's job"),
    }
}
