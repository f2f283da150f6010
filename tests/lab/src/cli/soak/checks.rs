//! What must hold after a round.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::Value;
use whimbrel_lab::Lab;

/// What is still under way: operations, messages, work that was put off, hosts that do not report.
const OPEN: &str = "\
    SELECT format('saga %s (%s) has not ended: %s %s', id, name, dir, step) FROM saga WHERE wake_at IS NOT NULL \
    UNION ALL SELECT format('%s is owed by %s', step, host) FROM host_obligation \
    UNION ALL SELECT format('host %s does not report', name) FROM host \
        WHERE reported_at < now() - interval '3 seconds'";
/// What nobody should ever have to look at.
const STUCK: &str = "\
    SELECT format('saga %s (%s) is stuck: %s', id, name, fault) FROM saga WHERE phase = 'stuck' \
    UNION ALL SELECT format('a dead letter from %s: %s', queue, reason) FROM dead_letter";
const INSTANCES: &str =
    "SELECT id, vm_state, coalesce(host, '') FROM instance WHERE vm_state <> 'deleted'";

const ENDED: &str = "SELECT format('%s %s %s', name, phase, count(*)) FROM saga GROUP BY name, phase ORDER BY name, phase";

fn lines(lab: &Lab, sql: &str) -> anyhow::Result<Vec<String>> {
    let text = lab.servers()?.database().query("whimbrel", sql)?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// What has not ended.
pub(super) fn open(lab: &Lab) -> anyhow::Result<Vec<String>> {
    if !lab.api().is_ready() {
        return Ok(vec!["the API does not answer".to_owned()]);
    }
    lines(lab, OPEN)
}

/// How operations have ended, and how many of each.
pub(super) fn ended(lab: &Lab) -> anyhow::Result<Vec<String>> {
    lines(lab, ENDED)
}

/// What is wrong, once everything has ended.
pub(super) fn violations(lab: &Lab, world: &Path) -> anyhow::Result<Vec<String>> {
    let mut wrong = lines(lab, STUCK)?;
    let told = lab.api().get("/v1/consistency")?;
    let told = told["violations"].as_array().context("a list of violations")?;
    wrong.extend(told.iter().map(ToString::to_string));
    let mut guests = guests(world)?;
    for row in lines(lab, INSTANCES)? {
        let fields: Vec<&str> = row.split('|').collect();
        let [id, state, host] = fields[..] else { bail!("an instance without a state: {row}") };
        let at = guests.remove(id).unwrap_or_default();
        if !agree(state, host, &at) {
            wrong.push(format!("instance {row} has guests {at:?}"));
        }
    }
    wrong.extend(guests.into_iter().map(|(id, at)| format!("{id} is nobody's, on {at:?}")));
    Ok(wrong)
}

/// Whether a row, its state and its host, agrees with the guests that there are, their hosts and power states.
fn agree(state: &str, host: &str, guests: &[(String, String)]) -> bool {
    match guests {
        // One that could not be made is nowhere, and says so.
        [] => state == "error",
        [(at, power)] if at == host => match state {
            "active" => power == "running",
            "stopped" => power == "shutdown",
            _ => true,
        },
        _ => false,
    }
}

/// Each guest's hosts, and whether it runs there: what is true, whatever the database says.
fn guests(world: &Path) -> anyhow::Result<BTreeMap<String, Vec<(String, String)>>> {
    let mut found: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for host in std::fs::read_dir(world)? {
        let host = host?;
        for file in std::fs::read_dir(host.path())? {
            let path = file?.path();
            let Some(id) =
                path.file_stem().filter(|_| path.extension().is_some_and(|kind| kind == "guest"))
            else {
                continue;
            };
            let guest: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            let power = guest["power"].as_str().unwrap_or_default().to_owned();
            let host = host.file_name().to_string_lossy().into_owned();
            found.entry(id.to_string_lossy().into_owned()).or_default().push((host, power));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::agree;

    #[test]
    fn a_guest_that_is_elsewhere_off_or_there_twice_is_noticed() {
        let guest = |host: &str, power: &str| (host.to_owned(), power.to_owned());
        let (here, there) = (guest("a", "running"), guest("b", "running"));
        assert!(agree("active", "a", std::slice::from_ref(&here)));
        assert!(agree("resized", "a", std::slice::from_ref(&here)));
        assert!(agree("stopped", "a", &[guest("a", "shutdown")]));
        assert!(agree("error", "", &[]));
        assert!(!agree("active", "a", &[]));
        assert!(!agree("active", "a", std::slice::from_ref(&there)));
        assert!(!agree("active", "a", &[here.clone(), there]));
        assert!(!agree("active", "a", &[guest("a", "shutdown")]));
        assert!(!agree("stopped", "a", &[here]));
    }
}
