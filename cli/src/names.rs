//! Things by their names or ids. A name that several have is refused, with all of them.

use reqwest::Method;
use serde_json::Value;
use uuid::Uuid;

use crate::client::{Client, Service};
use crate::error::Failure;
use crate::model::{Migration, Server};

/// Candidates that are told before the rest is counted.
const TOLD: usize = 10;

/// The one of `found` whose id is `wanted`, or the only one whose name it is.
fn pick<T>(
    kind: &str,
    wanted: &str,
    found: Vec<T>,
    id: impl Fn(&T) -> String,
    name: impl Fn(&T) -> String,
    say: impl Fn(&T) -> String,
) -> Result<Option<T>, Failure> {
    if let Some(at) = found.iter().position(|one| id(one) == wanted) {
        return Ok(found.into_iter().nth(at));
    }
    let mut same: Vec<T> = found.into_iter().filter(|one| name(one) == wanted).collect();
    if same.len() < 2 {
        return Ok(same.pop());
    }
    let what = format!("There are {} {kind}s with the name '{wanted}'.", same.len());
    let failure = same.iter().take(TOLD).fold(Failure::refused(what), |failure, one| {
        failure.next(format!("Say which one by its id: {}", say(one)))
    });
    let rest = same.len().saturating_sub(TOLD);
    Err(if rest > 0 { failure.next(format!("… or one of {rest} more")) } else { failure })
}

fn none(kind: &str, wanted: &str, list: &str) -> Failure {
    Failure::refused(format!("There is no {kind} with the name or id '{wanted}'."))
        .next(format!("See which there are: whimbrel {list}"))
}

fn text(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A name as a regular expression that only it fits.
fn exactly(name: &str) -> String {
    let mut pattern = String::from("^");
    for c in name.chars() {
        if !c.is_alphanumeric() && !c.is_whitespace() && !matches!(c, '_' | '-') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "$"
}

/// A server of the own project, or else, for administrators, of any.
pub(crate) async fn server(client: &Client, wanted: &str) -> Result<Server, Failure> {
    let found = find_server(client, wanted).await?;
    found.ok_or_else(|| none("server", wanted, "server list --all-projects"))
}

async fn find_server(client: &Client, wanted: &str) -> Result<Option<Server>, Failure> {
    if let Ok(id) = wanted.parse::<Uuid>() {
        match client.get(Service::Compute, &["servers", &id.to_string()]).send().await {
            Ok(answer) => return answer.read("server").map(Some),
            Err(failure) if failure.status == Some(404) => {}
            Err(failure) => return Err(failure),
        }
    }
    let name = exactly(wanted);
    for all in [&[][..], &[("all_tenants", "1")]] {
        let mut query = vec![("name", name.as_str())];
        query.extend(all);
        let path = ["servers", "detail"];
        let marker = |server: &Server| Some(server.id.clone());
        let found = match client.pages::<Server>(&path, "servers", &query, None, marker).await {
            // Only administrators may look at all projects.
            Err(failure) if failure.status == Some(403) && !all.is_empty() => break,
            other => other?,
        };
        let say = |one: &Server| {
            let host = one.host.as_deref().unwrap_or("no host");
            format!("{} ({}, {host})", one.id, one.status)
        };
        let id = |one: &Server| one.id.clone();
        let picked = pick("server", wanted, found, id, |one| one.name.clone(), say)?;
        if picked.is_some() {
            return Ok(picked);
        }
    }
    Ok(None)
}

/// What a list of another service has by this name or id.
fn pick_value(kind: &str, wanted: &str, list: Vec<Value>) -> Result<Option<Value>, Failure> {
    let (id, name) = (|one: &Value| text(one, "id"), |one: &Value| text(one, "name"));
    pick(kind, wanted, list, id, name, |one| text(one, "id"))
}

pub(crate) async fn flavor(client: &Client, wanted: &str) -> Result<Value, Failure> {
    let list = flavors(client).await?;
    pick_value("flavor", wanted, list)?.ok_or_else(|| none("flavor", wanted, "flavor list"))
}

/// All flavors that the caller may use, and for administrators all there are.
pub(crate) async fn flavors(client: &Client) -> Result<Vec<Value>, Failure> {
    let marker = |one: &Value| Some(text(one, "id"));
    let query = [("is_public", "None")];
    client.pages(&["flavors", "detail"], "flavors", &query, None, marker).await
}

/// All images, or those with a name.
pub(crate) async fn images(client: &Client, name: Option<&str>) -> Result<Vec<Value>, Failure> {
    let (mut all, mut marker): (Vec<Value>, Option<String>) = (Vec::new(), None);
    loop {
        let mut ask = client.get(Service::Image, &["images"]).query(&[("limit", "500")]);
        if let Some(name) = name {
            ask = ask.query(&[("name", name)]);
        }
        if let Some(marker) = &marker {
            ask = ask.query(&[("marker", marker)]);
        }
        let answer = ask.send().await?;
        let more = answer.body["next"].is_string();
        all.extend(answer.read::<Vec<Value>>("images")?);
        marker = all.last().map(|one| text(one, "id"));
        if !more || marker.is_none() {
            return Ok(all);
        }
    }
}

pub(crate) async fn image(client: &Client, wanted: &str) -> Result<Value, Failure> {
    if wanted.parse::<Uuid>().is_ok() {
        match client.get(Service::Image, &["images", wanted]).send().await {
            Ok(answer) => return Ok(answer.body),
            Err(failure) if failure.status == Some(404) => {}
            Err(failure) => return Err(failure),
        }
    }
    let list = images(client, Some(wanted)).await?;
    pick_value("image", wanted, list)?.ok_or_else(|| none("image", wanted, "image list"))
}

pub(crate) async fn network(client: &Client, wanted: &str) -> Result<Value, Failure> {
    let list: Vec<Value> =
        client.get(Service::Network, &["networks"]).send().await?.read("networks")?;
    pick_value("network", wanted, list)?.ok_or_else(|| none("network", wanted, "network list"))
}

/// The compute service of a host.
pub(crate) async fn host(client: &Client, wanted: &str) -> Result<Value, Failure> {
    let ask = client.get(Service::Compute, &["os-services"]).query(&[("binary", "nova-compute")]);
    let list: Vec<Value> = ask.send().await?.read("services")?;
    let (id, name) = (|one: &Value| text(one, "id"), |one: &Value| text(one, "host"));
    let found = pick("host", wanted, list, id, name, |one| text(one, "id"))?;
    found.ok_or_else(|| none("host", wanted, "host list"))
}

/// Migrations that fit, the newest first.
pub(crate) async fn migrations(
    client: &Client,
    query: &[(&str, &str)],
    most: Option<usize>,
) -> Result<Vec<Migration>, Failure> {
    let marker = |one: &Migration| one.uuid.clone();
    client.pages(&["os-migrations"], "migrations", query, most, marker).await
}

/// A migration by its number or id, or the last one of a server.
pub(crate) async fn migration(client: &Client, wanted: &str) -> Result<Migration, Failure> {
    let number = wanted.parse::<u64>().ok();
    if number.is_some() || wanted.parse::<Uuid>().is_ok() {
        let all = migrations(client, &[], None).await?;
        let is = |one: &Migration| Some(one.id) == number || one.uuid.as_deref() == Some(wanted);
        if let Some(found) = all.into_iter().find(is) {
            return Ok(found);
        }
    }
    let server = find_server(client, wanted).await?;
    let server = server.ok_or_else(|| none("migration or server", wanted, "migration list"))?;
    let last = migrations(client, &[("instance_uuid", &server.id)], Some(1)).await?;
    last.into_iter().next().ok_or_else(|| {
        Failure::refused(format!("The server {} has not been moved yet.", server.name))
            .next(format!("Move it: whimbrel server migrate --live {}", server.name))
    })
}

/// Does something with a server; the id of the request.
pub(crate) async fn act(
    client: &Client,
    server: &str,
    action: &Value,
    version: Option<&str>,
) -> Result<Option<String>, Failure> {
    let mut ask = client.ask(Method::POST, Service::Compute, &["servers", server, "action"]);
    if let Some(version) = version {
        ask = ask.version(version);
    }
    Ok(ask.json(action).send().await?.request_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(names: &[(&str, &str)]) -> Vec<(String, String)> {
        names.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect()
    }

    fn picked(wanted: &str, names: &[(&str, &str)]) -> Result<Option<String>, Failure> {
        let (id, name) =
            (|one: &(String, String)| one.0.clone(), |one: &(String, String)| one.1.clone());
        let found = pick("server", wanted, all(names), id, name, id)?;
        Ok(found.map(|one| one.0))
    }

    #[test]
    fn an_id_counts_before_a_name() {
        let names = [("1", "2"), ("2", "x"), ("3", "y")];
        assert_eq!(picked("2", &names).unwrap().as_deref(), Some("2"));
        assert_eq!(picked("y", &names).unwrap().as_deref(), Some("3"));
        assert_eq!(picked("z", &names).unwrap(), None);
    }

    #[test]
    fn a_name_of_several_is_refused_with_all_of_them() {
        let failure = picked("web", &[("1", "web"), ("2", "db"), ("3", "web")]).unwrap_err();
        assert_eq!(failure.kind as u8, 3);
        let lines = failure.lines().join("\n");
        assert!(lines.contains("id: 1") && lines.contains("id: 3") && !lines.contains("id: 2"));
    }

    #[test]
    fn names_are_no_patterns() {
        assert_eq!(exactly("web-1.example (old)"), r"^web-1\.example \(old\)$");
        assert_eq!(exactly("größe_2"), "^größe_2$");
    }
}
