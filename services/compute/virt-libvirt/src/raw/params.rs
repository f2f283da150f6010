//! libvirt's typed parameters: lists of named values in its own memory.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::ptr;

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

/// A list of typed parameters in libvirt's own memory.
pub(super) struct TypedParams {
    pub(super) list: sys::virTypedParameterPtr,
    pub(super) len: c_int,
    capacity: c_int,
}

impl TypedParams {
    pub(super) fn new() -> Self {
        Self { list: ptr::null_mut(), len: 0, capacity: 0 }
    }

    /// `values` as a list. A name may occur more than once.
    pub(super) fn of(values: &[(&CStr, Value)]) -> Result<Self, Error> {
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

    pub(super) fn values(&self) -> Values {
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
pub(super) fn c_string(text: &str) -> CString {
    let until_nul = text.split('\0').next().unwrap_or_default();
    CString::new(until_nul).expect("there is no NUL before the first one")
}

/// # Safety
///
/// `list` points to `len` initialised parameters, or `len` is 0.
pub(super) unsafe fn read_params(list: *const sys::virTypedParameter, len: c_int) -> Values {
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
