//! Writes the instances of a batch.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Bool, Jsonb, Nullable, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::api::flavor_with_server;
use crate::saga_log::batch::Writes;
use crate::{Connection, DbError};

/// Columns of the instances of a batch, as arrays.
#[derive(Default, QueryId)]
struct InstanceWrite {
    id: Vec<Uuid>,
    generation: Vec<i64>,
    vm_state: Vec<String>,
    task_state: Vec<Option<String>>,
    power_state: Vec<Option<String>>,
    host: Vec<Option<String>>,
    owner_epoch: Vec<i64>,
    sets_fault: Vec<bool>,
    fault_code: Vec<Option<String>>,
    fault_message: Vec<Option<String>>,
    launched: Vec<bool>,
    deleted: Vec<bool>,
    flavor: Vec<Option<serde_json::Value>>,
}

impl QueryFragment<Pg> for InstanceWrite {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "UPDATE instance SET vm_state = u.vm_state, task_state = u.task_state, \
             power_state = coalesce(u.power_state, instance.power_state), host = u.host, \
             owner_epoch = u.owner_epoch, generation = instance.generation + 1, updated_at = now(), \
             fault_code = CASE WHEN u.sets_fault THEN u.fault_code ELSE instance.fault_code END, \
             fault_message = CASE WHEN u.sets_fault THEN u.fault_message ELSE instance.fault_message END, \
             fault_at = CASE WHEN u.sets_fault THEN now() ELSE instance.fault_at END, \
             launched_at = CASE WHEN u.launched THEN coalesce(instance.launched_at, now()) ELSE instance.launched_at END, \
             deleted_at = CASE WHEN u.deleted THEN now() ELSE instance.deleted_at END, \
             flavor_id = coalesce(u.flavor->>'id', instance.flavor_id), \
             flavor = coalesce(u.flavor, instance.flavor), \
             vcpus = coalesce((u.flavor->>'vcpus')::integer, instance.vcpus), \
             memory_mib = coalesce((u.flavor->>'ram')::bigint, instance.memory_mib), \
             disk_gib = coalesce((u.flavor->>'disk')::bigint, instance.disk_gib) FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.id)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.generation)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.vm_state)?;
        for texts in [&self.task_state, &self.power_state, &self.host] {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Text>>, _>(texts)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.owner_epoch)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.sets_fault)?;
        for texts in [&self.fault_code, &self.fault_message] {
            out.push_sql(", ");
            out.push_bind_param::<Array<Nullable<Text>>, _>(texts)?;
        }
        for flags in [&self.launched, &self.deleted] {
            out.push_sql(", ");
            out.push_bind_param::<Array<Bool>, _>(flags)?;
        }
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Jsonb>>, _>(&self.flavor)?;
        out.push_sql(
            ") AS u (id, generation, vm_state, task_state, power_state, host, owner_epoch, sets_fault, fault_code, \
             fault_message, launched, deleted, flavor) \
             WHERE instance.id = u.id AND instance.generation = u.generation",
        );
        Ok(())
    }
}

pub(super) async fn instances(connection: &mut Connection, writes: &Writes) -> Result<(), DbError> {
    let mut this = InstanceWrite::default();
    for (id, row) in writes.instances.iter().filter(|(_, row)| row.changed) {
        this.id.push(*id);
        this.generation.push(row.seen_generation);
        this.vm_state.push(row.state.vm.to_string());
        this.task_state.push(row.state.task.map(|task| task.to_string()));
        this.power_state.push(row.power.map(|power| power.to_string()));
        this.host.push(row.host.as_ref().map(ToString::to_string));
        this.owner_epoch.push(row.owner_epoch);
        this.sets_fault.push(row.fault.is_some());
        let (code, message) = row.fault.clone().flatten().unzip();
        this.fault_code.push(code);
        this.fault_message.push(message);
        this.launched.push(row.launched);
        this.deleted.push(row.deleted);
        this.flavor.push(row.flavor.as_ref().map(flavor_with_server));
    }
    if this.id.is_empty() {
        return Ok(());
    }
    let (first, expected) = (this.id[0], this.id.len());
    let written = this.execute(connection).await.map_err(DbError::query("writing instances"))?;
    if written == expected { Ok(()) } else { Err(DbError::Stale { kind: "instance", id: first }) }
}
