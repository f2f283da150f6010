//! The libvirt calls that crate `virt` lacks or has wrong: the only unsafe code of the project.
//!
//! `virt` 0.4.3 has no domain events, no abort and no post-copy switch; its `get_job_stats` makes a `Vec`
//! of a null pointer when no job runs, and its `migrate_to_uri3` leaks every string it is given.
#![expect(unsafe_code, reason = "calls into libvirt's C interface")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::mem;
use std::ptr;

use tokio::sync::broadcast;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error;
use virt_sys as sys;

/// A typed parameter's value. Unsigned numbers beyond `i64` are capped.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Any of libvirt's integers, and booleans as 0 and 1.
    Number(i64),
    /// A string.
    Text(String),
}

/// Typed parameters by name.
pub(crate) type Values = BTreeMap<String, Value>;

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

/// A list of typed parameters in libvirt's own memory.
struct TypedParams {
    list: sys::virTypedParameterPtr,
    len: c_int,
    capacity: c_int,
}

impl TypedParams {
    fn new() -> Self {
        Self { list: ptr::null_mut(), len: 0, capacity: 0 }
    }

    /// `values` as a list. A name may occur more than once.
    fn of(values: &[(&CStr, Value)]) -> Result<Self, Error> {
        let mut params = Self::new();
        for (name, value) in values {
            params.add(name, value)?;
        }
        Ok(params)
    }

    fn add(&mut self, name: &CStr, value: &Value) -> Result<(), Error> {
        let (list, len, capacity) = (&mut self.list, &mut self.len, &mut self.capacity);
        let outcome = match value {
            // SAFETY: the three fields describe one list that only libvirt's own functions have made and
            // grown; `name` ends with a NUL and is copied.
            Value::Number(number) if takes_int(name) => unsafe {
                let number = c_int::try_from(*number).unwrap_or(c_int::MAX);
                sys::virTypedParamsAddInt(list, len, capacity, name.as_ptr(), number)
            },
            // SAFETY: as above.
            Value::Number(number) => unsafe {
                let number = u64::try_from(*number).unwrap_or(0);
                sys::virTypedParamsAddULLong(list, len, capacity, name.as_ptr(), number)
            },
            Value::Text(text) => {
                let text = c_string(text);
                // SAFETY: as above; the text, too, ends with a NUL and is copied.
                unsafe {
                    sys::virTypedParamsAddString(list, len, capacity, name.as_ptr(), text.as_ptr())
                }
            }
        };
        if outcome < 0 { Err(Error::last_error()) } else { Ok(()) }
    }

    fn values(&self) -> Values {
        // SAFETY: `list` points to `len` parameters, or `len` is 0, by libvirt's contract.
        unsafe { read_params(self.list, self.len) }
    }
}

impl Drop for TypedParams {
    fn drop(&mut self) {
        // SAFETY: the list is libvirt's, is freed once, and nobody else has the pointer. Null is allowed.
        unsafe { sys::virTypedParamsFree(self.list, self.len) }
    }
}

/// libvirt refuses a parameter of another type than the one it documents.
fn takes_int(name: &CStr) -> bool {
    name == sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS
        || name == sys::VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL
        || name == sys::VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT
        || name == sys::VIR_MIGRATE_PARAM_DISKS_PORT
}

/// A text for C, up to its first NUL. XML and configuration are checked not to have one.
fn c_string(text: &str) -> CString {
    let until_nul = text.split('\0').next().unwrap_or_default();
    CString::new(until_nul).expect("there is no NUL before the first one")
}

/// # Safety
///
/// `list` points to `len` initialised parameters, or `len` is 0.
unsafe fn read_params(list: *const sys::virTypedParameter, len: c_int) -> Values {
    let len = usize::try_from(len).unwrap_or(0);
    if list.is_null() || len == 0 {
        return Values::new();
    }
    // SAFETY: by this function's own contract; null is excluded above.
    let params = unsafe { std::slice::from_raw_parts(list, len) };
    params
        .iter()
        .filter_map(|param| {
            // SAFETY: `field` is a C string inside an array, filled by libvirt.
            let name = unsafe { CStr::from_ptr(param.field.as_ptr()) };
            // SAFETY: `type_` says which member of the union is set.
            let value = unsafe { read_value(param) }?;
            Some((name.to_string_lossy().into_owned(), value))
        })
        .collect()
}

/// # Safety
///
/// `param.type_` tells which member of `param.value` is set.
unsafe fn read_value(param: &sys::virTypedParameter) -> Option<Value> {
    let kind = c_uint::try_from(param.type_).ok()?;
    // SAFETY: each member is read only under the type that says it is the one set; a string's pointer is
    // valid for as long as the parameter, and null is handled.
    unsafe {
        Some(match kind {
            sys::VIR_TYPED_PARAM_INT => Value::Number(i64::from(param.value.i)),
            sys::VIR_TYPED_PARAM_UINT => Value::Number(i64::from(param.value.ui)),
            sys::VIR_TYPED_PARAM_LLONG => Value::Number(param.value.l),
            sys::VIR_TYPED_PARAM_ULLONG => {
                Value::Number(i64::try_from(param.value.ul).unwrap_or(i64::MAX))
            }
            sys::VIR_TYPED_PARAM_BOOLEAN => Value::Number(i64::from(param.value.b)),
            sys::VIR_TYPED_PARAM_STRING if !param.value.s.is_null() => {
                let text: *const c_char = param.value.s;
                Value::Text(CStr::from_ptr(text).to_string_lossy().into_owned())
            }
            _ => return None,
        })
    }
}

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
