//! How the services without a hypervisor say that they live.

use std::time::Duration;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::schema::service;
use crate::{Database, DbError};

/// Notes that the service `binary` lives on `host`.
///
/// # Errors
/// When the query fails.
pub async fn service_heartbeat(
    database: &Database,
    binary: &str,
    host: &str,
) -> Result<(), DbError> {
    let mut connection = database.connection().await?;
    diesel::insert_into(service::table)
        .values((
            service::id.eq(Uuid::now_v7()),
            service::binary_name.eq(binary),
            service::host.eq(host),
        ))
        .on_conflict((service::binary_name, service::host))
        .do_update()
        .set(service::reported_at.eq(diesel::dsl::now))
        .execute(&mut connection)
        .await
        .map_err(DbError::query("noting that a service lives"))?;
    Ok(())
}

/// Notes it again and again, for as long as it is polled. What can't be noted is only logged: the service may
/// work well although nobody sees it.
pub async fn heartbeat(database: Database, binary: &'static str, every: Duration) {
    let name = tokio::fs::read_to_string("/proc/sys/kernel/hostname").await;
    let host = name.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned());
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        if let Err(error) = service_heartbeat(&database, binary, &host).await {
            tracing::warn!(%error, "heartbeat not noted");
        }
    }
}
