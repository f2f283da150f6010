//! What users ask for while things go wrong.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use reqwest::blocking::{Client, Response};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use whimbrel_lab::{Lab, guest, labs_dir};

/// Servers at a time.
const SERVERS: usize = 14;
/// How long anybody waits for an answer: an API whose database has gone may need a while.
const PATIENCE: Duration = Duration::from_secs(5);

/// After this time a live migration that nothing holds up is in the middle.
const UNDER_WAY: Duration = Duration::from_millis(250);

/// A user who wants something else all the time.
pub(super) struct Load<'a> {
    lab: &'a Lab,
    client: Client,
    image: String,
    flavors: [String; 2],
    servers: Vec<String>,
    /// Answers that no fault excuses.
    pub(super) complaints: Vec<String>,
}

impl<'a> Load<'a> {
    pub(super) fn prepare(lab: &'a Lab) -> anyhow::Result<Self> {
        let image = guest::prepare(&labs_dir().join("cache"))?;
        let api = lab.api();
        let flavors =
            [api.create_flavor("small", 1, 512, 1)?, api.create_flavor("big", 2, 768, 1)?];
        Ok(Self {
            lab,
            client: Client::builder().no_proxy().timeout(PATIENCE).build()?,
            image: api.create_image("soak", "qcow2", &image.qcow2)?,
            flavors,
            servers: Vec::new(),
            complaints: Vec::new(),
        })
    }

    /// Asks for something. Whoever asks may hear that it can't be now, or nothing at all.
    pub(super) fn wish(&mut self, rng: &mut StdRng) {
        if self.servers.len() < SERVERS && (self.servers.is_empty() || rng.random_bool(0.4)) {
            return self.boot();
        }
        let number = rng.random_range(0..self.servers.len());
        let id = self.servers[number].clone();
        let action = match rng.random_range(0..20) {
            0 => {
                let gone = self.ask(Method::DELETE, &format!("/v2.1/servers/{id}"), None);
                if gone.is_some_and(|(status, _)| status == StatusCode::NO_CONTENT) {
                    self.servers.swap_remove(number);
                }
                return;
            }
            1 => json!({ "os-stop": null }),
            2 | 3 => json!({ "os-start": null }),
            4 | 5 => return self.abort(&id),
            6 | 7 => json!({ "resize": { "flavorRef": self.flavors[rng.random_range(0..2)] } }),
            8 => json!({ "migrate": null }),
            9 | 10 => json!({ "confirmResize": null }),
            11 | 12 => json!({ "revertResize": null }),
            13 => json!({ "reboot": { "type": "HARD" } }),
            _ => json!({ "os-migrateLive": { "host": null, "block_migration": "auto" } }),
        };
        self.ask(Method::POST, &format!("/v2.1/servers/{id}/action"), Some(&action));
    }

    fn boot(&mut self) {
        let server = json!({ "server": {
            "name": "soak", "flavorRef": self.flavors[0], "imageRef": self.image, "networks": "none",
        } });
        let made = self.ask(Method::POST, "/v2.1/servers", Some(&server));
        if let Some(id) = made.as_ref().and_then(|(_, body)| body["server"]["id"].as_str()) {
            self.servers.push(id.to_owned());
        }
    }

    /// Has it moved, and calls that off while it moves, if it does.
    fn abort(&mut self, id: &str) {
        let action = json!({ "os-migrateLive": { "host": null, "block_migration": "auto" } });
        self.ask(Method::POST, &format!("/v2.1/servers/{id}/action"), Some(&action));
        std::thread::sleep(UNDER_WAY);
        let path = format!("/v2.1/servers/{id}/migrations");
        let Some((_, body)) = self.ask(Method::GET, &path, None) else { return };
        if let Some(number) = body["migrations"][0]["id"].as_i64() {
            self.ask(Method::DELETE, &format!("{path}/{number}"), None);
        }
    }

    /// None if nobody answered.
    fn ask(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<(StatusCode, Value)> {
        let what = format!("{method} {path}");
        let url = format!("{}{path}", self.lab.api().url());
        let mut request = self.client.request(method, url);
        request = request.header("OpenStack-API-Version", "compute latest");
        if let Some(body) = body {
            request = request.json(body);
        }
        let (status, text) = request.send().and_then(read).ok()?;
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            self.complaints.push(format!("{what}: {status}: {text}"));
        }
        Some((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }
}

fn read(answer: Response) -> reqwest::Result<(StatusCode, String)> {
    let status = answer.status();
    Ok((status, answer.text()?))
}
