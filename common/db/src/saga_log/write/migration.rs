//! Writes the migrations of a batch.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::saga_log::batch::Writes;
use crate::{Connection, DbError};

/// Columns of the migrations of a batch, as arrays.
#[derive(Default, QueryId)]
struct MigrationWrite {
    id: Vec<Uuid>,
    generation: Vec<i64>,
    status: Vec<String>,
    destination: Vec<Option<String>>,
    total_ms: Vec<Option<i64>>,
    downtime_ms: Vec<Option<i64>>,
    memory_bytes: Vec<Option<i64>>,
    disk_bytes: Vec<Option<i64>>,
}

impl QueryFragment<Pg> for MigrationWrite {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "UPDATE migration SET status = u.status, dest_compute = u.destination, \
             total_ms = coalesce(u.total_ms, migration.total_ms), \
             downtime_ms = coalesce(u.downtime_ms, migration.downtime_ms), \
             memory_processed = coalesce(u.memory_bytes, migration.memory_processed), \
             disk_processed = coalesce(u.disk_bytes, migration.disk_processed), \
             generation = migration.generation + 1, updated_at = now() FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.id)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.generation)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.status)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.destination)?;
        for numbers in [&self.total_ms, &self.downtime_ms, &self.memory_bytes, &self.disk_bytes] {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<BigInt>>, _>(numbers)?;
        }
        out.push_sql(
            ") AS u (id, generation, status, destination, total_ms, downtime_ms, memory_bytes, disk_bytes) \
             WHERE migration.id = u.id AND migration.generation = u.generation",
        );
        Ok(())
    }
}

pub(super) async fn migrations(
    connection: &mut Connection,
    writes: &Writes,
) -> Result<(), DbError> {
    let mut this = MigrationWrite::default();
    for (id, row) in writes.migrations.iter().filter(|(_, row)| row.changed) {
        this.id.push(*id);
        this.generation.push(row.seen_generation);
        this.status.push(row.status.to_string());
        this.destination.push(row.destination.as_ref().map(ToString::to_string));
        this.total_ms.push(row.outcome.total_ms);
        this.downtime_ms.push(row.outcome.downtime_ms);
        this.memory_bytes.push(row.outcome.memory_bytes);
        this.disk_bytes.push(row.outcome.disk_bytes);
    }
    if this.id.is_empty() {
        return Ok(());
    }
    let (first, expected) = (this.id[0], this.id.len());
    let written = this.execute(connection).await.map_err(DbError::query("writing migrations"))?;
    if written == expected { Ok(()) } else { Err(DbError::Stale { kind: "migration", id: first }) }
}
