//! Storage of the network: volumes that a server at the switch exports by NBD.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::process::{Prepared, Process};
use crate::switch::SWITCH_ADDRESS;
use crate::wait::{Deadline, until};

const PORT: u16 = 10_809;
const START: Duration = Duration::from_secs(10);

/// A volume that is served for as long as this lives.
#[derive(Debug)]
pub struct Volume {
    /// Its id, as the API knows it.
    pub id: String,
    file: PathBuf,
    _server: Process,
}

impl Volume {
    /// Whether somebody has written to it.
    ///
    /// # Errors
    /// When its file can't be read.
    pub fn is_written(&self) -> anyhow::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        Ok(std::fs::metadata(&self.file)?.blocks() > 0)
    }
}

impl Lab {
    /// Serves an empty volume of `mib` MiB and registers it. `number` tells several apart.
    ///
    /// # Errors
    /// When the hosts are simulated, or the server does not come up.
    pub fn serve_volume(&self, number: u16, mib: u64) -> anyhow::Result<Volume> {
        let file = self.dir().join(format!("volume-{number}"));
        std::fs::File::create(&file)
            .and_then(|file| file.set_len(mib << 20))
            .with_context(|| format!("making {}", file.display()))?;
        let export = format!("volume-{number}");
        let (switch, port) = (self.switch()?, PORT + number);
        // Both ends of a live migration have it open for a moment.
        let words =
            ["--persistent", "--shared=0", "--format=raw", "--cache=none", "--discard=unmap"];
        let server = Prepared::new("qemu-nbd")
            .args(words)
            .args([format!("--bind={SWITCH_ADDRESS}"), format!("--port={port}")])
            .args([format!("--export-name={export}"), file.display().to_string()])
            .inside(["nsenter", "--net", "--target", &switch.process_id().to_string(), "--"]);
        let server = self.spawner.start(&export, server, &self.logs().join("storage.log"))?;
        let address = SocketAddr::new(IpAddr::V4(SWITCH_ADDRESS), port);
        until(Deadline::after(START), "the volume's server", || {
            let there = switch.inside(|| Ok(TcpStream::connect(address).is_ok()))?;
            Ok(there.then_some(()))
        })?;
        let gib = mib.div_ceil(1024);
        let source = json!({
            "protocol": "nbd", "server": { "host": SWITCH_ADDRESS.to_string(), "port": port }, "export": export,
        });
        let new = json!({ "volume": { "name": export, "size_gib": gib, "source": source } });
        let made = self.api().post("/v1/volumes", &new)?;
        let id = made["volume"]["id"].as_str().context("an id")?.to_owned();
        Ok(Volume { id, file, _server: server })
    }

    /// Gives a server a volume and waits until it has it.
    ///
    /// # Errors
    /// When it does not get it.
    pub fn attach_volume(
        &self,
        server: &str,
        volume: &Volume,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let path = format!("/v2.1/servers/{server}/os-volume_attachments");
        self.api().post(&path, &json!({ "volumeAttachment": { "volumeId": volume.id } }))?;
        self.wait_for_volume(volume, "in-use", patience)
    }

    /// Takes a volume from a server and waits until it is free.
    ///
    /// # Errors
    /// When the server keeps it.
    pub fn detach_volume(
        &self,
        server: &str,
        volume: &Volume,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let path = format!("/v2.1/servers/{server}/os-volume_attachments/{}", volume.id);
        self.api().delete(&path)?;
        self.wait_for_volume(volume, "available", patience)
    }

    /// Waits for a volume to be `available` or `in-use`.
    ///
    /// # Errors
    /// When it ends as something else, or in nothing.
    pub fn wait_for_volume(
        &self,
        volume: &Volume,
        status: &str,
        patience: Duration,
    ) -> anyhow::Result<()> {
        until(Deadline::after(patience), &format!("the volume to be {status}"), || {
            let seen: Value = self.api().get(&format!("/v3/default/volumes/{}", volume.id))?;
            let seen = seen["volume"]["status"].as_str().unwrap_or_default().to_owned();
            let under_way = matches!(seen.as_str(), "attaching" | "detaching");
            anyhow::ensure!(under_way || seen == status, "it is {seen}");
            Ok((seen == status).then_some(()))
        })
    }
}
