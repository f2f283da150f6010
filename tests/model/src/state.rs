//! What a state consists of.

/// Hosts at most.
pub(crate) const HOSTS: usize = 3;
/// Moves at most; a new round of an evacuation counts as one.
pub(crate) const MOVES: usize = 3;

/// How much may happen in one life of the model.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Hosts.
    pub hosts: u8,
    /// Moves, among them new rounds.
    pub moves: u8,
    /// Hosts that lose power, forced down or not.
    pub losses: u8,
}

/// A rule that is taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// An undo leaves no tombstone.
    NoTombstone,
    /// Hosts look at no token.
    NoEpochs,
    /// Receivers keep no journal: what comes twice is done twice.
    NoJournal,
    /// A move may be called off after its pivot.
    UndoPastPivot,
    /// An undo that found the guest arrived, and left it, is answered from the journal when the guest has to go.
    RemembersWhatStayed,
    /// The pivot's undo is answered while the job runs.
    NoFence,
    /// A guest is evacuated from a host that is only silent.
    EvacuatesUnfenced,
    /// Silence counts as forced down for what a guest's safety depends on.
    SilentIsFenced,
    /// A host that was forced down is asked as any other.
    AsksFenced,
    /// What lies in a host's queue outlives its restart.
    QueueOutlivesRestart,
    /// A destination takes a guest that it prepared for before its restart.
    ArrivalsOutliveRestart,
    /// After an undo that was put off the guest is made elsewhere.
    RoundAfterDeferral,
    /// A host that comes back starts what it had.
    StartsStaleCopies,
    /// A host is let in before it has removed its stale copy.
    LetInTooEarly,
    /// Work that was put off is forgotten.
    ObligationsForgotten,
}

/// What a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A live migration.
    Live,
    /// An evacuation, or a further round of one.
    Evacuation,
}

/// The steps of both kinds. An evacuation is `Make` at the destination and `Clear` at the lost host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    /// `prepare-destination`, or `rebuild-instance`.
    Make,
    /// `move-guest`, the pivot.
    Move,
    /// `finish-at-destination`.
    Finish,
    /// `clean-up-source`, or `clear-source`.
    Clear,
}

/// A request: a step, forth or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Request {
    /// `pre_live_migration`, or `rebuild_instance`.
    Make,
    /// What undoes it.
    Unmake,
    /// As `Unmake`, where only the destination can say whether the guest has moved.
    UnmakeLost,
    /// `live_migration`.
    Move,
    /// `live_migration_abort`, its fence.
    Abort,
    /// `post_live_migration_at_destination`.
    Finish,
    /// `post_live_migration`.
    Clear,
}

impl Request {
    pub(crate) const ALL: [Self; 7] = [
        Self::Make,
        Self::Unmake,
        Self::UnmakeLost,
        Self::Move,
        Self::Abort,
        Self::Finish,
        Self::Clear,
    ];

    pub(crate) fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The line of the journal: both ways of asking a destination back are one step's undo.
    pub(crate) fn line(self) -> usize {
        if self == Self::UnmakeLost { Self::Unmake as usize } else { self as usize }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Ok,
    Refused,
    AlreadyDone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Job {
    None,
    Running,
    Moved,
    Failed,
}

/// A move: what was asked for it, and what its hosts know of it. Its token is one more than its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Move {
    pub(crate) kind: Kind,
    pub(crate) source: u8,
    pub(crate) destination: u8,
    /// Requests that may arrive.
    pub(crate) sent: u8,
    /// Requests that are owed by hosts.
    pub(crate) owed: u8,
    /// The journals' answers.
    pub(crate) answers: [Option<Answer>; 7],
    /// Steps with a tombstone.
    pub(crate) buried: u8,
    pub(crate) job: Job,
    /// Its destination was restarted since it prepared for the guest.
    pub(crate) closed: bool,
}

/// The move under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Saga {
    pub(crate) number: u8,
    pub(crate) step: Step,
    pub(crate) back: bool,
    pub(crate) source_lost: bool,
    pub(crate) deferred: bool,
    pub(crate) cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Guest {
    pub(crate) epoch: u8,
    pub(crate) running: bool,
    pub(crate) persistent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub(crate) powered: bool,
    /// As the database has it.
    pub(crate) forced_down: bool,
    pub(crate) guest: Option<Guest>,
    /// A move whose guest it expects.
    pub(crate) incoming: Option<u8>,
    /// The highest token seen.
    pub(crate) seen: u8,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) hosts: [Host; HOSTS],
    /// The instance's row.
    pub(crate) host: u8,
    pub(crate) saga: Option<Saga>,
    pub(crate) moves: [Option<Move>; MOVES],
    pub(crate) begun: u8,
    pub(crate) losses: u8,
    /// The guest lost its power and nobody has started it since.
    pub(crate) off: bool,
}

impl State {
    /// The guest runs on the first host.
    pub fn first() -> Self {
        let host = Host { powered: true, forced_down: false, guest: None, incoming: None, seen: 0 };
        let mut hosts = [host; HOSTS];
        hosts[0].guest = Some(Guest { epoch: 0, running: true, persistent: true });
        Self { hosts, host: 0, saga: None, moves: [None; MOVES], begun: 0, losses: 0, off: false }
    }

    pub(crate) fn of(&mut self, number: u8) -> &mut Move {
        self.moves[usize::from(number)].as_mut().expect("a move that was begun")
    }

    pub(crate) fn at(&mut self, host: u8) -> &mut Host {
        &mut self.hosts[usize::from(host)]
    }

    /// The same without what can have no effect any more, so that states which differ in nothing else are one.
    pub(crate) fn without_the_past(mut self, mutant: Option<Mutant>) -> Self {
        let current = self.saga.map(|saga| saga.number);
        for number in 0..self.begun {
            let one = self.of(number);
            let journal = mutant != Some(Mutant::NoJournal);
            for request in Request::ALL {
                let answer = one.answers[request.line()];
                let answered =
                    journal && answer.is_some_and(|answer| answer != Answer::AlreadyDone);
                if answered || one.buried & request.bit() != 0 {
                    one.sent &= !request.bit();
                }
            }
            if current == Some(number) {
                continue;
            }
            // Nobody asks for this move any more: only what is on its way, or owed, counts.
            let open = one.sent | one.owed;
            let of = |request: Request| open & request.bit() != 0;
            for request in Request::ALL {
                let line = request.line();
                if !Request::ALL.into_iter().any(|other| other.line() == line && of(other)) {
                    one.answers[line] = None;
                }
            }
            one.buried &= one.sent;
            let moving = of(Request::Move) || of(Request::Abort);
            if !moving && one.job != Job::Running {
                (one.job, one.closed) = (Job::None, false);
            }
        }
        self
    }

    /// Nothing is under way, and no host that is there owes anything.
    pub fn has_ended(&self) -> bool {
        self.saga.is_none() && self.moves.iter().flatten().all(|one| one.owed == 0)
    }

    /// What does not hold.
    ///
    /// # Errors
    /// With the rule that is broken.
    pub fn check(&self) -> Result<(), &'static str> {
        let runs = |host: &Host| host.guest.is_some_and(|guest| guest.running);
        if self.hosts.iter().filter(|host| runs(host)).count() > 1 {
            return Err("the guest runs twice");
        }
        if self.saga.is_some() {
            return Ok(());
        }
        let home = usize::from(self.host);
        if (0..HOSTS).any(|at| at != home && runs(&self.hosts[at])) {
            return Err("at rest the guest runs where its row does not say");
        }
        if !self.off && !runs(&self.hosts[home]) {
            return Err("at rest the guest does not run, and nobody has lost power");
        }
        if self.hosts[home].guest.is_none() {
            return Err("the guest is gone");
        }
        let left = |at: usize| self.hosts[at].guest.is_some() || self.hosts[at].incoming.is_some();
        if self.has_ended() && (0..HOSTS).any(|at| at != home && left(at)) {
            return Err("something of the guest is left elsewhere, and nobody owes its removal");
        }
        Ok(())
    }
}
