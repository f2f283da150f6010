//! Lists of servers: filters, order and pages.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde_json::{Value, json};
use whimbrel_db::DbError;
use whimbrel_db::api::{self, ServerFilter, ServerRow, SortKey};

use crate::auth::{ALL_TENANTS, Context, Role};
use crate::error::ApiError;
use crate::state::Api;
use crate::time;
use crate::version::{Base, Version};
use crate::views;

/// The version from which unknown parameters are refused.
const STRICT: u16 = 75;

/// Parameters of lists: since which version, from which role on (others are not heard), name. The last of several
/// with the same name that applies counts.
const HEARD: [(u16, Role, &str); 46] = [
    (1, Role::Reader, "limit"),
    (1, Role::Reader, "marker"),
    (1, Role::Reader, "sort_key"),
    (1, Role::Reader, "sort_dir"),
    (1, Role::Reader, "all_tenants"),
    (1, Role::Reader, "name"),
    (1, Role::Reader, "status"),
    (1, Role::Reader, "image"),
    (1, Role::Reader, "flavor"),
    (1, Role::Reader, "ip"),
    (1, Role::Reader, "ip6"),
    (1, Role::Reader, "changes-since"),
    (1, Role::Reader, "reservation_id"),
    (1, Role::Reader, "uuid"),
    (26, Role::Reader, "tags"),
    (26, Role::Reader, "tags-any"),
    (26, Role::Reader, "not-tags"),
    (26, Role::Reader, "not-tags-any"),
    (66, Role::Reader, "changes-before"),
    (73, Role::Reader, "locked"),
    // For everybody since 2.83, before that for administrators.
    (83, Role::Reader, "availability_zone"),
    (83, Role::Reader, "config_drive"),
    (83, Role::Reader, "key_name"),
    (83, Role::Reader, "created_at"),
    (83, Role::Reader, "launched_at"),
    (83, Role::Reader, "terminated_at"),
    (83, Role::Reader, "power_state"),
    (83, Role::Reader, "task_state"),
    (83, Role::Reader, "vm_state"),
    (83, Role::Reader, "progress"),
    (83, Role::Reader, "user_id"),
    (1, Role::Admin, "availability_zone"),
    (1, Role::Admin, "key_name"),
    (1, Role::Admin, "power_state"),
    (1, Role::Admin, "task_state"),
    (1, Role::Admin, "vm_state"),
    (1, Role::Admin, "user_id"),
    (1, Role::Admin, "config_drive"),
    (1, Role::Admin, "deleted"),
    (1, Role::Admin, "description"),
    (1, Role::Admin, "display_description"),
    (1, Role::Admin, "host"),
    (1, Role::Admin, "node"),
    (1, Role::Admin, "project_id"),
    (1, Role::Admin, "tenant_id"),
    (1, Role::Admin, "soft_deleted"),
];

/// Parameters that Nova knows and that would find nothing here, or everything: they are let pass.
const PASSED: [&str; 14] = [
    "access_ip_v4",
    "access_ip_v6",
    "auto_disk_config",
    "cell_name",
    "disk_config",
    "hostname",
    "instance_type_id",
    "kernel_id",
    "launch_index",
    "locked_by",
    "ramdisk_id",
    "root_device_name",
    "updated_at",
    "block_device_mapping",
];

/// What a client asked for, as it may be heard.
struct Query {
    pairs: Vec<(String, String)>,
    version: Version,
    role: Role,
}

fn invalid(name: &str, what: impl std::fmt::Display) -> ApiError {
    ApiError::BadRequest(format!("Invalid input for query parameters {name}: {what}."))
}

impl Query {
    fn read(raw: Option<String>, context: &Context, version: Version) -> Result<Self, ApiError> {
        let raw = raw.unwrap_or_default();
        let pairs: Vec<(String, String)> = serde_urlencoded::from_str(&raw)
            .map_err(|error| ApiError::BadRequest(format!("Invalid query: {error}.")))?;
        let known =
            |name: &str| HEARD.iter().any(|(_, _, heard)| *heard == name) || PASSED.contains(&name);
        if let Some((name, _)) = pairs.iter().find(|(name, _)| !known(name)) {
            if version.since(STRICT) {
                return Err(ApiError::BadRequest(format!(
                    "Additional query parameters are not allowed: {name}."
                )));
            }
            tracing::debug!(parameter = name, "not heard");
        }
        Ok(Self { pairs, version, role: context.role })
    }

    fn heard(&self, name: &str) -> bool {
        HEARD.iter().any(|(since, role, heard)| {
            *heard == name && self.version.since(*since) && self.role >= *role
        })
    }

    fn all(&self, name: &'static str) -> impl DoubleEndedIterator<Item = &str> {
        let heard = self.heard(name);
        let named = self.pairs.iter().filter(move |(key, _)| heard && key == name);
        named.map(|(_, value)| value.as_str())
    }

    fn one(&self, name: &'static str) -> Option<&str> {
        self.all(name).next_back()
    }

    fn text(&self, name: &'static str) -> Option<String> {
        self.one(name).map(ToOwned::to_owned)
    }

    fn parsed<T: std::str::FromStr>(
        &self,
        name: &'static str,
        what: &str,
    ) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| invalid(name, format_args!("'{text}' is not {what}")))
        };
        self.one(name).map(parse).transpose()
    }

    fn number(&self, name: &'static str) -> Result<Option<i64>, ApiError> {
        Ok(self.parsed::<u32>(name, "a whole number of 0 or more")?.map(i64::from))
    }

    fn yes(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let parse = |text: &str| {
            super::server_actions::boolean(&json!(text))
                .ok_or_else(|| invalid(name, format_args!("'{text}' is not true or false")))
        };
        self.one(name).map(parse).transpose()
    }

    fn words(&self, name: &'static str) -> Option<Vec<String>> {
        self.one(name).map(|text| text.split(',').map(ToOwned::to_owned).collect())
    }
}

/// The pairs of states that show as one of `statuses`. An unknown one is shown by no server.
fn states_of(statuses: &[String]) -> Vec<String> {
    let shown = whimbrel_model::InstanceState::all()
        .filter(|state| statuses.iter().any(|status| views::status(*state) == status));
    let task = |task: Option<whimbrel_model::TaskState>| task.map(|task| task.to_string());
    shown.map(|state| format!("{}/{}", state.vm, task(state.task).unwrap_or_default())).collect()
}

/// Numbers of power states, as clients send them.
const POWER: [(i64, &str); 6] = [
    (0, "nostate"),
    (1, "running"),
    (3, "paused"),
    (4, "shutdown"),
    (6, "crashed"),
    (7, "suspended"),
];

fn sort(query: &Query) -> Result<Vec<(SortKey, bool)>, ApiError> {
    let directions: Vec<&str> = query.all("sort_dir").collect();
    let mut sort = Vec::new();
    for (position, name) in query.all("sort_key").enumerate() {
        let key = SortKey::named(name)
            .ok_or_else(|| invalid("sort_key", format_args!("'{name}' can't be sorted by")))?;
        // One direction for all, or one for each.
        let direction = directions.get(position).or(directions.last()).copied().unwrap_or("desc");
        let ascending = match direction.to_ascii_lowercase().as_str() {
            "asc" => true,
            "desc" => false,
            other => return Err(invalid("sort_dir", format_args!("'{other}' is not asc or desc"))),
        };
        sort.push((key, ascending));
    }
    Ok(sort)
}

/// The project whose servers are listed; none is all.
fn project(query: &Query, context: &Context) -> Result<Option<String>, ApiError> {
    // A parameter without a value means yes.
    let all = match query.one("all_tenants") {
        Some("") => true,
        _ => query.yes("all_tenants")?.unwrap_or(false),
    };
    if all {
        context.check(ALL_TENANTS)?;
        return Ok(query.text("project_id").or_else(|| query.text("tenant_id")));
    }
    Ok(context.project(false))
}

fn filter(api: &Api, query: &Query, context: &Context) -> Result<ServerFilter, ApiError> {
    let since = time::parse("changes-since", query.one("changes-since"))?;
    let before = time::parse("changes-before", query.one("changes-before"))?;
    // What has changed includes what is gone, unless told otherwise.
    let deleted = match query.yes("deleted")? {
        None if since.is_some() || before.is_some() => None,
        other => Some(other.unwrap_or(false)),
    };
    let mut filter = ServerFilter {
        project_id: project(query, context)?,
        user_id: query.text("user_id"),
        host: query.text("host").or_else(|| query.text("node")),
        name: query.text("name"),
        description: query.text("description").or_else(|| query.text("display_description")),
        ids: query.parsed("uuid", "an id")?.map(|id| vec![id]),
        vm_states: query.text("vm_state").map(|state| vec![state.to_ascii_lowercase()]),
        task_states: query
            .text("task_state")
            .map(|task| vec![(!task.is_empty() && task != "None").then_some(task)]),
        flavor_id: query.text("flavor").map(last_part),
        image_id: match query.text("image").map(last_part) {
            Some(text) => Some(text.parse().map_err(|_| invalid("image", "it is not an id"))?),
            None => None,
        },
        key_name: query.text("key_name"),
        reservation_id: query.text("reservation_id"),
        locked: query.yes("locked")?,
        address: query.text("ip"),
        tags: query.words("tags"),
        tags_any: query.words("tags-any"),
        not_tags: query.words("not-tags"),
        not_tags_any: query.words("not-tags-any"),
        changes_since: since,
        changes_before: before,
        deleted,
        sort: sort(query)?,
        marker: query.parsed("marker", "an id")?,
        limit: api.limit(query.number("limit")?),
        ..ServerFilter::default()
    };
    if let Some(power) = query.number("power_state")? {
        let state = POWER.iter().find(|(number, _)| *number == power).map(|(_, name)| *name);
        filter.power_state = Some(state.unwrap_or("unknown").to_owned());
    }
    let statuses: Vec<String> = query.all("status").map(str::to_ascii_uppercase).collect();
    if !statuses.is_empty() {
        filter.states = Some(states_of(&statuses));
    }
    Ok(filter)
}

/// Some clients send the address of a flavor or image.
fn last_part(text: String) -> String {
    text.rsplit('/').next().map(ToOwned::to_owned).unwrap_or(text)
}

async fn rows(
    api: &Api,
    query: &Query,
    context: &Context,
) -> Result<(Vec<ServerRow>, bool), ApiError> {
    let mut filter = filter(api, query, context)?;
    let mut connection = api.connection().await?;
    if let Some(zone) = query.one("availability_zone") {
        let zones = api::zones_of_hosts(&mut connection).await?;
        let hosts = api::hosts_list(&mut connection, api.config.service_down_time_ms).await?;
        let inside = |host: &str| zones.get(host).map_or(api::DEFAULT_ZONE, String::as_str) == zone;
        filter.hosts =
            Some(hosts.into_iter().map(|host| host.name).filter(|host| inside(host)).collect());
    }
    let limit = filter.limit;
    // One more, to know whether there are more.
    filter.limit += 1;
    let listed = api::servers_list(&mut connection, &filter).await;
    let mut rows = listed.map_err(|error| match error {
        DbError::NotFound { kind: "marker", id } => {
            ApiError::BadRequest(format!("marker [{id}] not found"))
        }
        DbError::NotFound { kind: "pattern", id } => ApiError::BadRequest(format!("{id}.")),
        other => other.into(),
    })?;
    let more = i64::try_from(rows.len()).is_ok_and(|count| count > limit);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok((rows, more))
}

fn listing(
    servers: &[Value],
    rows: &[ServerRow],
    more: bool,
    query: &Query,
    base: &str,
) -> Json<Value> {
    let mut body = json!({ "servers": servers });
    if let Some(last) = rows.last().filter(|_| more) {
        let kept = query.pairs.iter().filter(|(name, _)| name != "marker").cloned();
        let pairs: Vec<_> = kept.chain([("marker".to_owned(), last.id.to_string())]).collect();
        let query = serde_urlencoded::to_string(pairs).unwrap_or_default();
        body["servers_links"] = json!([{ "rel": "next", "href": format!("{base}?{query}") }]);
    }
    Json(body)
}

/// Lists servers.
#[utoipa::path(get, path = "/v2.1/servers", tag = "servers",
    responses((status = 200), (status = 400), (status = 403)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    RawQuery(raw): RawQuery,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let query = Query::read(raw, &context, version)?;
    let (rows, more) = rows(&api, &query, &context).await?;
    let servers: Vec<Value> = rows.iter().map(|row| views::server_link(row, &base)).collect();
    Ok(listing(&servers, &rows, more, &query, &format!("{}/v2.1/servers", base.0)))
}

/// Lists servers with all that is known of them.
#[utoipa::path(get, path = "/v2.1/servers/detail", tag = "servers",
    responses((status = 200), (status = 400), (status = 403)))]
pub(crate) async fn detail(
    State(api): State<Arc<Api>>,
    RawQuery(raw): RawQuery,
    context: Context,
    version: Version,
    base: Base,
) -> Result<Json<Value>, ApiError> {
    let query = Query::read(raw, &context, version)?;
    let (rows, more) = rows(&api, &query, &context).await?;
    let url = format!("{}/v2.1/servers/detail", base.0);
    let around = views::Around::read(&api, &context, version, base, &rows).await?;
    let servers: Vec<Value> = rows.iter().map(|row| views::server(row, &around, false)).collect();
    Ok(listing(&servers, &rows, more, &query, &url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(raw: &str, version: u16, role: Role) -> Query {
        let pairs = serde_urlencoded::from_str(raw).unwrap();
        Query { pairs, version: Version(version), role }
    }

    /// One row for each rule: what is asked, by whom in which version, and whether it is heard.
    #[test]
    fn parameters_are_heard_by_version_and_role() {
        for (name, version, role, heard) in [
            ("name", 1, Role::Reader, true),
            ("host", 96, Role::Manager, false),
            ("host", 1, Role::Admin, true),
            ("tags", 25, Role::Admin, false),
            ("tags", 26, Role::Reader, true),
            ("locked", 72, Role::Admin, false),
            ("locked", 73, Role::Reader, true),
            ("vm_state", 82, Role::Reader, false),
            ("vm_state", 83, Role::Reader, true),
            ("vm_state", 1, Role::Admin, true),
            ("deleted", 96, Role::Member, false),
            ("changes-before", 65, Role::Admin, false),
            ("changes-before", 66, Role::Reader, true),
        ] {
            let query = query("", version, role);
            assert_eq!(query.heard(name), heard, "{name} 2.{version} {role}");
        }
    }

    #[test]
    fn directions_go_with_keys_and_the_last_one_with_the_rest() {
        let by = |raw: &str| {
            sort(&query(raw, 96, Role::Reader))
                .map(|sort| sort.iter().map(|(key, up)| (key.name, *up)).collect::<Vec<_>>())
        };
        assert_eq!(by("sort_key=name").unwrap(), [("name", false)]);
        let both = "sort_key=name&sort_dir=asc&sort_key=host";
        assert_eq!(by(both).unwrap(), [("name", true), ("host", true)]);
        assert!(by("sort_key=wings").is_err() && by("sort_key=name&sort_dir=up").is_err());
    }
}
