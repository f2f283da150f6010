//! Who is asking. One way for now: everybody is the same administrator.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;
use whimbrel_db::api::Caller;
use whimbrel_model::RequestId;

use crate::config::AuthMode;
use crate::error::ApiError;
use crate::state::Api;

/// The project and user of `auth = "none"`.
const NOBODY: (&str, &str) = ("default", "admin");

/// Who is asking, by which request.
#[derive(Clone, Debug)]
pub(crate) struct Context(pub(crate) Caller);

/// Puts a [`Context`] into the request and the request's id into the answer.
pub(crate) async fn layer(
    State(api): State<Arc<Api>>,
    mut request: Request,
    next: Next,
) -> Response {
    let request_id = RequestId::from_uuid(Uuid::new_v4());
    let (project_id, user_id) = match api.config.auth {
        AuthMode::None => NOBODY,
    };
    let caller = Caller {
        project_id: project_id.to_owned(),
        user_id: user_id.to_owned(),
        request_id: request_id.clone(),
    };
    request.extensions_mut().insert(Context(caller));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&request_id.0) {
        response.headers_mut().insert("x-openstack-request-id", value.clone());
        response.headers_mut().insert("x-compute-request-id", value);
    }
    response
}

impl<S: Sync> FromRequestParts<S> for Context {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let none = || ApiError::Internal(anyhow::anyhow!("a route without the layer of callers"));
        parts.extensions.get::<Self>().cloned().ok_or_else(none)
    }
}
