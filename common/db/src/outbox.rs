//! Messages that were decided on in a transaction and are published after it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::schema::outbox;
use crate::{Connection, DbError};

/// A message to publish.
#[derive(Clone, Debug, PartialEq, Eq, Insertable, Queryable, Selectable)]
#[diesel(table_name = outbox)]
pub struct OutboxMessage {
    /// Its id, a UUIDv7; the same over all repeats.
    pub id: Uuid,
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// Whether it counts as failed when no queue takes it.
    pub mandatory: bool,
    /// JSON.
    pub body: String,
}

/// Takes up to `limit` messages that were not confirmed in time, and puts their next try off, so that
/// publishing them needs no open transaction.
///
/// # Errors
/// When the query fails.
pub async fn due_outbox(
    connection: &mut Connection,
    limit: i64,
) -> Result<Vec<OutboxMessage>, DbError> {
    let due = outbox::table
        .select(outbox::id)
        .filter(outbox::next_try_at.le(diesel::dsl::now))
        .order(outbox::id)
        .limit(limit)
        .for_update()
        .skip_locked();
    let ids: Vec<Uuid> =
        due.load(connection).await.map_err(DbError::query("looking for unsent messages"))?;
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let again: DateTime<Utc> = Utc::now() + chrono::TimeDelta::seconds(10);
    let mut taken: Vec<OutboxMessage> =
        diesel::update(outbox::table.filter(outbox::id.eq_any(&ids)))
            .filter(outbox::next_try_at.le(diesel::dsl::now))
            .set((outbox::next_try_at.eq(again), outbox::tries.eq(outbox::tries + 1)))
            .returning(OutboxMessage::as_returning())
            .get_results(connection)
            .await
            .map_err(DbError::query("taking unsent messages"))?;
    taken.sort_by_key(|message| message.id);
    Ok(taken)
}

/// Deletes messages that were confirmed, or returned because nobody takes them.
///
/// # Errors
/// When the query fails.
pub async fn delete_outbox(connection: &mut Connection, ids: &[Uuid]) -> Result<(), DbError> {
    diesel::delete(outbox::table.filter(outbox::id.eq_any(ids)))
        .execute(connection)
        .await
        .map_err(DbError::query("deleting sent messages"))?;
    Ok(())
}
