//! The same disk, carried by a cold migration and sent as it is by the fastest tool at hand.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;
use whimbrel_lab::{Lab, NewServer, Storage, Unit, guest, labs_dir};

use super::figures::{Figures, median};
use crate::cli::note;

const PATIENCE: Duration = Duration::from_secs(120);
/// Of the disk's GiB, in MiB: random, then a pattern.
const DATA: [(&str, u64, u64); 2] = [("random", 0, 300), ("pattern", 300, 100)];
/// Memory is looked at this often while a disk travels.
const LOOK: Duration = Duration::from_millis(20);
/// A libvirt storage pool at the destination, for the other tool.
const POOL: &str = "bench";

/// Pairs are copies in the same direction, one after the other.
pub(super) fn measure(name: &str, pairs: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let image = guest::prepare(&labs_dir().join("cache"))?;
    note("a disk's way: starting");
    let lab = Lab::builder().name(name).hosts(2).storage(Storage::Local).start()?;
    let api = lab.api();
    let new = NewServer {
        name: "bench",
        flavor: &api.create_flavor("bench", 1, 256, 1)?,
        image: &api.create_image("bench", "qcow2", &image.qcow2)?,
        network: &api.create_network("bench", "brt", whimbrel_lab::TENANT_CIDR)?,
        host: None,
    };
    let id = api.create_server(&new)?;
    api.wait_for_status(&id, "ACTIVE", PATIENCE)?;
    api.action(&id, &json!({ "os-stop": null }))?;
    let server = api.wait_for_status(&id, "SHUTOFF", PATIENCE)?;
    let mut home = server.host.context("the server is on no host")?;
    fill(&disk(&lab, &home, &id)?)?;
    let (mut ours, mut raw, mut growth) = (Vec::new(), Vec::new(), Vec::new());
    while ours.len() < pairs {
        let away = lab.host_names().iter().find(|host| **host != home).context("one host")?.clone();
        raw.push(by_volume_upload(&lab, &home, &away, &id)?);
        let (copy_ms, grown) = by_whimbrel(&lab, &id, &home, &away)?;
        ours.push(copy_ms);
        growth.push(grown);
        home = away;
        note(&format!("a disk's way: {} of {pairs} pairs", ours.len()));
    }
    let allocated = std::fs::metadata(disk(&lab, &home, &id)?)?;
    lab.stop()?;
    let ratios: Vec<f64> = ours.iter().zip(&raw).map(|(our, its)| our / its).collect();
    figures.put("carry.copy_ratio", median(&ratios));
    figures.put("carry.compute_growth_mib", growth.iter().copied().fold(0.0, f64::max));
    figures.explain("carry.pairs", ours.len() as f64);
    figures.explain("carry.copy_ms", median(&ours));
    figures.explain("carry.raw_ms", median(&raw));
    figures.explain("carry.file_mib", allocated.len() as f64 / 1_048_576.0);
    Ok(())
}

fn disk(lab: &Lab, host: &str, id: &str) -> anyhow::Result<PathBuf> {
    Ok(lab.host(host)?.instances_dir(Storage::Local).join(id).join("disk"))
}

/// Puts data into a disk whose guest is off.
fn fill(disk: &std::path::Path) -> anyhow::Result<()> {
    let source = disk.with_file_name("bench.random");
    let made = Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=300", "status=none"])
        .arg(format!("of={}", source.display()))
        .status()?;
    ensure!(made.success(), "making random data failed");
    for (kind, at, mib) in DATA {
        let write = match kind {
            "random" => format!("write -s {} {at}M {mib}M", source.display()),
            _ => format!("write -P 90 {at}M {mib}M"),
        };
        let written =
            Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(disk).output()?;
        ensure!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    }
    Ok(std::fs::remove_file(source)?)
}

/// How long the copying took, in milliseconds, and by how much the services' memory grew meanwhile, in MiB.
fn by_whimbrel(lab: &Lab, id: &str, from: &str, to: &str) -> anyhow::Result<(f64, f64)> {
    let units = [Unit::compute(from), Unit::compute(to)];
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let before = units.each_ref().map(|unit| lab.memory_kib(unit).unwrap_or_default());
            let mut grown = 0;
            while !over.load(Ordering::Relaxed) {
                for (unit, before) in units.iter().zip(before) {
                    let now = lab.memory_kib(unit).unwrap_or_default();
                    grown = grown.max(now.saturating_sub(before));
                }
                std::thread::sleep(LOOK);
            }
            grown as f64 / 1_024.0
        });
        let moved = move_cold(lab, id, to);
        over.store(true, Ordering::Relaxed);
        let grown = watching.join().expect("looking at memory does not panic");
        Ok((moved?, grown))
    })
}

fn move_cold(lab: &Lab, id: &str, to: &str) -> anyhow::Result<f64> {
    let api = lab.api();
    api.action(id, &json!({ "migrate": { "host": to } }))?;
    api.wait_for_status(id, "VERIFY_RESIZE", PATIENCE)?;
    let latest = api.migrations(id)?.into_iter().next().context("no migration")?;
    let total =
        api.migration(id, &latest.uuid)?.figures.total_ms.context("no time was measured")?;
    api.action(id, &json!({ "confirmResize": null }))?;
    api.wait_for_status(id, "SHUTOFF", PATIENCE)?;
    // The guest was off, so shutting it down took no time.
    Ok(total as f64)
}

/// `virsh vol-upload --sparse` of the same file to the same host, in milliseconds: neither synced nor verified.
fn by_volume_upload(lab: &Lab, from: &str, to: &str, id: &str) -> anyhow::Result<f64> {
    let there = lab.host(to)?;
    let directory = there.instances_dir(Storage::Local).with_file_name(POOL);
    std::fs::create_dir_all(&directory)?;
    let target = directory.to_string_lossy().into_owned();
    there.virsh(&["pool-create-as", POOL, "dir", "--target", &target])?;
    there.virsh(&["vol-create-as", POOL, "copy", "1G", "--format", "raw"])?;
    let uri = format!("qemu+tcp://{}/system", there.address());
    let file = disk(lab, from, id)?.to_string_lossy().into_owned();
    let begun = Instant::now();
    lab.host(from)?.virsh(&[
        "-c",
        &uri,
        "vol-upload",
        "--pool",
        POOL,
        "copy",
        &file,
        "--sparse",
    ])?;
    let took = begun.elapsed().as_secs_f64() * 1_000.0;
    there.virsh(&["vol-delete", "--pool", POOL, "copy"])?;
    there.virsh(&["pool-destroy", POOL])?;
    std::fs::remove_dir_all(&directory)?;
    Ok(took)
}
