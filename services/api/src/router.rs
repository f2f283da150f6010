//! Which path is answered by whom, and what every request passes through.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::ApiError;
use crate::handlers::{
    flavors, hypervisors, image_data, images, instance_actions, migrations, misc, networks, own,
    server_actions, server_create, server_migrations, servers, services,
};
use crate::state::Api;
use crate::{auth, version};

/// A request's body may have so many bytes at most; images have a limit of their own.
const MOST_BYTES: usize = 1 << 20;

fn compute() -> Router<Arc<Api>> {
    Router::new()
        .route("/flavors", get(flavors::list).post(flavors::create))
        .route("/flavors/detail", get(flavors::detail))
        .route("/flavors/{flavor_id}", get(flavors::show).delete(flavors::delete))
        .route("/flavors/{flavor_id}/os-extra_specs", get(flavors::extra_specs))
        .route("/images", get(images::proxy_list))
        .route("/images/detail", get(images::proxy_list))
        .route("/images/{image_id}", get(images::proxy_show))
        .route("/servers", get(servers::list).post(server_create::create))
        .route("/servers/detail", get(servers::detail))
        .route("/servers/{server_id}", get(servers::show).delete(servers::delete))
        .route("/servers/{server_id}/action", post(server_actions::action))
        .route("/servers/{server_id}/migrations", get(server_migrations::list))
        .route(
            "/servers/{server_id}/migrations/{migration_id}",
            get(server_migrations::show).delete(server_migrations::abort),
        )
        .route(
            "/servers/{server_id}/migrations/{migration_id}/action",
            post(server_migrations::action),
        )
        .route("/servers/{server_id}/os-instance-actions", get(instance_actions::list))
        .route("/servers/{server_id}/os-instance-actions/{request_id}", get(instance_actions::show))
        .route("/os-migrations", get(migrations::list))
        .route("/os-services", get(services::list))
        .route("/os-services/{service_id}", put(services::put).delete(services::delete))
        .route("/os-hypervisors", get(hypervisors::list))
        .route("/os-hypervisors/detail", get(hypervisors::detail))
        .route("/os-hypervisors/{hypervisor_id}", get(hypervisors::show))
        .route("/limits", get(misc::limits))
        .route("/os-availability-zone", get(misc::zones))
        .route("/os-availability-zone/detail", get(misc::zones_detail))
        .route("/extensions", get(misc::extensions))
        .route("/os-aggregates", get(misc::aggregates))
        .route("/", get(version::one))
}

fn others() -> Router<Arc<Api>> {
    Router::new()
        .route("/v2", get(version::images))
        .route("/v2/", get(version::images))
        .route("/v2.0", get(version::networks))
        .route("/v2.0/", get(version::networks))
        .route("/v2/images", get(images::list).post(images::create))
        .route("/v2/images/{image_id}", get(images::show).delete(images::delete))
        .route("/v2.0/networks", get(networks::list).post(networks::create))
        .route("/v2.0/networks/{network_id}", get(networks::show).delete(networks::delete))
        .route("/v2.0/subnets", get(networks::subnets))
        .route("/v2.0/subnets/{subnet_id}", get(networks::show_subnet))
        .route("/v1/servers/{server_id}/migrations/{migration_id}", get(own::migration))
        .route("/v1/allocations", get(own::allocations))
        .route("/v1/obligations", get(own::obligations))
        .route("/v1/consistency", get(own::consistency))
}

/// The whole API.
pub fn router(api: Arc<Api>) -> Router {
    let data = put(image_data::upload).get(image_data::download);
    let protected = Router::new()
        .nest("/v2.1", compute())
        .route("/v2.1/", get(version::one))
        .merge(others())
        .layer(DefaultBodyLimit::max(MOST_BYTES))
        .route("/v2/images/{image_id}/file", data)
        .fallback(version::no_route)
        .method_not_allowed_fallback(version::no_method)
        .layer(from_fn(version::layer))
        .layer(from_fn_with_state(Arc::clone(&api), auth::layer));
    Router::new()
        .route("/", get(version::all))
        .route("/livez", get(misc::livez))
        .route("/readyz", get(misc::readyz))
        .merge(protected)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(api)
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over")]
fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    ApiError::Internal(anyhow::anyhow!("a handler panicked: {text}")).into_response()
}
