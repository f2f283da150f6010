//! What became of a migration, judged by what the two hosts' libvirt say now.
//!
//! Used when nobody watched it end: the service was restarted, or libvirt was. The rule is that a guest is
//! said to have moved, or to have stayed, only where a host says so that would know; until then the answer
//! is to look again.
//!
//! ```text
//! source says                       and the destination         verdict
//! ------------------------------    -------------------------   ---------------
//! a job runs                        not asked                   Going
//! runs, or halted by a user         not asked                   Stayed
//! shut off, "migrated"              not asked                   Moved
//! halted in post-copy               not asked                   Going
//! halted in post-copy, "failed"     has it, as far as it came   Broken
//!                                   has none                    Lost
//! halted "migration", without job   runs it / has none          Moved / Stay halted: let it run again
//! shut off otherwise, or unknown    runs it / has none          Moved / Ended
//! the last two                      is still receiving it       Going
//! ```

use crate::domains::{DomainState, EndedBy, PausedFor};

/// What the source's libvirt says of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SourceView {
    /// Its state; none if there is no such domain.
    pub(crate) state: Option<DomainState>,
    /// Whether a job runs on it.
    pub(crate) has_job: bool,
}

/// What the destination's libvirt says of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DestinationView {
    /// It is in memory there, and whole.
    Has,
    /// It is coming.
    Receiving,
    /// It is not in memory there.
    HasNot,
}

impl DestinationView {
    /// The view that a domain's state there gives.
    pub(crate) fn of(state: Option<DomainState>, has_job: bool) -> Self {
        match state {
            None | Some(DomainState::ShutOff(_) | DomainState::Crashed) => Self::HasNot,
            Some(DomainState::Paused(PausedFor::Migration | PausedFor::Start)) => Self::Receiving,
            Some(_) if has_job => Self::Receiving,
            Some(_) => Self::Has,
        }
    }
}

/// What became of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is not over.
    Going,
    /// It is in post-copy and the hosts lost each other: the guest is on neither whole.
    Broken,
    /// As [`Verdict::Broken`], and what the destination had of it is gone: nobody can run it again.
    Lost,
    /// The guest is at the destination.
    Moved,
    /// The guest is here as before.
    Stayed,
    /// The guest is here, halted by the migration, and must be let run.
    StayedHalted,
    /// The guest is here, and ended meanwhile.
    Ended,
    /// Only the destination can tell.
    AskDestination,
}

/// The verdict; `destination` is what it said, if it was asked.
pub(crate) fn judge(source: SourceView, destination: Option<DestinationView>) -> Verdict {
    use DestinationView as There;
    if source.state == Some(DomainState::Paused(PausedFor::PostCopyFailed)) {
        return match destination {
            None => Verdict::AskDestination,
            Some(There::Has | There::Receiving) => Verdict::Broken,
            Some(There::HasNot) => Verdict::Lost,
        };
    }
    if source.has_job {
        return Verdict::Going;
    }
    let halted = match source.state {
        Some(DomainState::ShutOff(EndedBy::Migration)) => return Verdict::Moved,
        Some(DomainState::Paused(PausedFor::PostCopy)) => return Verdict::Going,
        Some(DomainState::Paused(PausedFor::Migration)) => true,
        Some(DomainState::Running | DomainState::Sleeping | DomainState::Paused(_)) => {
            return Verdict::Stayed;
        }
        None | Some(DomainState::ShutOff(_) | DomainState::Crashed) => false,
    };
    match destination {
        None => Verdict::AskDestination,
        Some(There::Has) => Verdict::Moved,
        Some(There::Receiving) => Verdict::Going,
        Some(There::HasNot) if halted => Verdict::StayedHalted,
        Some(There::HasNot) => Verdict::Ended,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [Option<DomainState>; 13] = [
        None,
        Some(DomainState::Running),
        Some(DomainState::Sleeping),
        Some(DomainState::Crashed),
        Some(DomainState::Paused(PausedFor::Migration)),
        Some(DomainState::Paused(PausedFor::PostCopy)),
        Some(DomainState::Paused(PausedFor::PostCopyFailed)),
        Some(DomainState::Paused(PausedFor::Start)),
        Some(DomainState::Paused(PausedFor::Other)),
        Some(DomainState::ShutOff(EndedBy::Migration)),
        Some(DomainState::ShutOff(EndedBy::Crash)),
        Some(DomainState::ShutOff(EndedBy::Save)),
        Some(DomainState::ShutOff(EndedBy::Other)),
    ];

    fn idle(state: Option<DomainState>) -> SourceView {
        SourceView { state, has_job: false }
    }

    #[test]
    fn a_job_that_runs_is_never_judged_over() {
        for state in STATES {
            for there in [None, Some(DestinationView::Has), Some(DestinationView::HasNot)] {
                let broken = state == Some(DomainState::Paused(PausedFor::PostCopyFailed));
                let verdict = judge(SourceView { state, has_job: true }, there);
                assert_eq!(verdict == Verdict::Going, !broken, "{state:?}");
            }
        }
    }

    #[test]
    fn a_guest_has_moved_only_where_a_host_says_so() {
        for state in STATES {
            let sure = state == Some(DomainState::ShutOff(EndedBy::Migration));
            for there in [None, Some(DestinationView::HasNot), Some(DestinationView::Receiving)] {
                assert_eq!(judge(idle(state), there) == Verdict::Moved, sure, "{state:?}");
            }
        }
    }

    #[test]
    fn a_guest_that_runs_here_is_never_said_to_have_moved() {
        for there in [None, Some(DestinationView::Has), Some(DestinationView::HasNot)] {
            assert_eq!(judge(idle(Some(DomainState::Running)), there), Verdict::Stayed);
        }
    }

    #[test]
    fn a_guest_that_nobody_has_ended_and_one_halted_by_the_move_goes_on_here() {
        let halted = idle(Some(DomainState::Paused(PausedFor::Migration)));
        assert_eq!(judge(halted, None), Verdict::AskDestination);
        assert_eq!(judge(halted, Some(DestinationView::HasNot)), Verdict::StayedHalted);
        let crashed = idle(Some(DomainState::ShutOff(EndedBy::Crash)));
        assert_eq!(judge(crashed, Some(DestinationView::HasNot)), Verdict::Ended);
        assert_eq!(judge(idle(None), None), Verdict::AskDestination);
    }

    #[test]
    fn a_broken_post_copy_is_lost_only_when_the_destination_has_nothing_of_it() {
        let state = Some(DomainState::Paused(PausedFor::PostCopyFailed));
        for has_job in [true, false] {
            let view = SourceView { state, has_job };
            assert_eq!(judge(view, None), Verdict::AskDestination);
            assert_eq!(judge(view, Some(DestinationView::Receiving)), Verdict::Broken);
            assert_eq!(judge(view, Some(DestinationView::Has)), Verdict::Broken);
            assert_eq!(judge(view, Some(DestinationView::HasNot)), Verdict::Lost);
        }
    }

    #[test]
    fn a_guest_that_is_still_coming_is_not_there() {
        let view = |state, has_job| DestinationView::of(Some(state), has_job);
        assert_eq!(view(DomainState::Running, false), DestinationView::Has);
        assert_eq!(view(DomainState::Running, true), DestinationView::Receiving);
        let incoming = DomainState::Paused(PausedFor::Migration);
        assert_eq!(view(incoming, false), DestinationView::Receiving);
        assert_eq!(DestinationView::of(None, false), DestinationView::HasNot);
    }
}
