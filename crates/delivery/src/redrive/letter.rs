//! Attempts for one letter: by the permits and the circuit breaker of its subscription's sink, until the letter is taken or
//! stays.

use std::{sync::Arc, time::Duration};

use fanfare_model::{Event, Subscription};
use fanfare_partition::{LeaderLease, Redrive};
use fanfare_sinks::{Delivery, Failure, Outcome};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::retry_delay_ms,
    context::DeliveryContext,
    dead_letters::StoredLetter,
    filter::{Filter, FilterRecord},
    judgement::{Allowed, AttemptTicket, History, KeySource, Pause, Verdict, judge},
    sink_pool::OpenSink,
};

/// Attempts for a letter that fails alone while others are delivered, without `delivery.attempts_max`.
const ATTEMPTS_MAX: u32 = 10;
/// Pause while nothing can be attempted and nobody tells when that ends.
const PAUSE: Duration = Duration::from_millis(500);

/// Fate of a letter.
pub(super) enum LetterFate {
    Delivered,
    /// The reason, for people.
    Stays(String),
    /// The redrive was stopped before.
    Unsettled,
}

/// The sender of one redrive's letters.
pub(super) struct LetterSender<'a> {
    pub(super) context: &'a DeliveryContext,
    pub(super) redrive: &'a Redrive,
    pub(super) lease: Option<LeaderLease>,
    pub(super) stop: &'a CancellationToken,
}

/// Earlier attempts for one letter.
#[derive(Default)]
struct EarlierFailures {
    /// Those that count.
    attempts: u32,
    at_deliveries: Option<u64>,
}

impl LetterSender<'_> {
    pub(super) async fn send(&self, stored: &StoredLetter) -> LetterFate {
        let mut failures = EarlierFailures::default();
        while !self.stop.is_cancelled() {
            let Some(delivery) = self.delivery(stored) else {
                self.pause(PAUSE).await;
                continue;
            };
            let (open, delivery) = match delivery {
                Ok(Sendable { open, delivery }) => (open, delivery),
                Err(why) => return LetterFate::Stays(why),
            };
            let Some(attempted) = self.attempt(&open, delivery).await else { continue };
            match self.settle(stored, &open, attempted, &mut failures).await {
                LetterFate::Unsettled => {}
                fate => return fate,
            }
        }
        LetterFate::Unsettled
    }

    /// The letter's delivery to the sink of its subscription as configured now. None while nothing is to be sent; the error
    /// is why the letter must not be sent.
    fn delivery(&self, stored: &StoredLetter) -> Option<Result<Sendable, String>> {
        let view = self.context.catalog.view();
        let account = view.account(self.redrive.start.account)?;
        let subscription: &Arc<Subscription> = account.subscriptions.get(&self.redrive.start.subscription)?;
        if subscription.paused || self.context.draining.is_cancelled() {
            return None;
        }
        let open = self.context.sinks.get(account.sinks.get(&subscription.sink)?);
        let abilities = open.sink.as_ref().ok()?.abilities();
        let letter = &stored.letter;
        if letter.event.len() > abilities.event_bytes_max {
            let (size, size_max) = (letter.event.len(), abilities.event_bytes_max);
            return Some(Err(format!("the event has {size} bytes, the sink takes {size_max}")));
        }
        let filter = Filter::new(&FilterRecord::of(subscription), account, &self.context.schemas);
        let event_type = Event::type_of(&letter.event).unwrap_or_default();
        let pin = filter.match_type(event_type).flatten();
        let dataschema = match pin.map(|pin| pin.check(&letter.event)).transpose() {
            Ok(dataschema) => dataschema.flatten(),
            Err(why) => return Some(Err(why)),
        };
        let delivery = Delivery {
            bytes: letter.event.clone(),
            offset: letter.offset,
            partition: letter.partition,
            key: stored.key,
            append_time: letter.append_time,
            dataschema,
        };
        Some(Ok(Sendable { open, delivery }))
    }

    /// One attempt, when permit, breaker and lease allow. None if they do not by now.
    async fn attempt(&self, open: &Arc<OpenSink>, delivery: Delivery) -> Option<Attempted> {
        let mut changes = open.breaker.watch();
        let allowed = open.breaker.lock().allowed(self.context.now_ms());
        if let Allowed::Nothing { until_ms } = allowed {
            let until = until_ms.map_or_else(|| Instant::now() + PAUSE, |at| self.context.instant_of(at));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                changed = changes.changed() => drop(changed),
                () = sleep_until(until) => {}
            }
            return None;
        }
        let permit = tokio::select! {
            biased;
            () = self.stop.cancelled() => return None,
            permit = open.permits.clone().acquire_owned() => permit.ok()?,
        };
        // Right before the attempt: past its lease, another leader may be sending the same letters.
        if !self.lease.as_ref().is_some_and(LeaderLease::is_valid) {
            drop(permit);
            self.pause(PAUSE).await;
            return None;
        }
        let probe = {
            let mut breaker = open.breaker.lock();
            let now_ms = self.context.now_ms();
            if matches!(breaker.allowed(now_ms), Allowed::Nothing { .. }) {
                return None;
            }
            breaker.start_attempt(now_ms)
        };
        let ticket = open.breaker.clone().ticket(probe);
        let sink = open.sink.as_ref().ok()?;
        let outcome = sink.attempt(vec![delivery]).await.pop();
        drop(permit);
        let outcome = outcome.unwrap_or_else(|| Outcome::Retry {
            after: None,
            why: Failure::new("sink", "the sink gave no outcome"),
        });
        Some(Attempted { outcome, ticket })
    }

    /// [`LetterFate::Unsettled`] after the pause before the next attempt.
    async fn settle(
        &self,
        stored: &StoredLetter,
        open: &OpenSink,
        attempted: Attempted,
        failures: &mut EarlierFailures,
    ) -> LetterFate {
        // The ticket is dropped after the verdict is recorded: a probe that failed would be repeated at once.
        let Attempted { outcome, ticket } = attempted;
        let source = KeySource { subscription: self.redrive.start.subscription, key: stored.key };
        let why = match &outcome {
            Outcome::Delivered => {
                open.breaker.lock().record(&Verdict::Deliver, source, self.context.now_ms());
                return LetterFate::Delivered;
            }
            // It was refused before: that says nothing about the sink.
            Outcome::Rejected { why } => return LetterFate::Stays(why.to_string()),
            Outcome::Retry { why, .. } | Outcome::Throttled { why, .. } | Outcome::SinkDown { why, .. } => {
                why.to_string()
            }
        };
        let (now_ms, random) =
            (self.context.now_ms(), stored.key.0 ^ self.context.seed ^ self.context.now_ms());
        let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let retry = &open.retry;
        let pause = |after| Pause { now_ms, retry, after, random };
        let delay_ms = {
            let mut breaker = open.breaker.lock();
            let history = History {
                source,
                now_ms,
                is_down: breaker.is_down(),
                deliveries: breaker.deliveries(),
                streak: breaker.streak(),
                failed_at_deliveries: failures.at_deliveries,
                outage_at_deliveries: failures.at_deliveries,
                rejections: None,
                has_other_keys: true,
            };
            let was_down = breaker.is_down();
            let verdict = judge(&history, &outcome, retry);
            breaker.record(&verdict, history.source, now_ms);
            failures.at_deliveries = Some(history.deliveries);
            match verdict {
                Verdict::Retry { after, suspect } => {
                    failures.attempts += u32::from(!suspect);
                    retry_delay_ms(retry, failures.attempts.max(1), after, random)
                }
                Verdict::Throttle { after } => {
                    pause(after).throttle(&mut breaker);
                    0
                }
                Verdict::SinkDown { after, told } => {
                    if told || was_down {
                        pause(after).trip(&mut breaker);
                    } else {
                        breaker.trip(now_ms, |_| 0);
                    }
                    0
                }
                Verdict::Deliver | Verdict::Reject | Verdict::HoldRejected { .. } => 0,
            }
        };
        drop(ticket);
        if failures.attempts >= retry.attempts_max.unwrap_or(ATTEMPTS_MAX) {
            return LetterFate::Stays(why);
        }
        self.pause(Duration::from_millis(delay_ms)).await;
        LetterFate::Unsettled
    }

    async fn pause(&self, pause: Duration) {
        self.stop.run_until_cancelled(sleep(pause)).await;
    }
}

/// An attempt that ended and is not judged yet.
struct Attempted {
    outcome: Outcome,
    ticket: AttemptTicket,
}

/// A delivery and the sink it goes to.
struct Sendable {
    open: Arc<OpenSink>,
    delivery: Delivery,
}
