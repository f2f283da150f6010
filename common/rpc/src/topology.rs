//! Exchanges and queues: who declares what.
//!
//! Arguments of a queue can never be changed, so there is only its type. Limits, time to live and
//! dead-lettering by the broker are policies of the deployment (docs/operations.md).

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, ExchangeKind};
use whimbrel_model::HostName;

use crate::RpcError;
use crate::link::within;

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

impl Topology {
    pub(crate) async fn declare(&self, channel: &Channel) -> Result<(), RpcError> {
        let exchanges = [
            (exchange::COMMAND, ExchangeKind::Direct, true),
            (exchange::REPLY, ExchangeKind::Direct, true),
            (exchange::REPORT, ExchangeKind::Topic, true),
            (exchange::PROGRESS, ExchangeKind::Topic, false),
            (exchange::DEAD, ExchangeKind::Fanout, true),
        ];
        for (name, kind, durable) in exchanges {
            let options = ExchangeDeclareOptions { durable, ..ExchangeDeclareOptions::default() };
            let declared =
                channel.exchange_declare(name.into(), kind, options, FieldTable::default());
            within("declaring an exchange", declared).await?;
        }
        // All services make the shared queues, so that nothing that one sends before another's first
        // start is lost.
        durable(channel, queue::CONDUCTOR, exchange::COMMAND, queue::CONDUCTOR).await?;
        durable(channel, queue::SCHEDULER, exchange::COMMAND, queue::SCHEDULER).await?;
        durable(channel, queue::REPLY, exchange::REPLY, queue::REPLY).await?;
        durable(channel, queue::REPORT, exchange::REPORT, "report.#").await?;
        durable(channel, queue::DEAD, exchange::DEAD, "").await?;
        transient(channel, queue::PROGRESS, exchange::PROGRESS, "progress.#").await?;
        if let Self::Compute(host) = self {
            let name = format!("compute.{host}");
            durable(channel, &name, exchange::COMMAND, &name).await?;
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
    let bound = channel.queue_bind(
        name.into(),
        from.into(),
        key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    within("binding a queue", bound).await
}

/// Declares anew what a consumer of `name` needs, after the queue was deleted under it.
pub(crate) async fn redeclare(channel: &Channel, name: &str) -> Result<(), RpcError> {
    let topology = match name.strip_prefix("compute.").map(str::parse::<HostName>) {
        Some(Ok(host)) => Topology::Compute(host),
        _ => Topology::Api,
    };
    topology.declare(channel).await
}
