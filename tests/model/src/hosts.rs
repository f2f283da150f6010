//! What agents and hypervisors do: `services/compute` and the drivers.

use crate::state::{Answer, Guest, Job, Kind, Mutant, Request, State};

fn token(number: u8) -> u8 {
    number + 1
}

/// Who a request is for.
pub(crate) fn peer(state: &State, number: u8, request: Request) -> u8 {
    let one = state.moves[usize::from(number)].expect("a move that was begun");
    match request {
        Request::Move | Request::Abort | Request::Clear => one.source,
        Request::Make | Request::Unmake | Request::UnmakeLost | Request::Finish => one.destination,
    }
}

/// What undoes it, if the step may be refused by a tombstone.
fn is_buried(state: &mut State, number: u8, request: Request) -> bool {
    state.of(number).buried & request.bit() != 0
}

fn bury(state: &mut State, number: u8, request: Request, mutant: Option<Mutant>) {
    if mutant != Some(Mutant::NoTombstone) {
        state.of(number).buried |= request.bit();
    }
}

fn remembers(mutant: Option<Mutant>) -> bool {
    mutant == Some(Mutant::RemembersWhatStayed)
}

/// A request reaches an agent that works. With `dies`, it ends after the effect and before the journal's line.
pub(crate) fn deliver(
    mut state: State,
    number: u8,
    request: Request,
    dies: bool,
    mutant: Option<Mutant>,
) -> State {
    let host = peer(&state, number, request);
    debug_assert!(state.at(host).powered);
    // That an undo found done what it should undo is no line of the journal.
    let known = state.of(number).answers[request.line()];
    let known = known.is_some_and(|answer| answer != Answer::AlreadyDone || remembers(mutant));
    if known && mutant != Some(Mutant::NoJournal) {
        state.of(number).owed &= !request.bit();
        return state;
    }
    if is_buried(&mut state, number, request) {
        return state;
    }
    let answer = carry_out(&mut state, number, request, mutant);
    if let Some(answer) = answer.filter(|_| !dies) {
        note(&mut state, number, request, answer);
    }
    state
}

/// The journal's line, and the answer, which also meets what was owed.
fn note(state: &mut State, number: u8, request: Request, answer: Answer) {
    let one = state.of(number);
    one.answers[request.line()] = Some(answer);
    one.owed &= !request.bit();
}

/// None if there is no answer yet, or one that agents do not remember: refusals of what must be done.
fn carry_out(
    state: &mut State,
    number: u8,
    request: Request,
    mutant: Option<Mutant>,
) -> Option<Answer> {
    match request {
        Request::Make => Some(make(state, number, mutant)),
        Request::Unmake | Request::UnmakeLost => {
            bury(state, number, Request::Make, mutant);
            unmake(state, number, request, mutant)
        }
        Request::Move => start_job(state, number),
        Request::Abort => {
            bury(state, number, Request::Move, mutant);
            abort(state, number, mutant)
        }
        Request::Finish => finish(state, number, mutant),
        Request::Clear => clear(state, number, mutant),
    }
}

/// `pre_live_migration` and `rebuild_instance`: not over what is left of another move.
fn make(state: &mut State, number: u8, mutant: Option<Mutant>) -> Answer {
    let one = *state.of(number);
    let epochs = mutant != Some(Mutant::NoEpochs);
    let here = state.at(one.destination);
    let rest = here.guest.is_some_and(|guest| guest.epoch != token(number));
    if rest || here.incoming.is_some_and(|other| other != number) {
        return Answer::Refused;
    }
    if epochs && here.seen > token(number) {
        return Answer::Refused;
    }
    here.seen = here.seen.max(token(number));
    match one.kind {
        // It came, or is here again: this is a repetition.
        Kind::Live if here.guest.is_some() => return Answer::Refused,
        Kind::Live => here.incoming = Some(number),
        Kind::Evacuation => {
            here.guest = Some(Guest { epoch: token(number), running: true, persistent: true });
            state.off = false;
        }
    }
    Answer::Ok
}

/// `rollback_live_migration_at_destination`, and what takes a guest back that was made.
fn unmake(
    state: &mut State,
    number: u8,
    request: Request,
    mutant: Option<Mutant>,
) -> Option<Answer> {
    let one = *state.of(number);
    let epochs = mutant != Some(Mutant::NoEpochs);
    let here = state.at(one.destination);
    let mine = here.guest.is_some_and(|guest| guest.epoch == token(number));
    if one.kind == Kind::Evacuation {
        if epochs && here.guest.is_some_and(|guest| guest.epoch > token(number)) {
            // Another's. What this move had is gone.
            return Some(Answer::Ok);
        }
        if mine || !epochs {
            here.guest = None;
            // Back to the lost host's row, and there it is off.
            state.off |= mine;
        }
        return Some(Answer::Ok);
    }
    if request == Request::UnmakeLost && mine {
        return Some(Answer::AlreadyDone);
    }
    here.seen = here.seen.max(token(number));
    if let Some(guest) = here.guest.filter(|guest| epochs && guest.persistent) {
        if guest.epoch > token(number) {
            return Some(Answer::Ok);
        }
        if guest.epoch == token(number) {
            return None;
        }
    }
    if here.incoming.is_some_and(|other| other != number) {
        return Some(Answer::Ok);
    }
    here.incoming = None;
    if mine || !epochs {
        here.guest = None;
    }
    Some(Answer::Ok)
}

/// `live_migration`: journalled, then begun.
fn start_job(state: &mut State, number: u8) -> Option<Answer> {
    let one = *state.of(number);
    if one.job != Job::None {
        return None;
    }
    if !state.at(one.source).guest.is_some_and(|guest| guest.running) {
        return Some(Answer::Refused);
    }
    state.of(number).job = Job::Running;
    None
}

/// A fence: answered when the job is over.
fn abort(state: &mut State, number: u8, mutant: Option<Mutant>) -> Option<Answer> {
    match state.of(number).job {
        Job::Running if mutant == Some(Mutant::NoFence) => Some(Answer::Ok),
        Job::Running => None,
        Job::Moved => Some(Answer::AlreadyDone),
        Job::None | Job::Failed => Some(Answer::Ok),
    }
}

/// `post_live_migration_at_destination`.
fn finish(state: &mut State, number: u8, mutant: Option<Mutant>) -> Option<Answer> {
    let destination = state.of(number).destination;
    let here = state.at(destination);
    if mutant != Some(Mutant::NoEpochs) && here.seen > token(number) {
        // A refusal as of the past: whoever waits for it asks again, but nothing is owed any more.
        state.of(number).owed &= !Request::Finish.bit();
        return None;
    }
    let guest = here.guest.as_mut().filter(|guest| guest.epoch == token(number))?;
    guest.persistent = true;
    Some(Answer::Ok)
}

/// `post_live_migration`, of a move or of a lost host.
fn clear(state: &mut State, number: u8, mutant: Option<Mutant>) -> Option<Answer> {
    let one = *state.of(number);
    let epochs = mutant != Some(Mutant::NoEpochs);
    let lost = one.kind == Kind::Evacuation;
    let here = state.at(one.source);
    here.seen = here.seen.max(token(number));
    if let Some(guest) = here.guest.filter(|_| epochs) {
        if guest.epoch > token(number) {
            return Some(Answer::Ok);
        }
        if guest.epoch == token(number) || (guest.running && !lost) {
            return None;
        }
    }
    here.guest = None;
    if lost {
        here.incoming = None;
    }
    Some(Answer::Ok)
}

/// The emulators hand the guest over, if it is still expected.
pub(crate) fn switch_over(mut state: State, number: u8) -> Option<State> {
    let one = *state.of(number);
    let source = state.at(one.source);
    source.guest.filter(|guest| source.powered && guest.running && !one.closed)?;
    let there = state.at(one.destination);
    if !there.powered || there.incoming != Some(number) {
        return None;
    }
    there.incoming = None;
    there.guest = Some(Guest { epoch: token(number), running: true, persistent: false });
    let source = state.at(one.source);
    source.guest = source.guest.map(|guest| Guest { running: false, ..guest });
    source.seen = source.seen.max(token(number));
    state.of(number).job = Job::Moved;
    Some(state)
}

/// The job's end is journalled and answered.
pub(crate) fn answer_job(mut state: State, number: u8) -> Option<State> {
    let one = *state.of(number);
    let answer = match one.job {
        Job::Moved => Answer::Ok,
        Job::Failed => Answer::Refused,
        Job::None | Job::Running => return None,
    };
    let open = one.answers[Request::Move.line()].is_none();
    (open && state.at(one.source).powered).then(|| {
        note(&mut state, number, Request::Move, answer);
        state
    })
}

/// A host loses its power.
pub(crate) fn lose_power(state: &mut State, host: u8) {
    let here = state.at(host);
    here.powered = false;
    if let Some(guest) = here.guest.as_mut().filter(|guest| guest.running) {
        guest.running = false;
        state.off = true;
    }
    for one in state.moves.iter_mut().flatten() {
        if one.job == Job::Running && (one.source == host || one.destination == host) {
            one.job = Job::Failed;
        }
    }
}

/// It has power again.
pub(crate) fn boot(mut state: State, host: u8, mutant: Option<Mutant>) -> State {
    state.at(host).powered = true;
    if mutant == Some(Mutant::StartsStaleCopies)
        && let Some(guest) = &mut state.at(host).guest
    {
        guest.running = true;
    }
    if mutant != Some(Mutant::ArrivalsOutliveRestart)
        && let Some(number) = state.at(host).incoming
    {
        state.of(number).closed = true;
    }
    if mutant != Some(Mutant::QueueOutlivesRestart) {
        for number in 0..state.begun {
            let mine =
                Request::ALL.into_iter().filter(|request| peer(&state, number, *request) == host);
            let bits = mine.fold(0, |bits, request| bits | request.bit());
            state.of(number).sent &= !bits;
        }
    }
    state
}
