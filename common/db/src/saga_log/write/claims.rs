//! Gives back what instances and migrations hold.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::saga_log::batch::Writes;
use crate::saga_log::changes::Claim;
use crate::schema::{allocation, port};
use crate::{Connection, DbError};

/// Gives back what is held. Each of these is the same when done twice.
///
/// Everything that changes the sums of hosts is one statement, whose trigger locks the hosts in the order of
/// their names: two batches with several each would wait for each other.
pub(super) async fn claims(connection: &mut Connection, writes: &Writes) -> Result<(), DbError> {
    let of = |wanted: Claim| {
        writes.claims.iter().filter(move |(claim, _, _)| *claim == wanted).map(|(_, i, m)| (*i, *m))
    };
    let released: Vec<Uuid> = of(Claim::Release).map(|(instance, _)| instance).collect();
    let mut ended: Vec<Uuid> = of(Claim::Settle).filter_map(|(_, migration)| migration).collect();
    let reverted: Vec<Uuid> = of(Claim::Revert).filter_map(|(_, migration)| migration).collect();
    ended.extend(held_at_destinations(connection, &reverted).await?);
    if !released.is_empty() || !ended.is_empty() {
        let held = allocation::instance_id.eq_any(&released);
        diesel::delete(allocation::table.filter(held.or(allocation::consumer.eq_any(&ended))))
            .execute(connection)
            .await
            .map_err(DbError::query("giving allocations back"))?;
    }
    if !reverted.is_empty() {
        diesel::update(allocation::table.filter(allocation::consumer.eq_any(&reverted)))
            .set(allocation::consumer.eq(allocation::instance_id))
            .execute(connection)
            .await
            .map_err(DbError::query("giving allocations back to instances"))?;
    }
    let unplugged: Vec<Uuid> = of(Claim::Ports).map(|(instance, _)| instance).collect();
    if !unplugged.is_empty() {
        diesel::delete(port::table.filter(port::instance_id.eq_any(&unplugged)))
            .execute(connection)
            .await
            .map_err(DbError::query("releasing ports"))?;
    }
    Ok(())
}

/// The instances that hold room at the destinations of moves that are taken back: those whose migrations hold
/// the room at the source.
async fn held_at_destinations(
    connection: &mut Connection,
    migrations: &[Uuid],
) -> Result<Vec<Uuid>, DbError> {
    if migrations.is_empty() {
        return Ok(Vec::new());
    }
    allocation::table
        .filter(allocation::consumer.eq_any(migrations))
        .select(allocation::instance_id)
        .for_update()
        .load(connection)
        .await
        .map_err(DbError::query("reading the allocations of moves"))
}
