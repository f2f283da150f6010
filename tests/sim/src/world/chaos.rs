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
    refuse_for_now: u64,
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
    /// It lives, but is told that the commit failed, although it did not.
    Ambiguous,
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
    /// What has gone wrong how often.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) rng: Rng,
    odds: Odds,
    script: Option<Script>,
    /// How often the script has hit each step, by what.
    hits: BTreeMap<(StepKey, &'static str), u32>,
    /// When each step was first asked, of those whose messages are lost.
    since: BTreeMap<StepKey, i64>,
    transactions: usize,
}

/// What must be done is refused at most so often: whoever asks gives up after twenty times.
const REFUSALS: u32 = 5;

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
            refuse_for_now: up_to(400),
            stop_service: up_to(60),
            stop_conductor: up_to(100),
            slow_work: up_to(300),
            stray_hint: up_to(200),
            full: up_to(500),
        };
        Self {
            counts: BTreeMap::new(),
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
            counts: BTreeMap::new(),
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

    /// One more of what goes wrong. Returns whether it does.
    pub(crate) fn count(&mut self, what: &'static str, happens: bool) -> bool {
        if happens {
            *self.counts.entry(what).or_default() += 1;
        }
        happens
    }

    /// Kinds of faults that happen by chance.
    pub(crate) const KINDS: usize = 10;

    /// One kind of fault no longer happens by chance.
    pub(crate) fn quiet(&mut self, kind: usize) {
        let Odds {
            lose,
            repeat,
            slow,
            refuse,
            refuse_for_now,
            stop_service,
            stop_conductor,
            slow_work,
            stray_hint,
            full,
        } = &mut self.odds;
        let odds: [&mut u64; Self::KINDS] = [
            lose,
            repeat,
            slow,
            refuse,
            refuse_for_now,
            stop_service,
            stop_conductor,
            slow_work,
            stray_hint,
            full,
        ];
        for (at, odds) in odds.into_iter().enumerate() {
            if at == kind {
                *odds = 0;
            }
        }
    }

    fn network(&mut self, now: i64) -> Vec<i64> {
        if now >= QUIET_MS {
            return vec![1];
        }
        let lost = self.rng.chance(self.odds.lose);
        let mut copies = usize::from(!self.count("messages lost", lost));
        while self.rng.chance(self.odds.repeat) {
            copies += 1;
            self.count("messages repeated", true);
        }
        let mut delays = Vec::with_capacity(copies);
        for _ in 0..copies {
            let slow = self.rng.chance(self.odds.slow);
            self.count("messages late", slow);
            delays.push(if slow { self.rng.magnitude(18) } else { self.rng.ms(1, 5) });
        }
        delays
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

    /// Whether a host refuses to carry a step out, for good; never what must be done.
    pub(crate) fn refuses(&mut self, key: &StepKey, must: bool) -> bool {
        if self.script.is_some() {
            return self.scripted(key, Hit::Refuse);
        }
        let refused = !must && self.rng.chance(self.odds.refuse);
        self.count("refusals", refused)
    }

    /// Whether a host refuses what must be done this time.
    pub(crate) fn refuses_for_now(&mut self, key: &StepKey, must: bool) -> bool {
        if self.script.is_some() {
            return self.scripted(key, Hit::RefuseTwice) && self.first(key, "refusal", 2);
        }
        let refused = must
            && self.rng.chance(self.odds.refuse_for_now)
            && self.first(key, "refusal", REFUSALS);
        self.count("refusals for a while", refused)
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
        let stops = self.rng.chance(self.odds.stop_service);
        self.count("agents killed at work", stops)
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
        let (what, crash) = match self.rng.below(4) {
            0 => ("conductors killed before commit", Crash::Before),
            1 => ("conductors killed before publish", Crash::After),
            2 => ("outboxes lost", Crash::Lost),
            _ => ("commits ambiguous", Crash::Ambiguous),
        };
        self.count(what, true);
        crash
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
