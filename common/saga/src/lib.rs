//! The saga engine: a pure function from a row and an input to the next row and its effects.
//!
//! ```text
//!              Start                    last step Ok
//!    New ───────────────▶ Running ───────────────────────▶ Completed
//!     │                    │   ▲ AlreadyDone (fence of the pivot), or a new round
//!     │ Cancel             ▼   │
//!     │  refused, cancelled, Unwinding ── first step undone ─▶ Unwound
//!     │  or too many tries     │
//!     └────────────────────────┼──────────────────────────▶ Unwound
//!                              ▼
//!                            Stuck   (each with a named reason; never before everything else was tried)
//! ```
//! Steps are `Compensatable`, then at most one `Pivot`, then `Retriable`. No I/O, no clock, no async:
//! the conductor wraps a transaction around it, the simulator a random scheduler.

mod advance;
mod definition;
mod look;
mod row;
mod step;

pub use definition::{Definition, Registry, Saga, StepShape};
pub use row::{
    Asked, Effect, Entry, EntryKind, Input, PeerHealth, Phase, Row, StuckReason, UnknownPhase,
};
pub use step::{Bug, Request, Step, StepKind, ask};
