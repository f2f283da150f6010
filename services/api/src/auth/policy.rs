//! Who may do what: Nova's default policies, as tables. What is in no table is for administrators only.

use axum::http::Method;

/// What a caller is. Each may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Known, but without a role here: nothing but the documents of versions.
    Nobody,
    /// Looks at what their project has.
    Reader,
    /// Uses what their project has.
    Member,
    /// Moves what their project has.
    Manager,
    /// Sees and does everything.
    Admin,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody",
            Self::Reader => "reader",
            Self::Member => "member",
            Self::Manager => "manager",
            Self::Admin => "admin",
        })
    }
}

impl Role {
    /// The highest of the roles by these names; others are not known.
    pub(crate) fn highest<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let role = |name: &str| {
            let all = [Self::Reader, Self::Member, Self::Manager, Self::Admin];
            all.into_iter().find(|role| role.to_string().eq_ignore_ascii_case(name))
        };
        names.into_iter().filter_map(role).max().unwrap_or(Self::Nobody)
    }
}

/// What is done, in Nova's words, and who may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) least: Role,
}

const fn rule(name: &'static str, least: Role) -> Rule {
    Rule { name, least }
}

use Role::{Admin, Manager, Member, Nobody, Reader};

/// To look at the servers of all projects at once.
pub(crate) const ALL_TENANTS: Rule = rule("os_compute_api:servers:index:get_all_tenants", Admin);
/// To say which host a server is made on.
pub(crate) const CREATE_ON_HOST: Rule = rule("compute:servers:create:requested_destination", Admin);
/// To say which host a server is migrated to.
pub(crate) const MIGRATE_TO_HOST: Rule =
    rule("os_compute_api:os-migrate-server:migrate:host", Admin);
/// To say which host a server is live-migrated to.
pub(crate) const LIVE_MIGRATE_TO_HOST: Rule =
    rule("os_compute_api:os-migrate-server:migrate_live:host", Admin);
/// To unlock what an administrator has locked.
pub(crate) const UNLOCK_OVERRIDE: Rule =
    rule("os_compute_api:os-lock-server:unlock:unlock_override", Admin);
/// To look at and change key pairs of other users.
pub(crate) const KEYPAIRS_OF_OTHERS: Rule = rule("os_compute_api:os-keypairs:user_id", Admin);
/// To look at the server groups of all projects.
pub(crate) const ALL_GROUPS: Rule =
    rule("os_compute_api:os-server-groups:index:all_projects", Admin);
/// To look at the limits of another project.
pub(crate) const OTHER_LIMITS: Rule = rule("os_compute_api:limits:other_project", Admin);
/// Routes: methods, the beginning of the path, least role, Nova's name. The first that fits counts; a path fits if
/// the rest of it is empty or begins with a slash.
const ROUTES: [(&str, &str, Role, &str); 47] = [
    ("GET", "/v2.1/servers/{server_id}/migrations", Manager, "servers:migrations:index"),
    ("POST", "/v2.1/servers/{server_id}/migrations", Manager, "servers:migrations:force_complete"),
    ("DELETE", "/v2.1/servers/{server_id}/migrations", Manager, "servers:migrations:delete"),
    ("GET", "/v2.1/servers/{server_id}/os-instance-actions", Reader, "os-instance-actions:list"),
    // The action itself decides: see `ACTIONS`.
    ("POST", "/v2.1/servers/{server_id}/action", Reader, "servers:action"),
    (
        "GET",
        "/v2.1/servers/{server_id}/os-volume_attachments",
        Reader,
        "os-volumes-attachments:index",
    ),
    (
        "POST",
        "/v2.1/servers/{server_id}/os-volume_attachments",
        Member,
        "os-volumes-attachments:create",
    ),
    (
        "DELETE",
        "/v2.1/servers/{server_id}/os-volume_attachments",
        Member,
        "os-volumes-attachments:delete",
    ),
    ("GET", "/v2.1/servers", Reader, "servers:index"),
    ("POST PUT PATCH DELETE", "/v2.1/servers", Member, "servers:update"),
    ("GET", "/v2.1/flavors/{flavor_id}/os-flavor-access", Admin, "os-flavor-access"),
    ("GET", "/v2.1/flavors", Reader, "flavors"),
    ("POST PUT DELETE", "/v2.1/flavors", Admin, "os-flavor-manage"),
    ("GET", "/v2.1/images", Reader, "images"),
    ("GET", "/v2.1/os-migrations", Manager, "os-migrations:index"),
    ("GET", "/v2.1/os-services", Admin, "os-services:list"),
    ("PUT DELETE", "/v2.1/os-services", Admin, "os-services:update"),
    ("GET", "/v2.1/os-hypervisors", Admin, "os-hypervisors:list"),
    ("GET", "/v2.1/os-availability-zone/detail", Admin, "os-availability-zone:detail"),
    ("GET", "/v2.1/os-availability-zone", Reader, "os-availability-zone:list"),
    ("GET", "/v2.1/os-aggregates", Admin, "os-aggregates:index"),
    ("POST PUT DELETE", "/v2.1/os-aggregates", Admin, "os-aggregates:update"),
    ("GET", "/v2.1/os-keypairs", Reader, "os-keypairs:index"),
    ("POST DELETE", "/v2.1/os-keypairs", Member, "os-keypairs:create"),
    ("GET", "/v2.1/os-server-groups", Reader, "os-server-groups:index"),
    ("POST DELETE", "/v2.1/os-server-groups", Member, "os-server-groups:create"),
    ("GET", "/v2.1/os-volumes_boot", Reader, "servers:index"),
    ("GET", "/v2.1/limits", Reader, "limits"),
    ("GET", "/v2.1/os-quota-sets", Reader, "os-quota-sets:show"),
    ("PUT DELETE", "/v2.1/os-quota-sets", Admin, "os-quota-sets:update"),
    ("GET", "/v2.1/extensions", Reader, "extensions"),
    ("GET", "/v2/schemas", Reader, "images:schemas"),
    ("GET", "/v2/images", Reader, "images:get_image"),
    ("POST PUT PATCH DELETE", "/v2/images", Member, "images:modify_image"),
    ("GET", "/v2.0/networks", Reader, "networks:get_network"),
    ("POST PUT DELETE", "/v2.0/networks", Admin, "networks:create_network"),
    ("GET", "/v2.0/subnets", Reader, "networks:get_subnet"),
    ("GET", "/v2.0/ports", Reader, "networks:get_port"),
    ("GET", "/v2.0/extensions", Reader, "networks:extensions"),
    ("GET", "/v2.0/{kind}", Reader, "networks:extensions"),
    ("GET", "/v3/{project_id}/volumes", Reader, "volume:get_all"),
    ("GET", "/v1/volumes", Admin, "own:volumes"),
    ("POST DELETE", "/v1/volumes", Admin, "own:volumes:update"),
    ("GET", "/v1/servers", Admin, "own:migrations"),
    ("GET", "/v1/allocations", Admin, "own:allocations"),
    ("GET", "/v1/obligations", Admin, "own:obligations"),
    ("GET", "/v1/consistency", Admin, "own:consistency"),
];

/// The documents that say which versions there are: clients read them before they say who they are.
pub(crate) const VERSIONS: [&str; 6] = ["/v2.1", "/v2.1/", "/v2", "/v2/", "/v2.0", "/v2.0/"];

/// Actions on servers: name, least role, Nova's name.
const ACTIONS: [(&str, Role, &str); 20] = [
    ("os-start", Member, "servers:start"),
    ("os-stop", Member, "servers:stop"),
    ("reboot", Member, "servers:reboot"),
    ("resize", Member, "servers:resize"),
    ("confirmResize", Member, "servers:confirm_resize"),
    ("revertResize", Member, "servers:revert_resize"),
    ("rebuild", Member, "servers:rebuild"),
    ("pause", Member, "os-pause-server:pause"),
    ("unpause", Member, "os-pause-server:unpause"),
    ("suspend", Member, "os-suspend-server:suspend"),
    ("resume", Member, "os-suspend-server:resume"),
    ("lock", Member, "os-lock-server:lock"),
    ("unlock", Member, "os-lock-server:unlock"),
    ("createImage", Member, "servers:create_image"),
    ("rescue", Member, "os-rescue"),
    ("unrescue", Member, "os-rescue"),
    ("os-getConsoleOutput", Member, "os-console-output"),
    ("shelve", Member, "os-shelve:shelve"),
    ("migrate", Manager, "os-migrate-server:migrate"),
    ("os-migrateLive", Manager, "os-migrate-server:migrate_live"),
];

/// Who may use a route.
pub(crate) fn of_route(method: &Method, path: &str) -> Rule {
    let method = if *method == Method::HEAD { "GET" } else { method.as_str() };
    let fits = |beginning: &str| {
        path.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if VERSIONS.contains(&path) {
        return rule("versions", Nobody);
    }
    let found = ROUTES.iter().find(|(methods, beginning, ..)| {
        fits(beginning) && methods.split(' ').any(|one| one == method)
    });
    found.map_or(rule("unlisted", Admin), |(_, _, least, name)| rule(name, *least))
}

/// Who may do something with a server, by the action's name.
pub(crate) fn of_action(name: &str) -> Rule {
    let found = ACTIONS.iter().find(|(action, ..)| *action == name);
    found.map_or(rule("servers:admin_action", Admin), |(_, least, name)| rule(name, *least))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_role_counts_and_unknown_ones_do_not() {
        assert_eq!(Role::highest(["reader", "Member", "wizard"]), Member);
        assert_eq!(Role::highest(["manager", "admin"]), Admin);
        assert_eq!(Role::highest(["wizard"]), Nobody);
    }

    #[test]
    fn routes_have_their_roles_and_what_is_not_listed_is_for_administrators() {
        for (method, path, least) in [
            (Method::GET, "/v2.1/", Nobody),
            (Method::GET, "/v2.1/servers/{server_id}", Reader),
            (Method::HEAD, "/v2.1/servers/{server_id}", Reader),
            (Method::POST, "/v2.1/servers", Member),
            (Method::DELETE, "/v2.1/servers/{server_id}/migrations/{migration_id}", Manager),
            (Method::GET, "/v2.1/os-hypervisors/{hypervisor_id}", Admin),
            (Method::GET, "/v2.1/os-wings", Admin),
            (Method::GET, "/v2.1/serverswings", Admin),
            (Method::GET, "/v3/servers", Admin),
        ] {
            let found = of_route(&method, path);
            assert_eq!(found.least, least, "{method} {path} {}", found.name);
        }
        assert_eq!(of_action("evacuate").least, Admin);
        assert_eq!(of_action("os-migrateLive").least, Manager);
    }

    /// Every route of the document has a rule of its own.
    #[test]
    fn every_route_is_listed() {
        let document: serde_json::Value = serde_json::from_str(&crate::document()).unwrap();
        for (path, methods) in document["paths"].as_object().unwrap() {
            let open = ["/livez", "/readyz"].contains(&path.as_str());
            for method in methods.as_object().unwrap().keys().filter(|_| !open) {
                let method = method.to_ascii_uppercase().parse().unwrap();
                assert_ne!(of_route(&method, path).name, "unlisted", "{method} {path}");
            }
        }
    }
}
