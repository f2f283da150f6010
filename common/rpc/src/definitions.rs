//! Definitions for the broker: a user for each compute agent, who can do nothing but an agent's work.
//!
//! ```text
//!   agent of host a ── reads ──▶ compute.a
//!                   ── writes ─▶ whimbrel.reply, whimbrel.dead,
//!                                whimbrel.report (key report.a), whimbrel.progress (key progress.a)
//! ```
//!
//! It may not bind: whoever may read the exchange of commands could bind its own queue to the key of another host and
//! get copies of what is asked of that. So its queue is made and bound here, not by the agent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lapin::ExchangeKind;
use rand::Rng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use whimbrel_model::HostName;

use crate::topology::{EXCHANGES, SHARED, exchange, queue_of};

/// The user of API, conductors and schedulers.
pub const CONTROL_USER: &str = "whimbrel-control";
/// All that they declare, write and read.
const CONTROLS: &str =
    r"^(whimbrel\.[a-z]+|conductor|conductor\.[a-z]+|scheduler|dead|compute\..+)$";
/// Matches no name.
const NOTHING: &str = "^$";

/// The agent of a host, as the broker is to know it.
#[derive(Clone)]
pub struct Agent {
    /// Its host.
    pub host: HostName,
    /// What it logs in with.
    pub password: String,
}

/// All that the broker is to know of one installation.
pub struct Definitions<'a> {
    /// The virtual host.
    pub vhost: &'a str,
    /// Password of [`CONTROL_USER`].
    pub control_password: &'a str,
    /// The agents.
    pub agents: &'a [Agent],
}

/// The user of a host's agent.
pub fn agent_user(host: &HostName) -> String {
    format!("whimbrel-compute-{host}")
}

impl Definitions<'_> {
    /// As `rabbitmqctl import_definitions` and the management API take them. Passwords are salted hashes in it.
    /// To import it again changes nothing but the passwords that are new.
    pub fn to_json(&self) -> Value {
        let vhost = self.vhost;
        let mut users = vec![user(CONTROL_USER, self.control_password)];
        let mut permissions = vec![self.permission(CONTROL_USER, CONTROLS, CONTROLS, CONTROLS)];
        let mut topics = Vec::new();
        let mut queues: Vec<Value> = SHARED.iter().map(|(name, ..)| self.queue(name)).collect();
        let mut bindings: Vec<Value> =
            SHARED.iter().map(|(name, from, key)| self.binding(name, from, key)).collect();
        for Agent { host, password } in self.agents {
            let (name, queue) = (agent_user(host), queue_of(host));
            users.push(user(&name, password));
            let writes = r"^whimbrel\.(reply|report|progress|dead)$";
            let reads = format!("^{}$", escape(&queue));
            permissions.push(self.permission(&name, NOTHING, writes, &reads));
            for (exchange, begin) in
                [(exchange::REPORT, "report"), (exchange::PROGRESS, "progress")]
            {
                topics.push(json!({
                    "user": name, "vhost": vhost, "exchange": exchange,
                    "write": format!(r"^{begin}\.{}$", escape(host.as_str())), "read": NOTHING,
                }));
            }
            queues.push(self.queue(&queue));
            bindings.push(self.binding(&queue, exchange::COMMAND, &queue));
        }
        // What does not outlive the broker is made by conductors.
        let exchanges = EXCHANGES.into_iter().filter(|(.., durable)| *durable);
        let exchanges = exchanges.map(|(name, kind, durable)| {
            json!({
                "name": name, "vhost": vhost, "type": kind_name(&kind), "durable": durable,
                "auto_delete": false, "internal": false, "arguments": {},
            })
        });
        json!({
            "vhosts": [{ "name": vhost }],
            "users": users,
            "permissions": permissions,
            "topic_permissions": topics,
            "exchanges": exchanges.collect::<Vec<_>>(),
            "queues": queues,
            "bindings": bindings,
        })
    }

    fn permission(&self, user: &str, configure: &str, write: &str, read: &str) -> Value {
        json!({
            "user": user, "vhost": self.vhost, "configure": configure, "write": write, "read": read,
        })
    }

    fn queue(&self, name: &str) -> Value {
        json!({
            "name": name, "vhost": self.vhost, "durable": true, "auto_delete": false,
            "arguments": { "x-queue-type": "quorum" },
        })
    }

    fn binding(&self, queue: &str, from: &str, key: &str) -> Value {
        json!({
            "source": from, "vhost": self.vhost, "destination": queue,
            "destination_type": "queue", "routing_key": key, "arguments": {},
        })
    }
}

fn kind_name(kind: &ExchangeKind) -> &str {
    match kind {
        ExchangeKind::Custom(name) => name,
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Headers => "headers",
        ExchangeKind::Topic => "topic",
    }
}

fn user(name: &str, password: &str) -> Value {
    json!({
        "name": name, "password_hash": hash(password, rand::rng().random()),
        "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "",
    })
}

/// As the broker keeps passwords: the salt, then SHA-256 of salt and password.
fn hash(password: &str, salt: [u8; 4]) -> String {
    let digest = Sha256::new().chain_update(salt).chain_update(password).finalize();
    STANDARD.encode([salt.as_slice(), digest.as_slice()].concat())
}

/// A pattern for just this text; of what a host's name may hold, only the dot means more.
fn escape(text: &str) -> String {
    text.replace('.', r"\.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_in_a_hosts_name_matches_only_a_dot() {
        let agents = [Agent { host: "a.b".parse().unwrap(), password: "p".to_owned() }];
        let definitions = Definitions { vhost: "/", control_password: "c", agents: &agents };
        let made = definitions.to_json();
        assert_eq!(made["permissions"][1]["read"], r"^compute\.a\.b$");
        assert_eq!(made["topic_permissions"][0]["write"], r"^report\.a\.b$");
        assert!(!made.to_string().contains("\"p\""));
    }

    /// The example of the broker's documentation.
    #[test]
    fn passwords_are_hashed_as_the_broker_does() {
        let expected = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";
        assert_eq!(hash("test12", [0x90, 0x8d, 0xc6, 0x0a]), expected);
    }
}
