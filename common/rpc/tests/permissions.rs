//! What a compute agent's own user may do at a real broker, and what somebody who has stolen its password may not.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use lapin::{Connection, ConnectionProperties};
use serde_json::json;
use uuid::Uuid;
use whimbrel_messages::Peer;
use whimbrel_model::HostName;
use whimbrel_rpc::{
    Agent, Amqp, AmqpConfig, CONTROL_USER, Definitions, Outgoing, Published, Topology, agent_user,
    exchange, queue,
};
use whimbrel_test_utils::TestBroker;

const PATIENCE: Duration = Duration::from_secs(20);

/// A broker that was set up as operators do, for two hosts.
struct Provisioned {
    broker: TestBroker,
    hosts: [HostName; 2],
}

impl Provisioned {
    async fn new() -> Self {
        let broker = TestBroker::create().await;
        // Users belong to the whole broker, which other tests share.
        let tag = Uuid::new_v4().simple().to_string();
        let hosts = ["a", "b"].map(|name| format!("{name}.{tag}").parse::<HostName>().unwrap());
        let agents = hosts.clone().map(|host| Agent { host, password: "secret".to_owned() });
        let vhost = broker.vhost();
        let definitions = Definitions { vhost, control_password: "control", agents: &agents };
        // As an operator would, who adds a host later: a second time changes nothing.
        for _ in 0..2 {
            let url = format!("{}/api/definitions", broker.management_url());
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let sent = client.post(url).json(&definitions.to_json()).send().await.unwrap();
            let status = sent.status();
            assert!(status.is_success(), "{status}: {}", sent.text().await.unwrap());
        }
        Self { broker, hosts }
    }

    fn url(&self, user: &str, password: &str) -> String {
        let url = self.broker.url();
        let (scheme, rest) = url.split_once("://").unwrap();
        format!("{scheme}://{user}:{password}@{}", rest.split_once('@').unwrap().1)
    }

    async fn connect(&self, user: &str, password: &str) -> Amqp {
        let url = self.url(user, password);
        let config = serde_json::from_value::<AmqpConfig>(json!({ "url": url })).unwrap();
        Amqp::connect(&config, user).await.unwrap()
    }

    async fn agent(&self, host: &HostName) -> Amqp {
        let amqp = self.connect(&agent_user(host), "secret").await;
        amqp.declare(Topology::Compute(host.clone())).await.unwrap();
        amqp
    }

    async fn control(&self) -> Amqp {
        let amqp = self.connect(CONTROL_USER, "control").await;
        amqp.declare(Topology::Conductor).await.unwrap();
        amqp
    }
}

fn message(exchange: &str, routing_key: &str) -> Outgoing {
    Outgoing {
        message_id: Uuid::new_v4(),
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        body: b"{}".to_vec(),
        mandatory: true,
        persistent: true,
        headers: Vec::new(),
        expiration_ms: None,
    }
}

async fn publish(amqp: &Amqp, exchange: &str, routing_key: &str) -> Published {
    amqp.publisher().publish_all(&[message(exchange, routing_key)]).await.remove(0)
}

fn queue_of(host: &HostName) -> String {
    Peer::Compute(host.clone()).routing_key()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_with_a_user_of_its_own_can_do_its_work() {
    let broker = Provisioned::new().await;
    let (control, host) = (broker.control().await, &broker.hosts[0]);
    let agent = broker.agent(host).await;
    let mut commands = agent.consume(&queue_of(host), 1).await.unwrap();
    assert_eq!(publish(&control, exchange::COMMAND, &queue_of(host)).await, Published::Confirmed);
    let command = tokio::time::timeout(PATIENCE, commands.next()).await.unwrap().unwrap();
    command.ack().await;
    for (exchange, key) in [
        (exchange::REPLY, queue::REPLY.to_owned()),
        (exchange::REPORT, format!("report.{host}")),
        (exchange::PROGRESS, format!("progress.{host}")),
        (exchange::DEAD, String::new()),
    ] {
        assert_eq!(publish(&agent, exchange, &key).await, Published::Confirmed, "{exchange}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_agent_can_not_command_another_host_or_speak_for_it() {
    let broker = Provisioned::new().await;
    let control = broker.control().await;
    let (thief, other) = (broker.agent(&broker.hosts[0]).await, &broker.hosts[1]);
    let victim = broker.agent(other).await;
    let mut commands = victim.consume(&queue_of(other), 1).await.unwrap();
    for (exchange, key) in [
        (exchange::COMMAND, queue_of(other)),
        (exchange::COMMAND, queue_of(&broker.hosts[0])),
        (exchange::COMMAND, queue::CONDUCTOR.to_owned()),
        (exchange::COMMAND, queue::SCHEDULER.to_owned()),
        // The exchange without a name, from which every queue can be reached.
        ("", queue_of(other)),
        (exchange::REPORT, format!("report.{other}")),
        (exchange::PROGRESS, format!("progress.{other}")),
    ] {
        let published = publish(&thief, exchange, &key).await;
        assert!(!matches!(published, Published::Confirmed), "'{exchange}' took {key}");
    }
    // What the victim gets first is what the control plane says, so nothing of the above came before.
    let order = message(exchange::COMMAND, &queue_of(other));
    let order = Outgoing { body: b"{\"true\":1}".to_vec(), ..order };
    assert_eq!(control.publisher().publish_all(&[order]).await, [Published::Confirmed]);
    let first = tokio::time::timeout(PATIENCE, commands.next()).await.unwrap().unwrap();
    assert_eq!(first.body, b"{\"true\":1}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_agent_can_not_read_what_is_for_others() {
    let broker = Provisioned::new().await;
    let _control = broker.control().await;
    let _agents = (broker.agent(&broker.hosts[0]).await, broker.agent(&broker.hosts[1]).await);
    // By hand: a thief does not use our client.
    let url = broker.url(&agent_user(&broker.hosts[0]), "secret");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let others = [queue::CONDUCTOR, queue::SCHEDULER, queue::REPLY, queue::REPORT, queue::DEAD];
    let others = others.map(str::to_owned).into_iter();
    for name in others.chain([queue_of(&broker.hosts[1])]) {
        let channel = connection.create_channel().await.unwrap();
        let got = channel.basic_get(name.as_str().into(), <_>::default()).await;
        assert_refused(&got.unwrap_err());
        let channel = connection.create_channel().await.unwrap();
        let options = (<_>::default(), <_>::default());
        let consumer = channel.basic_consume(name.into(), "".into(), options.0, options.1).await;
        assert_refused(&consumer.err().unwrap());
    }
    // Nor can it have its own queue get copies.
    for (exchange, key) in [
        (exchange::COMMAND, queue_of(&broker.hosts[1])),
        (exchange::REPLY, queue::REPLY.to_owned()),
    ] {
        let channel = connection.create_channel().await.unwrap();
        let own = queue_of(&broker.hosts[0]);
        let bound = channel
            .queue_bind(own.into(), exchange.into(), key.into(), <_>::default(), <_>::default())
            .await;
        assert_refused(&bound.unwrap_err());
    }
}

fn assert_refused(error: &lapin::Error) {
    assert!(error.to_string().contains("ACCESS_REFUSED"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_queue_nobody_made_says_so() {
    let broker = Provisioned::new().await;
    let amqp = broker.connect(&agent_user(&broker.hosts[0]), "secret").await;
    let unknown = Topology::Compute("unknown".parse().unwrap());
    let declared = tokio::time::timeout(Duration::from_secs(2), amqp.declare(unknown)).await;
    // It is waited for, as a queue may come with the operator's next import.
    assert!(!matches!(declared, Ok(Ok(()))));
}
