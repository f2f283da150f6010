//! Claims for a whole batch: chosen from one look at the hosts, then made by one statement that locks the hosts
//! in the order of their names and leaves out whatever no longer fits.

use std::collections::{BTreeMap, BTreeSet};

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Double, Integer, Text, Uuid as SqlUuid};
use diesel_async::{AsyncConnection, RunQueryDsl};
use uuid::Uuid;
use whimbrel_messages::StepKey;
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_model::HostName;

use super::rules::Rules;
use super::{Claimed, HostState, Ranking, Ratios, Wanted, hosts};
use crate::schema::{allocation, saga};
use crate::text::parse;
use crate::{Connection, Database, DbError};

/// How often a wish is granted room that others then take first, before it is refused.
const TRIES: usize = 5;

/// Ranks hosts for a request.
type Rank<'a> = dyn Fn(&SelectDestinations, &[HostState]) -> Ranking + Sync + 'a;

/// Chooses and claims for all of `wanted`, most often in one transaction. `rank` is pure; it sees what earlier
/// claims of the same batch have taken.
///
/// # Errors
/// When a transaction fails. What was claimed by then is found again when it is asked for again.
pub async fn claim_batch(
    database: &Database,
    wanted: &[Wanted],
    ratios: Ratios,
    down_after_ms: i64,
    rank: &Rank<'_>,
) -> Result<Vec<Claimed>, DbError> {
    let mut connection = database.connection().await?;
    // A request that was sent twice may be in one batch twice: it has one answer.
    let mut open: BTreeMap<&StepKey, &SelectDestinations> =
        wanted.iter().map(|want| (&want.key, &want.request)).collect();
    let mut answers: BTreeMap<&StepKey, Claimed> = BTreeMap::new();
    for tries in 1..=TRIES {
        let round = connection
            .transaction(async |connection| {
                let mut round = choose(connection, &open, down_after_ms, rank).await?;
                round.claim(connection, ratios).await?;
                Ok::<_, DbError>(round)
            })
            .await?;
        let lost = round.chosen.iter().filter(|choice| !choice.granted);
        let lost: BTreeMap<&StepKey, HostName> =
            lost.map(|choice| (choice.key, choice.host.clone())).collect();
        answers.extend(round.answers);
        open.retain(|key, _| lost.contains_key(key));
        if open.is_empty() {
            break;
        }
        if tries == TRIES {
            let why = || "other guests took the room first".to_owned();
            let refused = |(key, host)| (key, Claimed::NoValidHost(vec![(host, why())]));
            answers.extend(lost.into_iter().map(refused));
        }
    }
    let answer = |want: &Wanted| answers.get(&want.key).cloned().unwrap_or(Claimed::NotWaiting);
    Ok(wanted.iter().map(answer).collect())
}

/// One look at the hosts and what follows from it.
#[derive(Default)]
struct Round<'a> {
    answers: BTreeMap<&'a StepKey, Claimed>,
    chosen: Vec<Choice<'a>>,
}

struct Choice<'a> {
    key: &'a StepKey,
    request: &'a SelectDestinations,
    host: HostName,
    granted: bool,
}

async fn choose<'a>(
    connection: &mut Connection,
    open: &BTreeMap<&'a StepKey, &'a SelectDestinations>,
    down_after_ms: i64,
    rank: &Rank<'_>,
) -> Result<Round<'a>, DbError> {
    let waiting = lock_waiting(connection, open.keys().copied()).await?;
    let held = held_by(connection, open.values().copied()).await?;
    let servers: Vec<Uuid> = open.values().map(|request| request.instance_id.0).collect();
    let mut rules = Rules::of(connection, &servers).await?;
    let mut hosts = hosts(connection, down_after_ms).await?;
    let mut round = Round::default();
    for (&key, &request) in open {
        if !waiting.contains(&(key.saga_id.0, key.round, key.step.clone())) {
            round.answers.insert(key, Claimed::NotWaiting);
            continue;
        }
        if let Some(host) = already(request, &held) {
            round.answers.insert(key, Claimed::Host(host));
            continue;
        }
        let mut ranking = rank(request, &hosts);
        rules.apply(request.instance_id.0, &mut ranking);
        let Ranking { candidates, refused } = ranking;
        let Some(host) = candidates.into_iter().next() else {
            round.answers.insert(key, Claimed::NoValidHost(refused));
            continue;
        };
        if let Some(state) = hosts.iter_mut().find(|state| state.name == host) {
            state.used = state.used + request.resources;
        }
        rules.placed(request.instance_id.0, &host);
        round.chosen.push(Choice { key, request, host, granted: false });
    }
    Ok(round)
}

impl Round<'_> {
    /// Claims what was chosen. During a move the migration holds the room at the source, so that room changes
    /// hands before the instance can hold any at the destination.
    async fn claim(&mut self, connection: &mut Connection, ratios: Ratios) -> Result<(), DbError> {
        if self.chosen.is_empty() {
            return Ok(());
        }
        let moving = |choice: &Choice<'_>| {
            let migration = choice.request.migration_id?;
            Some((choice.request.instance_id.0, migration.0))
        };
        let moves: Vec<(Uuid, Uuid)> = self.chosen.iter().filter_map(moving).collect();
        hand_over(connection, moves.iter().copied()).await?;
        let claims = Claims::new(&self.chosen, ratios);
        let granted: Vec<Uuid> =
            claims.load(connection).await.map_err(DbError::query("claiming room on hosts"))?;
        let granted: BTreeSet<Uuid> = granted.into_iter().collect();
        for choice in &mut self.chosen {
            choice.granted = granted.contains(&choice.request.instance_id.0);
            if choice.granted {
                self.answers.insert(choice.key, Claimed::Host(choice.host.clone()));
            }
        }
        let lost = self.chosen.iter().filter(|choice| !choice.granted).filter_map(moving);
        hand_over(connection, lost.map(|(instance, migration)| (migration, instance))).await
    }
}

/// The sagas that are at the step that they are said to wait at. Locked against the conductor until the end
/// of the transaction.
async fn lock_waiting(
    connection: &mut Connection,
    keys: impl Iterator<Item = &StepKey>,
) -> Result<BTreeSet<(Uuid, i32, String)>, DbError> {
    let ids: BTreeSet<Uuid> = keys.map(|key| key.saga_id.0).collect();
    let rows: Vec<(Uuid, i32, String)> = saga::table
        .filter(saga::id.eq_any(ids))
        .filter(saga::phase.eq("running"))
        .filter(saga::dir.eq("do"))
        .order(saga::id)
        .select((saga::id, saga::round, saga::step))
        .for_share()
        .load(connection)
        .await
        .map_err(DbError::query("looking whether sagas wait for a host"))?;
    Ok(rows.into_iter().collect())
}

/// Host by consumer, of the instances and migrations concerned.
async fn held_by(
    connection: &mut Connection,
    requests: impl Iterator<Item = &SelectDestinations>,
) -> Result<BTreeMap<Uuid, HostName>, DbError> {
    let instances: Vec<Uuid> = requests.map(|request| request.instance_id.0).collect();
    let rows: Vec<(Uuid, String)> = allocation::table
        .filter(allocation::instance_id.eq_any(instances))
        .select((allocation::consumer, allocation::host))
        .load(connection)
        .await
        .map_err(DbError::query("reading allocations"))?;
    rows.into_iter().map(|(id, name)| Ok((id, parse("allocation.host", &name)?))).collect()
}

/// The host that an earlier attempt at the same step has claimed.
fn already(request: &SelectDestinations, held: &BTreeMap<Uuid, HostName>) -> Option<HostName> {
    let moving = request.migration_id.is_none_or(|migration| held.contains_key(&migration.0));
    let host = held.get(&request.instance_id.0).filter(|_| moving)?;
    (!request.excluded.contains(host)).then(|| host.clone())
}

/// Gives what the first of each pair holds to the second.
async fn hand_over(
    connection: &mut Connection,
    pairs: impl Iterator<Item = (Uuid, Uuid)>,
) -> Result<(), DbError> {
    let (from, to): (Vec<Uuid>, Vec<Uuid>) = pairs.unzip();
    if from.is_empty() {
        return Ok(());
    }
    HandOver { from, to }
        .execute(connection)
        .await
        .map_err(DbError::query("handing allocations over"))?;
    Ok(())
}

#[derive(QueryId)]
struct HandOver {
    from: Vec<Uuid>,
    to: Vec<Uuid>,
}

impl QueryFragment<Pg> for HandOver {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("UPDATE allocation SET consumer = u.receiver FROM unnest(");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.from)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.to)?;
        out.push_sql(") AS u (holder, receiver) WHERE consumer = u.holder");
        Ok(())
    }
}

/// Columns of the claims of a batch, as arrays, in the order in which room is given.
#[derive(QueryId)]
struct Claims {
    instance: Vec<Uuid>,
    host: Vec<String>,
    vcpus: Vec<i32>,
    memory_mib: Vec<i64>,
    disk_gib: Vec<i64>,
    ratios: [f64; 3],
}

impl Claims {
    fn new(chosen: &[Choice<'_>], ratios: Ratios) -> Self {
        let resources = || chosen.iter().map(|choice| choice.request.resources);
        Self {
            instance: chosen.iter().map(|choice| choice.request.instance_id.0).collect(),
            host: chosen.iter().map(|choice| choice.host.to_string()).collect(),
            vcpus: resources().map(|needed| needed.vcpus).collect(),
            memory_mib: resources().map(|needed| needed.memory_mib).collect(),
            disk_gib: resources().map(|needed| needed.disk_gib).collect(),
            ratios: [ratios.vcpus, ratios.memory, ratios.disk],
        }
    }
}

impl Query for Claims {
    type SqlType = SqlUuid;
}

/// The guard is in the statement (I4): the hosts' rows are locked, and the sums that a trigger keeps on them are
/// compared with what this claim and those before it in the batch add.
impl QueryFragment<Pg> for Claims {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "WITH wanted AS (SELECT u.*, sum(vcpus) OVER before AS all_vcpus, sum(memory_mib) OVER before \
             AS all_memory, sum(disk_gib) OVER before AS all_disk FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.instance)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.host)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Integer>, _>(&self.vcpus)?;
        for numbers in [&self.memory_mib, &self.disk_gib] {
            out.push_sql(", ");
            out.push_bind_param::<Array<BigInt>, _>(numbers)?;
        }
        out.push_sql(
            ") WITH ORDINALITY AS u (instance_id, host, vcpus, memory_mib, disk_gib, position) \
             WINDOW before AS (PARTITION BY host ORDER BY position)), \
             room AS (SELECT name, vcpus, memory_mib, disk_gib, vcpus_used, memory_mib_used, disk_gib_used \
             FROM host WHERE name IN (SELECT host FROM wanted) ORDER BY name FOR NO KEY UPDATE) \
             INSERT INTO allocation (consumer, host, instance_id, vcpus, memory_mib, disk_gib) \
             SELECT w.instance_id, w.host, w.instance_id, w.vcpus, w.memory_mib, w.disk_gib \
             FROM wanted w JOIN room ON room.name = w.host WHERE vcpus_used + all_vcpus <= room.vcpus * ",
        );
        out.push_bind_param::<Double, _>(&self.ratios[0])?;
        out.push_sql(" AND memory_mib_used + all_memory <= room.memory_mib * ");
        out.push_bind_param::<Double, _>(&self.ratios[1])?;
        out.push_sql(" AND disk_gib_used + all_disk <= room.disk_gib * ");
        out.push_bind_param::<Double, _>(&self.ratios[2])?;
        out.push_sql(" RETURNING consumer");
        Ok(())
    }
}
