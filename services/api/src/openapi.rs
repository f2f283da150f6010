//! The OpenAPI document, generated from the handlers.

use utoipa::OpenApi;

use crate::handlers::{
    aggregates, flavor_details, flavors, hypervisors, image_data, image_update, images,
    instance_actions, keypairs, migrations, misc, networks, own, ports, quotas, server_actions,
    server_create, server_groups, server_list, server_metadata, server_migrations, server_tags,
    servers, services, volume_attachments, volumes,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Whimbrel",
        description = "OpenStack's Compute API v2.1 with the few calls of the image and \
        network services that go with it, and a few of its own under /v1."
    ),
    paths(
        flavors::list,
        flavors::detail,
        flavors::show,
        flavors::create,
        flavors::delete,
        flavors::update,
        flavor_details::list_specs,
        flavor_details::set_specs,
        flavor_details::show_spec,
        flavor_details::set_spec,
        flavor_details::remove_spec,
        flavor_details::list_access,
        flavor_details::action,
        images::list,
        images::show,
        images::create,
        images::delete,
        image_update::patch,
        image_update::add_tag,
        image_update::remove_tag,
        images::proxy_list,
        images::proxy_detail,
        images::proxy_show,
        image_data::upload,
        image_data::download,
        networks::list,
        networks::show,
        networks::create,
        networks::delete,
        networks::subnets,
        networks::show_subnet,
        ports::list,
        ports::show,
        ports::interfaces,
        ports::interface,
        server_list::list,
        server_list::detail,
        volume_attachments::list,
        volume_attachments::show,
        volume_attachments::attach,
        volume_attachments::detach,
        volumes::list,
        volumes::detail,
        volumes::show,
        volumes::registered,
        volumes::register,
        volumes::forget,
        servers::show,
        servers::update,
        servers::delete,
        servers::addresses,
        servers::addresses_in,
        servers::security_groups,
        servers::topology,
        server_metadata::list,
        server_metadata::update,
        server_metadata::replace,
        server_metadata::show,
        server_metadata::set,
        server_metadata::remove,
        server_tags::list,
        server_tags::replace,
        server_tags::clear,
        server_tags::show,
        server_tags::add,
        server_tags::remove,
        server_create::create,
        server_actions::action,
        server_migrations::list,
        server_migrations::show,
        server_migrations::abort,
        server_migrations::action,
        migrations::list,
        instance_actions::list,
        instance_actions::show,
        services::list,
        services::update,
        services::delete,
        hypervisors::list,
        hypervisors::detail,
        hypervisors::show,
        hypervisors::statistics,
        hypervisors::show_uptime,
        hypervisors::search,
        hypervisors::servers,
        aggregates::list,
        aggregates::show,
        aggregates::create,
        aggregates::update,
        aggregates::delete,
        aggregates::action,
        aggregates::zones,
        aggregates::zones_detail,
        keypairs::list,
        keypairs::show,
        keypairs::create,
        keypairs::delete,
        server_groups::list,
        server_groups::show,
        server_groups::create,
        server_groups::delete,
        quotas::show_limits,
        quotas::show,
        quotas::defaults,
        quotas::detail,
        quotas::update,
        quotas::reset,
        misc::extensions,
        misc::show_extension,
        misc::livez,
        misc::readyz,
        own::migration,
        own::allocations,
        own::obligations,
        own::consistency,
    )
)]
struct Document;

/// The document, as it is checked in under `schemas/openapi`.
pub fn document() -> String {
    let document = Document::openapi().to_pretty_json();
    document.expect("the document is plain data") + "\n"
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    #[test]
    fn the_document_is_current() {
        expect_file!["../../../schemas/openapi/compute-v2.1.json"].assert_eq(&super::document());
    }
}
