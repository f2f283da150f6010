//! The same guest, moved in turn by `virsh migrate` and by Whimbrel.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use whimbrel_lab::{BlockMigration, Lab, NewServer, guest, labs_dir};

use super::figures::{Figures, median};
use crate::cli::note;

const PATIENCE: Duration = Duration::from_secs(120);
/// What the driver asks libvirt for, too.
const FLAGS: [&str; 7] = [
    "--live",
    "--p2p",
    "--persistent",
    "--undefinesource",
    "--abort-on-error",
    "--unsafe",
    "--auto-converge",
];

/// One move, in milliseconds.
struct Took {
    total: f64,
    downtime: f64,
}

/// Pairs are moves in the same direction. The guest goes there and back by one way, then by the other: after
/// virsh has moved it there and back, it is again where Whimbrel's records say.
pub(super) fn measure(name: &str, pairs: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let image = guest::prepare(&labs_dir().join("cache"))?;
    note("real hosts: starting");
    let lab = Lab::builder().name(name).hosts(2).start()?;
    let api = lab.api();
    let new = NewServer {
        name: "bench",
        flavor: &api.create_flavor("bench", 1, 256, 1)?,
        image: &api.create_image("bench", "qcow2", &image.qcow2)?,
        network: &api.create_network("bench", "brt", whimbrel_lab::TENANT_CIDR)?,
        host: None,
    };
    let id = api.create_server(&new)?;
    let server = api.wait_for_status(&id, "ACTIVE", PATIENCE)?;
    let home = server.host.clone().context("the server is on no host")?;
    let away = lab.host_names().iter().find(|host| **host != home).context("one host")?.clone();
    lab.console(&home, &id)?.wait_for_beat(10, PATIENCE)?;
    lab.agent(&server)?.dirty_memory(16, 10)?;
    let (mut ours, mut virsh) = (Vec::new(), Vec::new());
    while ours.len() < pairs {
        ours.push(by_whimbrel(&lab, &id, &away)?);
        ours.push(by_whimbrel(&lab, &id, &home)?);
        virsh.push(by_virsh(&lab, &id, &home, &away)?);
        virsh.push(by_virsh(&lab, &id, &away, &home)?);
        note(&format!("real hosts: {} of {pairs} pairs", ours.len()));
    }
    lab.stop()?;
    let ratio = |of: fn(&Took) -> f64| {
        let ratios: Vec<f64> =
            ours.iter().zip(&virsh).map(|(our, its)| of(our) / of(its).max(1.0)).collect();
        median(&ratios)
    };
    let middle =
        |all: &[Took], of: fn(&Took) -> f64| median(&all.iter().map(of).collect::<Vec<_>>());
    figures.put("virsh.total_ratio", ratio(|took| took.total));
    figures.put("virsh.downtime_ratio", ratio(|took| took.downtime));
    figures.explain("virsh.pairs", ours.len() as f64);
    figures.explain("virsh.total_ms", middle(&virsh, |took| took.total));
    figures.explain("virsh.downtime_ms", middle(&virsh, |took| took.downtime));
    figures.explain("virsh.whimbrel_total_ms", middle(&ours, |took| took.total));
    figures.explain("virsh.whimbrel_downtime_ms", middle(&ours, |took| took.downtime));
    Ok(())
}

/// From the request to the final state, as the client sees it.
fn by_whimbrel(lab: &Lab, id: &str, to: &str) -> anyhow::Result<Took> {
    let asked = Instant::now();
    lab.api().live_migrate(id, Some(to), BlockMigration::Auto)?;
    let ended = lab.api().wait_for_migration(id, PATIENCE)?;
    let total = asked.elapsed().as_secs_f64() * 1_000.0;
    ensure!(ended.status == "completed", "a move ended in {}: {:?}", ended.status, ended.figures);
    ensure!(ended.figures.downtime_ms.is_some(), "no downtime was measured");
    Ok(Took { total, downtime: downtime(lab, id, to)? })
}

/// From the start of the command to its end.
fn by_virsh(lab: &Lab, id: &str, from: &str, to: &str) -> anyhow::Result<Took> {
    let uri = format!("qemu+tcp://{}/system", lab.host(to)?.address());
    let words: Vec<&str> =
        ["migrate"].iter().chain(&FLAGS).chain(&[id, uri.as_str()]).copied().collect();
    let asked = Instant::now();
    lab.host(from)?.virsh(&words)?;
    let total = asked.elapsed().as_secs_f64() * 1_000.0;
    Ok(Took { total, downtime: downtime(lab, id, to)? })
}

/// In milliseconds, until the destination had the guest run again: the source's own figure, which Whimbrel reports,
/// counts the source's confirmation, too.
fn downtime(lab: &Lab, id: &str, to: &str) -> anyhow::Result<f64> {
    let info = lab.host(to)?.virsh(&["domjobinfo", id, "--completed"])?;
    let downtime = info.lines().find_map(|line| line.strip_prefix("Total downtime:"));
    let downtime = downtime.and_then(|rest| rest.split_whitespace().next());
    Ok(downtime.with_context(|| format!("no downtime in: {info}"))?.parse()?)
}
