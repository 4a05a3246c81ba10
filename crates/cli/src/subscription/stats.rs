//! `fanfare subscription stats`: the account of every matched event.

use std::collections::BTreeMap;

use fanfare_client::time;
use fanfare_proto::v1;
use jiff::Timestamp;

use super::health::{promise, state};
use crate::{
    age::{millis_until, relative, span},
    failure::Failure,
    output::OutputFields,
    session::Session,
    terminal::say,
};

pub(super) async fn run(id: String, session: &Session) -> Result<(), Failure> {
    let stats = get(&id, session).await?;
    if session.output.is_json() {
        return session.output.fields(fields(&stats));
    }
    let now = Timestamp::now();
    session.output.fields(fields_for_people(&stats, now))?;
    explain(&id, &stats, now);
    Ok(())
}

/// The stats of the subscription `id`.
pub(super) async fn get(id: &str, session: &Session) -> Result<v1::GetSubscriptionStatsResponse, Failure> {
    let attempted = format!("get the stats of subscription {id}");
    let request = v1::GetSubscriptionStatsRequest { id: id.to_owned() };
    session
        .call(&attempted, async |client| {
            client.subscriptions().get_subscription_stats(client.request(request)).await
        })
        .await
}

/// All fields, as programs read them.
pub(super) fn fields(stats: &v1::GetSubscriptionStatsResponse) -> OutputFields {
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
    counts(stats)
        .with("oldestPendingAgeMs", &stats.oldest_pending_age_ms)
        .with("state", &stats.state().as_str_name())
        .with("parkedKeys", &stats.parked_keys)
        .with("lastFailure", &stats.last_failure)
        .with("failingSinceTime", &time::text(stats.failing_since_time.as_ref()))
        .with("nextAttemptTime", &time::text(stats.next_attempt_time.as_ref()))
        .with("firstLossTime", &time::text(stats.first_loss_time.as_ref()))
        .with("partitions", &partitions)
}

fn counts(stats: &v1::GetSubscriptionStatsResponse) -> OutputFields {
    OutputFields::new()
        .with("matched", &stats.matched)
        .with("delivered", &stats.delivered)
        .with("deadLettered", &stats.dead_lettered)
        .with("redriven", &stats.redriven)
        .with("purged", &stats.purged)
        .with("expired", &stats.expired)
        .with("cancelled", &stats.cancelled)
        .with("pending", &stats.pending)
        .with("reasons", &stats.reasons.iter().collect::<BTreeMap<_, _>>())
}

fn fields_for_people(stats: &v1::GetSubscriptionStatsResponse, now: Timestamp) -> OutputFields {
    let with_age = |time: Option<&prost_types::Timestamp>| match millis_until(time, now) {
        Some(millis) => format!("{} ({})", time::text(time), relative(millis)),
        None => String::new(),
    };
    let partitions = stats.partitions.iter().map(|one| {
        format!(
            "{}: {} of {} pending, matched below {}",
            one.partition, one.pending, one.matched, one.frontier
        )
    });
    counts(stats)
        .with("state", &state(stats))
        .with("failing since", &with_age(stats.failing_since_time.as_ref()))
        .with("last failure", &stats.last_failure)
        .with("next attempt", &with_age(stats.next_attempt_time.as_ref()))
        .with("oldest pending", &stats.oldest_pending_age_ms.map(span).unwrap_or_default())
        .with("first loss", &with_age(stats.first_loss_time.as_ref()))
        .with("partitions", &partitions.collect::<Vec<_>>().join("; "))
}

/// Advice for the reader, if there is anything to do.
fn explain(id: &str, stats: &v1::GetSubscriptionStatsResponse, now: Timestamp) {
    match stats.state() {
        v1::DeliveryState::SinkDown => {
            say(&format!(
                "the sink is down: events are held, and it is probed until it answers; {}\n\
                 if it moved or its secret changed: fanfare sink update",
                promise(stats, now)
            ));
        }
        v1::DeliveryState::RejectsEverything => {
            say(&format!(
                "the sink rejects everything: events are held, and it is probed until it takes one; {}",
                promise(stats, now)
            ));
        }
        v1::DeliveryState::Throttled => say("the sink asks for a slower pace, and gets it"),
        v1::DeliveryState::Paused => {
            say(&format!(
                "deliveries are paused: `fanfare subscription resume {id}` starts them again; {}",
                promise(stats, now)
            ));
        }
        v1::DeliveryState::Unspecified | v1::DeliveryState::Active => {}
    }
    if stats.dead_lettered > 0 {
        say(&format!("some events were given up: `fanfare deadletter list --subscription {id}` shows them"));
    }
}
