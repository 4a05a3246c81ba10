//! The state of subscriptions as people read it: since when, how much waits, and how long nothing is lost.

use fanfare_client::{Client, time};
use fanfare_proto::v1::{self, DeliveryState};
use jiff::Timestamp;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::subscribed_types;
use crate::{
    age::{millis_until, relative, span},
    output::{OutputFields, OutputRecord},
};

/// Calls for stats at once.
const CALLS_MAX: usize = 8;

/// A subscription and the outcomes of its events.
pub(crate) struct SubscriptionHealth {
    pub(crate) subscription: v1::Subscription,
    /// The reason why they are not known, if they are not.
    pub(crate) stats: Result<v1::GetSubscriptionStatsResponse, Status>,
    /// Time of the answer.
    pub(crate) now: Timestamp,
}

/// The health of each of `subscriptions`, without those that were deleted meanwhile.
pub(crate) async fn collect(
    client: &Client,
    subscriptions: Vec<v1::Subscription>,
) -> Vec<SubscriptionHealth> {
    let mut calls = JoinSet::new();
    let mut answers = Vec::with_capacity(subscriptions.len());
    for (place, subscription) in subscriptions.into_iter().enumerate() {
        if calls.len() == CALLS_MAX {
            answers.extend(calls.join_next().await.and_then(Result::ok));
        }
        let client = client.clone();
        calls.spawn(async move {
            let request = client.request(v1::GetSubscriptionStatsRequest { id: subscription.id.clone() });
            let stats = client.subscriptions().get_subscription_stats(request).await;
            let stats = stats.map(tonic::Response::into_inner);
            (place, SubscriptionHealth { subscription, stats, now: Timestamp::now() })
        });
    }
    while let Some(answer) = calls.join_next().await {
        answers.extend(answer.ok());
    }
    answers.sort_unstable_by_key(|(place, _)| *place);
    let kept = answers.into_iter().map(|(_, health)| health);
    kept.filter(|health| !health.stats.as_ref().is_err_and(|status| status.code() == Code::NotFound))
        .collect()
}

impl SubscriptionHealth {
    pub(crate) fn state(&self) -> String {
        self.stats.as_ref().map_or_else(|_| "unknown".to_owned(), state)
    }

    /// Milliseconds until the oldest pending event exceeds the retention.
    pub(crate) fn until_loss(&self) -> Option<i64> {
        millis_until(self.stats.as_ref().ok()?.first_loss_time.as_ref(), self.now)
    }

    pub(crate) fn needs_attention(&self) -> bool {
        self.stats.as_ref().map_or(true, |stats| {
            stats.parked_keys > 0
                || !matches!(stats.state(), DeliveryState::Active | DeliveryState::Throttled)
        })
    }

    /// Since when, how much, how old, how long until the first loss.
    fn cells(&self) -> [String; 4] {
        let Ok(stats) = &self.stats else { return Default::default() };
        let since = millis_until(stats.failing_since_time.as_ref(), self.now);
        [
            since.map(relative).unwrap_or_default(),
            stats.pending.to_string(),
            stats.oldest_pending_age_ms.map(span).unwrap_or_default(),
            self.until_loss().map(relative).unwrap_or_default(),
        ]
    }

    fn last_failure(&self) -> String {
        match &self.stats {
            Ok(stats) => stats.last_failure.clone(),
            Err(status) => status.message().to_owned(),
        }
    }

    fn next_attempt(&self) -> String {
        let next = self.stats.as_ref().ok().and_then(|stats| stats.next_attempt_time.as_ref());
        let until = millis_until(next, self.now);
        until.map(|until| relative(until.max(0))).unwrap_or_default()
    }
}

/// A line of `subscription list`.
impl OutputRecord for SubscriptionHealth {
    const COLUMNS: &'static [&'static str] =
        &["ID", "SINK", "TYPES", "STATE", "SINCE", "PENDING", "OLDEST", "LOSS", "DESCRIPTION"];

    fn row(&self) -> Vec<String> {
        let Self { subscription, .. } = self;
        let mut row = vec![
            subscription.id.clone(),
            subscription.sink_id.clone(),
            subscribed_types(subscription),
            self.state(),
        ];
        row.extend(self.cells());
        row.push(subscription.description.clone());
        row
    }

    fn fields(&self) -> OutputFields {
        let fields = self.subscription.fields();
        match &self.stats {
            Ok(stats) => fields.with("stats", &super::stats::fields(stats)),
            Err(status) => fields.with("statsError", status.message()),
        }
    }
}

/// A line of `fanfare status`.
pub(crate) struct StatusLine(pub(crate) SubscriptionHealth);

impl OutputRecord for StatusLine {
    const COLUMNS: &'static [&'static str] =
        &["SUBSCRIPTION", "STATE", "SINCE", "PENDING", "OLDEST", "LOSS", "NEXT TRY", "LAST FAILURE"];

    fn row(&self) -> Vec<String> {
        let Self(health) = self;
        let mut row = vec![health.subscription.id.clone(), health.state()];
        row.extend(health.cells());
        row.extend([health.next_attempt(), health.last_failure()]);
        row
    }

    fn fields(&self) -> OutputFields {
        self.0.fields()
    }
}

/// The state in words.
pub(super) fn state(stats: &v1::GetSubscriptionStatsResponse) -> String {
    let word = match stats.state() {
        DeliveryState::Unspecified => "unknown",
        DeliveryState::Active if stats.pending == 0 => "idle",
        DeliveryState::Active => "delivering",
        DeliveryState::Paused => "paused",
        DeliveryState::SinkDown => "sink down",
        DeliveryState::RejectsEverything => "rejects everything",
        DeliveryState::Throttled => "throttled",
    };
    match stats.parked_keys {
        0 => word.to_owned(),
        1 => format!("{word}, 1 key held"),
        keys => format!("{word}, {keys} keys held"),
    }
}

/// How long nothing is lost, where something waits for a sink that may not come back.
pub(super) fn promise(stats: &v1::GetSubscriptionStatsResponse, now: Timestamp) -> String {
    let loss = stats.first_loss_time.as_ref();
    match millis_until(loss, now) {
        None => "nothing is pending".to_owned(),
        Some(..=0) => {
            "the oldest events exceed the retention: they become dead letters and leave the log".to_owned()
        }
        Some(until) => format!(
            "nothing is lost for {} (until {}), unless the log reaches storage.retention_bytes before",
            span(until.unsigned_abs()),
            time::text(loss)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(now: Timestamp, millis: i64) -> Option<prost_types::Timestamp> {
        let millis = now.as_millisecond() + millis;
        Some(prost_types::Timestamp { seconds: millis / 1000, nanos: 0 })
    }

    fn health(now: Timestamp, stats: v1::GetSubscriptionStatsResponse) -> SubscriptionHealth {
        let subscription = v1::Subscription { id: "DF1".to_owned(), ..Default::default() };
        SubscriptionHealth { subscription, stats: Ok(stats), now }
    }

    #[test]
    fn outage_is_told_with_its_age_and_the_time_to_the_first_loss() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let down = v1::GetSubscriptionStatsResponse {
            pending: 303,
            oldest_pending_age_ms: Some(1_200_000),
            state: DeliveryState::SinkDown.into(),
            parked_keys: 1,
            last_failure: "http_status 503".to_owned(),
            failing_since_time: at(now, -300_000),
            next_attempt_time: at(now, 12_000),
            first_loss_time: at(now, 13_200_000),
            ..Default::default()
        };
        let line = StatusLine(health(now, down.clone()));
        assert!(line.0.needs_attention());
        let expected = [
            "DF1",
            "sink down, 1 key held",
            "5m 0s ago",
            "303",
            "20m 0s",
            "in 3h 40m",
            "in 12s",
            "http_status 503",
        ];
        assert_eq!(line.row(), expected);
        assert!(
            promise(&down, now).starts_with("nothing is lost for 3h 40m (until 2023-"),
            "{}",
            promise(&down, now)
        );
        let late = v1::GetSubscriptionStatsResponse { first_loss_time: at(now, -1000), ..down };
        assert!(promise(&late, now).contains("exceed the retention"));
    }

    #[test]
    fn quiet_subscription_needs_no_attention() {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let quiet =
            v1::GetSubscriptionStatsResponse { state: DeliveryState::Active.into(), ..Default::default() };
        let line = StatusLine(health(now, quiet));
        assert!(!line.0.needs_attention());
        assert_eq!(line.row(), ["DF1", "idle", "", "0", "", "", "", ""]);
        let unknown = SubscriptionHealth { stats: Err(Status::unavailable("no leader")), ..line.0 };
        assert_eq!((unknown.state(), unknown.needs_attention()), ("unknown".to_owned(), true));
    }
}
