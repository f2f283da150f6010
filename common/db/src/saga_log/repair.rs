//! What happens to a saga whose transaction fails.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use whimbrel_messages::{Fault, FaultCode};
use whimbrel_model::{SagaId, VmState};

use crate::schema::{instance, saga};
use crate::{Connection, DbError};

/// Notes that a saga's transaction failed, puts its next try off, and says how often it failed by now.
/// Touches only the saga's own row, so that nothing about its other rows can make it fail, too.
///
/// # Errors
/// When the query fails.
pub async fn note_failure(connection: &mut Connection, id: SagaId) -> Result<i32, DbError> {
    diesel::update(saga::table.find(id.0))
        .filter(saga::wake_at.is_not_null())
        .set((
            saga::failures.eq(saga::failures + 1),
            saga::wake_at.eq(diesel::dsl::sql::<
                diesel::sql_types::Nullable<diesel::sql_types::Timestamptz>,
            >("now() + (failures + 1) * interval '1 second'")),
        ))
        .returning(saga::failures)
        .get_result(connection)
        .await
        .optional()
        .map_err(DbError::query("noting a failed transaction"))
        .map(Option::unwrap_or_default)
}

/// Ends a saga as stuck in a statement that touches nothing but its own row: the last resort. Then, in another one, its
/// instance is no longer busy, so that it can at least be deleted.
///
/// # Errors
/// When the query fails.
pub async fn set_stuck(
    connection: &mut Connection,
    id: SagaId,
    message: &str,
) -> Result<(), DbError> {
    let fault = Fault::new(FaultCode::Internal, message);
    let fault = serde_json::to_value(fault).expect("a fault is plain data");
    diesel::update(saga::table.find(id.0))
        .filter(saga::wake_at.is_not_null())
        .set((
            saga::phase.eq("stuck"),
            saga::wake_at.eq(None::<chrono::DateTime<chrono::Utc>>),
            saga::fault.eq(Some(fault)),
            saga::updated_at.eq(diesel::dsl::now),
        ))
        .execute(connection)
        .await
        .map_err(DbError::query("ending a saga as stuck"))?;
    let its_instance = saga::table.find(id.0).select(saga::instance_id).single_value();
    diesel::update(instance::table)
        .filter(instance::id.nullable().eq(its_instance))
        .filter(instance::task_state.is_not_null())
        .set((
            instance::vm_state.eq(VmState::Error.to_string()),
            instance::task_state.eq(None::<String>),
            instance::generation.eq(instance::generation + 1),
            instance::updated_at.eq(diesel::dsl::now),
        ))
        .execute(connection)
        .await
        .map_err(DbError::query("letting go of a stuck saga's instance"))?;
    Ok(())
}
