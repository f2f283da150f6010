//! How long answers take, by route.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use whimbrel_service::metrics;

/// Counts one answer. The label is the route's pattern, so that ids make no series of their own.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    // Callers can make up methods; each would be a series of its own.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    let labels = [("method", method), ("route", route), ("status", status)];
    let seconds = begun.elapsed().as_secs_f64();
    metrics::histogram!("whimbrel_http_request_duration_seconds", &labels).record(seconds);
    response
}
