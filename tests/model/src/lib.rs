//! The ownership protocol as a model small enough that every state of it can be visited.
//!
//! One guest, two or three hosts, a bounded number of moves (live migrations and evacuations, each with a token of
//! its own), host crashes and hosts that are forced down. What `common/saga`, `common/sagas`, `common/db` and
//! `services/compute` do is written down again as atomic actions; [`search::explore`] takes every action in every
//! state.
//!
//! **Modelled.** A request, once sent, may arrive at any later time, any number of times, in any order, or never: the
//! messages only ever grow, until the host's restart drops its queue. Answers are journalled, repeated and may be lost. A
//! conductor may give up on a host, or take it for silent, whenever it likes, and may call the move off. An agent may die
//! between the effect of a request and the line in its journal. Jobs end either way at any time and outlive their agent.
//! A guest that loses power stays defined and is off. Deferred undos and clean-ups are obligations; tombstones, tokens,
//! the fence of the pivot, the destination's word in place of a lost source's, the return of a host that was forced down.
//!
//! **Not modelled.** Checks before a move and claims (they move no guest), disks, cold moves, power operations
//! except a user's start of a guest that has lost power, deletion, post-copy, clocks and deadlines, corrupt journals. A
//! request is published in the instant of its transaction: one that a conductor publishes only after its host was forced
//! down *and* is back is not here. What an agent refuses for now is asked again without end, where the engine gives up
//! after some minutes and says `stuck`.
//!
//! **Assumed.** A destination that was restarted does not take a guest for which it had prepared before. Nothing there
//! sees to that: a request to move is too old after its deadline and the clocks' tolerance, some 35 s, but its source may be
//! asked again. Without it the model finds: the move is called off, the destination is forced down and comes back, the
//! source only now begins to send and is forced down when the guest has left. Both hosts count as fenced, and the guest runs
//! on one of them until that host has done what it owes.
//!
//! **Why no library.** That something always ends is asked as "from each state an end can be reached". Checkers such
//! as stateright look along paths: their "eventually" overlooks cycles, and here every state lies on one (ask again).
//! So the whole graph is kept and walked backwards from the ends, which is less code than such a crate's adapter.

mod hosts;
mod sagas;
pub mod search;
mod state;
#[cfg(test)]
mod tests;

pub use state::{Bounds, Kind, Mutant, Request, State};
