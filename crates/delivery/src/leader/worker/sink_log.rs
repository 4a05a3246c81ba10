//! Log lines about the state of a sink.

use fanfare_model::PartitionId;

use crate::{judgement::Outage, subscription::Subscription};

/// One line for each change of the sink's state, by the subscription whose attempt caused it.
pub(super) fn transition(
    subscription: &Subscription,
    partition: PartitionId,
    before: Option<Outage>,
    after: Option<Outage>,
) {
    if before == after {
        return;
    }
    let locked = subscription.lock();
    let (pending, cause) = (locked.machine.counters().pending(), locked.machine.last_failure());
    let subscription = subscription.id;
    match after {
        Some(Outage::Down) => {
            tracing::warn!(%subscription, %partition, pending, cause, "sink is down; holding its events and probing");
        }
        Some(Outage::RejectsEverything) => {
            tracing::warn!(%subscription, %partition, pending, cause, "sink rejects everything; holding its events and probing");
        }
        Some(Outage::Throttled) => {
            tracing::debug!(%subscription, %partition, pending, cause, "sink asks for a slower pace; sending less");
        }
        None if before == Some(Outage::Throttled) => {
            tracing::debug!(%subscription, %partition, pending, "sink takes events again");
        }
        None => {
            tracing::info!(%subscription, %partition, pending, "sink is up; delivering again, slowly at first");
        }
    }
}
