//! The only type that handlers return for what went wrong, and the only place where a status is chosen.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use whimbrel_db::DbError;
use whimbrel_service::ErrorChain;

/// What went wrong. Texts of the first kinds help the caller; of the last they reveal nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// 400.
    #[error("{0}")]
    BadRequest(String),
    /// 401.
    #[error("{0}")]
    Unauthorized(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 404.
    #[error("{0}")]
    NotFound(String),
    /// 405.
    #[error("{0}")]
    MethodNotAllowed(String),
    /// 406.
    #[error("{0}")]
    NotAcceptable(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// 413.
    #[error("{0}")]
    TooLarge(String),
    /// 501.
    #[error("{0}")]
    NotImplemented(String),
    /// 503.
    #[error("the database is not available")]
    Unavailable(#[source] DbError),
    /// 503.
    #[error("the identity service can't be asked")]
    NoIdentity,
    /// 500.
    #[error("an unexpected error")]
    Internal(#[source] anyhow::Error),
}

impl ApiError {
    /// The instance's state does not allow `action`. Nova's words.
    pub(crate) fn state(action: &str, id: impl std::fmt::Display, state: &str) -> Self {
        Self::Conflict(format!("Cannot '{action}' instance {id} while it is in {state}"))
    }
}

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::NotFound { .. } => Self::NotFound(format!("{error}.")),
            DbError::TooMany { .. } | DbError::QuotaExceeded { .. } => {
                Self::Forbidden(format!("{error}."))
            }
            DbError::Exists { .. }
            | DbError::InUse { .. }
            | DbError::Busy { .. }
            | DbError::NoMoreAddresses { .. } => Self::Conflict(format!("{error}.")),
            DbError::InstanceState(_) | DbError::MigrationStatus(_) | DbError::VolumeStatus(_) => {
                Self::Conflict(error.to_string())
            }
            DbError::Stale { .. } => {
                Self::Conflict(format!("{error}: somebody else changed it. Look and try again."))
            }
            DbError::Unavailable(_) => Self::Unavailable(error),
            DbError::Unreadable { .. } | DbError::Query { .. } => Self::Internal(error.into()),
        }
    }
}

impl From<std::io::Error> for ApiError {
    fn from(error: std::io::Error) -> Self {
        Self::Internal(error.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, name) = match &self {
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "badRequest"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "itemNotFound"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "badMethod"),
            Self::NotAcceptable(_) => (StatusCode::NOT_ACCEPTABLE, "computeFault"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflictingRequest"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "overLimit"),
            Self::NotImplemented(_) => (StatusCode::NOT_IMPLEMENTED, "notImplemented"),
            Self::NoIdentity => (StatusCode::SERVICE_UNAVAILABLE, "serviceUnavailable"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "serviceUnavailable"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "computeFault"),
        };
        let message = match &self {
            Self::Unavailable(_) | Self::NoIdentity => {
                "The service is not available now. Try again later.".to_owned()
            }
            Self::Internal(_) => {
                "Unexpected API error. The log of the service says more.".to_owned()
            }
            other => other.to_string(),
        };
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            tracing::error!(error = %ErrorChain(&self), "request failed");
        }
        let body = json!({ name: { "code": status.as_u16(), "message": message } });
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
