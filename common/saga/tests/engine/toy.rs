//! Definitions that have every kind of step and do nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_messages::{Fault, FaultCode, Peer, Rpc};
use whimbrel_model::{Change, HostName, InstanceEvent, MigrationEvent};
use whimbrel_saga::{Bug, Saga, Step, ask};

/// How long an attempt at any step of a toy may take, in milliseconds.
pub(crate) const DEADLINE_MS: i64 = 1_000;
/// Hosts that [`Toy`] tries.
pub(crate) const MAX_HOSTS: usize = 3;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Do {}
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Undo {}
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Number {
    pub(crate) number: i32,
}

impl Rpc for Do {
    const METHOD: &'static str = "do";
    type Reply = Number;
}

impl Rpc for Undo {
    const METHOD: &'static str = "undo";
    type Reply = Number;
}

/// `choose` (undone by its changes alone, may start over) → `check` (undo deferrable) → `prepare` (undo)
/// → `move` (pivot) → `finish` (retriable) → `tidy` (retriable, deferrable).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Toy {
    /// What the replies said, in order.
    pub(crate) learnt: Vec<i32>,
    /// Hosts that were tried.
    pub(crate) tried: usize,
    /// Whether another host is looked for after a failure.
    pub(crate) start_over: bool,
    /// Whether there is nothing to prepare.
    pub(crate) unprepared: bool,
    /// The step whose request can't be made.
    pub(crate) broken: Option<String>,
}

impl Toy {
    fn ask(&self, step: &str) -> Result<Do, Bug> {
        match &self.broken {
            Some(broken) if broken == step => Err(Bug(format!("{step} is broken"))),
            _ => Ok(Do {}),
        }
    }

    fn learn(&mut self, Number { number }: Number) {
        self.learnt.push(number);
    }
}

pub(crate) fn host(name: &str) -> HostName {
    name.parse().expect("a host name")
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of a step's peer")]
fn compute<S>(_: &S) -> Result<Peer, Bug> {
    Ok(Peer::Compute(host("a")))
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of a step's peer")]
fn scheduler<S>(_: &S) -> Result<Peer, Bug> {
    Ok(Peer::Scheduler)
}

impl Saga for Toy {
    const NAME: &'static str = "toy";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask("choose", scheduler, |s: &Self| s.ask("choose"))
                .deadline(DEADLINE_MS)
                .learn(Self::learn)
                .done(|_| Ok(vec![Change::Destination(host("a"))]))
                .undone(|_| Ok(vec![Change::ReleaseAllocations]))
                .retry(|s, fault| {
                    s.tried += 1;
                    let elsewhere = fault.code != FaultCode::NoValidHost;
                    s.start_over && elsewhere && s.tried < MAX_HOSTS
                })
                .end(),
            ask("check", compute, |s: &Self| s.ask("check"))
                .deadline(DEADLINE_MS)
                .learn(Self::learn)
                .undo_deferrable(|_| Ok(Undo {}))
                .end(),
            ask("prepare", compute, |s: &Self| s.ask("prepare"))
                .deadline(DEADLINE_MS)
                .learn(Self::learn)
                .when(|s| !s.unprepared)
                .entering(|_| Ok(vec![Change::Migration(MigrationEvent::Prepare)]))
                .undo(|_| Ok(Undo {}))
                .undone(|_| Ok(vec![Change::Migration(MigrationEvent::Reschedule)]))
                .end(),
            ask("move", compute, |s: &Self| s.ask("move"))
                .pivot()
                .deadline(DEADLINE_MS)
                .learn(Self::learn)
                .entering(|_| Ok(vec![Change::Migration(MigrationEvent::Start)]))
                .undo(|_| Ok(Undo {}))
                .done(|_| Ok(vec![Change::Own { host: host("a"), epoch: 2 }]))
                .end(),
            ask("finish", compute, |s: &Self| s.ask("finish"))
                .deadline(DEADLINE_MS)
                .learn(Self::learn)
                .retriable()
                .end(),
            ask("tidy", compute, |s: &Self| s.ask("tidy"))
                .deadline(DEADLINE_MS)
                .learn(Self::learn)
                .retriable()
                .deferrable()
                .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![Change::SettleMove])
    }

    fn unwound(&self, _fault: &Fault, cancelled: bool) -> Vec<Change> {
        let event = if cancelled { MigrationEvent::Cancel } else { MigrationEvent::Fail };
        vec![Change::Migration(event)]
    }

    fn stuck(fault: &Fault) -> Vec<Change> {
        vec![
            Change::Instance(InstanceEvent::GiveUp),
            Change::Fault { code: fault.code.to_string(), message: fault.message.clone() },
        ]
    }
}

/// Requests for [`Call`]'s only step before it is fenced.
pub(crate) const TRIES: i32 = 2;

/// One call that can't be taken back, asked a bounded number of times, its fence deferrable.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Call {}

impl Saga for Call {
    const NAME: &'static str = "call";
    const VERSION: i16 = 1;

    fn steps() -> Vec<Step<Self>> {
        vec![
            ask("call", compute, |_: &Self| Ok(Do {}))
                .pivot()
                .tries(TRIES)
                .deadline(DEADLINE_MS)
                .undo_deferrable(|_| Ok(Undo {}))
                .end(),
        ]
    }

    fn completed(&self) -> Result<Vec<Change>, Bug> {
        Ok(vec![Change::Instance(InstanceEvent::Started)])
    }

    fn unwound(&self, _fault: &Fault, _cancelled: bool) -> Vec<Change> {
        vec![Change::Instance(InstanceEvent::PowerFailed)]
    }

    fn stuck(_fault: &Fault) -> Vec<Change> {
        vec![Change::Instance(InstanceEvent::GiveUp)]
    }
}
