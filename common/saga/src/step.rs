//! How a definition says what a step is: one builder line per fact.

use std::sync::Arc;

use serde_json::Value;
use whimbrel_messages::{Fault, Peer, Rpc};
use whimbrel_model::Change;

use crate::row::PeerHealth;

/// A definition's state lacks what a step needs, or can't be read. The saga goes stuck with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Bug(pub String);

/// What may be done about a step that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepKind {
    /// It can be undone.
    Compensatable,
    /// The point of no return. Its undo is a fence: "it never will" or "it already has".
    Pivot,
    /// It is asked until it is done.
    Retriable,
}

/// A request in a form that no longer knows its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who is asked.
    pub to: Peer,
    /// The method.
    pub method: &'static str,
    /// Its version.
    pub version: (u16, u16),
    /// The request.
    pub body: Value,
}

type RequestFn<S> = Arc<dyn Fn(&S) -> Result<Request, Bug> + Send + Sync>;
type LearnFn<S> = Arc<dyn Fn(&mut S, Value) -> Result<(), Bug> + Send + Sync>;
pub(crate) type ChangesFn<S> = fn(&S) -> Result<Vec<Change>, Bug>;
/// Decides on the way back whether to start over from this step with what was learnt from the fault.
type RetryFn<S> = fn(&mut S, &Fault) -> bool;

/// When a request may be put off until its peer is back, so that the saga goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deferral {
    Never,
    /// Only when somebody has seen to it that the peer runs no guests.
    WhenFenced,
    /// When the peer is down: the guest's safety does not depend on it.
    WhenDown,
}

impl Deferral {
    pub(crate) fn allows(self, health: PeerHealth) -> bool {
        match health {
            PeerHealth::Up => false,
            PeerHealth::Down => self == Self::WhenDown,
            PeerHealth::Fenced => self != Self::Never,
        }
    }
}

pub(crate) struct Undo<S> {
    pub(crate) method: &'static str,
    pub(crate) request: RequestFn<S>,
    pub(crate) deferral: Deferral,
    /// Where this holds, it may be put off only when the peer was forced down.
    pub(crate) unsafe_when_down: Option<fn(&S) -> bool>,
    /// The pivot that this undo may find done, when the pivot's own peer is lost.
    pub(crate) finds: Option<&'static str>,
}

impl<S> Undo<S> {
    pub(crate) fn may_be_put_off(&self, state: &S, health: PeerHealth) -> bool {
        let deferral = match self.unsafe_when_down {
            Some(holds) if holds(state) => Deferral::WhenFenced,
            _ => self.deferral,
        };
        deferral.allows(health)
    }
}

/// One step of a saga over the state `S`.
pub struct Step<S> {
    pub(crate) name: &'static str,
    pub(crate) kind: StepKind,
    pub(crate) method: &'static str,
    pub(crate) request: RequestFn<S>,
    pub(crate) learn: LearnFn<S>,
    pub(crate) undo: Option<Undo<S>>,
    pub(crate) undone: Option<ChangesFn<S>>,
    pub(crate) entering: Option<ChangesFn<S>>,
    pub(crate) done: Option<ChangesFn<S>>,
    pub(crate) retry: Option<RetryFn<S>>,
    pub(crate) put_off: Option<fn(&mut S)>,
    pub(crate) when: Option<fn(&S) -> bool>,
    pub(crate) deferral: Deferral,
    pub(crate) deadline_ms: i64,
    pub(crate) max_tries: i32,
}

fn erase<S, R: Rpc>(
    to: fn(&S) -> Result<Peer, Bug>,
    request: fn(&S) -> Result<R, Bug>,
) -> RequestFn<S>
where
    S: 'static,
{
    Arc::new(move |state| {
        let body = serde_json::to_value(request(state)?)
            .map_err(|error| Bug(format!("{} can't be written: {error}", R::METHOD)))?;
        Ok(Request { to: to(state)?, method: R::METHOD, version: R::VERSION, body })
    })
}

/// A compensatable step named `name` that asks `to` for `request`.
pub fn ask<S: 'static, R: Rpc>(
    name: &'static str,
    to: fn(&S) -> Result<Peer, Bug>,
    request: fn(&S) -> Result<R, Bug>,
) -> Typed<S, R> {
    Typed {
        step: Step {
            name,
            kind: StepKind::Compensatable,
            method: R::METHOD,
            request: erase(to, request),
            learn: Arc::new(|_, body| {
                // Read even where nothing is kept of it: a reply that can't be read is no "yes".
                read::<R>(body).map(drop)
            }),
            undo: None,
            undone: None,
            entering: None,
            done: None,
            retry: None,
            put_off: None,
            when: None,
            deferral: Deferral::Never,
            deadline_ms: 10_000,
            max_tries: 3,
        },
        to,
        reply: std::marker::PhantomData,
    }
}

fn read<R: Rpc>(body: Value) -> Result<R::Reply, Bug> {
    serde_json::from_value(body)
        .map_err(|error| Bug(format!("the reply to {} can't be read: {error}", R::METHOD)))
}

/// A step whose reply type is still known.
pub struct Typed<S, R> {
    step: Step<S>,
    to: fn(&S) -> Result<Peer, Bug>,
    reply: std::marker::PhantomData<fn(R)>,
}

impl<S: 'static, R: Rpc> Typed<S, R> {
    /// What to keep of the reply.
    pub fn learn(mut self, learn: fn(&mut S, R::Reply)) -> Self {
        self.step.learn = Arc::new(move |state, body| {
            learn(state, read::<R>(body)?);
            Ok(())
        });
        self
    }

    /// What undoes it, asked of the same peer.
    pub fn undo<U: Rpc>(self, undo: fn(&S) -> Result<U, Bug>) -> Self {
        self.undo_by(undo, Deferral::Never)
    }

    /// As [`Typed::undo`], for undo work that the guest's safety does not depend on: when the peer is
    /// down it is put off until it is back, and the saga goes on.
    pub fn undo_deferrable<U: Rpc>(self, undo: fn(&S) -> Result<U, Bug>) -> Self {
        self.undo_by(undo, Deferral::WhenDown)
    }

    /// As [`Typed::undo`], for undo work that may be put off only when the peer was forced down: as long as it
    /// is merely out of reach, it may have done what was asked, and nothing else may be tried.
    pub fn undo_deferrable_when_fenced<U: Rpc>(self, undo: fn(&S) -> Result<U, Bug>) -> Self {
        self.undo_by(undo, Deferral::WhenFenced)
    }

    fn undo_by<U: Rpc>(mut self, undo: fn(&S) -> Result<U, Bug>, deferral: Deferral) -> Self {
        let request = erase(self.to, undo);
        let method = U::METHOD;
        self.step.undo =
            Some(Undo { method, request, deferral, unsafe_when_down: None, finds: None });
        self
    }

    /// Where this holds, the undo may be put off only when the peer was forced down, whatever was said of it.
    ///
    /// # Panics
    /// When the step has no undo yet.
    pub fn undo_unsafe_when_down(mut self, holds: fn(&S) -> bool) -> Self {
        self.step.undo.as_mut().expect("an undo was given").unsafe_when_down = Some(holds);
        self
    }

    /// The undo may answer that the pivot of this name is done. It is asked so when the peer of the pivot is lost
    /// and can't say itself; the saga then goes on from the pivot.
    ///
    /// # Panics
    /// When the step has no undo yet.
    pub fn undo_may_find(mut self, pivot: &'static str) -> Self {
        self.step.undo.as_mut().expect("an undo was given").finds = Some(pivot);
        self
    }

    /// What to keep in mind when its request, or its undo's, is put off; the request that is put off knows it, too.
    pub fn when_put_off(mut self, keep: fn(&mut S)) -> Self {
        self.step.put_off = Some(keep);
        self
    }

    /// What its undoing changes in the rows. A step with this and without a request is undone by it alone.
    pub fn undone(mut self, changes: fn(&S) -> Result<Vec<Change>, Bug>) -> Self {
        self.step.undone = Some(changes);
        self
    }

    /// What changes when it is asked for the first time in a round.
    pub fn entering(mut self, changes: fn(&S) -> Result<Vec<Change>, Bug>) -> Self {
        self.step.entering = Some(changes);
        self
    }

    /// What changes when it is done.
    pub fn done(mut self, changes: fn(&S) -> Result<Vec<Change>, Bug>) -> Self {
        self.step.done = Some(changes);
        self
    }

    /// Whether, once all is undone back to this step, to start over from it.
    pub fn retry(mut self, retry: fn(&mut S, &Fault) -> bool) -> Self {
        self.step.retry = Some(retry);
        self
    }

    /// Only if this holds; else it is passed over, forth and back.
    pub fn when(mut self, holds: fn(&S) -> bool) -> Self {
        self.step.when = Some(holds);
        self
    }

    /// This is the point of no return. It is asked until it is known, unless [`Typed::tries`] says less.
    pub fn pivot(mut self) -> Self {
        self.step.kind = StepKind::Pivot;
        self.step.max_tries = i32::MAX;
        self
    }

    /// Past the point of no return: asked until done.
    pub fn retriable(mut self) -> Self {
        self.step.kind = StepKind::Retriable;
        self
    }

    /// When the peer is down it is put off until it is back, and the saga goes on.
    pub fn deferrable(mut self) -> Self {
        self.step.deferral = Deferral::WhenDown;
        self
    }

    /// When the peer was forced down it is put off until it is back, and the saga goes on.
    pub fn deferrable_when_fenced(mut self) -> Self {
        self.step.deferral = Deferral::WhenFenced;
        self
    }

    /// How long one attempt may take, in milliseconds. Then it is asked again.
    pub fn deadline(mut self, ms: i64) -> Self {
        self.step.deadline_ms = ms;
        self
    }

    /// How often it is asked before it is undone (a pivot: fenced), if it can be.
    pub fn tries(mut self, n: i32) -> Self {
        self.step.max_tries = n;
        self
    }

    /// The finished step.
    pub fn end(self) -> Step<S> {
        self.step
    }
}
