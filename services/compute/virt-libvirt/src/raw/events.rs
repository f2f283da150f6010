//! libvirt's events of domains.

use std::ffi::{c_int, c_void};
use std::mem;
use std::ptr;

use tokio::sync::broadcast;
use uuid::Uuid;
use virt::connect::Connect;
use virt::error::Error;
use virt_sys as sys;

use super::params::{Values, read_params};

/// What libvirt said of a domain without being asked.
#[derive(Clone, Debug)]
pub(crate) struct DomainEvent {
    /// The domain.
    pub(crate) uuid: Uuid,
    /// What happened.
    pub(crate) kind: DomainEventKind,
}

/// What happened to a domain.
#[derive(Clone, Debug)]
pub(crate) enum DomainEventKind {
    /// It was started, stopped, suspended and so on.
    Lifecycle,
    /// A migration went through memory once more.
    MigrationIteration,
    /// A job is over; its figures.
    JobCompleted(Values),
}

/// Sends the domains' events to `sink` for as long as the connection lasts or until
/// [`deregister_domain_events`]. Returns libvirt's ids of the registrations.
pub(crate) fn register_domain_events(
    connect: &Connect,
    sink: &broadcast::Sender<DomainEvent>,
) -> Result<Vec<c_int>, Error> {
    type Lifecycle = unsafe extern "C" fn(
        sys::virConnectPtr,
        sys::virDomainPtr,
        c_int,
        c_int,
        *mut c_void,
    ) -> c_int;
    type Iteration =
        unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, *mut c_void);
    type JobCompleted = unsafe extern "C" fn(
        sys::virConnectPtr,
        sys::virDomainPtr,
        sys::virTypedParameterPtr,
        c_int,
        *mut c_void,
    );
    // SAFETY: libvirt's interface takes every callback as the generic type and calls it with the type that
    // belongs to the event's id; the ids below are those of the three types.
    let callbacks: [(sys::virDomainEventID, sys::virConnectDomainEventGenericCallback); 3] = unsafe {
        [
            (
                sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                mem::transmute::<Lifecycle, sys::virConnectDomainEventGenericCallback>(
                    on_lifecycle,
                ),
            ),
            (
                sys::VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION,
                mem::transmute::<Iteration, sys::virConnectDomainEventGenericCallback>(
                    on_iteration,
                ),
            ),
            (
                sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
                mem::transmute::<JobCompleted, sys::virConnectDomainEventGenericCallback>(
                    on_job_completed,
                ),
            ),
        ]
    };
    let mut ids = Vec::new();
    for (event, callback) in callbacks {
        let opaque: *mut c_void = Box::into_raw(Box::new(sink.clone())).cast();
        // SAFETY: `opaque` is a box that libvirt gives to the callback, and to `free_sink` once when the
        // registration ends.
        let id = unsafe {
            sys::virConnectDomainEventRegisterAny(
                connect.as_ptr(),
                ptr::null_mut(),
                event as c_int,
                callback,
                opaque,
                Some(free_sink),
            )
        };
        if id < 0 {
            // SAFETY: a failed registration has not taken the box over.
            unsafe { free_sink(opaque) };
            let error = Error::last_error();
            deregister_domain_events(connect, &ids);
            return Err(error);
        }
        ids.push(id);
    }
    Ok(ids)
}

/// Ends registrations. On a connection that is gone already, libvirt has little left to do, so errors are
/// of no use to anyone.
pub(crate) fn deregister_domain_events(connect: &Connect, ids: &[c_int]) {
    for id in ids {
        // SAFETY: the connection is alive as long as `connect` is borrowed.
        unsafe { sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), *id) };
    }
}

unsafe extern "C" fn free_sink(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Box::into_raw` of this type and is given back once.
    drop(unsafe { Box::from_raw(opaque.cast::<broadcast::Sender<DomainEvent>>()) });
}

/// # Safety
///
/// `domain` is valid and `opaque` the box of the registration, as libvirt guarantees during a callback.
unsafe fn send(domain: sys::virDomainPtr, opaque: *mut c_void, kind: DomainEventKind) {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer has the 16 bytes that the call writes.
    let outcome = unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) };
    if outcome < 0 {
        return;
    }
    // SAFETY: libvirt holds the box until the registration ends, and only shares it here.
    let sink = unsafe { &*opaque.cast::<broadcast::Sender<DomainEvent>>() };
    // That nobody listens at the moment is fine.
    let _ = sink.send(DomainEvent { uuid: Uuid::from_bytes(bytes), kind });
}

unsafe extern "C" fn on_lifecycle(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt's contract for callbacks.
    unsafe { send(domain, opaque, DomainEventKind::Lifecycle) };
    0
}

unsafe extern "C" fn on_iteration(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _iteration: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's contract for callbacks.
    unsafe { send(domain, opaque, DomainEventKind::MigrationIteration) };
}

unsafe extern "C" fn on_job_completed(
    _connect: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    params: sys::virTypedParameterPtr,
    count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's contract for callbacks: the list is valid, and freed by libvirt afterwards.
    let values = unsafe { read_params(params, count) };
    // SAFETY: as above.
    unsafe { send(domain, opaque, DomainEventKind::JobCompleted(values)) };
}
