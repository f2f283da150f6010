//! The scheduler: it claims only for a saga that still waits for it, and repeats itself when it did already.

use serde_json::json;
use whimbrel_messages::scheduler::SelectDestinations;
use whimbrel_messages::{Dir, Fault, FaultCode, Outcome};
use whimbrel_model::HostName;
use whimbrel_saga::Phase;

use super::{Broken, Command, HOSTS, Host, Sim, name, saga_number};
use crate::rows::INSTANCE;

impl Sim {
    pub(super) fn claim(&mut self, command: &Command) {
        let key = &command.key;
        let row = &self.sagas[saga_number(key.saga_id)].row;
        let waits = row.phase == Phase::Running
            && row.dir == Dir::Do
            && (row.round, &*row.step) == (key.round, &*key.step);
        if !waits && self.broken != Some(Broken::ClaimsForAnyone) {
            return;
        }
        let request: SelectDestinations =
            serde_json::from_value(command.body.clone()).expect("the scheduler's only method");
        let outcome =
            match self.already(&request).or_else(|| self.claim_somewhere(command, &request)) {
                Some(host) => Outcome::Ok { body: json!({ "host": host }) },
                None => Outcome::Refused {
                    fault: Fault::new(FaultCode::NoValidHost, "no host will do"),
                },
            };
        self.reply(key, &outcome);
    }

    /// What an earlier attempt at the same step has claimed.
    fn already(&self, request: &SelectDestinations) -> Option<HostName> {
        let claims = &self.rows.claims;
        let moving = request.migration_id.is_none_or(|id| claims.contains_key(&id.0));
        let host = claims.get(&INSTANCE).filter(|_| moving)?;
        (!request.excluded.contains(host)).then(|| host.clone())
    }

    fn claim_somewhere(
        &mut self,
        command: &Command,
        request: &SelectDestinations,
    ) -> Option<HostName> {
        if self.chaos.refuses(&command.key, false) {
            return None;
        }
        let first = if self.chaos.is_random() { self.chaos.rng.below(HOSTS as u64) } else { 0 };
        let first = usize::try_from(first).expect("a few hosts");
        for host in (0..HOSTS).map(|at| (first + at) % HOSTS) {
            let candidate = name(host);
            let wanted = request.requested_host.as_ref().is_none_or(|wanted| *wanted == candidate)
                && request.source.as_ref() != Some(&candidate)
                && !request.excluded.contains(&candidate);
            let Host { reports, fenced, enabled, .. } = self.hosts[host];
            if !wanted || !reports || fenced || !enabled || self.chaos.full() {
                continue;
            }
            if let Some(id) = request.migration_id
                && let Some(held) = self.rows.claims.remove(&INSTANCE)
            {
                self.rows.claims.insert(id.0, held);
            }
            self.rows.claims.insert(INSTANCE, candidate.clone());
            return Some(candidate);
        }
        None
    }
}
