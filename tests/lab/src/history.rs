//! What the database and the broker say about a server after an operation, held against the diagrams in
//! `docs/states`: whether every transition was one that the model allows (I7), and that no message is left (I6).

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::checks::Check;
use crate::lab::Lab;
use crate::servers::USER;
use crate::wait::{Deadline, until};

const INSTANCE: &str = include_str!("../../../docs/states/instance.mmd");
const LIVE_MIGRATION: &str = include_str!("../../../docs/states/live-migration.mmd");
/// The broker counts its messages every five seconds.
const COUNTED: Duration = Duration::from_secs(20);

/// A diagram's transitions: from, event, to.
struct Diagram<'a>(Vec<(&'a str, &'a str, &'a str)>);

/// An operation with its history, as the database has it.
#[derive(Debug, Deserialize)]
struct Operation {
    name: String,
    phase: String,
    /// Of its live migration, if it is one.
    status: Option<String>,
    entries: Vec<Value>,
}

/// All of a server.
#[derive(Debug, Deserialize)]
struct Story {
    vm_state: String,
    task_state: Option<String>,
    operations: Vec<Operation>,
}

impl<'a> Diagram<'a> {
    fn read(text: &'a str) -> anyhow::Result<Self> {
        let mut transitions = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| line.contains(" --> ")) {
            let (from, rest) = line.split_once(" --> ").context("a transition")?;
            let (to, event) = rest.split_once(": ").unwrap_or((rest, ""));
            transitions.push((from, event, to));
        }
        ensure!(!transitions.is_empty(), "a diagram without transitions");
        Ok(Self(transitions))
    }

    /// Where `events` can lead from any of the states in `first`; fails at the first that is not allowed.
    fn follow(
        &self,
        first: BTreeSet<&'a str>,
        events: &[&str],
    ) -> Result<BTreeSet<&'a str>, String> {
        events.iter().try_fold(first, |states, event| {
            let allowed =
                self.0.iter().filter(|(from, on, _)| states.contains(from) && on == event);
            let next: BTreeSet<&str> = allowed.map(|(.., to)| *to).collect();
            if next.is_empty() { Err(format!("{event} in {states:?}")) } else { Ok(next) }
        })
    }

    fn states(&self, wanted: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
        self.0.iter().map(|(from, ..)| *from).filter(|state| wanted(state)).collect()
    }
}

impl Operation {
    /// What happened to the instance or the migration, in order.
    fn events(&self, of: &str) -> Vec<&str> {
        let changes = self.entries.iter().filter_map(|entry| entry["changes"].as_array());
        changes.flatten().filter_map(|change| change[of].as_str()).collect()
    }

    /// The state that the request left the instance in is not in the history: it follows from what was asked.
    fn instance_states<'a>(&self, diagram: &Diagram<'a>) -> anyhow::Result<BTreeSet<&'a str>> {
        let task = match self.name.as_str() {
            "boot" => "building__scheduling",
            "live-migrate" => "active__migrating",
            "delete" => "__deleting",
            other => bail!("where an operation {other} begins is not known here"),
        };
        Ok(diagram.states(|state| state.ends_with(task)))
    }
}

/// A state's name in the diagrams.
fn in_diagram(state: &str) -> String {
    state.replace(['-', ' '], "_").replace(['(', ')'], "")
}

/// The first thing in a server's story that the diagrams don't allow.
fn first_fault(story: &Story) -> anyhow::Result<Option<String>> {
    let (instance, live) = (Diagram::read(INSTANCE)?, Diagram::read(LIVE_MIGRATION)?);
    let mut last = BTreeSet::new();
    for operation in &story.operations {
        let Operation { name, phase, status, entries } = operation;
        if !matches!(phase.as_str(), "completed" | "unwound") {
            return Ok(Some(format!("{name} is {phase}")));
        }
        let recorded = entries.last().and_then(|entry| entry["phase"].as_str());
        if recorded != Some(phase) {
            return Ok(Some(format!("{name} is {phase}, by its history {recorded:?}")));
        }
        let first = operation.instance_states(&instance)?;
        match instance.follow(first, &operation.events("instance")) {
            Ok(states) => last = states,
            Err(fault) => return Ok(Some(format!("{name}: {fault}"))),
        }
        let Some(status) = status.as_deref().map(in_diagram) else { continue };
        let begun = live.0.iter().filter(|(from, ..)| *from == "[*]").map(|(.., to)| *to).collect();
        match live.follow(begun, &operation.events("migration")) {
            Ok(statuses) if statuses.contains(status.as_str()) => {}
            Ok(statuses) => return Ok(Some(format!("{status}, by its history {statuses:?}"))),
            Err(fault) => return Ok(Some(format!("{name}: {fault}"))),
        }
    }
    let task = story.task_state.as_ref().map(|task| format!("__{task}")).unwrap_or_default();
    let now = in_diagram(&(story.vm_state.clone() + &task));
    Ok((!last.contains(now.as_str())).then(|| format!("{now}, by its history {last:?}")))
}

impl Lab {
    /// Every transition of a server and its live migrations was one that the model allows, and they led to what
    /// is recorded now. For servers that were booted, moved live and deleted, nothing else.
    ///
    /// # Errors
    /// When the database can't be asked, or the history has what this does not know.
    pub fn check_history(&self, server: &str) -> anyhow::Result<Check> {
        let server: Uuid = server.parse().context("a server's id")?;
        let sql = format!(
            "SELECT json_build_object('vm_state', i.vm_state, 'task_state', i.task_state, 'operations', \
             (SELECT json_agg(json_build_object('name', s.name, 'phase', s.phase, 'status', m.status, 'entries', \
             (SELECT coalesce(json_agg(h.entry ORDER BY h.id), '[]') FROM saga_history h WHERE h.saga_id = s.id)) \
             ORDER BY s.created_at, s.id) \
             FROM saga s LEFT JOIN migration m ON m.id = s.migration_id WHERE s.instance_id = i.id)) \
             FROM instance i WHERE i.id = '{server}'"
        );
        let answer = self.servers()?.database().query(USER, &sql)?;
        let story: Story =
            serde_json::from_str(&answer).with_context(|| format!("a history: {answer}"))?;
        let fault = first_fault(&story)?;
        let seen =
            fault.clone().unwrap_or_else(|| format!("{} operations", story.operations.len()));
        Ok(Check::new("its history is one that the model allows", fault.is_none(), seen))
    }

    /// Every message was handled: none waits in a queue, none was put aside as unreadable.
    ///
    /// # Errors
    /// When the database or the broker can't be asked.
    pub fn check_messages(&self) -> anyhow::Result<Check> {
        let database = self.servers()?.database();
        let dead = database.query(USER, "SELECT queue || ': ' || reason FROM dead_letter")?;
        let url = format!("{}/api/queues/%2f", self.servers()?.management_url());
        let client = reqwest::blocking::Client::builder().no_proxy().build()?;
        let mut waiting = Vec::new();
        let drained = until(Deadline::after(COUNTED), "empty queues", || {
            let answer = client.get(&url).send()?.error_for_status()?.json::<Vec<Value>>()?;
            ensure!(!answer.is_empty(), "the broker has no queues");
            waiting.clear();
            for queue in answer {
                // A queue that has just been made is not counted yet.
                let count = queue["messages"].as_i64();
                if count != Some(0) {
                    waiting.push(format!("{}: {count:?}", queue["name"]));
                }
            }
            Ok(waiting.is_empty().then_some(()))
        });
        let held = drained.is_ok() && dead.is_empty();
        let fault = drained.err().map(|error| format!("; {error:#}")).unwrap_or_default();
        let seen = format!("waiting {waiting:?}, dead {dead:?}{fault}");
        Ok(Check::new("every message was handled", held, seen))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn moved(events: &[&str], status: &str, vm_state: &str) -> Story {
        let entry = |(kind, event): (&str, &str)| json!({ "phase": "completed", "changes": [{ kind: event }] });
        let events: Vec<(&str, &str)> = events.iter().map(|event| ("migration", *event)).collect();
        let all = events.into_iter().chain([("instance", "migrated")]).map(entry).collect();
        let operation = Operation {
            name: "live-migrate".into(),
            phase: "completed".into(),
            status: Some(status.into()),
            entries: all,
        };
        Story { vm_state: vm_state.into(), task_state: None, operations: vec![operation] }
    }

    #[test]
    fn a_move_that_the_model_allows_is_found_good() {
        let good = moved(&["prepare", "start", "complete"], "completed", "active");
        assert_eq!(first_fault(&good).unwrap(), None);
    }

    #[test]
    fn what_the_model_does_not_allow_is_found() {
        let skipped = moved(&["prepare", "complete"], "completed", "active");
        assert_eq!(
            first_fault(&skipped).unwrap().unwrap(),
            "live-migrate: complete in {\"preparing\"}"
        );
        let told_otherwise = moved(&["prepare", "start", "complete"], "failed", "active");
        assert!(
            first_fault(&told_otherwise).unwrap().unwrap().starts_with("failed, by its history")
        );
        let elsewhere = moved(&["prepare", "start", "complete"], "completed", "error");
        assert!(first_fault(&elsewhere).unwrap().unwrap().starts_with("error, by its history"));
        let mut stuck = moved(&[], "accepted", "active");
        stuck.operations[0].phase = "stuck".into();
        assert_eq!(first_fault(&stuck).unwrap().unwrap(), "live-migrate is stuck");
        let mut unknown = moved(&[], "accepted", "active");
        unknown.operations[0].name = "resize".into();
        assert!(first_fault(&unknown).is_err(), "what is not known is no success");
    }
}
