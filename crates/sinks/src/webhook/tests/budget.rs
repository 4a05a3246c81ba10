//! Connections of an account are bounded; a request over the bound waits, and no event is at fault.

use fanfare_model::AccountId;

use super::*;
use crate::egress::{ConnectionLimits, EgressBudget};

const NEIGHBOUR: AccountId = AccountId::from_bytes([2; 16]);

fn one_connection_each() -> EgressBudget {
    let limits = ConnectionLimits { connections_max: 4, account_connections_max: 1 };
    EgressBudget::new(limits, Environment::system())
}

fn sink_of(account: AccountId, budget: &EgressBudget, url: &str) -> Arc<Webhook> {
    let policy = Arc::new(dev());
    let connector = Connector::without_roots(policy.clone(), budget.of(account));
    Arc::new(webhook(&config(url), &policy, connector))
}

/// A server that accepts one connection and never answers.
async fn hanging(budget: &EgressBudget) -> (tokio::net::TcpStream, AbortOnDropHandle<Outcome>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sink = sink_of(fixture::ACCOUNT, budget, &format!("http://{}/", listener.local_addr().unwrap()));
    let attempt = TaskTracker::new().spawn(async move { attempt_one(&sink).await });
    let (stream, _) = listener.accept().await.unwrap();
    (stream, AbortOnDropHandle::new(attempt))
}

#[tokio::test]
async fn request_over_the_budget_waits_and_delays_no_other_account() {
    let budget = one_connection_each();
    let (stream, attempt) = hanging(&budget).await;
    let receiver = Receiver::answering(200).await;
    let sink = sink_of(fixture::ACCOUNT, &budget, &receiver.url());
    let waiting = TaskTracker::new().spawn(async move { attempt_one(&sink).await });
    while !budget.of(fixture::ACCOUNT).is_awaited() {
        tokio::task::yield_now().await;
    }
    let neighbour = sink_of(NEIGHBOUR, &budget, &receiver.url());
    assert_eq!(attempt_one(&neighbour).await, Outcome::Delivered);
    assert!(!waiting.is_finished());
    drop(stream);
    assert_eq!(why(&attempt.await.unwrap()).class, Failure::CONNECTION_LOST);
    assert_eq!(waiting.await.unwrap(), Outcome::Delivered);
}

#[tokio::test]
async fn wait_for_a_connection_has_an_end_that_blames_no_event() {
    let budget = one_connection_each().with_wait_max(Duration::from_millis(1));
    let _hanging = hanging(&budget).await;
    let receiver = Receiver::answering(200).await;
    let outcome = attempt_one(&sink_of(fixture::ACCOUNT, &budget, &receiver.url())).await;
    assert!(matches!(outcome, Outcome::SinkDown { .. }), "{outcome:?}");
    assert_eq!(why(&outcome).class, Failure::CONNECTION_BUDGET);
    assert_eq!(receiver.connections(), 0);
}
