//! The libvirt calls that crate `virt` lacks or has wrong: the only unsafe code of the project.
//!
//! `virt` 0.4.3 has no domain events, no abort and no post-copy switch; its `get_job_stats` makes a `Vec`
//! of a null pointer when no job runs, and its `migrate_to_uri3` leaks every string it is given.
#![expect(unsafe_code, reason = "calls into libvirt's C interface")]

mod events;
mod params;

use std::ffi::{CStr, c_int, c_uint};

use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

pub(crate) use events::{
    DomainEvent, DomainEventKind, deregister_domain_events, register_domain_events,
};
use params::{TypedParams, c_string};
pub(crate) use params::{Value, Values};

/// The kind (`VIR_DOMAIN_JOB_…`) and the figures of the domain's job: the running one or, with
/// `completed`, the last one that is over. Reading the latter leaves it in place.
pub(crate) fn job_stats(domain: &Domain, completed: bool) -> Result<(c_uint, Values), Error> {
    let mut kind: c_int = 0;
    let mut params = TypedParams::new();
    let flags = if completed {
        sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    } else {
        0
    };
    // SAFETY: the domain is alive as long as `domain` is borrowed; libvirt allocates the list into `params`,
    // which frees it, or leaves it null.
    let outcome = unsafe {
        sys::virDomainGetJobStats(
            domain.as_ptr(),
            &mut kind,
            &mut params.list,
            &mut params.len,
            flags,
        )
    };
    if outcome < 0 {
        return Err(Error::last_error());
    }
    Ok((c_uint::try_from(kind).unwrap_or(sys::VIR_DOMAIN_JOB_NONE), params.values()))
}

/// Asks the domain's job to stop; does not wait for it.
pub(crate) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is alive as long as `domain` is borrowed.
    let outcome = unsafe { sys::virDomainAbortJob(domain.as_ptr()) };
    if outcome < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Switches the running migration, which was started with `VIR_MIGRATE_POSTCOPY`, to post-copy.
pub(crate) fn start_post_copy(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is alive as long as `domain` is borrowed; no flags are defined.
    let outcome = unsafe { sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) };
    if outcome < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// Migrates the domain and returns when that is over.
pub(crate) fn migrate_to_uri3(
    domain: &Domain,
    destination_uri: &str,
    parameters: &[(&CStr, Value)],
    flags: c_uint,
) -> Result<(), Error> {
    let params = TypedParams::of(parameters)?;
    let uri = c_string(destination_uri);
    let count = c_uint::try_from(params.len).unwrap_or(0);
    // SAFETY: the domain is alive as long as `domain` is borrowed; URI and list outlive the call, which
    // keeps neither.
    let outcome = unsafe {
        sys::virDomainMigrateToURI3(domain.as_ptr(), uri.as_ptr(), params.list, count, flags)
    };
    if outcome < 0 { Err(Error::last_error()) } else { Ok(()) }
}
