//! Against a real RabbitMQ: what is confirmed, returned, redelivered, and healed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use uuid::Uuid;
use whimbrel_messages::SagaHint;
use whimbrel_model::SagaId;
use whimbrel_rpc::{Amqp, AmqpConfig, Deliveries, Delivery, Outgoing, Published, Topology, queue};
use whimbrel_test_utils::{TestBroker, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

async fn connect(broker: &TestBroker) -> Amqp {
    let config = serde_json::from_value::<AmqpConfig>(serde_json::json!({ "url": broker.url() }));
    let amqp = Amqp::connect(&config.unwrap(), "test").await.unwrap();
    amqp.declare(Topology::Conductor).await.unwrap();
    amqp
}

fn hints(count: u128) -> Vec<Outgoing> {
    (0..count).map(|n| Outgoing::hint(&SagaHint { saga_id: SagaId(Uuid::from_u128(n)) })).collect()
}

fn number(delivery: &Delivery) -> u128 {
    serde_json::from_slice::<SagaHint>(&delivery.body).unwrap().saga_id.0.as_u128()
}

async fn next(deliveries: &mut Deliveries) -> Delivery {
    tokio::time::timeout(PATIENCE, deliveries.next()).await.expect("a message in time").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_queue_takes_is_confirmed_and_what_none_takes_is_returned() {
    let broker = TestBroker::create().await;
    let amqp = connect(&broker).await;
    let mut messages = hints(40);
    for message in messages.iter_mut().skip(1).step_by(2) {
        message.routing_key = "compute.nowhere".to_owned();
    }
    let published = amqp.publisher().publish_all(&messages).await;
    for (at, published) in published.into_iter().enumerate() {
        let expected = if at % 2 == 0 { Published::Confirmed } else { Published::Returned };
        assert_eq!(published, expected, "message {at}");
    }
    amqp.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_what_has_arrived_and_no_more_than_was_asked_for() {
    let broker = TestBroker::create().await;
    let amqp = connect(&broker).await;
    let published = amqp.publisher().publish_all(&hints(100)).await;
    assert_eq!(published, [Published::Confirmed; 100]);
    let mut deliveries = amqp.consume(queue::CONDUCTOR, 200).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let batch =
            tokio::time::timeout(PATIENCE, deliveries.next_batch(64)).await.unwrap().unwrap();
        assert!((1..=64).contains(&batch.len()));
        seen.extend(batch.iter().map(number));
        Delivery::ack_all(batch).await;
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    amqp.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_all_connections_are_closed_everything_goes_on_and_nothing_is_lost() {
    let broker = TestBroker::create().await;
    let amqp = connect(&broker).await;
    let mut deliveries = amqp.consume(queue::CONDUCTOR, 10).await.unwrap();
    assert_eq!(amqp.publisher().publish_all(&hints(2)).await, [Published::Confirmed; 2]);
    let first = next(&mut deliveries).await;
    first.ack().await;
    let held = next(&mut deliveries).await;
    assert_eq!(number(&held), 1);
    // The broker lists connections only after a while.
    wait_until("both connections to be closed", PATIENCE, async || {
        broker.close_connections().await.unwrap() >= 2
    })
    .await;
    // What was not acknowledged comes again, on a connection that was built anew.
    let again = next(&mut deliveries).await;
    assert_eq!(number(&again), 1);
    assert!(again.redelivered);
    again.ack().await;
    wait_until("publishing to work again", PATIENCE, async || {
        amqp.publisher().publish_all(&hints(1)).await == [Published::Confirmed]
    })
    .await;
    assert_eq!(number(&next(&mut deliveries).await), 0);
    assert!(amqp.is_ready());
    amqp.close().await;
    assert!(deliveries.next().await.is_none(), "closed by ourselves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_deleted_under_its_consumer_is_made_again() {
    let broker = TestBroker::create().await;
    let amqp = connect(&broker).await;
    let mut deliveries = amqp.consume(queue::CONDUCTOR, 10).await.unwrap();
    broker.delete_queue(queue::CONDUCTOR).await.unwrap();
    let publisher = amqp.publisher();
    let sender = tokio::spawn(async move {
        // Returned until the consumer has made its queue again.
        wait_until("the queue to be there", PATIENCE, async || {
            publisher.publish_all(&hints(1)).await == [Published::Confirmed]
        })
        .await;
    });
    assert_eq!(number(&next(&mut deliveries).await), 0);
    sender.await.unwrap();
    amqp.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_can_t_be_read_goes_to_the_dead_letters_with_its_reason() {
    let broker = TestBroker::create().await;
    let amqp = connect(&broker).await;
    let mut message = hints(1);
    message[0].body = b"?".to_vec();
    assert_eq!(amqp.publisher().publish_all(&message).await, [Published::Confirmed]);
    let mut deliveries = amqp.consume(queue::CONDUCTOR, 10).await.unwrap();
    next(&mut deliveries).await.dead_letter("not a hint").await;
    let mut dead = amqp.consume(queue::DEAD, 10).await.unwrap();
    let letter = next(&mut dead).await;
    assert_eq!(letter.death(), ("conductor".to_owned(), "not a hint".to_owned()));
    assert_eq!(letter.body, b"?");
    letter.ack().await;
    amqp.close().await;
}
