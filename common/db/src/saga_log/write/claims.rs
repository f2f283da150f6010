//! Gives back what instances and migrations hold.

use diesel::dsl::{not, sql};
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::saga_log::batch::Writes;
use crate::saga_log::changes::Claim;
use crate::saga_log::write::volumes;
use crate::schema::{allocation, instance, port};
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
        let held = allocation::instance_id.eq_any(&released).and(not(may_run_there()));
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
        let unplugged = port::instance_id.eq_any(&unplugged);
        diesel::delete(port::table.filter(unplugged).filter(not(may_run_somewhere())))
            .execute(connection)
            .await
            .map_err(DbError::query("releasing ports"))?;
    }
    Ok(())
}

/// A host that is merely silent still has to remove the guest: it may run there until then, under its addresses. What
/// it holds is given back when the host has answered, or somebody has forced it down ([`release_kept`]).
fn may_run_there() -> SqlLiteral<Bool> {
    sql("EXISTS (SELECT FROM host_obligation o JOIN host h ON h.name = o.host \
         WHERE o.instance_id = allocation.instance_id AND o.host = allocation.host AND NOT h.forced_down \
           AND o.command->>'method' = 'terminate_instance')")
}

/// As [`may_run_there`], on any host.
fn may_run_somewhere() -> SqlLiteral<Bool> {
    sql("EXISTS (SELECT FROM host_obligation o JOIN host h ON h.name = o.host \
         WHERE o.instance_id = port.instance_id AND NOT h.forced_down \
           AND o.command->>'method' = 'terminate_instance')")
}

/// Gives back what was kept for guests that might still have run somewhere, as far as they no longer do.
///
/// # Errors
/// When a query fails.
pub(crate) async fn release_kept(
    connection: &mut Connection,
    instances: &[Uuid],
) -> Result<(), DbError> {
    if instances.is_empty() {
        return Ok(());
    }
    // Hosts that answer at the same moment: the last of them must see that the others have.
    instance::table
        .filter(instance::id.eq_any(instances))
        .order(instance::id)
        .select(instance::id)
        .for_update()
        .load::<Uuid>(connection)
        .await
        .map_err(DbError::query("locking instances"))?;
    // What a move holds at its source is another matter, as long as there is a guest to move.
    let gone = "EXISTS (SELECT FROM instance i WHERE i.id = allocation.instance_id AND (i.vm_state = 'deleted' \
                OR (allocation.consumer = i.id AND i.host IS DISTINCT FROM allocation.host \
                    AND NOT EXISTS (SELECT FROM saga s WHERE s.instance_id = i.id \
                                    AND s.phase IN ('new', 'running', 'unwinding')))))";
    diesel::delete(allocation::table)
        .filter(allocation::instance_id.eq_any(instances))
        .filter(sql::<Bool>(gone))
        .filter(not(may_run_there()))
        .execute(connection)
        .await
        .map_err(DbError::query("giving back what was kept"))?;
    let deleted =
        "EXISTS (SELECT FROM instance i WHERE i.id = port.instance_id AND i.vm_state = 'deleted')";
    diesel::delete(port::table)
        .filter(port::instance_id.eq_any(instances))
        .filter(sql::<Bool>(deleted))
        .filter(not(may_run_somewhere()))
        .execute(connection)
        .await
        .map_err(DbError::query("releasing ports that were kept"))?;
    volumes::release(connection, instances).await
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
