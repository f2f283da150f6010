//! Gives back what instances and migrations hold.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::saga_log::batch::Writes;
use crate::saga_log::changes::Claim;
use crate::schema::{allocation, port};
use crate::{Connection, DbError};

/// Gives back what is held. Each of these is the same when done twice.
pub(super) async fn claims(connection: &mut Connection, writes: &Writes) -> Result<(), DbError> {
    let of = |wanted: Claim| {
        writes.claims.iter().filter(move |(claim, _, _)| *claim == wanted).map(|(_, i, m)| (*i, *m))
    };
    let released: Vec<Uuid> = of(Claim::Release).map(|(instance, _)| instance).collect();
    if !released.is_empty() {
        diesel::delete(allocation::table.filter(allocation::instance_id.eq_any(&released)))
            .execute(connection)
            .await
            .map_err(DbError::query("releasing allocations"))?;
    }
    let settled: Vec<Uuid> = of(Claim::Settle).filter_map(|(_, migration)| migration).collect();
    if !settled.is_empty() {
        diesel::delete(allocation::table.filter(allocation::consumer.eq_any(&settled)))
            .execute(connection)
            .await
            .map_err(DbError::query("settling allocations"))?;
    }
    let reverted: Vec<Uuid> = of(Claim::Revert).filter_map(|(_, migration)| migration).collect();
    if !reverted.is_empty() {
        revert(connection, &reverted).await?;
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

async fn revert(connection: &mut Connection, migrations: &[Uuid]) -> Result<(), DbError> {
    let moving: Vec<Uuid> = allocation::table
        .filter(allocation::consumer.eq_any(migrations))
        .select(allocation::instance_id)
        .for_update()
        .load(connection)
        .await
        .map_err(DbError::query("reading the allocations of moves"))?;
    diesel::delete(allocation::table.filter(allocation::consumer.eq_any(&moving)))
        .execute(connection)
        .await
        .map_err(DbError::query("releasing the allocations of destinations"))?;
    diesel::update(allocation::table.filter(allocation::consumer.eq_any(migrations)))
        .set(allocation::consumer.eq(allocation::instance_id))
        .execute(connection)
        .await
        .map_err(DbError::query("giving allocations back to instances"))?;
    Ok(())
}
