//! PostgreSQL: the only crate that names diesel.
//!
//! Every guard is in a WHERE clause, a CHECK or an index; a status is written only by applying an event to
//! the row that is locked or was last seen.

pub mod api;
pub mod consistency;
mod error;
pub mod figures;
mod health;
mod liveness;
mod migrate;
mod outbox;
mod pool;
pub mod reports;
pub mod saga_log;
pub mod scheduling;
pub mod schema;
mod text;

pub use error::DbError;
pub use liveness::{heartbeat, service_heartbeat};
pub use migrate::{pending_migrations, revert_migrations, run_migrations};
pub use outbox::{OutboxMessage, delete_outbox, due_outbox};
pub use pool::{Connection, Database, DatabaseConfig, PoolUse};
