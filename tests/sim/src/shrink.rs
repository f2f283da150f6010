//! From a run that fails to a shorter one that fails, too.

use crate::world::{Broken, Chaos, Mask, Sim, Story};

/// A run that fails.
pub(crate) struct Failure {
    /// What of the seed's run is left out.
    pub(crate) mask: Mask,
    /// The rule that was broken.
    pub(crate) violation: String,
    /// Everything that happened.
    pub(crate) trace: String,
}

/// Leaves out one thing after another, as long as the run still fails. None when it does not.
pub(crate) fn shrink(story: Story, seed: u64, broken: Option<Broken>) -> Option<Failure> {
    let sim = |mask: &Mask| Sim::random(story, seed, broken).without(mask);
    let mut mask = Mask::default();
    sim(&mask).run().err()?;
    let planned = sim(&mask).planned();
    loop {
        let before = mask.clone();
        for number in &planned {
            try_without(&mut mask, &sim, |mask| mask.events.insert(*number));
        }
        for kind in 0..Chaos::KINDS {
            try_without(&mut mask, &sim, |mask| mask.kinds.insert(kind));
        }
        if (&mask.events, &mask.kinds) == (&before.events, &before.kinds) {
            break;
        }
    }
    let mut last = sim(&mask).traced();
    let violation = last.run().err()?;
    Some(Failure { mask, violation, trace: last.trace() })
}

fn try_without(
    mask: &mut Mask,
    sim: &impl Fn(&Mask) -> Sim,
    leave_out: impl FnOnce(&mut Mask) -> bool,
) {
    let mut smaller = mask.clone();
    if leave_out(&mut smaller) && sim(&smaller).run().is_err() {
        *mask = smaller;
    }
}
