//! Which path is answered by whom, and what every request passes through.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::ApiError;
use crate::handlers::{
    aggregates, flavor_details, flavors, hypervisors, image_data, image_schemas, image_update,
    images, instance_actions, keypairs, migrations, misc, networks, own, ports, quotas,
    server_actions, server_create, server_groups, server_list, server_metadata, server_migrations,
    server_tags, servers, services, volume_attachments, volumes,
};
use crate::state::Api;
use crate::{auth, version};

/// A request's body may have so many bytes at most; images have a limit of their own.
const MOST_BYTES: usize = 1 << 20;

fn flavors() -> Router<Arc<Api>> {
    Router::new()
        .route("/flavors", get(flavors::list).post(flavors::create))
        .route("/flavors/detail", get(flavors::detail))
        .route(
            "/flavors/{flavor_id}",
            get(flavors::show).put(flavors::update).delete(flavors::delete),
        )
        .route("/flavors/{flavor_id}/action", post(flavor_details::action))
        .route(
            "/flavors/{flavor_id}/os-extra_specs",
            get(flavor_details::list_specs).post(flavor_details::set_specs),
        )
        .route(
            "/flavors/{flavor_id}/os-extra_specs/{name}",
            get(flavor_details::show_spec)
                .put(flavor_details::set_spec)
                .delete(flavor_details::remove_spec),
        )
        .route("/flavors/{flavor_id}/os-flavor-access", get(flavor_details::list_access))
}

fn servers() -> Router<Arc<Api>> {
    Router::new()
        .route("/servers", get(server_list::list).post(server_create::create))
        .route("/servers/detail", get(server_list::detail))
        .route(
            "/servers/{server_id}",
            get(servers::show).put(servers::update).delete(servers::delete),
        )
        .route("/servers/{server_id}/action", post(server_actions::action))
        .route("/servers/{server_id}/topology", get(servers::topology))
        .route("/servers/{server_id}/ips", get(servers::addresses))
        .route("/servers/{server_id}/ips/{network}", get(servers::addresses_in))
        .route("/servers/{server_id}/os-security-groups", get(servers::security_groups))
        .route("/servers/{server_id}/os-interface", get(ports::interfaces))
        .route("/servers/{server_id}/os-interface/{port_id}", get(ports::interface))
        .route(
            "/servers/{server_id}/metadata",
            get(server_metadata::list).post(server_metadata::update).put(server_metadata::replace),
        )
        .route(
            "/servers/{server_id}/metadata/{name}",
            get(server_metadata::show).put(server_metadata::set).delete(server_metadata::remove),
        )
        .route(
            "/servers/{server_id}/tags",
            get(server_tags::list).put(server_tags::replace).delete(server_tags::clear),
        )
        .route(
            "/servers/{server_id}/tags/{tag}",
            get(server_tags::show).put(server_tags::add).delete(server_tags::remove),
        )
        .route(
            "/servers/{server_id}/os-volume_attachments",
            get(volume_attachments::list).post(volume_attachments::attach),
        )
        .route(
            "/servers/{server_id}/os-volume_attachments/{volume_id}",
            get(volume_attachments::show).delete(volume_attachments::detach),
        )
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
}

fn hosts() -> Router<Arc<Api>> {
    Router::new()
        .route("/os-migrations", get(migrations::list))
        .route("/os-services", get(services::list))
        .route("/os-services/{service_id}", put(services::put).delete(services::delete))
        .route("/os-hypervisors", get(hypervisors::list))
        .route("/os-hypervisors/detail", get(hypervisors::detail))
        .route("/os-hypervisors/statistics", get(hypervisors::statistics))
        .route("/os-hypervisors/{hypervisor_id}", get(hypervisors::show))
        .route("/os-hypervisors/{hypervisor_id}/uptime", get(hypervisors::show_uptime))
        .route("/os-hypervisors/{hypervisor_id}/search", get(hypervisors::search))
        .route("/os-hypervisors/{hypervisor_id}/servers", get(hypervisors::servers))
        .route("/os-availability-zone", get(aggregates::zones))
        .route("/os-availability-zone/detail", get(aggregates::zones_detail))
        .route("/os-aggregates", get(aggregates::list).post(aggregates::create))
        .route(
            "/os-aggregates/{aggregate_id}",
            get(aggregates::show).put(aggregates::update).delete(aggregates::delete),
        )
        .route("/os-aggregates/{aggregate_id}/action", post(aggregates::action))
}

fn compute() -> Router<Arc<Api>> {
    Router::new()
        .merge(flavors())
        .merge(servers())
        .merge(hosts())
        .route("/images", get(images::proxy_list))
        .route("/images/detail", get(images::proxy_detail))
        .route("/images/{image_id}", get(images::proxy_show))
        .route("/os-keypairs", get(keypairs::list).post(keypairs::create))
        .route("/os-keypairs/{name}", get(keypairs::show).delete(keypairs::delete))
        .route("/os-server-groups", get(server_groups::list).post(server_groups::create))
        .route(
            "/os-server-groups/{group_id}",
            get(server_groups::show).delete(server_groups::delete),
        )
        .route("/limits", get(quotas::show_limits))
        .route(
            "/os-quota-sets/{project_id}",
            get(quotas::show).put(quotas::update).delete(quotas::reset),
        )
        .route("/os-quota-sets/{project_id}/defaults", get(quotas::defaults))
        .route("/os-quota-sets/{project_id}/detail", get(quotas::detail))
        .route("/extensions", get(misc::extensions))
        .route("/extensions/{alias}", get(misc::show_extension))
        .route("/", get(version::one))
}

fn others() -> Router<Arc<Api>> {
    Router::new()
        .route("/v2", get(version::images))
        .route("/v2/", get(version::images))
        .route("/v2.0", get(version::networks))
        .route("/v2.0/", get(version::networks))
        .route("/v2/images", get(images::list).post(images::create))
        .route(
            "/v2/images/{image_id}",
            get(images::show).patch(image_update::patch).delete(images::delete),
        )
        .route(
            "/v2/images/{image_id}/tags/{tag}",
            put(image_update::add_tag).delete(image_update::remove_tag),
        )
        .route("/v2/schemas/image", get(image_schemas::image))
        .route("/v2/schemas/images", get(image_schemas::images))
        .route("/v2.0/networks", get(networks::list).post(networks::create))
        .route("/v2.0/networks/{network_id}", get(networks::show).delete(networks::delete))
        .route("/v2.0/subnets", get(networks::subnets))
        .route("/v2.0/subnets/{subnet_id}", get(networks::show_subnet))
        .route("/v2.0/ports", get(ports::list))
        .route("/v2.0/ports/{port_id}", get(ports::show))
        .route("/v2.0/extensions", get(ports::extensions))
        .route("/v2.0/{kind}", get(ports::nothing))
        .route("/v3/{project_id}/volumes", get(volumes::list))
        .route("/v3/{project_id}/volumes/detail", get(volumes::detail))
        .route("/v3/{project_id}/volumes/{volume_id}", get(volumes::show))
        .route("/v1/volumes", get(volumes::registered).post(volumes::register))
        .route("/v1/volumes/{volume_id}", delete(volumes::forget))
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
