//! What goes wrong: by chance, with odds that differ from seed to seed, or by a script.

use std::collections::BTreeMap;

use whimbrel_messages::{Dir, StepKey};

use super::rng::Rng;
use super::{QUIET_MS, saga_id};

/// Out of a thousand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Odds {
    lose: u64,
    repeat: u64,
    slow: u64,
    refuse: u64,
    stop_service: u64,
    stop_conductor: u64,
    slow_work: u64,
    stray_hint: u64,
    full: u64,
}

/// What becomes of one transaction of a conductor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// It goes well.
    No,
    /// The conductor dies before it commits.
    Before,
    /// It dies after that and before it publishes; the outbox still has the messages.
    After,
    /// It dies after that and the messages are lost as well.
    Lost,
}

/// What a script does to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hit {
    /// It is refused.
    Refuse,
    /// It is refused twice and then carried out; the refusals are not remembered.
    RefuseTwice,
    /// The first request is lost.
    LoseRequest,
    /// Every request is lost for longer than anybody asks who may give up.
    LoseRequests,
    /// The first answer is lost.
    LoseReply,
    /// Every answer is lost for as long.
    LoseReplies,
    /// Every request of the first half hour arrives ten minutes late.
    Late,
    /// Every request arrives at once, again, and once more ten minutes later.
    Repeat,
    /// The host's service stops for five minutes before the request arrives.
    Down,
    /// The host's service stops for five minutes once the work is done.
    DownAfter,
    /// The operation is called off when the step is asked.
    Cancel,
}

impl Hit {
    pub(crate) const ALL: [Self; 11] = [
        Self::Refuse,
        Self::RefuseTwice,
        Self::LoseRequest,
        Self::LoseRequests,
        Self::LoseReply,
        Self::LoseReplies,
        Self::Late,
        Self::Repeat,
        Self::Down,
        Self::DownAfter,
        Self::Cancel,
    ];
}

/// One thing that a script does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) step: &'static str,
    pub(crate) dir: Dir,
    pub(crate) hit: Hit,
    /// In the first round only.
    pub(crate) once: bool,
}

/// What is to go wrong with the first saga, and nothing else.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) faults: Vec<Fault>,
    /// The conductor dies in the transaction with that number.
    pub(crate) crash: Option<(usize, Crash)>,
    /// The shell gives the saga up in the transaction with that number.
    pub(crate) give_up: Option<usize>,
}

pub(crate) struct Chaos {
    pub(crate) rng: Rng,
    odds: Odds,
    script: Option<Script>,
    /// How often the script has hit each step, by what.
    hits: BTreeMap<(StepKey, &'static str), u32>,
    /// When each step was first asked, of those whose messages are lost.
    since: BTreeMap<StepKey, i64>,
    transactions: usize,
}

/// Past the point of no return: a host that refuses one of these makes its saga stuck, and rightly so.
const NEVER_REFUSED: [&str; 4] =
    ["finish-at-destination", "clean-up-source", "terminate", "terminate-other"];

const LATE_MS: i64 = 600_000;
const LOST_MS: i64 = 50 * 60_000;

impl Chaos {
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut up_to = |n: u64| if rng.chance(500) { rng.below(n) } else { 0 };
        let odds = Odds {
            lose: up_to(200),
            repeat: up_to(200),
            slow: up_to(200),
            refuse: up_to(200),
            stop_service: up_to(60),
            stop_conductor: up_to(100),
            slow_work: up_to(300),
            stray_hint: up_to(200),
            full: up_to(500),
        };
        Self {
            rng,
            odds,
            script: None,
            hits: BTreeMap::new(),
            since: BTreeMap::new(),
            transactions: 0,
        }
    }

    pub(crate) fn script(script: Script) -> Self {
        let odds = Odds::default();
        let rng = Rng::new(1);
        Self {
            rng,
            odds,
            script: Some(script),
            hits: BTreeMap::new(),
            since: BTreeMap::new(),
            transactions: 0,
        }
    }

    pub(crate) fn is_random(&self) -> bool {
        self.script.is_none()
    }

    /// Once it is quiet nothing goes wrong any more.
    pub(crate) fn at(&mut self, now: i64) {
        if now >= QUIET_MS && self.script.is_none() {
            self.odds = Odds::default();
        }
    }

    /// How many transactions there were.
    pub(crate) fn transactions(&self) -> usize {
        self.transactions
    }

    fn scripted(&self, key: &StepKey, hit: Hit) -> bool {
        self.script.iter().flat_map(|script| &script.faults).any(|fault| {
            key.saga_id == saga_id(0)
                && fault.hit == hit
                && fault.step == key.step
                && fault.dir == key.dir
                && (key.round == 0 || !fault.once)
        })
    }

    /// Counts how often this was asked of `key`; true the first `n` times.
    fn first(&mut self, key: &StepKey, what: &'static str, n: u32) -> bool {
        let count = self.hits.entry((key.clone(), what)).or_default();
        *count += 1;
        *count <= n
    }

    /// Whether `key` was asked for the first time not long ago.
    fn recent(&mut self, key: &StepKey, now: i64) -> bool {
        now - *self.since.entry(key.clone()).or_insert(now) < LOST_MS
    }

    fn network(&mut self, now: i64) -> Vec<i64> {
        if now >= QUIET_MS {
            return vec![1];
        }
        let mut copies = usize::from(!self.rng.chance(self.odds.lose));
        while self.rng.chance(self.odds.repeat) {
            copies += 1;
        }
        let odds = self.odds.slow;
        let rng = &mut self.rng;
        let delay = |_| if rng.chance(odds) { rng.magnitude(18) } else { rng.ms(1, 5) };
        (0..copies).map(delay).collect()
    }

    /// When a request arrives, and again.
    pub(crate) fn request(&mut self, now: i64, key: &StepKey) -> Vec<i64> {
        if self.script.is_none() {
            return self.network(now);
        }
        if self.scripted(key, Hit::LoseRequests) && self.recent(key, now) {
            return vec![];
        }
        if self.scripted(key, Hit::LoseRequest) && self.first(key, "request", 1) {
            return vec![];
        }
        if self.scripted(key, Hit::Late) && now < 3 * LATE_MS {
            return vec![LATE_MS];
        }
        if self.scripted(key, Hit::Repeat) {
            return vec![1, 2, 50, LATE_MS];
        }
        vec![1]
    }

    /// When an answer arrives, and again.
    pub(crate) fn reply(&mut self, now: i64, key: &StepKey) -> Vec<i64> {
        if self.script.is_none() {
            return self.network(now);
        }
        if self.scripted(key, Hit::LoseReplies) && self.recent(key, now) {
            return vec![];
        }
        if self.scripted(key, Hit::LoseReply) && self.first(key, "reply", 1) {
            return vec![];
        }
        if self.scripted(key, Hit::Repeat) { vec![1, 2, 50, LATE_MS] } else { vec![1] }
    }

    /// Whether a host refuses to carry a step out.
    pub(crate) fn refuses(&mut self, key: &StepKey) -> bool {
        if self.script.is_some() {
            return self.scripted(key, Hit::Refuse);
        }
        let may = key.dir == Dir::Do && !NEVER_REFUSED.contains(&&*key.step);
        may && self.rng.chance(self.odds.refuse)
    }

    /// Whether a host refuses this time without remembering it.
    pub(crate) fn refuses_for_now(&mut self, key: &StepKey) -> bool {
        self.scripted(key, Hit::RefuseTwice) && self.first(key, "refusal", 2)
    }

    /// Whether a host's service stops just before a request for this step arrives.
    pub(crate) fn stops_before(&mut self, key: &StepKey) -> bool {
        self.scripted(key, Hit::Down) && self.first(key, "down", 1)
    }

    /// Whether a host's service stops once the step is carried out and its answer is journalled.
    pub(crate) fn stops_after(&mut self, key: &StepKey) -> bool {
        self.scripted(key, Hit::DownAfter) && self.first(key, "down", 1)
    }

    /// Whether the operation is called off as this step is asked.
    pub(crate) fn cancels(&mut self, key: &StepKey) -> bool {
        self.scripted(key, Hit::Cancel) && self.first(key, "cancel", 1)
    }

    /// Whether a host's service stops at this moment.
    pub(crate) fn stops_service(&mut self) -> bool {
        self.rng.chance(self.odds.stop_service)
    }

    /// Whether a host has no room.
    pub(crate) fn full(&mut self) -> bool {
        self.rng.chance(self.odds.full)
    }

    pub(crate) fn stray_hint(&mut self) -> bool {
        self.rng.chance(self.odds.stray_hint)
    }

    /// Whether the shell gives a saga up in the transaction that comes.
    pub(crate) fn gives_up(&self) -> bool {
        let at = self.script.as_ref().and_then(|script| script.give_up);
        at == Some(self.transactions)
    }

    /// What becomes of a transaction.
    pub(crate) fn crash(&mut self) -> Crash {
        self.transactions += 1;
        if let Some(script) = &self.script {
            return match script.crash {
                Some((at, crash)) if at + 1 == self.transactions => crash,
                _ => Crash::No,
            };
        }
        if !self.rng.chance(self.odds.stop_conductor) {
            return Crash::No;
        }
        [Crash::Before, Crash::After, Crash::Lost]
            [usize::try_from(self.rng.below(3)).expect("small")]
    }

    /// How long a host works at a step.
    pub(crate) fn work_ms(&mut self) -> i64 {
        if self.rng.chance(self.odds.slow_work) {
            self.rng.magnitude(16)
        } else {
            self.rng.ms(1, 20)
        }
    }

    /// How long the guest's memory travels.
    pub(crate) fn job_ms(&mut self) -> i64 {
        if self.script.is_some() { 7_000 } else { self.rng.magnitude(17) }
    }
}
