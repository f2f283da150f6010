//! What the data layer can say. Callers match on it; nobody else matches on diesel.

use diesel::result::{DatabaseErrorKind, Error as Diesel};
use uuid::Uuid;
use whimbrel_model::{IllegalInstanceEvent, IllegalMigrationEvent, IllegalVolumeEvent};

/// What the data layer can say.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// There is no such row.
    #[error("{kind} {id} could not be found")]
    NotFound {
        /// The kind of row.
        kind: &'static str,
        /// What was looked for.
        id: String,
    },
    /// There is such a row already.
    #[error("{kind} {id} already exists")]
    Exists {
        /// The kind of row.
        kind: &'static str,
        /// What was to be made.
        id: String,
    },
    /// The row is used by others.
    #[error("{kind} {id} is in use: {by}")]
    InUse {
        /// The kind of row.
        kind: &'static str,
        /// Which.
        id: String,
        /// By what.
        by: String,
    },
    /// Someone else wrote first. Read again and decide again.
    #[error("{kind} {id} has moved on")]
    Stale {
        /// The kind of row.
        kind: &'static str,
        /// Which.
        id: Uuid,
    },
    /// The instance's state does not allow it.
    #[error(transparent)]
    InstanceState(#[from] IllegalInstanceEvent),
    /// The migration's status does not allow it.
    #[error(transparent)]
    MigrationStatus(#[from] IllegalMigrationEvent),
    /// The volume's status does not allow it.
    #[error(transparent)]
    VolumeStatus(#[from] IllegalVolumeEvent),
    /// Another operation is under way for the instance.
    #[error("instance {instance_id} is busy with another operation")]
    Busy {
        /// The instance.
        instance_id: Uuid,
    },
    /// As many as are permitted.
    #[error("there are {open} {kind} already, as many as are permitted")]
    TooMany {
        /// Of what.
        kind: &'static str,
        /// So many.
        open: i64,
    },
    /// A project may not have so much.
    #[error(
        "Quota exceeded for {what}: Requested {requested}, but already used {used} of {limit} {what}"
    )]
    QuotaExceeded {
        /// Of what.
        what: &'static str,
        /// So much more.
        requested: i64,
        /// So much is there.
        used: i64,
        /// So much is permitted.
        limit: i64,
    },
    /// All addresses of a network are taken.
    #[error("network {network} has no free address left")]
    NoMoreAddresses {
        /// The network's name.
        network: String,
    },
    /// A stored value can't be read.
    #[error("{column} holds '{value}', which this version does not know")]
    Unreadable {
        /// The column.
        column: &'static str,
        /// What it holds.
        value: String,
    },
    /// The database can't be reached now.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A query failed.
    #[error("query failed while {doing}")]
    Query {
        /// What was being done.
        doing: &'static str,
        /// How it failed.
        #[source]
        source: Diesel,
    },
}

impl DbError {
    /// For `map_err`: a query failed while `doing`.
    pub fn query(doing: &'static str) -> impl Fn(Diesel) -> Self {
        move |source| match source {
            Diesel::DatabaseError(kind, info) if is_lost(&kind, info.message()) => {
                Self::Unavailable(info.message().to_owned())
            }
            source => Self::Query { doing, source },
        }
    }

    /// Whether the same transaction may succeed when it is simply run again.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Stale { .. } => true,
            Self::Query { source: Diesel::DatabaseError(kind, info), .. } => {
                matches!(
                    kind,
                    DatabaseErrorKind::SerializationFailure | DatabaseErrorKind::ClosedConnection
                ) || info.message().contains("deadlock detected")
            }
            _ => false,
        }
    }
}

/// Whether the connection is gone, and with it the answer: closed, or ended by the server in the middle of a
/// statement, which it says in words (57P01, 57P02), since diesel has no kind for it.
fn is_lost(kind: &DatabaseErrorKind, message: &str) -> bool {
    matches!(kind, DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand)
        || message.starts_with("terminating connection")
}

impl From<Diesel> for DbError {
    fn from(source: Diesel) -> Self {
        Self::query("finishing a transaction")(source)
    }
}

/// Whether a statement failed because of the unique index or constraint `name`.
pub(crate) fn violates(error: &Diesel, name: &str) -> bool {
    matches!(
        error,
        Diesel::DatabaseError(
            DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::CheckViolation,
            info,
        ) if info.constraint_name() == Some(name)
    )
}
