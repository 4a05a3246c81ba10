//! `fanfare subscription stats`: the account of every matched event.

use std::collections::BTreeMap;

use fanfare_proto::v1;
use serde_json::{Map, Value, json};

use crate::{
    command::Session,
    failure::Failure,
    output::{object, say},
};

pub(super) async fn run(id: String, session: &Session) -> Result<(), Failure> {
    let client = session.connect().await?;
    let attempted = format!("get the stats of subscription {id}");
    let request = client.request(v1::GetSubscriptionStatsRequest { id });
    let response = client.subscriptions().get_subscription_stats(request).await;
    let stats = response.map_err(|status| Failure::from_status(&attempted, &status))?.into_inner();
    session.output.fields(fields(&stats))?;
    if !session.output.is_json() {
        explain(&stats);
    }
    Ok(())
}

fn fields(stats: &v1::GetSubscriptionStatsResponse) -> Map<String, Value> {
    let partitions = stats.partitions.iter();
    let partitions: Vec<_> = partitions
        .map(|one| {
            json!({
                "partition": one.partition,
                "matched": one.matched,
                "pending": one.pending,
                "frontier": one.frontier,
            })
        })
        .collect();
    object(json!({
        "matched": stats.matched,
        "delivered": stats.delivered,
        "deadLettered": stats.dead_lettered,
        "expired": stats.expired,
        "cancelled": stats.cancelled,
        "pending": stats.pending,
        "reasons": stats.reasons.iter().collect::<BTreeMap<_, _>>(),
        "oldestPendingAgeMs": stats.oldest_pending_age_ms,
        "state": stats.state().as_str_name(),
        "parkedKeys": stats.parked_keys,
        "lastFailure": stats.last_failure,
        "partitions": partitions,
    }))
}

/// What a reader should do about it, if anything.
fn explain(stats: &v1::GetSubscriptionStatsResponse) {
    match stats.state() {
        v1::DeliveryState::SinkDown => {
            say("the sink is down: events are held, and it is probed until it answers; nothing is lost");
        }
        v1::DeliveryState::Paused => {
            say("deliveries are paused: `fanfare subscription resume` starts them again")
        }
        v1::DeliveryState::Unspecified | v1::DeliveryState::Active => {}
    }
    if stats.dead_lettered > 0 {
        say("some events were given up: `fanfare deadletter list` shows them");
    }
}
