//! The one function that moves a saga.

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use whimbrel_messages::{Dir, Fault, FaultCode, Outcome};
use whimbrel_model::Change;

use crate::definition::Saga;
use crate::row::{Asked, Effect, Entry, EntryKind, Input, PeerHealth, Phase, Row, StuckReason};
use crate::step::{Bug, ChangesFn, Request, Step, StepKind};

/// How often an undo, or a step past the point of no return, may be refused before the saga is stuck: over some
/// three minutes, so that what stands in the way may pass. That it is not answered does not count.
const REFUSALS: i32 = 20;
/// How long an attempt at an undo may take at most before it is asked for again, in milliseconds. Short, since the
/// next look is also what notices that the host is down and the work can be put off.
const UNDO_MS: i64 = 10_000;
/// An attempt answered `expired` is repeated after this time.
const AFTER_EXPIRED_MS: i64 = 500;
/// What was refused and must be done is asked again after this time, times the number of refusals.
const AFTER_REFUSED_MS: i64 = 1_000;
/// Repeated attempts are at most this many deadlines apart.
const MAX_BACKOFF: i64 = 6;

/// Moves `row` by `input`. See the crate's documentation for the picture.
pub(crate) fn advance<S: Saga>(
    steps: &[Step<S>],
    row: Row,
    input: Input,
    now: DateTime<Utc>,
) -> (Row, Vec<Effect>) {
    if row.phase.is_terminal() {
        return (row, Vec::new());
    }
    let state = match serde_json::from_value::<S>(row.state.clone()) {
        Ok(state) => state,
        Err(error) => {
            let mut run = Run::<S>::new(steps, row, None, now);
            let message = format!("state can't be read: {error}");
            run.stuck(StuckReason::UnreadableState, &message);
            return run.finish();
        }
    };
    let mut run = Run::new(steps, row, Some(state), now);
    if let Err((reason, Bug(message))) = run.input(input) {
        run.stuck(reason, &message);
    }
    run.finish()
}

type Moved = Result<(), (StuckReason, Bug)>;

fn unreadable_state(bug: Bug) -> (StuckReason, Bug) {
    (StuckReason::UnreadableState, bug)
}

/// One call of `advance` while it is under way.
struct Run<'a, S> {
    steps: &'a [Step<S>],
    row: Row,
    state: Option<S>,
    now: DateTime<Utc>,
    send: Vec<Asked>,
    deferred: Vec<Asked>,
    changes: Vec<Change>,
    entry: Option<Entry>,
}

impl<'a, S: Saga> Run<'a, S> {
    fn new(steps: &'a [Step<S>], row: Row, state: Option<S>, now: DateTime<Utc>) -> Self {
        Self {
            steps,
            row,
            state,
            now,
            send: Vec::new(),
            deferred: Vec::new(),
            changes: Vec::new(),
            entry: None,
        }
    }

    fn state(&self) -> &S {
        self.state.as_ref().expect("the state was read before any input is looked at")
    }

    fn at(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.name == self.row.step)
    }

    fn step(&self) -> Result<(usize, &'a Step<S>), (StuckReason, Bug)> {
        let at = self.at().ok_or_else(|| {
            unreadable_state(Bug(format!("step '{}' is not in the definition", self.row.step)))
        })?;
        Ok((at, &self.steps[at]))
    }

    fn input(&mut self, input: Input) -> Moved {
        match (self.row.phase, input) {
            (_, Input::GiveUp(reason, message)) => Err((reason, Bug(message))),
            (Phase::New, Input::Wake(_)) => {
                self.record(EntryKind::Started, None);
                self.enter(0)
            }
            (Phase::New, Input::Cancel) => {
                self.row.cancelled = true;
                self.row.fault = Some(Fault::new(FaultCode::Cancelled, "called off"));
                self.record(EntryKind::Cancelled, None);
                self.unwound();
                Ok(())
            }
            (Phase::Running | Phase::Unwinding, Input::Cancel) => self.cancel(),
            (Phase::Running | Phase::Unwinding, Input::Wake(health)) => self.wake(health),
            (Phase::Running | Phase::Unwinding, Input::Reply { round, step, dir, outcome })
                if round == self.row.round && step == self.row.step && dir == self.row.dir =>
            {
                match dir {
                    Dir::Do => self.answered(outcome),
                    Dir::Undo => self.undo_answered(outcome),
                }
            }
            // A late answer to another step, round or direction, or an answer before the start.
            (_, Input::Reply { .. }) => Ok(()),
            (Phase::Completed | Phase::Unwound | Phase::Stuck, _) => Ok(()),
        }
    }

    fn cancel(&mut self) -> Moved {
        let (_, step) = self.step()?;
        if self.row.cancelled || step.kind == StepKind::Retriable {
            return Ok(());
        }
        self.row.cancelled = true;
        let fault = Fault::new(FaultCode::Cancelled, "called off");
        self.record(EntryKind::Cancelled, None);
        if self.row.phase == Phase::Unwinding {
            // Why it turned back stays; only that nothing is to start over is new.
            return Ok(());
        }
        self.unwind(fault)
    }

    fn wake(&mut self, health: PeerHealth) -> Moved {
        if self.row.wake_at.is_none_or(|wake_at| wake_at > self.now) {
            return Ok(());
        }
        let (at, step) = self.step()?;
        let down = health != PeerHealth::Up;
        let undo = step.undo.as_ref();
        let undo_may_wait = undo.is_some_and(|undo| undo.may_be_put_off(self.state(), health));
        // What a host was asked that was forced down never will be done, if its undo may be put off then.
        let lost = health == PeerHealth::Fenced && undo_may_wait;
        match (self.row.dir, step.kind) {
            (Dir::Do, _) if step.deferral.allows(health) => {
                self.put_off(step)?;
                self.after(at)
            }
            (Dir::Do, StepKind::Compensatable | StepKind::Pivot)
                if lost
                    || self.row.tries >= step.max_tries
                    || (down && step.max_tries < i32::MAX) =>
            {
                let fault = Fault::new(
                    FaultCode::TimedOut,
                    format!("no answer to {} after {} tries", step.method, self.row.tries),
                );
                self.record(EntryKind::TimedOut, Some(fault.clone()));
                self.unwind(fault)
            }
            // As on the way forth: what may be put off counts as done, so there is nothing to turn back from.
            (Dir::Undo, StepKind::Pivot) if step.deferral.allows(health) => {
                self.row.phase = Phase::Running;
                self.row.dir = Dir::Do;
                self.row.fault = None;
                self.put_off(step)?;
                self.after(at)
            }
            (Dir::Undo, _) if undo_may_wait => {
                self.put_off(step)?;
                self.row.deferred = true;
                self.step_undone(at)
            }
            _ => {
                self.record(EntryKind::AskedAgain, None);
                self.send_current()
            }
        }
    }

    /// Leaves the current request to the time when its peer is back.
    fn put_off(&mut self, step: &Step<S>) -> Moved {
        if let Some(keep) = step.put_off {
            keep(self.state.as_mut().expect("the state was read before any input is looked at"));
        }
        let asked = self.asked(self.request(step, self.row.dir)?, step);
        // Whatever step it is of: nobody hears a refusal any more, so none may be remembered.
        self.deferred.push(Asked { must: true, ..asked });
        self.record(EntryKind::Deferred, None);
        Ok(())
    }

    fn answered(&mut self, outcome: Outcome) -> Moved {
        let (at, step) = self.step()?;
        match outcome {
            Outcome::Ok { body } | Outcome::AlreadyDone { body } => {
                self.learn(step, body)?;
                self.record(EntryKind::Done, None);
                self.after(at)
            }
            Outcome::Expired => {
                self.row.wake_at = Some(self.now + TimeDelta::milliseconds(AFTER_EXPIRED_MS));
                Ok(())
            }
            Outcome::Refused { fault } if step.kind == StepKind::Retriable => {
                self.refused(StuckReason::RetriableRefused, fault)
            }
            Outcome::Refused { fault } => {
                self.record(EntryKind::Refused, Some(fault.clone()));
                self.unwind(fault)
            }
        }
    }

    fn undo_answered(&mut self, outcome: Outcome) -> Moved {
        let (at, step) = self.step()?;
        match outcome {
            Outcome::Ok { .. } => {
                self.record(EntryKind::Undone, None);
                self.step_undone(at)
            }
            Outcome::AlreadyDone { body } if step.kind == StepKind::Pivot => {
                self.learn(step, body)?;
                self.row.phase = Phase::Running;
                self.row.dir = Dir::Do;
                self.row.fault = None;
                self.record(EntryKind::FoundDone, None);
                self.after(at)
            }
            Outcome::AlreadyDone { body }
                if step.undo.as_ref().is_some_and(|u| u.finds.is_some()) =>
            {
                self.found_pivot(step, body)
            }
            Outcome::AlreadyDone { .. } => Err((
                StuckReason::UnexpectedReply,
                Bug(format!("the undo of {} answered that it was already done", step.name)),
            )),
            Outcome::Expired => {
                self.row.wake_at = Some(self.now + TimeDelta::milliseconds(AFTER_EXPIRED_MS));
                Ok(())
            }
            Outcome::Refused { fault } => self.refused(StuckReason::UndoRefused, fault),
        }
    }

    /// The pivot's peer is lost, but another one knows that the pivot was done.
    fn found_pivot(&mut self, step: &Step<S>, body: Value) -> Moved {
        let name = step.undo.as_ref().and_then(|undo| undo.finds);
        let pivot = self.steps.iter().position(|other| Some(other.name) == name);
        let at = pivot.ok_or_else(|| {
            unreadable_state(Bug(format!("the undo of {} may find no step", step.name)))
        })?;
        self.learn(&self.steps[at], body)?;
        self.row.phase = Phase::Running;
        self.row.dir = Dir::Do;
        self.row.fault = None;
        self.row.deferred = false;
        self.record(EntryKind::FoundDone, None);
        self.after(at)
    }

    /// What must be done was refused. It is asked again for a while; what stood in the way may pass.
    fn refused(&mut self, reason: StuckReason, fault: Fault) -> Moved {
        self.row.tries += 1;
        if self.row.tries >= REFUSALS {
            return Err((reason, Bug(fault.message)));
        }
        let pause = AFTER_REFUSED_MS * i64::from(self.row.tries);
        self.row.wake_at = Some(self.now + TimeDelta::milliseconds(pause));
        Ok(())
    }

    fn learn(&mut self, step: &Step<S>, body: Value) -> Moved {
        let state = self.state.as_mut().expect("the state was read before any input is looked at");
        (step.learn)(state, body).map_err(|bug| (StuckReason::UnreadableReply, bug))
    }

    /// Goes on after step `at`, which is done.
    fn after(&mut self, at: usize) -> Moved {
        self.change(self.steps[at].done)?;
        self.enter(at + 1)
    }

    fn change(&mut self, changes: Option<ChangesFn<S>>) -> Moved {
        if let Some(changes) = changes {
            self.changes.extend(changes(self.state()).map_err(unreadable_state)?);
        }
        Ok(())
    }

    /// Asks step `at`, or completes the saga when there is none.
    fn enter(&mut self, at: usize) -> Moved {
        let Some(step) = self.steps.get(at) else {
            let changes = self.state().completed().map_err(unreadable_state)?;
            self.changes.extend(changes);
            self.end(Phase::Completed);
            return Ok(());
        };
        self.row.phase = Phase::Running;
        self.row.dir = Dir::Do;
        self.row.step = Cow::Borrowed(step.name);
        if step.when.is_some_and(|holds| !holds(self.state())) {
            return self.enter(at + 1);
        }
        self.change(step.entering)?;
        self.row.tries = 0;
        self.send_current()
    }

    /// Turns back at the current step, which is covered by its own undo.
    fn unwind(&mut self, fault: Fault) -> Moved {
        let (at, _) = self.step()?;
        self.row.fault = Some(fault);
        self.undo(at)
    }

    /// Undoes step `at` and, as far as nobody has to be asked, those before it.
    fn undo(&mut self, at: usize) -> Moved {
        let step = &self.steps[at];
        self.row.phase = Phase::Unwinding;
        self.row.dir = Dir::Undo;
        self.row.step = Cow::Borrowed(step.name);
        self.row.tries = 0;
        let passed_over = step.when.is_some_and(|holds| !holds(self.state()));
        if step.undo.is_some() && !passed_over {
            self.send_current()
        } else if passed_over {
            self.undo_before(at)
        } else {
            self.step_undone(at)
        }
    }

    /// Goes on back, or forth again, after step `at` was undone.
    fn step_undone(&mut self, at: usize) -> Moved {
        let step = &self.steps[at];
        self.change(step.undone)?;
        if let Some(retry) = step.retry
            && !self.row.cancelled
            && !self.row.deferred
        {
            let fault = self.row.fault.clone().expect("an unwinding saga has a fault");
            let state = self.state.as_mut().expect("the state was read");
            if retry(state, &fault) {
                self.row.round += 1;
                self.row.fault = None;
                return self.enter(at);
            }
        }
        self.undo_before(at)
    }

    fn undo_before(&mut self, at: usize) -> Moved {
        match at.checked_sub(1) {
            Some(before) => self.undo(before),
            None => {
                self.unwound();
                Ok(())
            }
        }
    }

    fn request(&self, step: &Step<S>, dir: Dir) -> Result<Request, (StuckReason, Bug)> {
        let request = match (dir, &step.undo) {
            (Dir::Do, _) => &step.request,
            (Dir::Undo, Some(undo)) => &undo.request,
            (Dir::Undo, None) => {
                return Err(unreadable_state(Bug(format!("{} has no undo", step.name))));
            }
        };
        request(self.state()).map_err(unreadable_state)
    }

    fn asked(&mut self, request: Request, step: &Step<S>) -> Asked {
        self.row.attempt += 1;
        Asked {
            to: request.to,
            method: request.method.to_owned(),
            version: request.version,
            step: step.name.to_owned(),
            dir: self.row.dir,
            round: self.row.round,
            attempt: self.row.attempt,
            deadline_ms: step.deadline_ms,
            must: self.row.dir == Dir::Undo || step.kind == StepKind::Retriable,
            body: request.body,
        }
    }

    fn send_current(&mut self) -> Moved {
        let (_, step) = self.step()?;
        let request = self.request(step, self.row.dir)?;
        let asked = self.asked(request, step);
        let wait_ms = match (self.row.dir, step.kind) {
            // On the way back, and past the point of no return, `tries` counts refusals.
            (Dir::Undo, _) => step.deadline_ms.min(UNDO_MS),
            (Dir::Do, StepKind::Retriable) => step.deadline_ms,
            (Dir::Do, StepKind::Compensatable | StepKind::Pivot) => {
                self.row.tries += 1;
                step.deadline_ms * i64::from(self.row.tries).min(MAX_BACKOFF)
            }
        };
        self.row.wake_at = Some(self.now + TimeDelta::milliseconds(wait_ms));
        if let Some(entry) = &mut self.entry {
            entry.next = asked.step.clone();
            entry.peer = Some(asked.to.clone());
        }
        self.send.push(asked);
        Ok(())
    }

    fn unwound(&mut self) {
        let fault = self.row.fault.clone().expect("an unwinding saga has a fault");
        let changes = self.state().unwound(&fault, self.row.cancelled);
        self.changes.extend(changes);
        self.end(Phase::Unwound);
    }

    fn end(&mut self, phase: Phase) {
        self.row.phase = phase;
        self.row.wake_at = None;
    }

    /// Gives up. Nothing that was asked or changed in this call counts.
    fn stuck(&mut self, reason: StuckReason, message: &str) {
        self.send.clear();
        self.deferred.clear();
        let fault = Fault::new(FaultCode::Internal, format!("{reason}: {message}"));
        self.changes = S::stuck(&fault);
        self.row.fault = Some(fault.clone());
        self.record(EntryKind::Stuck, Some(fault));
        self.end(Phase::Stuck);
    }

    /// Notes what this call is about; the last thing said counts.
    fn record(&mut self, kind: EntryKind, fault: Option<Fault>) {
        self.entry = Some(Entry {
            kind,
            step: self.row.step.to_string(),
            dir: self.row.dir,
            round: self.row.round,
            phase: self.row.phase,
            next: String::new(),
            peer: None,
            fault,
            changes: Vec::new(),
        });
    }

    fn finish(mut self) -> (Row, Vec<Effect>) {
        if let Some(state) = &self.state {
            let state = serde_json::to_value(state).expect("a saga's state is plain data");
            keep(&mut self.row.state, state);
        }
        let mut effects = Vec::new();
        if let Some(mut entry) = self.entry {
            entry.phase = self.row.phase;
            entry.changes.clone_from(&self.changes);
            effects.push(Effect::Record(entry));
        }
        effects.extend(self.changes.into_iter().map(Effect::Change));
        effects.extend(self.deferred.into_iter().map(Effect::Defer));
        effects.extend(self.send.into_iter().map(Effect::Send));
        (self.row, effects)
    }
}

/// Writes `new` over `old`. A field that only a newer binary knows stays: while conductors are replaced one
/// by one, the old ones carry its sagas on as well.
fn keep(old: &mut Value, new: Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.extend(new),
        (old, new) => *old = new,
    }
}
