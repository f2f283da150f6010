//! A lab with what servers are made of, and what every test of guests asks of it.

use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use whimbrel_lab::checks::Check;
use whimbrel_lab::{Api, Deadline, Lab, LabBuilder, guest, labs_dir, until};

pub(crate) const BOOT: Duration = Duration::from_secs(60);
/// How long an operation may take after whatever was done in its middle.
pub(crate) const SETTLED: Duration = Duration::from_secs(60);
/// From the end of an operation until hosts have reported and done what they were asked to do later.
const CONSISTENT: Duration = Duration::from_secs(30);

pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) flavor: String,
    image: String,
    network: String,
}

impl Stage {
    pub(crate) fn set(lab: LabBuilder) -> Self {
        let image = guest::prepare(&labs_dir().join("cache")).unwrap();
        let lab = lab.start().unwrap_or_else(|error| panic!("{error:#}"));
        let flavor = lab.api().create_flavor("small", 1, 128, 1).unwrap();
        let image = lab.api().create_image("guest", "qcow2", &image.qcow2).unwrap();
        let network = lab.api().create_network("net", "brt", whimbrel_lab::TENANT_CIDR).unwrap();
        Self { lab, flavor, image, network }
    }

    pub(crate) fn api(&self) -> &Api {
        self.lab.api()
    }

    pub(crate) fn boot(&self) -> anyhow::Result<String> {
        self.boot_with(&[])
    }

    /// With `more` in the request.
    pub(crate) fn boot_with(&self, more: &[(&str, Value)]) -> anyhow::Result<String> {
        let mut new = json!({
            "name": "guest", "flavorRef": self.flavor, "imageRef": self.image, "networks": [{ "uuid": self.network }],
        });
        for (name, value) in more {
            new[*name] = value.clone();
        }
        let made = self.api().post("/v2.1/servers", &json!({ "server": new }))?;
        let id = made["server"]["id"].as_str().context("an id")?.to_owned();
        let server = self.api().wait_for_status(&id, "ACTIVE", BOOT)?;
        let home = server.host.context("it is on no host")?;
        self.lab.console(&home, &id)?.wait_for_beat(0, BOOT)?;
        Ok(id)
    }

    /// The invariants that the API asserts, and that nothing is owed any more.
    pub(crate) fn check_consistent(&self) -> anyhow::Result<()> {
        until(Deadline::after(CONSISTENT), "all invariants to hold", || {
            let violations = self.api().get("/v1/consistency")?["violations"].clone();
            let owed = self.api().get("/v1/obligations")?["obligations"].clone();
            let well = violations == json!([]) && owed == json!([]);
            Ok(well.then_some(()))
        })
        .with_context(|| format!("{:?}", self.api().get("/v1/consistency")))
    }

    pub(crate) fn delete_all(&self) -> anyhow::Result<()> {
        let servers = self.api().get("/v2.1/servers")?["servers"].clone();
        for server in servers.as_array().context("a list of servers")? {
            self.api().delete_server(server["id"].as_str().context("an id")?, SETTLED)?;
        }
        Ok(())
    }
}

pub(crate) fn all_hold(checks: &[Check]) -> anyhow::Result<()> {
    let broken: Vec<String> = checks
        .iter()
        .filter(|check| !check.held)
        .map(|check| format!("{}; seen: {}", check.what, check.seen))
        .collect();
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("; ")) }
}
