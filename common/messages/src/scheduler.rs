//! What schedulers are asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use whimbrel_model::{HostName, InstanceId, MigrationId, Resources};

use crate::Rpc;

/// Choose a host and claim room on it, in one transaction.
///
/// With a `migration_id` this is a move: what the instance holds at its host goes over to the migration,
/// and the claim at the destination is the instance's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SelectDestinations {
    /// The guest.
    pub instance_id: InstanceId,
    /// The move it is for; none for a new guest.
    pub migration_id: Option<MigrationId>,
    /// What the guest takes.
    pub resources: Resources,
    /// Where the guest is now, when it moves: never chosen, and the destination's hypervisor must be
    /// able to take over from it.
    pub source: Option<HostName>,
    /// The only host that may be chosen, if somebody asked for one.
    pub requested_host: Option<HostName>,
    /// Hosts that were tried in earlier rounds.
    pub excluded: Vec<HostName>,
}

/// The choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SelectDestinationsReply {
    /// The host that now has room set aside.
    pub host: HostName,
}

impl Rpc for SelectDestinations {
    const METHOD: &'static str = "select_destinations";
    type Reply = SelectDestinationsReply;
}
