//! A world in one thread: hosts, a scheduler, conductors, a network that loses, repeats and delays, and a clock
//! that jumps from event to event. What happens follows from a seed or a script alone.
//!
//! ```text
//!   life ──▶ rows, saga ◀── conductor (transactions around `advance`) ──▶ network ──▶ agent, scheduler
//!                               ▲                                                        │
//!                               └───────────────────── network ◀─────────────────────────┘
//! ```

mod agent;
mod chaos;
mod check;
mod cold;
mod conductor;
mod driver;
mod hosts;
mod jobs;
mod life;
mod rng;
mod scheduler;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;
use whimbrel_messages::{Dir, Outcome, StepKey};
use whimbrel_model::{HostName, SagaId};
use whimbrel_saga::Registry;

use self::agent::Host;
use self::conductor::Saga;
use crate::rows::Rows;

pub(crate) use self::chaos::{Chaos, Crash};
#[cfg(test)]
pub(crate) use self::chaos::{Fault, Hit, Script};
pub(crate) use self::life::{Op, Story};

/// Hosts in the world.
pub(crate) const HOSTS: usize = 4;
/// After this time nothing goes wrong any more, in milliseconds.
pub(crate) const QUIET_MS: i64 = 20 * 60_000;
/// By this time all must have ended, in milliseconds.
const END_MS: i64 = 24 * 3_600_000;

/// A rule that is switched off, to see whether anybody notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// An undo leaves no tombstone.
    NoTombstone,
    /// An abort is answered while the job still runs.
    AbortBeforeTheEnd,
    /// A request that came too late is answered as refused.
    ExpiredIsRefused,
    /// A refusal is not journalled.
    RefusalsForgotten,
    /// Every attempt is carried out.
    NotIdempotent,
    /// What was begun is not written down before it is begun.
    BeginningsForgotten,
    /// Tokens are not looked at.
    NoEpochs,
    /// The engine takes the answer to a step for the answer to its undo, and the reverse.
    DirIgnored,
    /// The engine does not fence a pivot that was refused or not answered.
    NoFence,
    /// The engine starts over although an undo was put off.
    RoundAfterDeferral,
    /// The engine takes the answer of an earlier round for one of this.
    RoundIgnored,
    /// The scheduler claims for whoever asks, whether or not its saga still waits.
    ClaimsForAnyone,
    /// Messages leave before what they follow from is committed.
    OutboxSkipped,
    /// Nobody looks at sagas whose time has come.
    NobodyLooks,
    /// The engine goes back from a step past the point of no return when it is called off.
    UndoPastPivot,
    /// A host that is merely silent counts as forced down.
    SilentIsFenced,
    /// A host that was restarted carries out what lay in its queue.
    QueueOutlivesRestart,
    /// The API evacuates from hosts that nobody has forced down.
    EvacuatesUnfenced,
    /// Work that was put off for a host is forgotten.
    ObligationsForgotten,
    /// A host that has seen a newer token does not remove what an earlier move has left.
    RestsOutliveTokens,
    /// A host that was forced down is asked as any other when it answers.
    FencedAreAsked,
    /// A host may be let in again before it has removed what was evacuated from it.
    LetInTooEarly,
}

/// A request on its way or at work.
#[derive(Clone, PartialEq)]
pub(crate) struct Command {
    key: StepKey,
    method: String,
    attempt: i32,
    deadline: i64,
    /// It is asked until it is done.
    must: bool,
    body: Value,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}, attempt {}", self.method, short(&self.key), self.attempt)
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A request reaches a host, or the scheduler (none).
    Request(Option<usize>, Command),
    /// An answer reaches the conductors.
    Reply(StepKey, Outcome),
    /// A hint reaches the conductors.
    Hint(usize),
    /// The sweeper looks at a saga.
    Sweep(usize),
    /// A conductor takes what has arrived for a saga.
    Transaction(usize),
    /// The sweeper of obligations looks.
    Obligations,
    /// A piece of work at a host is over; of that start of its service.
    WorkOver(usize, SagaId, u32),
    /// The job with that number at that host switches over to post-copy.
    PostCopy(usize, u32),
    /// The job with that number at that host ends.
    JobOver(usize, u32),
    /// A host's service stops.
    Down(usize),
    /// It starts again.
    Up(usize),
    /// The conductors find that a host has not reported since that stop of its service.
    Missed(usize, u32),
    /// A host's reports get through to the conductors, or no longer do.
    Reports(usize, bool),
    /// A host loses its power: its service, its guests, all that was under way.
    Dies(usize),
    /// It has power again.
    Boots(usize),
    /// An operator sees to it that a host runs nothing, and says so.
    Fences(usize),
    /// An operator wants to let it in again.
    LetsIn(usize),
    /// An operator says whether a host takes new guests.
    Enables(usize, bool),
    /// A user wants something.
    Wish(Op),
    /// A user calls off whatever is going on.
    Cancel,
}

/// What is left out of a random run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask {
    /// Planned events, by number.
    pub(crate) events: BTreeSet<u64>,
    /// Kinds of faults.
    pub(crate) kinds: BTreeSet<usize>,
}

pub(crate) struct Sim {
    now: i64,
    queue: BTreeMap<(i64, u64), Event>,
    sequence: u64,
    pub(crate) chaos: Chaos,
    broken: Option<Broken>,
    pub(crate) rows: Rows,
    pub(crate) sagas: Vec<Saga>,
    hosts: Vec<Host>,
    /// When the instance's row last changed.
    changed_at: i64,
    /// A host has lost power, so guests may be off that nobody has shut down.
    power_lost: bool,
    obligations: BTreeMap<StepKey, (usize, Command)>,
    sweeping_obligations: bool,
    /// A host refused work that had been put off, and nobody asks again.
    refused_obligation: bool,
    jobs: u32,
    /// How often each piece of work was carried out, and what was answered to it.
    carried_out: BTreeMap<StepKey, u32>,
    answered: BTreeMap<StepKey, Outcome>,
    /// Work that had its effect although its service stopped before it could say so.
    effective: BTreeSet<StepKey>,
    /// Sagas whose fence was put off, so that their end says nothing of the guest's power.
    unfenced: BTreeSet<SagaId>,
    violation: Option<String>,
    trace: Option<Vec<String>>,
}

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(whimbrel_sagas::registry)
}

fn name(host: usize) -> HostName {
    let letter = b'a' + u8::try_from(host).expect("a few hosts");
    char::from(letter).to_string().parse().expect("a letter is a host name")
}

fn number(host: &HostName) -> usize {
    usize::from(host.as_str().as_bytes()[0] - b'a')
}

fn saga_id(number: usize) -> SagaId {
    SagaId(Uuid::from_u128(0x1000 + number as u128))
}

fn saga_number(id: SagaId) -> usize {
    usize::try_from(id.0.as_u128() - 0x1000).expect("a saga of this world")
}

impl Sim {
    pub(crate) fn new(chaos: Chaos, broken: Option<Broken>) -> Self {
        Self {
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            chaos,
            broken,
            rows: Rows::new(),
            sagas: Vec::new(),
            hosts: (0..HOSTS).map(|_| Host::default()).collect(),
            changed_at: 0,
            power_lost: false,
            obligations: BTreeMap::new(),
            sweeping_obligations: false,
            refused_obligation: false,
            jobs: 0,
            carried_out: BTreeMap::new(),
            answered: BTreeMap::new(),
            effective: BTreeSet::new(),
            unfenced: BTreeSet::new(),
            violation: None,
            trace: None,
        }
    }

    /// Without some of what is to happen, and without some kinds of faults.
    pub(crate) fn without(mut self, mask: &Mask) -> Self {
        self.queue.retain(|(_, number), _| !mask.events.contains(number));
        mask.kinds.iter().for_each(|kind| self.chaos.quiet(*kind));
        self
    }

    /// What is to happen from the beginning: what users want, and what hosts suffer.
    pub(crate) fn planned(&self) -> Vec<u64> {
        self.queue.keys().map(|(_, number)| *number).collect()
    }

    pub(crate) fn traced(mut self) -> Self {
        self.trace = Some(Vec::new());
        self
    }

    pub(crate) fn trace(&self) -> String {
        self.trace.as_ref().map(|lines| lines.join("\n")).unwrap_or_default()
    }

    /// Lets everything happen until nothing is left to happen.
    ///
    /// # Errors
    /// With the first rule that was broken.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            if self.now > END_MS {
                self.violated(|| "it does not end".to_owned());
            }
            self.chaos.at(self.now);
            if self.trace.is_some() {
                self.note(|| event.to_string());
            }
            self.happens(event);
            if let Some(violation) = self.violation.take() {
                return Err(format!("at {} ms: {violation}", self.now));
            }
        }
        self.check_rest().map_err(|violation| format!("at the end: {violation}"))
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Request(Some(host), command) => self.request_arrives(host, command),
            Event::Request(None, command) => self.claim(&command),
            Event::Reply(key, outcome) => self.reply_arrives(key, outcome),
            Event::Hint(saga) => self.hear(saga, conductor::hint()),
            Event::Sweep(_) if self.broken == Some(Broken::NobodyLooks) => {}
            Event::Sweep(saga) => self.sweep(saga),
            Event::Transaction(saga) => self.transaction(saga),
            Event::Obligations => self.sweep_obligations(),
            Event::WorkOver(host, saga, start) => self.work_over(host, saga, start),
            Event::PostCopy(host, job) => self.post_copy(host, job),
            Event::JobOver(host, job) => self.job_over(host, job),
            Event::Down(host) => self.goes_down(host),
            Event::Up(host) => self.comes_up(host, false),
            Event::Missed(host, starts) => self.missed(host, starts),
            Event::Reports(host, reports) => {
                // A report of a service that is down again by now is old.
                self.hosts[host].reports = reports && self.hosts[host].up;
                self.sync_power();
            }
            Event::Dies(host) => self.dies(host),
            Event::Boots(host) => self.boots(host),
            Event::Fences(host) => self.fences(host),
            Event::LetsIn(host) => self.lets_in(host),
            Event::Enables(host, enabled) => self.hosts[host].enabled = enabled,
            Event::Wish(op) => self.wish(op),
            Event::Cancel => self.cancel(),
        }
    }

    fn after(&mut self, ms: i64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + ms, self.sequence), event);
    }

    fn clock(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + self.now).expect("a time")
    }

    fn violated(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            let what = what();
            self.note(|| format!("VIOLATION: {what}"));
            self.violation = Some(what);
        }
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.trace {
            lines.push(format!("{:>9} {}", self.now, line()));
        }
    }

    /// Sends a request, as often and as late as the network likes.
    fn send(&mut self, to: Option<usize>, command: &Command) {
        for delay in self.chaos.request(self.now, &command.key) {
            self.after(delay, Event::Request(to, command.clone()));
        }
    }

    /// Sends an answer, as often and as late as the network likes.
    fn reply(&mut self, key: &StepKey, outcome: &Outcome) {
        for delay in self.chaos.reply(self.now, key) {
            self.after(delay, Event::Reply(key.clone(), outcome.clone()));
        }
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(Some(host), command) => write!(f, "host {host} is asked to {command:?}"),
            Self::Request(None, command) => write!(f, "the scheduler is asked to {command:?}"),
            Self::Reply(key, outcome) => write!(f, "{} is answered {outcome:?}", short(key)),
            Self::WorkOver(host, saga, _) => {
                write!(f, "work at host {host} for saga {} is over", saga_number(*saga))
            }
            other => write!(f, "{other:?}"),
        }
    }
}

/// A key as a trace shows it.
fn short(key: &StepKey) -> String {
    format!("saga {} round {} {} {}", saga_number(key.saga_id), key.round, key.dir, key.step)
}

fn undo_of(key: &StepKey) -> StepKey {
    StepKey { dir: Dir::Undo, ..key.clone() }
}

fn do_of(key: &StepKey) -> StepKey {
    StepKey { dir: Dir::Do, ..key.clone() }
}
