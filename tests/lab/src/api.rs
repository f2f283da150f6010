//! The HTTP API as a client sees it: JSON over a loopback port, nothing shared with the server's code.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::wait::{Deadline, until};

mod resources;

pub use resources::{Allocation, ComputeService, Figures, Migration, NewServer, Server};

/// The newest version of the Compute API that the server has.
const VERSION: &str = "compute latest";

/// Whether local disks are copied in a live migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockMigration {
    /// If they have to be.
    Auto,
    /// Yes.
    Yes,
    /// No: storage is shared.
    No,
}

impl BlockMigration {
    fn to_json(self) -> Value {
        match self {
            Self::Auto => json!("auto"),
            Self::Yes => json!(true),
            Self::No => json!(false),
        }
    }
}

/// What the server said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body; null if it was empty or not JSON.
    pub body: Value,
}

impl Answer {
    /// The body if the status is 2xx, the server's message otherwise.
    ///
    /// # Errors
    /// When the status is not 2xx.
    pub fn success(self) -> anyhow::Result<Value> {
        ensure!((200..300).contains(&self.status), "{}: {}", self.status, self.message());
        Ok(self.body)
    }

    /// The message of a refusal, in Nova's form.
    pub fn message(&self) -> String {
        let inner = self.body.as_object().and_then(|object| object.values().next());
        let message = inner.and_then(|inner| inner["message"].as_str());
        message.map_or_else(|| self.body.to_string(), str::to_owned)
    }
}

/// A client. Blocks: not to be used on an async runtime's thread.
#[derive(Clone, Debug)]
pub struct Api {
    url: String,
    client: Client,
}

impl Api {
    /// A client of the server at `url`, such as `http://127.0.0.1:8774`.
    ///
    /// # Errors
    /// When the client can't be made.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let client = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .context("making an HTTP client")?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), client })
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request and returns what the server said, refusals too.
    ///
    /// # Errors
    /// When there was no answer.
    pub fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let what = format!("{method} {path}");
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .header("OpenStack-API-Version", VERSION);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().with_context(|| what.clone())?;
        let status = response.status().as_u16();
        let text = response.text().with_context(|| what.clone())?;
        Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null) })
    }

    /// GET; fails unless the status is 2xx.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None)?.success().with_context(|| format!("GET {path}"))
    }

    /// POST; fails unless the status is 2xx.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call(Method::POST, path, Some(body))?.success().with_context(|| format!("POST {path}"))
    }

    /// Says that a host runs no guests any more, or takes that back.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn force_down(&self, host: &str, down: bool) -> anyhow::Result<()> {
        let services = self.compute_services()?;
        let service = services.iter().find(|service| service.host == host);
        let id = &service.with_context(|| format!("no compute service on {host}"))?.id;
        let id = id.as_str().context("a service's id")?;
        let path = format!("/v2.1/os-services/{id}");
        let body = json!({ "forced_down": down });
        self.call(Method::PUT, &path, Some(&body))?
            .success()
            .with_context(|| format!("PUT {path}"))?;
        Ok(())
    }

    /// DELETE; fails unless the status is 2xx.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None)?.success().with_context(|| format!("DELETE {path}"))
    }

    /// Whether the server answers.
    pub fn is_ready(&self) -> bool {
        self.call(Method::GET, "/readyz", None).is_ok_and(|answer| answer.status == 200)
    }

    /// The compute services that have ever reported.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn compute_services(&self) -> anyhow::Result<Vec<ComputeService>> {
        resources::list(self.get("/v2.1/os-services?binary=nova-compute")?, "services")
    }

    /// Makes a flavor and returns its id.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn create_flavor(
        &self,
        name: &str,
        vcpus: u32,
        ram_mib: u32,
        disk_gib: u32,
    ) -> anyhow::Result<String> {
        let body =
            json!({ "flavor": { "name": name, "vcpus": vcpus, "ram": ram_mib, "disk": disk_gib } });
        id_of(&self.post("/v2.1/flavors", &body)?["flavor"])
    }

    /// Registers an image, uploads its file, and returns its id.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn create_image(&self, name: &str, format: &str, file: &Path) -> anyhow::Result<String> {
        let body = json!({ "name": name, "disk_format": format, "container_format": "bare" });
        let id = id_of(&self.post("/v2/images", &body)?)?;
        let content = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        let response = self
            .client
            .put(format!("{}/v2/images/{id}/file", self.url))
            .header("Content-Type", "application/octet-stream")
            .body(content)
            .send()
            .context("uploading an image")?;
        let status = response.status();
        ensure!(status.is_success(), "uploading an image: {status}: {}", response.text()?);
        Ok(id)
    }

    /// Makes a network of guests on a bridge that all hosts have, and returns its id.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn create_network(&self, name: &str, bridge: &str, cidr: &str) -> anyhow::Result<String> {
        let wanted = json!({ "name": name, "provider:physical_network": bridge, "cidr": cidr });
        let body = json!({ "network": wanted });
        id_of(&self.post("/v2.0/networks", &body)?["network"])
    }

    /// Asks for a server and returns its id at once.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn create_server(&self, new: &NewServer<'_>) -> anyhow::Result<String> {
        id_of(&self.post("/v2.1/servers", &new.to_json())?["server"])
    }

    /// A server.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn server(&self, id: &str) -> anyhow::Result<Server> {
        Server::read(&self.get(&format!("/v2.1/servers/{id}"))?["server"])
    }

    /// Waits until a server has a status and nothing is being done with it. Fails at once when the server is
    /// in `ERROR` instead.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub fn wait_for_status(
        &self,
        id: &str,
        status: &str,
        patience: Duration,
    ) -> anyhow::Result<Server> {
        let server = patiently(patience, &format!("server {id} to be {status}"), || {
            let server = self.server(id)?;
            let settled = server.status == status || server.status == "ERROR";
            Ok((settled && server.task_state.is_none()).then_some(server))
        })?;
        let fault = server.fault.as_deref().unwrap_or("no reason");
        ensure!(server.status == status, "server {id} is in ERROR: {fault}");
        Ok(server)
    }

    /// Asks for a live migration; `None` leaves the host to the scheduler.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn live_migrate(
        &self,
        id: &str,
        host: Option<&str>,
        block_migration: BlockMigration,
    ) -> anyhow::Result<()> {
        let ask = json!({ "host": host, "block_migration": block_migration.to_json() });
        self.action(id, &json!({ "os-migrateLive": ask }))
    }

    /// Asks something of a server: `{"os-stop": null}` for example.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn action(&self, id: &str, body: &Value) -> anyhow::Result<()> {
        self.post(&format!("/v2.1/servers/{id}/action"), body).map(drop)
    }

    /// All migrations of a server, the latest first.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn migrations(&self, server: &str) -> anyhow::Result<Vec<Migration>> {
        let path = format!("/v2.1/os-migrations?instance_uuid={server}");
        let mut all: Vec<Migration> = resources::list(self.get(&path)?, "migrations")?;
        all.sort_by_key(|migration| std::cmp::Reverse(migration.id));
        Ok(all)
    }

    /// Everything that is known of a migration.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn migration(&self, server: &str, uuid: &str) -> anyhow::Result<Migration> {
        let body = self.get(&format!("/v1/servers/{server}/migrations/{uuid}"))?;
        Migration::read_own(&body["migration"])
    }

    /// Waits until the server's latest migration has ended, and returns it.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub fn wait_for_migration(
        &self,
        server: &str,
        patience: Duration,
    ) -> anyhow::Result<Migration> {
        patiently(patience, &format!("the migration of {server} to end"), || {
            let latest = self.migrations(server)?.into_iter().next();
            let latest = latest.with_context(|| format!("{server} has no migration"))?;
            // The instance and its migration change together, so both are looked at.
            let ended = latest.is_over() && self.server(server)?.task_state.is_none();
            if ended { self.migration(server, &latest.uuid).map(Some) } else { Ok(None) }
        })
    }

    /// Stops a migration.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn abort_migration(&self, server: &str, number: i64) -> anyhow::Result<()> {
        self.delete(&format!("/v2.1/servers/{server}/migrations/{number}")).map(drop)
    }

    /// What is held for a server, and on which hosts.
    ///
    /// # Errors
    /// When there was no answer, or a refusal.
    pub fn allocations(&self, server: &str) -> anyhow::Result<Vec<Allocation>> {
        let mut all: Vec<Allocation> =
            resources::list(self.get("/v1/allocations")?, "allocations")?;
        all.retain(|allocation| allocation.server_id == server);
        Ok(all)
    }

    /// Deletes a server and waits until it is gone.
    ///
    /// # Errors
    /// When that takes longer than `patience`.
    pub fn delete_server(&self, id: &str, patience: Duration) -> anyhow::Result<()> {
        let path = format!("/v2.1/servers/{id}");
        self.delete(&path)?;
        patiently(patience, &format!("server {id} to be gone"), || {
            let answer = self.call(Method::GET, &path, None)?;
            if answer.status == 404 {
                return Ok(Some(()));
            }
            answer.success().map(|_| None)
        })
    }
}

/// Looks until there is something, through times in which the server doesn't answer or refuses: faults are made
/// meanwhile. The last refusal is what is reported when the time is over.
fn patiently<T>(
    patience: Duration,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let mut refusal = None;
    let found = until(Deadline::after(patience), what, || {
        let seen = look();
        refusal = None;
        Ok(seen.unwrap_or_else(|error| {
            refusal = Some(error);
            None
        }))
    });
    found.map_err(|error| match refusal {
        Some(refusal) => refusal.context(error),
        None => error,
    })
}

fn id_of(object: &Value) -> anyhow::Result<String> {
    let id = object["id"].as_str().with_context(|| format!("no id in {object}"))?;
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_server_says() {
        let body = json!({ "badRequest": { "code": 400, "message": "no such host" } });
        let answer = Answer { status: 400, body };
        assert_eq!(answer.message(), "no such host");
        assert_eq!(answer.success().unwrap_err().to_string(), "400: no such host");
    }
}
