//! What libvirt's errors mean to the caller.

use virt::error::{Error, ErrorDomain, ErrorNumber};
use whimbrel_virt::DriverError;

/// Says what was tried when it failed.
pub(crate) trait Doing<T> {
    /// The value, or the driver's error for what went wrong while `doing`.
    fn doing(self, doing: &'static str) -> Result<T, DriverError>;
}

impl<T> Doing<T> for Result<T, Error> {
    fn doing(self, doing: &'static str) -> Result<T, DriverError> {
        self.map_err(|error| driver_error(doing, &error))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, DriverError> {
        self.map_err(|error| DriverError::Hypervisor { doing, message: error.to_string() })
    }
}

fn driver_error(doing: &'static str, error: &Error) -> DriverError {
    if is_silence(error) {
        return DriverError::Unavailable(format!("{doing}: {}", error.message()));
    }
    DriverError::Hypervisor { doing, message: error.message().to_owned() }
}

/// Whether the error says that libvirt could not be asked, or was too busy with the guest to answer.
fn is_silence(error: &Error) -> bool {
    matches!(error.domain(), ErrorDomain::Rpc)
        || matches!(
            error.code(),
            ErrorNumber::NoConnect
                | ErrorNumber::InvalidConn
                | ErrorNumber::OperationTimeout
                | ErrorNumber::CallFailed
        )
}

/// Whether the error says that there is no such domain.
pub(crate) fn is_no_domain(error: &Error) -> bool {
    matches!(error.code(), ErrorNumber::NoDomain)
}
