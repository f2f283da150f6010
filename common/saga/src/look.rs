//! What can be told of a saga without moving it.

use whimbrel_messages::{Dir, Peer};

use crate::definition::Saga;
use crate::row::{Phase, Row};
use crate::step::{Step, StepKind};

/// Who the current step waits for.
pub(crate) fn waits_for<S: Saga>(steps: &[Step<S>], row: &Row) -> Option<Peer> {
    let state = serde_json::from_value::<S>(row.state.clone()).ok()?;
    let step = steps.iter().find(|step| step.name == row.step)?;
    let request = match row.dir {
        Dir::Do => &step.request,
        Dir::Undo => &step.undo.as_ref()?.request,
    };
    request(&state).ok().map(|request| request.to)
}

/// Whether calling the saga off can still have an effect.
pub(crate) fn can_cancel<S: Saga>(steps: &[Step<S>], row: &Row) -> bool {
    match row.phase {
        Phase::New => true,
        Phase::Running => {
            steps.iter().any(|step| step.name == row.step && step.kind != StepKind::Retriable)
        }
        Phase::Unwinding => !row.cancelled,
        Phase::Completed | Phase::Unwound | Phase::Stuck => false,
    }
}
