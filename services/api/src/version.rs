//! Microversions: which one a request is answered by, and the documents that say which there are.

use std::fmt;

use axum::Json;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;

/// A microversion 2.`minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u16);

/// The lowest.
pub(crate) const MIN: Version = Version(1);
/// The highest whose behaviour every route that is offered has.
pub(crate) const MAX: Version = Version(96);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "2.{}", self.0)
    }
}

impl Version {
    /// Whether the request is answered by 2.`minor` or a later one.
    pub(crate) fn since(self, minor: u16) -> bool {
        self.0 >= minor
    }

    /// Refuses what came with 2.`minor`, as if it were not there.
    pub(crate) fn require(self, minor: u16) -> Result<(), ApiError> {
        if self.since(minor) {
            return Ok(());
        }
        Err(ApiError::NotFound(format!(
            "The resource could not be found in version {self}; it came with 2.{minor}."
        )))
    }

    /// Refuses what went with 2.`minor`, as if it were not there.
    pub(crate) fn until(self, minor: u16) -> Result<(), ApiError> {
        if self.0 < minor {
            return Ok(());
        }
        Err(ApiError::NotFound(format!(
            "The resource could not be found in version {self}; it went with 2.{minor}."
        )))
    }
}

/// The version that the headers ask for.
fn asked(headers: &HeaderMap) -> Result<Version, ApiError> {
    let standard = headers.get_all("openstack-api-version").iter();
    let standard = standard
        .filter_map(|value| value.to_str().ok())
        .find_map(|value| value.split(',').find_map(|part| part.trim().strip_prefix("compute ")));
    let legacy = headers.get("x-openstack-nova-api-version").and_then(|value| value.to_str().ok());
    let Some(text) = standard.or(legacy).map(str::trim) else { return Ok(MIN) };
    if text == "latest" {
        return Ok(MAX);
    }
    let malformed = || {
        ApiError::BadRequest(format!(
            "API Version String {text} is of invalid format. Must be of format MajorNum.MinorNum."
        ))
    };
    let (major, minor) = text.split_once('.').ok_or_else(malformed)?;
    let plain = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits && (part == "0" || !part.starts_with('0'))
    };
    if !plain(major) || !plain(minor) {
        return Err(malformed());
    }
    match (major, minor.parse::<u16>().map(Version)) {
        ("2", Ok(version)) if (MIN..=MAX).contains(&version) => Ok(version),
        _ => Err(ApiError::NotAcceptable(format!(
            "Version {text} is not supported by the API. Minimum is {MIN} and maximum is {MAX}."
        ))),
    }
}

/// Finds out the version, and says in the answer which one it was.
pub(crate) async fn layer(mut request: Request, next: Next) -> Response {
    let version = match asked(request.headers()) {
        Ok(version) => version,
        Err(error) => return error.into_response(),
    };
    request.extensions_mut().insert(version);
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let text = version.to_string();
    if let (Ok(both), Ok(plain)) =
        (HeaderValue::from_str(&format!("compute {text}")), HeaderValue::from_str(&text))
    {
        headers.insert("openstack-api-version", both);
        headers.insert("x-openstack-nova-api-version", plain);
    }
    for name in ["OpenStack-API-Version", "X-OpenStack-Nova-API-Version"] {
        headers.append(header::VARY, HeaderValue::from_static(name));
    }
    response
}

impl<S: Sync> FromRequestParts<S> for Version {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(parts.extensions.get::<Self>().copied().unwrap_or(MIN))
    }
}

/// The address that the caller used, for links.
#[derive(Clone, Debug)]
pub(crate) struct Base(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for Base {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let host = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let authority = parts.uri.authority().map(ToString::to_string);
        let host = host.map(ToOwned::to_owned).or(authority).unwrap_or_default();
        Ok(Self(format!("http://{host}")))
    }
}

fn document(base: &Base) -> Value {
    json!({
        "id": "v2.1",
        "status": "CURRENT",
        "version": MAX.to_string(),
        "min_version": MIN.to_string(),
        "updated": "2013-07-23T11:33:21Z",
        "links": [{ "rel": "self", "href": format!("{}/v2.1/", base.0) }],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.compute+json;version=2.1",
        }],
    })
}

/// `GET /`: all versions.
pub(crate) async fn all(base: Base) -> Response {
    let body = json!({ "versions": [document(&base)] });
    (StatusCode::OK, Json(body)).into_response()
}

/// `GET /v2.1`: the one.
pub(crate) async fn one(base: Base) -> Json<Value> {
    Json(json!({ "version": document(&base) }))
}

/// `GET /v2`: the version of the image service's calls.
pub(crate) async fn images(base: Base) -> Json<Value> {
    let links = json!([{ "rel": "self", "href": format!("{}/v2/", base.0) }]);
    Json(json!({ "versions": [{ "id": "v2.9", "status": "CURRENT", "links": links }] }))
}

/// `GET /v2.0`: the version of the network service's calls.
pub(crate) async fn networks(base: Base) -> Json<Value> {
    let links = json!([{ "rel": "self", "href": format!("{}/v2.0/", base.0) }]);
    Json(json!({ "versions": [{ "id": "v2.0", "status": "CURRENT", "links": links }] }))
}

/// What has no route.
pub(crate) async fn no_route(uri: Uri) -> ApiError {
    ApiError::NotFound(format!("There is nothing at {}.", uri.path()))
}

/// What has a route, but not for this method.
pub(crate) async fn no_method(uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed(format!("{} does not take this method.", uri.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn status(pairs: &[(&'static str, &'static str)]) -> u16 {
        asked(&headers(pairs)).unwrap_err().into_response().status().as_u16()
    }

    #[test]
    fn either_header_is_heard_and_the_standard_one_first() {
        let standard = ("openstack-api-version", "compute 2.53");
        let legacy = ("x-openstack-nova-api-version", "2.25");
        assert_eq!(asked(&headers(&[])).unwrap(), MIN);
        assert_eq!(asked(&headers(&[legacy])).unwrap(), Version(25));
        assert_eq!(asked(&headers(&[standard, legacy])).unwrap(), Version(53));
        let other = ("openstack-api-version", "volume 3.1, compute 2.60");
        assert_eq!(asked(&headers(&[other])).unwrap(), Version(60));
        let latest = ("openstack-api-version", "compute latest");
        assert_eq!(asked(&headers(&[latest])).unwrap(), MAX);
    }

    #[test]
    fn unknown_versions_are_406_and_malformed_ones_400() {
        for text in ["2.9999", "2.0", "3.1", "1.1"] {
            assert_eq!(status(&[("x-openstack-nova-api-version", text)]), 406, "{text}");
        }
        for text in ["two", "2", "2.x", "2.", "2.01", "-2.1", "2.1.1"] {
            assert_eq!(status(&[("x-openstack-nova-api-version", text)]), 400, "{text}");
        }
    }
}
