//! The transaction around the engine: lock the sagas, advance them, write all that follows, commit.
//!
//! ```text
//!   BEGIN
//!     lock the saga rows in id order            (two conductors may batch the same sagas)
//!     advance each, in memory
//!     lock and change their instances, migrations and allocations
//!     one statement: sagas, history, outbox, obligations, confirmed outbox rows
//!   COMMIT
//! ```
//! Lock order everywhere: sagas by id, then instances by id, then migrations by id.

mod batch;
mod changes;
mod load;
mod repair;
mod rows;
mod write;

pub use batch::{Batch, Ended, Work, advance_batch};
pub(crate) use load::active;
pub use load::{count_active, due_sagas};
pub use repair::{note_failure, set_stuck};
pub(crate) use write::claims::release_kept;
