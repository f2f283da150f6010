//! Definitions of sagas, and the registry in which the conductor finds them by name and version.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use whimbrel_messages::{Fault, Peer};
use whimbrel_model::Change;

use crate::step::{Bug, Step, StepKind};
use crate::{Effect, Input, Row, advance, look};

/// A saga's definition: its typed state and its steps.
pub trait Saga: Serialize + DeserializeOwned + Send + Sync + Sized + 'static {
    /// Its name in the table.
    const NAME: &'static str;
    /// Grows when a step is added, removed, renamed or moved. Every version that rows can still have is
    /// kept; a golden test freezes each.
    const VERSION: i16;

    /// Its steps, in order.
    fn steps() -> Vec<Step<Self>>;

    /// What changes when all is done.
    ///
    /// # Errors
    /// When the state lacks what it needs.
    fn completed(&self) -> Result<Vec<Change>, Bug>;

    /// What changes when all is undone.
    fn unwound(&self, fault: &Fault, cancelled: bool) -> Vec<Change>;

    /// What changes when it goes stuck.
    fn stuck(fault: &Fault) -> Vec<Change>;
}

/// The parts of a step that a version freezes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Its name.
    pub name: &'static str,
    /// What may be done when it fails.
    pub kind: StepKind,
    /// The method asked.
    pub method: &'static str,
    /// The method that undoes it.
    pub undo: Option<&'static str>,
}

/// A definition whose state's type is no longer known.
pub trait Definition: Send + Sync {
    /// The row after `input`, and what is to be done. Pure.
    fn advance(&self, row: Row, input: Input, now: DateTime<Utc>) -> (Row, Vec<Effect>);

    /// Who the current step waits for, if anybody.
    fn waits_for(&self, row: &Row) -> Option<Peer>;

    /// Whether calling it off can still have an effect.
    fn can_cancel(&self, row: &Row) -> bool;

    /// The steps as a version freezes them.
    fn shape(&self) -> Vec<StepShape>;
}

pub(crate) struct Erased<S: Saga> {
    pub(crate) steps: Vec<Step<S>>,
}

impl<S: Saga> Definition for Erased<S> {
    fn advance(&self, row: Row, input: Input, now: DateTime<Utc>) -> (Row, Vec<Effect>) {
        advance::advance(&self.steps, row, input, now)
    }

    fn waits_for(&self, row: &Row) -> Option<Peer> {
        look::waits_for(&self.steps, row)
    }

    fn can_cancel(&self, row: &Row) -> bool {
        look::can_cancel(&self.steps, row)
    }

    fn shape(&self) -> Vec<StepShape> {
        let shape = |step: &Step<S>| StepShape {
            name: step.name,
            kind: step.kind,
            method: step.method,
            undo: step.undo.as_ref().map(|undo| undo.method),
        };
        self.steps.iter().map(shape).collect()
    }
}

/// All definitions that this binary can run.
#[derive(Clone, Default)]
pub struct Registry {
    known: BTreeMap<(String, i16), Arc<dyn Definition>>,
}

impl Registry {
    /// With `S` as well.
    #[must_use]
    pub fn with<S: Saga>(mut self) -> Self {
        let steps = S::steps();
        self.known.insert((S::NAME.to_owned(), S::VERSION), Arc::new(Erased { steps }));
        self
    }

    /// The definition of that name and version, if this binary has it.
    pub fn get(&self, name: &str, version: i16) -> Option<&Arc<dyn Definition>> {
        self.known.get(&(name.to_owned(), version))
    }

    /// Names and versions of all.
    pub fn names(&self) -> impl Iterator<Item = (&str, i16)> {
        self.known.keys().map(|(name, version)| (name.as_str(), *version))
    }

    /// All with their names and versions.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i16, &dyn Definition)> {
        self.known.iter().map(|((name, version), known)| (name.as_str(), *version, known.as_ref()))
    }
}
