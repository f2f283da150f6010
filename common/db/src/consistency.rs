//! The invariants of ARCHITECTURE.md as far as SQL can tell them: over the rows, and over what hosts last reported.

use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

use crate::{Connection, DbError};

/// One thing that should not be.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Violation {
    /// Which invariant.
    #[diesel(sql_type = Text)]
    pub invariant: String,
    /// What is wrong, with ids.
    #[diesel(sql_type = Text)]
    pub detail: String,
}

/// Each is a query of `(invariant, detail)`; no row is good. `active` are sagas that have something left to do.
const CHECKS: [&str; 14] = [
    "SELECT 'I1' AS invariant, format('%s reports guest %s, which belongs to %s', h.name, g->>'instance_id', \
         coalesce(i.host, 'nobody')) AS detail \
     FROM host h CROSS JOIN LATERAL jsonb_array_elements(h.guests) g \
     JOIN instance i ON i.id = (g->>'instance_id')::uuid \
     WHERE i.host IS DISTINCT FROM h.name \
       AND h.reported_at > i.updated_at + interval '1 ms' * (2 * h.report_interval_ms + 2000) \
       AND NOT EXISTS (SELECT FROM saga s WHERE s.instance_id = i.id AND s.phase IN ('new', 'running', 'unwinding')) \
       AND NOT EXISTS (SELECT FROM host_obligation o WHERE o.instance_id = i.id AND o.host = h.name)",
    "SELECT 'I1' AS invariant, format('%s does not report guest %s, which is its own', i.host, i.id) AS detail \
     FROM instance i JOIN host h ON h.name = i.host \
     WHERE i.vm_state IN ('active', 'paused', 'stopped', 'resized') AND i.task_state IS NULL \
       AND h.reported_at > i.updated_at + interval '1 ms' * (2 * h.report_interval_ms + 2000) \
       AND NOT h.guests @> jsonb_build_array(jsonb_build_object('instance_id', i.id))",
    "SELECT 'I2' AS invariant, format('instance %s is %s without an operation', i.id, i.task_state) AS detail \
     FROM instance i WHERE i.task_state IS NOT NULL \
       AND NOT EXISTS (SELECT FROM saga s WHERE s.instance_id = i.id AND s.phase IN ('new', 'running', 'unwinding'))",
    "SELECT 'I2' AS invariant, format('operation %s (%s) is under way for instance %s at rest', s.id, s.name, i.id) AS detail \
     FROM saga s JOIN instance i ON i.id = s.instance_id \
     WHERE s.phase IN ('new', 'running', 'unwinding') AND i.task_state IS NULL",
    "SELECT 'I2' AS invariant, format('operation %s (%s) is stuck: %s', s.id, s.name, s.fault->>'message') AS detail \
     FROM saga s JOIN instance i ON i.id = s.instance_id WHERE s.phase = 'stuck' AND i.vm_state <> 'deleted'",
    "SELECT 'I3' AS invariant, format('migration %s is %s without an operation', m.id, m.status) AS detail \
     FROM migration m WHERE m.status IN ('accepted', 'preparing', 'running', 'running (post-copy)', 'pre-migrating', \
                      'migrating', 'post-migrating', 'confirming', 'reverting') \
       AND NOT EXISTS (SELECT FROM saga s WHERE s.migration_id = m.id AND s.instance_id = m.instance_id \
                       AND s.phase IN ('new', 'running', 'unwinding'))",
    "SELECT 'I3' AS invariant, format('instance %s is migrating without a migration', i.id) AS detail \
     FROM instance i WHERE i.task_state = 'migrating' \
       AND NOT EXISTS (SELECT FROM migration m WHERE m.instance_id = i.id \
                       AND m.status IN ('accepted', 'preparing', 'running', 'running (post-copy)'))",
    "SELECT 'I3' AS invariant, format('instance %s is %s, its moves that wait for a decision: %s', i.id, i.vm_state, \
         count(m.id)) AS detail \
     FROM instance i LEFT JOIN migration m ON m.instance_id = i.id AND m.status = 'finished' \
     WHERE i.task_state IS NULL GROUP BY i.id \
     HAVING count(m.id) <> CASE WHEN i.vm_state = 'resized' THEN 1 ELSE 0 END",
    "SELECT 'I4' AS invariant, format('host %s counts (%s, %s, %s), its allocations are (%s, %s, %s)', h.name, \
         h.vcpus_used, h.memory_mib_used, h.disk_gib_used, \
         coalesce(sum(a.vcpus), 0), coalesce(sum(a.memory_mib), 0), coalesce(sum(a.disk_gib), 0)) AS detail \
     FROM host h LEFT JOIN allocation a ON a.host = h.name GROUP BY h.name \
     HAVING (h.vcpus_used, h.memory_mib_used, h.disk_gib_used) IS DISTINCT FROM \
         (coalesce(sum(a.vcpus), 0)::int, coalesce(sum(a.memory_mib), 0)::bigint, coalesce(sum(a.disk_gib), 0)::bigint)",
    "SELECT 'I4' AS invariant, format('instance %s at rest on %s holds %s', i.id, coalesce(i.host, 'no host'), \
         coalesce(string_agg(format('%s for %s', a.host, a.consumer), ', '), 'nothing')) AS detail \
     FROM instance i LEFT JOIN allocation a ON a.instance_id = i.id \
          AND NOT EXISTS (SELECT FROM migration m WHERE m.id = a.consumer AND m.source_compute = a.host \
                          AND m.status IN ('finished', 'done')) \
          AND NOT EXISTS (SELECT FROM host_obligation o WHERE o.instance_id = i.id AND o.host = a.host) \
     WHERE i.task_state IS NULL \
       AND NOT EXISTS (SELECT FROM saga s WHERE s.instance_id = i.id AND s.phase = 'stuck') \
     GROUP BY i.id \
     HAVING count(a.consumer) FILTER (WHERE a.consumer = i.id AND a.host = i.host AND a.vcpus = i.vcpus \
                AND a.memory_mib = i.memory_mib AND a.disk_gib = i.disk_gib) \
            <> CASE WHEN i.host IS NULL THEN 0 ELSE 1 END \
        OR count(a.consumer) <> CASE WHEN i.host IS NULL THEN 0 ELSE 1 END",
    "SELECT 'I6' AS invariant, format('message %s to %s waits since %s', o.id, o.routing_key, o.created_at) AS detail \
     FROM outbox o WHERE o.created_at < now() - interval '60 seconds'",
    "SELECT 'I4' AS invariant, format('port %s of deleted instance %s', p.id, i.id) AS detail \
     FROM port p JOIN instance i ON i.id = p.instance_id WHERE i.vm_state = 'deleted' \
       AND NOT EXISTS (SELECT FROM host_obligation o WHERE o.instance_id = i.id)",
    "SELECT 'I4' AS invariant, format('volume %s of deleted instance %s', v.id, i.id) AS detail \
     FROM volume v JOIN instance i ON i.id = v.instance_id WHERE i.vm_state = 'deleted' \
       AND NOT EXISTS (SELECT FROM host_obligation o WHERE o.instance_id = i.id)",
    "SELECT 'I2' AS invariant, format('volume %s is %s, instance %s is %s', v.id, v.status, i.id, \
         coalesce(i.task_state, 'at rest')) AS detail \
     FROM volume v JOIN instance i ON i.id = v.instance_id \
     WHERE v.status IN ('attaching', 'detaching') \
       AND i.task_state IS DISTINCT FROM v.status || '_volume' AND i.task_state IS DISTINCT FROM 'deleting' \
       AND NOT EXISTS (SELECT FROM saga s WHERE s.instance_id = i.id AND s.phase = 'stuck')",
];

/// All that is wrong now, seen in one snapshot for each check.
///
/// # Errors
/// When a query fails.
pub async fn violations(connection: &mut Connection) -> Result<Vec<Violation>, DbError> {
    let mut all = Vec::new();
    for check in CHECKS {
        let found: Vec<Violation> = diesel::sql_query(check)
            .load(connection)
            .await
            .map_err(DbError::query("checking invariants"))?;
        all.extend(found);
    }
    Ok(all)
}
