//! Reading what callers send: JSON that is what it should be, or an answer that says where it is not.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::ApiError;

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| ApiError::TooLarge(format!("The body can't be read: {error}.")))?;
        parse(&bytes).map(Self)
    }
}

/// Reads JSON; what is wrong is named with its place.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let place = error.path().to_string();
        let error = error.into_inner();
        if error.is_data() {
            ApiError::BadRequest(format!("Invalid input for field/attribute {place}: {error}."))
        } else {
            ApiError::BadRequest(format!("Malformed request body: it is not JSON: {error}."))
        }
    })?;
    reader.end().map_err(|error| {
        ApiError::BadRequest(format!("Malformed request body: it is not JSON: {error}."))
    })?;
    Ok(value)
}

/// A query string.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(params) = Query::from_request_parts(parts, state).await.map_err(|error| {
            ApiError::BadRequest(format!("Invalid query: {}.", error.body_text()))
        })?;
        Ok(Self(params))
    }
}

/// The id of a server in the path. What is no id is a server that is not there: clients try names.
pub(crate) struct ServerId(pub(crate) Uuid);

impl<S: Send + Sync> FromRequestParts<S> for ServerId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path =
            Path::<std::collections::HashMap<String, String>>::from_request_parts(parts, state)
                .await;
        let Path(segments) =
            path.map_err(|error| ApiError::BadRequest(format!("Invalid path: {error}.")))?;
        let text = segments.get("server_id").cloned().unwrap_or_default();
        server_id(&text).map(Self)
    }
}

pub(crate) fn server_id(text: &str) -> Result<Uuid, ApiError> {
    let hyphenated = text.len() == 36;
    text.parse()
        .ok()
        .filter(|_| hyphenated)
        .ok_or_else(|| ApiError::NotFound(format!("Instance {text} could not be found.")))
}
