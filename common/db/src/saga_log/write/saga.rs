//! The one statement that every batch has.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{
    Array, Bool, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use serde_json::Value;
use uuid::Uuid;

use crate::saga_log::batch::Writes;

/// Columns of the sagas, history, outbox and confirmed messages of a batch, as arrays.
#[derive(Default, QueryId)]
pub(super) struct SagaWrite {
    confirmed: Vec<Uuid>,
    id: Vec<Uuid>,
    phase: Vec<String>,
    step: Vec<String>,
    dir: Vec<String>,
    round: Vec<i32>,
    attempt: Vec<i32>,
    tries: Vec<i32>,
    wake_at: Vec<Option<DateTime<Utc>>>,
    cancelled: Vec<bool>,
    deferred: Vec<bool>,
    state: Vec<Value>,
    fault: Vec<Option<Value>>,
    history_saga: Vec<Uuid>,
    history_entry: Vec<Value>,
    outbox_id: Vec<Uuid>,
    outbox_exchange: Vec<String>,
    outbox_key: Vec<String>,
    outbox_mandatory: Vec<bool>,
    outbox_body: Vec<String>,
}

impl SagaWrite {
    pub(super) fn new(writes: &Writes) -> Self {
        let mut this = Self { confirmed: writes.confirmed.clone(), ..Self::default() };
        for row in &writes.sagas {
            this.id.push(row.id.0);
            this.phase.push(row.phase.to_string());
            this.step.push(row.step.to_string());
            this.dir.push(row.dir.to_string());
            this.round.push(row.round);
            this.attempt.push(row.attempt);
            this.tries.push(row.tries);
            this.wake_at.push(row.wake_at);
            this.cancelled.push(row.cancelled);
            this.deferred.push(row.deferred);
            this.state.push(row.state.clone());
            let fault = row.fault.as_ref().map(serde_json::to_value);
            this.fault.push(fault.transpose().expect("a fault is plain data"));
        }
        for (saga, entry) in &writes.history {
            this.history_saga.push(*saga);
            this.history_entry.push(serde_json::to_value(entry).expect("an entry is plain data"));
        }
        for message in &writes.outbox {
            this.outbox_id.push(message.id);
            this.outbox_exchange.push(message.exchange.clone());
            this.outbox_key.push(message.routing_key.clone());
            this.outbox_mandatory.push(message.mandatory);
            this.outbox_body.push(message.body.clone());
        }
        this
    }
}

impl QueryFragment<Pg> for SagaWrite {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("WITH confirmed AS (DELETE FROM outbox WHERE id = ANY(");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.confirmed)?;
        out.push_sql(
            ")), sagas AS (UPDATE saga SET phase = u.phase, step = u.step, dir = u.dir, round = u.round, \
             attempt = u.attempt, tries = u.tries, wake_at = u.wake_at, cancelled = u.cancelled, \
             deferred = u.deferred, state = u.state, fault = u.fault, \
             failures = CASE WHEN (saga.step, saga.dir, saga.round) = (u.step, u.dir, u.round) \
                        THEN saga.failures ELSE 0 END, updated_at = now() FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.id)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.phase)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.step)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.dir)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.round)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.attempt)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.tries)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Timestamptz>>, _>(&self.wake_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.cancelled)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.deferred)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Jsonb>, _>(&self.state)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Jsonb>>, _>(&self.fault)?;
        out.push_sql(
            ") AS u (id, phase, step, dir, round, attempt, tries, wake_at, cancelled, deferred, state, fault) \
             WHERE saga.id = u.id), history AS (INSERT INTO saga_history (saga_id, entry) SELECT * FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.history_saga)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Jsonb>, _>(&self.history_entry)?;
        out.push_sql(
            ")) INSERT INTO outbox (id, exchange, routing_key, mandatory, body) SELECT * FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.outbox_id)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.outbox_exchange)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.outbox_key)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.outbox_mandatory)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.outbox_body)?;
        out.push_sql(")");
        Ok(())
    }
}
