//! What conductors, users and operators do: `common/saga`, `common/sagas`, `common/db`.

use crate::hosts::peer;
use crate::state::{Answer, Bounds, Job, Kind, Move, Mutant, Request, Saga, State, Step};

/// The request that the saga waits for.
pub(crate) fn awaited(saga: &Saga) -> Request {
    match (saga.step, saga.back) {
        (Step::Make, false) => Request::Make,
        (Step::Make, true) if saga.source_lost => Request::UnmakeLost,
        (Step::Make, true) => Request::Unmake,
        (Step::Move, false) => Request::Move,
        (Step::Move, true) => Request::Abort,
        (Step::Finish, _) => Request::Finish,
        (Step::Clear, _) => Request::Clear,
    }
}

/// The conductors' side of a state.
#[derive(Clone, Copy)]
pub(crate) struct Conductor {
    pub(crate) bounds: Bounds,
    pub(crate) mutant: Option<Mutant>,
}

impl Conductor {
    fn is(self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Asks what the saga waits for, unless its peer was forced down.
    fn ask(self, state: &mut State) {
        let Some(saga) = state.saga else { return };
        let request = awaited(&saga);
        let host = peer(state, saga.number, request);
        if !state.at(host).forced_down || self.is(Mutant::AsksFenced) {
            state.of(saga.number).sent |= request.bit();
        }
    }

    pub(crate) fn ask_again(self, mut state: State) -> State {
        self.ask(&mut state);
        state
    }

    fn enter(self, state: &mut State, step: Step, back: bool) {
        let saga = state.saga.as_mut().expect("one is under way");
        (saga.step, saga.back) = (step, back);
        self.ask(state);
    }

    /// A move begins, or an evacuation's next round.
    pub(crate) fn begin(self, mut state: State, kind: Kind, destination: u8) -> Option<State> {
        let source = state.host;
        let fenced = state.at(source).forced_down;
        let allowed = match kind {
            Kind::Live => !fenced,
            Kind::Evacuation => fenced || self.is(Mutant::EvacuatesUnfenced),
        };
        let room = state.begun < self.bounds.moves;
        if !allowed || !room || destination == source || state.at(destination).forced_down {
            return None;
        }
        let number = state.begun;
        state.moves[usize::from(number)] = Some(Move {
            kind,
            source,
            destination,
            sent: 0,
            owed: 0,
            answers: [None; 7],
            buried: 0,
            job: Job::None,
            closed: false,
        });
        state.begun += 1;
        state.saga = Some(Saga {
            number,
            step: Step::Make,
            back: false,
            source_lost: false,
            deferred: false,
            cancelled: false,
        });
        self.ask(&mut state);
        Some(state)
    }

    fn put_off(self, state: &mut State, request: Request) {
        let number = state.saga.expect("one is under way").number;
        if !self.is(Mutant::ObligationsForgotten) {
            state.of(number).owed |= request.bit();
        }
    }

    fn done(self, state: &mut State) {
        let saga = state.saga.expect("one is under way");
        let one = *state.of(saga.number);
        match (saga.step, one.kind) {
            (Step::Make, Kind::Live) => self.enter(state, Step::Move, false),
            (Step::Make, Kind::Evacuation) => {
                state.host = one.destination;
                self.enter(state, Step::Clear, false);
            }
            (Step::Move, _) => {
                state.host = one.destination;
                self.enter(state, Step::Finish, false);
            }
            (Step::Finish, _) => self.enter(state, Step::Clear, false),
            (Step::Clear, _) => state.saga = None,
        }
    }

    /// The undo of the current step is done, or put off.
    fn undone(self, state: &mut State) -> Vec<State> {
        let saga = state.saga.expect("one is under way");
        if saga.step == Step::Move {
            self.enter(state, Step::Make, true);
            return vec![*state];
        }
        state.saga = None;
        let one = *state.of(saga.number);
        let mut next = vec![*state];
        let again = !saga.deferred || self.is(Mutant::RoundAfterDeferral);
        if again && !saga.cancelled {
            let others = (0..self.bounds.hosts).filter(|host| *host != one.destination);
            next.extend(others.filter_map(|host| self.begin(*state, one.kind, host)));
        }
        next
    }

    /// What the saga waits for was answered.
    pub(crate) fn learn(self, mut state: State) -> Vec<State> {
        let Some(saga) = state.saga else { return Vec::new() };
        let answer = state.of(saga.number).answers[awaited(&saga).line()];
        match (answer, saga.back) {
            (None, _) => Vec::new(),
            (Some(Answer::Ok | Answer::AlreadyDone), false) => {
                self.done(&mut state);
                vec![state]
            }
            (Some(Answer::Refused), false) => {
                self.enter(&mut state, saga.step, true);
                vec![state]
            }
            (Some(Answer::AlreadyDone), true) => {
                // The pivot's own fence, or the destination in its place: it has moved.
                let forth = state.saga.as_mut().expect("one is under way");
                (forth.step, forth.back, forth.deferred) = (Step::Move, false, false);
                self.done(&mut state);
                vec![state]
            }
            (Some(Answer::Ok | Answer::Refused), true) => self.undone(&mut state),
        }
    }

    /// Somebody calls the move off, or a step before the pivot is given up.
    pub(crate) fn turn_back(self, mut state: State, cancelled: bool) -> Option<State> {
        let saga = state.saga.as_mut().filter(|saga| !saga.back)?;
        saga.cancelled |= cancelled;
        match saga.step {
            Step::Make => self.enter(&mut state, Step::Make, true),
            // Nobody gives up on a pivot; a user, or the loss of its host, ends the wait.
            Step::Move if cancelled => self.enter(&mut state, Step::Move, true),
            Step::Finish if self.is(Mutant::UndoPastPivot) => {
                let number = saga.number;
                state.host = state.of(number).source;
                self.enter(&mut state, Step::Make, true);
            }
            Step::Move | Step::Finish | Step::Clear => return None,
        }
        Some(state)
    }

    /// The peer counts as lost: the engine's look at a host that is silent, or forced down.
    pub(crate) fn peer_is_lost(self, mut state: State) -> Vec<State> {
        let Some(saga) = state.saga else { return Vec::new() };
        let request = awaited(&saga);
        let host = peer(&state, saga.number, request);
        let fenced = state.at(host).forced_down || self.is(Mutant::SilentIsFenced);
        let kind = state.of(saga.number).kind;
        match (saga.step, saga.back) {
            (Step::Make | Step::Move, false) if fenced => {
                self.enter(&mut state, saga.step, true);
                vec![state]
            }
            (Step::Make | Step::Move, false) => Vec::new(),
            (Step::Move, true) if fenced => {
                state.saga.as_mut().expect("one is under way").source_lost = true;
                self.put_off(&mut state, Request::Abort);
                self.undone(&mut state)
            }
            (Step::Make, true) if fenced || (kind == Kind::Live && !saga.source_lost) => {
                let now = state.saga.as_mut().expect("one is under way");
                // With both lost nobody can say whether it has moved: wherever it comes back it is removed.
                (now.source_lost, now.deferred) = (false, true);
                self.put_off(&mut state, Request::Unmake);
                self.undone(&mut state)
            }
            (Step::Finish, _) if fenced => {
                self.put_off(&mut state, Request::Finish);
                self.done(&mut state);
                vec![state]
            }
            (Step::Clear, _) => {
                self.put_off(&mut state, Request::Clear);
                self.done(&mut state);
                vec![state]
            }
            (Step::Move | Step::Make, true) | (Step::Finish, _) => Vec::new(),
        }
    }

    /// An operator lets a host in again: not before evacuations from it are over.
    pub(crate) fn let_in(self, mut state: State, host: u8) -> Option<State> {
        let here = *state.at(host);
        let saga = state.saga.map(|saga| saga.number);
        let open = (0..state.begun).any(|number| {
            let one = *state.of(number);
            let owed = one.owed & Request::Clear.bit() != 0;
            one.kind == Kind::Evacuation && one.source == host && (owed || saga == Some(number))
        });
        let early = self.is(Mutant::LetInTooEarly);
        (here.forced_down && here.powered && (!open || early)).then(|| {
            state.at(host).forced_down = false;
            state
        })
    }
}
