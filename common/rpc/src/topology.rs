//! Exchanges and queues: who declares what.
//!
//! Arguments of a queue can never be changed, so there is only its type. Limits, time to live and
//! dead-lettering by the broker are policies of the deployment (docs/operations.md).

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, ExchangeKind};
use whimbrel_model::HostName;

use crate::RpcError;
use crate::link::{Link, within};

/// Exchanges.
pub mod exchange {
    /// Direct, durable: requests; the routing key is the queue's name.
    pub const COMMAND: &str = "whimbrel.command";
    /// Direct, durable: answers.
    pub const REPLY: &str = "whimbrel.reply";
    /// Topic, durable: reports of hosts.
    pub const REPORT: &str = "whimbrel.report";
    /// Topic: how far migrations have come.
    pub const PROGRESS: &str = "whimbrel.progress";
    /// Fanout, durable: messages that nobody could read.
    pub const DEAD: &str = "whimbrel.dead";
}

/// Queues that all replicas of a service share.
pub mod queue {
    /// Hints that a saga has something to do.
    pub const CONDUCTOR: &str = "conductor";
    /// Answers.
    pub const REPLY: &str = "conductor.reply";
    /// Reports of hosts.
    pub const REPORT: &str = "conductor.report";
    /// How far migrations have come.
    pub const PROGRESS: &str = "conductor.progress";
    /// Requests for a host.
    pub const SCHEDULER: &str = "scheduler";
    /// Messages that nobody could read.
    pub const DEAD: &str = "dead";
}

/// A service, as far as its queues go.
#[derive(Clone, Debug)]
pub enum Topology {
    /// The HTTP API.
    Api,
    /// A conductor.
    Conductor,
    /// A scheduler.
    Scheduler,
    /// The compute service of a host.
    Compute(HostName),
}

/// Name, kind, and whether it outlives the broker.
pub(crate) const EXCHANGES: [(&str, ExchangeKind, bool); 5] = [
    (exchange::COMMAND, ExchangeKind::Direct, true),
    (exchange::REPLY, ExchangeKind::Direct, true),
    (exchange::REPORT, ExchangeKind::Topic, true),
    (exchange::PROGRESS, ExchangeKind::Topic, false),
    (exchange::DEAD, ExchangeKind::Fanout, true),
];

/// Queues that outlive the broker, of all services: name, exchange and routing key.
pub(crate) const SHARED: [(&str, &str, &str); 5] = [
    (queue::CONDUCTOR, exchange::COMMAND, queue::CONDUCTOR),
    (queue::SCHEDULER, exchange::COMMAND, queue::SCHEDULER),
    (queue::REPLY, exchange::REPLY, queue::REPLY),
    (queue::REPORT, exchange::REPORT, "report.#"),
    (queue::DEAD, exchange::DEAD, ""),
];

/// The queue of a host's compute service.
pub(crate) fn queue_of(host: &HostName) -> String {
    format!("compute.{host}")
}

impl Topology {
    /// Makes what is missing, or finds it there if we may not make it. Gives a channel that is good for more.
    pub(crate) async fn ensure(&self, link: &Link) -> Result<Channel, RpcError> {
        let channel = link.channel().await?;
        match self.declare(&channel).await {
            Ok(()) => Ok(channel),
            // An agent with a user of its own, for which all was made before; the refusal closed the channel.
            Err(error) if error.is_refusal() => {
                let another = link.channel().await?;
                self.check(&another).await?;
                Ok(another)
            }
            Err(error) => Err(error),
        }
    }

    async fn declare(&self, channel: &Channel) -> Result<(), RpcError> {
        for (name, kind, durable) in EXCHANGES {
            let options = ExchangeDeclareOptions { durable, ..ExchangeDeclareOptions::default() };
            let declared =
                channel.exchange_declare(name.into(), kind, options, FieldTable::default());
            within("declaring an exchange", declared).await?;
        }
        // All services make the shared queues, so that nothing that one sends before another's first
        // start is lost.
        for (name, from, key) in SHARED {
            durable(channel, name, from, key).await?;
        }
        transient(channel, queue::PROGRESS, exchange::PROGRESS, "progress.#").await?;
        if let Self::Compute(host) = self {
            let name = queue_of(host);
            durable(channel, &name, exchange::COMMAND, &name).await?;
        }
        Ok(())
    }

    /// Whether what outlives the broker is there, for a user who may not make it.
    async fn check(&self, channel: &Channel) -> Result<(), RpcError> {
        for (name, kind, durable) in EXCHANGES {
            if durable {
                let options = ExchangeDeclareOptions { passive: true, ..<_>::default() };
                let found =
                    channel.exchange_declare(name.into(), kind, options, FieldTable::default());
                within("looking for an exchange", found).await?;
            }
        }
        if let Self::Compute(host) = self {
            let options = QueueDeclareOptions { passive: true, ..<_>::default() };
            let name = queue_of(host);
            let found = channel.queue_declare(name.as_str().into(), options, FieldTable::default());
            within("looking for the queue of this host", found).await?;
        }
        Ok(())
    }
}

async fn durable(channel: &Channel, name: &str, from: &str, key: &str) -> Result<(), RpcError> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    declare(channel, name, options, arguments, from, key).await
}

async fn transient(channel: &Channel, name: &str, from: &str, key: &str) -> Result<(), RpcError> {
    declare(channel, name, QueueDeclareOptions::default(), FieldTable::default(), from, key).await
}

async fn declare(
    channel: &Channel,
    name: &str,
    options: QueueDeclareOptions,
    arguments: FieldTable,
    from: &str,
    key: &str,
) -> Result<(), RpcError> {
    within("declaring a queue", channel.queue_declare(name.into(), options, arguments)).await?;
    bind(channel, name, from, key).await
}

async fn bind(channel: &Channel, queue: &str, from: &str, key: &str) -> Result<(), RpcError> {
    let bound = channel.queue_bind(
        queue.into(),
        from.into(),
        key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    within("binding a queue", bound).await
}

/// Declares anew what a consumer of `name` needs, after the queue was deleted under it, on a new channel.
pub(crate) async fn redeclare(link: &Link, name: &str) -> Result<Channel, RpcError> {
    let topology = match name.strip_prefix("compute.").map(str::parse::<HostName>) {
        Some(Ok(host)) => Topology::Compute(host),
        _ => Topology::Api,
    };
    topology.ensure(link).await
}
