//! `fanfare subscription stats`: the account of every matched event.

use std::collections::BTreeMap;

use fanfare_proto::v1;

use crate::{failure::Failure, output::OutputFields, session::Session, terminal::say};

pub(super) async fn run(id: String, session: &Session) -> Result<(), Failure> {
    let attempted = format!("get the stats of subscription {id}");
    let request = v1::GetSubscriptionStatsRequest { id };
    let stats = session
        .call(&attempted, async |client| {
            client.subscriptions().get_subscription_stats(client.request(request)).await
        })
        .await?;
    session.output.fields(fields(&stats))?;
    if !session.output.is_json() {
        explain(&stats);
    }
    Ok(())
}

fn fields(stats: &v1::GetSubscriptionStatsResponse) -> OutputFields {
    let partitions = stats.partitions.iter();
    let partitions: Vec<_> = partitions
        .map(|one| {
            OutputFields::new()
                .with("partition", &one.partition)
                .with("matched", &one.matched)
                .with("pending", &one.pending)
                .with("frontier", &one.frontier)
        })
        .collect();
    OutputFields::new()
        .with("matched", &stats.matched)
        .with("delivered", &stats.delivered)
        .with("deadLettered", &stats.dead_lettered)
        .with("expired", &stats.expired)
        .with("cancelled", &stats.cancelled)
        .with("pending", &stats.pending)
        .with("reasons", &stats.reasons.iter().collect::<BTreeMap<_, _>>())
        .with("oldestPendingAgeMs", &stats.oldest_pending_age_ms)
        .with("state", &stats.state().as_str_name())
        .with("parkedKeys", &stats.parked_keys)
        .with("lastFailure", &stats.last_failure)
        .with("partitions", &partitions)
}

/// Advice for the reader, if there is anything to do.
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
