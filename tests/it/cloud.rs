//! All services in one process, with a real database and broker and simulated hypervisors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use whimbrel_test_utils::{TestBroker, TestDatabase, wait_for, wait_until};
use whimbrel_virt::fake::FakeConfig;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// A host that is silent for this long is down, in milliseconds.
const DOWN_MS: i64 = 2_500;

/// A service that runs in this process.
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Running {
    #[expect(clippy::print_stderr, reason = "for whoever reads of a failed test")]
    fn start<F>(run: impl FnOnce(whimbrel_service::Shutdown) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let (stop, told) = watch::channel(false);
        let running = run(whimbrel_service::Shutdown::on(told));
        let task = tokio::spawn(async move {
            // Whoever waits for what a service should do would not learn that it has ended.
            running.await.inspect_err(|error| eprintln!("a service has ended: {error:#}"))
        });
        Self { stop, task }
    }
}

/// What requests say of who sends them.
#[derive(Clone, Debug)]
pub(crate) enum Login {
    Password(&'static str, &'static str),
    Token(String),
}

impl From<(&'static str, &'static str)> for Login {
    fn from((name, password): (&'static str, &'static str)) -> Self {
        Self::Password(name, password)
    }
}

/// A whole cloud of its own.
pub(crate) struct Cloud {
    pub(crate) database: TestDatabase,
    pub(crate) broker: TestBroker,
    folder: PathBuf,
    listen: SocketAddr,
    client: Client,
    services: BTreeMap<String, Running>,
    pub(crate) image: String,
    /// What requests are sent with.
    pub(crate) login: Option<Login>,
}

impl Cloud {
    /// With these hosts, each as its configuration says.
    pub(crate) async fn start(hosts: &[(&str, FakeConfig)]) -> Self {
        Self::start_with(hosts, &json!({}), None).await
    }

    /// With `api` in the API's section of the configuration; requests are sent with `login`.
    pub(crate) async fn start_with(
        hosts: &[(&str, FakeConfig)],
        api: &Value,
        login: Option<Login>,
    ) -> Self {
        let (database, broker) = (TestDatabase::create().await, TestBroker::create().await);
        let folder = std::env::temp_dir().join(format!("whimbrel-cloud-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(folder.join("world")).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        let mut this = Self {
            database,
            broker,
            folder,
            listen,
            client: Client::new(),
            services: BTreeMap::new(),
            image: String::new(),
            login,
        };
        this.start_api(api);
        this.start_conductor("conductor");
        this.start_scheduler();
        for (name, fake) in hosts {
            this.start_compute(name, fake.clone());
        }
        this.prepare(hosts.len()).await;
        this
    }

    fn config<C: serde::de::DeserializeOwned>(&self, service: &str, own: Value) -> C {
        let mut config = json!({
            "database": { "url": self.database.url() },
            "amqp": { "url": self.broker.url() },
        });
        config[service] = own;
        serde_json::from_value(config).unwrap()
    }

    fn start_api(&mut self, more: &Value) {
        let mut own = json!({
            "listen": self.listen, "image_dir": self.folder.join("images"), "service_down_time_ms": DOWN_MS,
        });
        own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config: whimbrel_api::Config = self.config("api", own);
        self.run("api", |stop| whimbrel_api::run(config, stop));
    }

    pub(crate) fn start_conductor(&mut self, name: &str) {
        self.start_conductor_with(name, &json!({}));
    }

    /// With `more` in its section of the configuration.
    pub(crate) fn start_conductor_with(&mut self, name: &str, more: &Value) {
        let mut own = json!({ "service_down_time_ms": DOWN_MS, "sweep_interval_ms": 200 });
        own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let config: whimbrel_conductor::Config = self.config("conductor", own);
        self.run(name, |stop| whimbrel_conductor::run(config, stop));
    }

    fn start_scheduler(&mut self) {
        let config: whimbrel_scheduler::Config =
            self.config("scheduler", json!({ "service_down_time_ms": DOWN_MS }));
        self.run("scheduler", |stop| whimbrel_scheduler::run(config, stop));
    }

    pub(crate) fn start_compute(&mut self, name: &str, fake: FakeConfig) {
        let fake = FakeConfig { world_dir: Some(self.folder.join("world")), ..fake };
        let mut config: whimbrel_compute::Config = serde_json::from_value(json!({
            "amqp": { "url": self.broker.url() },
            "compute": {
                "host": name, "driver": "fake", "report_interval_ms": 500,
                "state_dir": self.folder.join("state").join(name),
            },
        }))
        .unwrap();
        config.fake = fake;
        self.run(name, |stop| whimbrel_compute::run(config, stop));
    }

    fn run<F>(&mut self, name: &str, run: impl FnOnce(whimbrel_service::Shutdown) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.services.insert(name.to_owned(), Running::start(run));
    }

    /// Ends a service in the middle of whatever it does, as far as that goes inside a process.
    pub(crate) async fn kill(&mut self, name: &str) {
        let running = self.services.remove(name).expect("a service that runs");
        running.task.abort();
        let _ = running.task.await;
    }

    /// Tells a service to stop, and waits until it has.
    pub(crate) async fn stop(&mut self, name: &str) {
        let running = self.services.remove(name).expect("a service that runs");
        running.stop.send_replace(true);
        running.task.await.unwrap().unwrap();
    }

    async fn prepare(&mut self, hosts: usize) {
        wait_until("the API to answer", PATIENCE, async || {
            let asked = self.client.get(format!("http://{}/readyz", self.listen)).send().await;
            asked.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
        wait_until("all hosts to report", PATIENCE, async || {
            let services = self.get("/v2.1/os-services?binary=nova-compute").await;
            services["services"].as_array().unwrap().len() == hosts
        })
        .await;
        let flavor =
            json!({ "flavor": { "name": "small", "id": "1", "ram": 64, "vcpus": 1, "disk": 1 } });
        self.ok(Method::POST, "/v2.1/flavors", Some(flavor)).await;
        let network = json!({ "network": {
            "name": "net", "provider:physical_network": "br0", "cidr": "10.78.0.0/16",
        } });
        self.ok(Method::POST, "/v2.0/networks", Some(network)).await;
        let image = json!({ "name": "image", "disk_format": "raw" });
        let image = self.ok(Method::POST, "/v2/images", Some(image)).await;
        self.image = image["id"].as_str().unwrap().to_owned();
        let url = format!("http://{}/v2/images/{}/file", self.listen, self.image);
        let sent = self.request(Method::PUT, &url).body(vec![7u8; 4096]).send().await.unwrap();
        assert_eq!(sent.status(), StatusCode::NO_CONTENT);
    }

    /// Where the API is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Asks by the highest version.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.ask_as("latest", method, path, &body).await
    }

    fn request(&self, method: Method, url: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, url);
        match &self.login {
            Some(Login::Password(name, password)) => request.basic_auth(name, Some(password)),
            Some(Login::Token(token)) => request.header("x-auth-token", token),
            None => request,
        }
    }

    /// Asks by `version`, with any text for a body.
    pub(crate) async fn ask_as(
        &self,
        version: &str,
        method: Method,
        path: &str,
        body: &str,
    ) -> (StatusCode, Value) {
        let answer = self
            .request(method, &format!("http://{}{path}", self.listen))
            .header("OpenStack-API-Version", format!("compute {version}"))
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    async fn ok(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, body) = self.ask(method, path, body).await;
        assert!(status.is_success(), "{path}: {status} {body}");
        body
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.ok(Method::GET, path, None).await
    }

    pub(crate) fn new_server(&self) -> Value {
        json!({ "server": {
            "name": "guest", "imageRef": self.image, "flavorRef": "1", "networks": "auto",
        } })
    }

    /// Asks for a server; it is not there yet.
    pub(crate) async fn ask_for_server(&self) -> String {
        let made = self.ok(Method::POST, "/v2.1/servers", Some(self.new_server())).await;
        made["server"]["id"].as_str().unwrap().to_owned()
    }

    /// A server that runs.
    pub(crate) async fn boot(&self) -> String {
        let id = self.ask_for_server().await;
        self.wait_for_status(&id, "ACTIVE").await;
        id
    }

    pub(crate) async fn server(&self, id: &str) -> Value {
        self.get(&format!("/v2.1/servers/{id}")).await["server"].clone()
    }

    pub(crate) async fn wait_for_status(&self, id: &str, status: &str) -> Value {
        wait_for(&format!("{id} to be {status}"), PATIENCE, async || {
            let server = self.server(id).await;
            let there = server["status"] == status && server["OS-EXT-STS:task_state"].is_null();
            there.then_some(server)
        })
        .await
    }

    pub(crate) async fn action(&self, id: &str, action: Value) -> (StatusCode, Value) {
        self.ask(Method::POST, &format!("/v2.1/servers/{id}/action"), Some(action)).await
    }

    pub(crate) async fn live_migrate(&self, id: &str, host: Option<&str>) {
        let action = json!({ "os-migrateLive": { "host": host, "block_migration": "auto" } });
        let (status, body) = self.action(id, action).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    }

    /// The server's latest migration.
    pub(crate) async fn migration(&self, id: &str) -> Value {
        let all = self.get(&format!("/v2.1/os-migrations?instance_uuid={id}&limit=1")).await;
        all["migrations"][0].clone()
    }

    pub(crate) async fn wait_for_migration(&self, id: &str, status: &str) -> Value {
        wait_for(&format!("the migration of {id} to be {status}"), PATIENCE, async || {
            let migration = self.migration(id).await;
            (migration["status"] == status).then_some(migration)
        })
        .await
    }

    /// Hosts that run, or expect, the guest: what is true, whatever the database says.
    pub(crate) fn hosts_of(&self, id: &str) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.folder.join("world")).unwrap() {
            let entry = entry.unwrap();
            if entry.path().join(format!("{id}.guest")).exists() {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
        found
    }

    /// The volumes that the guest has on a host.
    pub(crate) fn volumes_on(&self, host: &str, id: &str) -> Vec<String> {
        let file = self.folder.join("world").join(host).join(format!("{id}.guest"));
        let guest: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        serde_json::from_value(guest["volumes"].clone()).unwrap()
    }

    /// What simulated hosts keep of a guest besides the guest itself: rollback points and disks that arrive.
    pub(crate) fn leftovers(&self, id: &str) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.folder.join("world")).unwrap() {
            let host = entry.unwrap();
            for kind in ["rollback", "arrival", "job"] {
                if host.path().join(format!("{id}.{kind}")).exists() {
                    found.push(format!("{kind} on {}", host.file_name().to_string_lossy()));
                }
            }
        }
        found
    }

    /// Who holds what for the server: consumer and host.
    pub(crate) async fn allocations(&self, id: &str) -> Vec<(String, String)> {
        let all = self.get(&format!("/v1/allocations?instance_id={id}")).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = all["allocations"].as_array().unwrap().clone();
        all.iter().map(|one| (text(&one["consumer"]), text(&one["host"]))).collect()
    }

    /// At rest the guest is on `host` alone, the row says so, and only it holds anything.
    pub(crate) async fn assert_rests_on(&self, id: &str, host: &str) {
        let server = self.server(id).await;
        assert_eq!(server["OS-EXT-SRV-ATTR:host"], host, "the row's host");
        assert!(server["OS-EXT-STS:task_state"].is_null(), "a task without a saga");
        assert_eq!(self.hosts_of(id), [host], "where the guest is");
        assert_eq!(self.allocations(id).await, [(id.to_owned(), host.to_owned())], "allocations");
        self.assert_settled().await;
    }

    /// Nothing of the server is left anywhere.
    pub(crate) async fn assert_gone(&self, id: &str) {
        let (status, _) = self.ask(Method::GET, &format!("/v2.1/servers/{id}"), None).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(self.hosts_of(id), Vec::<String>::new(), "a guest is left");
        assert_eq!(self.allocations(id).await, [], "an allocation is left");
        self.assert_settled().await;
    }

    /// No operation is under way and none of the invariants that SQL can tell is broken.
    pub(crate) async fn assert_settled(&self) {
        let broken = whimbrel_test_utils::broken_invariants(&self.database.url()).await;
        assert_eq!(broken, Vec::<String>::new());
    }

    pub(crate) async fn delete(&self, id: &str) {
        self.ok(Method::DELETE, &format!("/v2.1/servers/{id}"), None).await;
    }

    pub(crate) async fn wait_until_gone(&self, id: &str) {
        wait_until(&format!("{id} to be gone"), PATIENCE, async || {
            self.ask(Method::GET, &format!("/v2.1/servers/{id}"), None).await.0
                == StatusCode::NOT_FOUND
        })
        .await;
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        for running in self.services.values() {
            running.task.abort();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
