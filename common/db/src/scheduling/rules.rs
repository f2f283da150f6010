//! What the owners of servers asked of their places: an availability zone, and the rules of server groups.
//!
//! Schedulers that place servers of one group do so one after the other: the group's row is locked until the claim is
//! made, so that the places of the other members are final when they are read.

use std::collections::{BTreeMap, HashMap};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;
use whimbrel_model::HostName;

use super::Ranking;
use crate::api::{DEFAULT_ZONE, zones_of_hosts};
use crate::schema::{allocation, instance, server_group, server_group_member};
use crate::text::parse;
use crate::{Connection, DbError};

/// What is asked of the places of some servers.
#[derive(Default)]
pub(super) struct Rules {
    zones: HashMap<String, String>,
    wanted_zone: HashMap<Uuid, String>,
    group_of: HashMap<Uuid, Uuid>,
    groups: BTreeMap<Uuid, Group>,
}

struct Group {
    policy: String,
    most: usize,
    /// Hosts and the members that hold room on them.
    places: Vec<(HostName, Uuid)>,
}

impl Group {
    /// Other members on `host`.
    fn on(&self, host: &HostName, member: Uuid) -> usize {
        self.places.iter().filter(|(place, who)| place == host && *who != member).count()
    }
}

impl Rules {
    /// What is asked of the places of these servers. Locks their groups.
    pub(super) async fn of(c: &mut Connection, servers: &[Uuid]) -> Result<Self, DbError> {
        let rows: Vec<(Uuid, Option<String>, Option<Uuid>)> = instance::table
            .left_join(
                server_group_member::table.on(server_group_member::instance_id.eq(instance::id)),
            )
            .filter(instance::id.eq_any(servers))
            .filter(
                instance::availability_zone
                    .is_not_null()
                    .or(server_group_member::group_id.nullable().is_not_null()),
            )
            .select((
                instance::id,
                instance::availability_zone,
                server_group_member::group_id.nullable(),
            ))
            .load(c)
            .await
            .map_err(DbError::query("reading what is asked of places"))?;
        let mut rules = Self::default();
        for (server, zone, group) in rows {
            rules.wanted_zone.extend(zone.map(|zone| (server, zone)));
            rules.group_of.extend(group.map(|group| (server, group)));
        }
        if !rules.wanted_zone.is_empty() {
            rules.zones = zones_of_hosts(c).await?;
        }
        if !rules.group_of.is_empty() {
            rules.read_groups(c).await?;
        }
        Ok(rules)
    }

    async fn read_groups(&mut self, c: &mut Connection) -> Result<(), DbError> {
        let ids: Vec<Uuid> = self.group_of.values().copied().collect();
        let groups: Vec<(Uuid, String, Option<i32>)> = server_group::table
            .filter(server_group::id.eq_any(&ids))
            .order(server_group::id)
            .select((server_group::id, server_group::policy, server_group::max_server_per_host))
            .for_no_key_update()
            .load(c)
            .await
            .map_err(DbError::query("locking server groups"))?;
        for (id, policy, most) in groups {
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(1);
            self.groups.insert(id, Group { policy, most, places: Vec::new() });
        }
        let places: Vec<(Uuid, Uuid, String)> = allocation::table
            .inner_join(
                server_group_member::table
                    .on(server_group_member::instance_id.eq(allocation::instance_id)),
            )
            .filter(server_group_member::group_id.eq_any(&ids))
            .select((server_group_member::group_id, allocation::instance_id, allocation::host))
            .load(c)
            .await
            .map_err(DbError::query("reading places of server groups"))?;
        for (group, member, host) in places {
            let host = parse("allocation.host", &host)?;
            self.groups.entry(group).and_modify(|group| group.places.push((host, member)));
        }
        Ok(())
    }

    /// Takes out of a ranking what is against the rules for `server`, and puts first what soft ones prefer.
    pub(super) fn apply(&self, server: Uuid, ranking: &mut Ranking) {
        let mut kept = Vec::with_capacity(ranking.candidates.len());
        for host in ranking.candidates.drain(..) {
            match self.against(server, &host) {
                Some(reason) => ranking.refused.push((host, reason)),
                None => kept.push(host),
            }
        }
        if let Some(group) = self.group(server) {
            match group.policy.as_str() {
                "soft-anti-affinity" => kept.sort_by_key(|host| group.on(host, server)),
                "soft-affinity" => {
                    kept.sort_by_key(|host| std::cmp::Reverse(group.on(host, server)));
                }
                _ => {}
            }
        }
        ranking.candidates = kept;
    }

    /// A server has got its place: later ones of the same batch see it there.
    pub(super) fn placed(&mut self, server: Uuid, host: &HostName) {
        let group = self.group_of.get(&server);
        if let Some(group) = group.and_then(|group| self.groups.get_mut(group)) {
            group.places.push((host.clone(), server));
        }
    }

    fn group(&self, server: Uuid) -> Option<&Group> {
        self.groups.get(self.group_of.get(&server)?)
    }

    fn against(&self, server: Uuid, host: &HostName) -> Option<String> {
        if let Some(wanted) = self.wanted_zone.get(&server) {
            let zone = self.zones.get(host.as_str()).map_or(DEFAULT_ZONE, String::as_str);
            if zone != wanted {
                return Some(format!("it is in availability zone {zone}, {wanted} was asked for"));
            }
        }
        let group = self.group(server)?;
        let here = group.on(host, server);
        let others = group.places.iter().any(|(_, member)| *member != server);
        match group.policy.as_str() {
            "anti-affinity" if here >= group.most => {
                Some("it has as many servers of the group as may be on one host".to_owned())
            }
            "affinity" if here == 0 && others => {
                Some("the other servers of the group are elsewhere".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    /// Servers 1 and 2 are in a group of this policy; 1 is on `a`.
    fn rules(policy: &str, most: usize) -> Rules {
        let mut rules = Rules::default();
        rules.group_of.extend([(id(1), id(9)), (id(2), id(9))]);
        let group = Group { policy: policy.to_owned(), most, places: vec![(host("a"), id(1))] };
        rules.groups.insert(id(9), group);
        rules
    }

    fn order(rules: &Rules, server: u128) -> Vec<String> {
        let candidates = vec![host("b"), host("a")];
        let mut ranking = Ranking { candidates, refused: Vec::new() };
        rules.apply(id(server), &mut ranking);
        assert_eq!(ranking.candidates.len() + ranking.refused.len(), 2);
        ranking.candidates.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_policy_has_its_order() {
        assert_eq!(order(&rules("anti-affinity", 1), 2), ["b"]);
        assert_eq!(order(&rules("anti-affinity", 2), 2), ["b", "a"]);
        assert_eq!(order(&rules("affinity", 1), 2), ["a"]);
        assert_eq!(order(&rules("soft-affinity", 1), 2), ["a", "b"]);
        assert_eq!(order(&rules("soft-anti-affinity", 1), 2), ["b", "a"]);
        // Its own place binds nobody, and no other server is concerned.
        assert_eq!(order(&rules("affinity", 1), 1), ["b", "a"]);
        assert_eq!(order(&rules("anti-affinity", 1), 3), ["b", "a"]);
    }

    #[test]
    fn what_one_batch_places_binds_the_rest_of_it() {
        let mut rules = rules("anti-affinity", 1);
        rules.placed(id(2), &host("b"));
        rules.group_of.insert(id(3), id(9));
        assert_eq!(order(&rules, 3), Vec::<String>::new());
    }

    #[test]
    fn a_server_stays_in_the_zone_that_was_asked_for() {
        let mut rules = Rules::default();
        rules.zones.insert("a".to_owned(), "north".to_owned());
        rules.wanted_zone.extend([(id(1), "north".to_owned()), (id(2), DEFAULT_ZONE.to_owned())]);
        assert_eq!(order(&rules, 1), ["a"]);
        assert_eq!(order(&rules, 2), ["b"]);
        assert_eq!(order(&rules, 3), ["b", "a"]);
    }
}
