//! The OpenAPI document, generated from the handlers.

use utoipa::OpenApi;

use crate::handlers::{
    flavors, hypervisors, image_data, images, instance_actions, migrations, misc, networks, own,
    server_actions, server_create, server_migrations, servers, services,
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
        flavors::extra_specs,
        images::list,
        images::show,
        images::create,
        images::delete,
        images::proxy_list,
        images::proxy_show,
        image_data::upload,
        image_data::download,
        networks::list,
        networks::show,
        networks::create,
        networks::delete,
        networks::subnets,
        networks::show_subnet,
        servers::list,
        servers::detail,
        servers::show,
        servers::delete,
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
        misc::limits,
        misc::zones,
        misc::zones_detail,
        misc::extensions,
        misc::aggregates,
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
