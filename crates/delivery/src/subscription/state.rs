//! The state machine of one subscription in one partition. Pure: events and inputs come in, actions go out; no clock,
//! no randomness, no IO.
//!
//! ```text
//!            settled, or parked by key        window        read ahead      not read by the subscription
//!   ───────────────────────────────┬──────────────────────────┬─────────┬──────────────────► offsets
//!                             low_water                    read_to   backlog end       fan_out_offset
//! ```
//! `low_water <= read_to <= backlog end <= fan_out_offset`, and `frontier <= fan_out_offset <= high_watermark` of the
//! partition. A live subscription gets events from the fan-out, and `read_to` is the fan-out's offset. When the window
//! is full the subscription lags: `read_to` stays, and the subscription reads from the log by itself until it meets
//! the fan-out again.
//!
//! `matched = settled + pending` holds after every event.

use std::{collections::VecDeque, sync::Arc};

use fanfare_model::{KeyHash, Offset, SubscriptionId, Timestamp};
use fanfare_partition::{Attachment, Counters, CursorRecord, Outcome, Reason, SinkOutage};

use super::{
    InputValues,
    buffered_event::{AttemptItem, BufferedEvent, SchemaCheck},
    counters::ProgressCounters,
    dead_letter_queue::DeadLetterQueue,
    event::{Actions, CheckedEvent, Inputs, ReadAction, ReloadedEvent, ScannedKey, SubscriptionEvent},
    key_queue::KeyQueues,
    log_position::LogPosition,
    parked_keys::ParkedKeys,
    window::{Limits, Window},
};
use crate::{
    DeliveryOptions,
    judgement::{CircuitBreaker, Outage},
};

/// Pause after a failed read.
const READ_RETRY_MS: u64 = 1_000;

/// An event that may be attempted next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    Window(Offset),
    Parked(KeyHash),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Active,
    Paused,
    /// Deleted: nothing starts any more.
    Detached,
}

/// Failures that decide about later ones, or are shown.
#[derive(Default)]
pub(super) struct Failures {
    /// The last event that took the sink down.
    pub(super) last_outage: Option<LastOutage>,
    /// Empty if the last attempt succeeded.
    pub(super) last_failure: String,
    /// As replicated before this leader; until the sink is known.
    pub(super) restored_outage: Option<SinkOutage>,
    /// The sink's outage in the newest advance.
    pub(super) proposed_outage: Option<Outage>,
}

impl Failures {
    /// The sink's outage began or ended since the newest advance. Every subscription tells, also one that no attempt told:
    /// after a restart each may be the first to send.
    pub(super) fn is_unproposed(&self, breaker: &CircuitBreaker) -> bool {
        breaker.outage() != self.proposed_outage
    }

    /// The outage for an advance.
    pub(super) fn propose_outage(&mut self, inputs: &Inputs<'_>) -> Option<SinkOutage> {
        self.proposed_outage = inputs.breaker.outage();
        inputs.breaker.replicated(inputs.now_ms)
    }

    /// The sink's count of deliveries when this event was the last to take the sink down.
    pub(super) fn outage_at_deliveries(&self, offset: Offset) -> Option<u64> {
        self.last_outage.filter(|outage| outage.offset == offset).map(|outage| outage.deliveries)
    }

    fn on_sink_changed(&mut self, inputs: &mut Inputs<'_>) {
        self.last_outage = None;
        inputs.breaker.resume(self.restored_outage.take(), inputs.now_ms);
    }
}

#[derive(Clone, Copy)]
pub(super) struct LastOutage {
    pub(super) offset: Offset,
    /// The sink's count of deliveries by then.
    pub(super) deliveries: u64,
}

pub(crate) struct SubscriptionState {
    pub(super) id: SubscriptionId,
    pub(super) options: Arc<DeliveryOptions>,
    pub(super) counters: ProgressCounters,
    pub(super) window: Window,
    pub(super) key_queues: KeyQueues,
    pub(super) ready: VecDeque<Candidate>,
    pub(super) dead_letters: DeadLetterQueue,
    pub(super) parked_keys: ParkedKeys,
    pub(super) position: LogPosition,
    pub(super) failures: Failures,
    pub(super) mode: Mode,
    /// Retention wants everything below settled.
    pub(super) expire_below: Offset,
}

impl SubscriptionState {
    /// Continues from the replicated state.
    pub(crate) fn restore(
        options: Arc<DeliveryOptions>,
        attachment: &Attachment,
        counters: Counters,
        record: Option<CursorRecord>,
        values: InputValues,
    ) -> Self {
        let limits = Limits { events: options.window_events, bytes: options.window_bytes };
        let position = LogPosition::restore(attachment, record.as_ref(), values.fan_out_offset);
        let record = record.unwrap_or_default();
        Self {
            id: attachment.subscription,
            options,
            counters: ProgressCounters::restore(counters),
            window: Window::new(limits, record.window),
            key_queues: KeyQueues::default(),
            ready: VecDeque::new(),
            dead_letters: DeadLetterQueue::default(),
            parked_keys: ParkedKeys::restore(&record.parked, values.now_ms),
            position,
            failures: Failures { restored_outage: record.outage, ..Failures::default() },
            mode: Mode::Active,
            expire_below: Offset::ZERO,
        }
    }

    /// Takes an event into account. Only [`SubscriptionEvent::Tick`] and [`SubscriptionEvent::PermitGranted`] add work
    /// to `actions`: all others may come from tasks that run no actions.
    pub(crate) fn on(&mut self, event: SubscriptionEvent, inputs: &mut Inputs<'_>, actions: &mut Actions) {
        // A detached subscription still replicates the progress that was made before.
        if self.mode == Mode::Detached && !matches!(event, SubscriptionEvent::Advanced) {
            return;
        }
        actions.progressed |= event.is_progress();
        match event {
            SubscriptionEvent::Matched(event) => self.on_matched(event, inputs, actions),
            SubscriptionEvent::MatchedBehind(offset) => {
                self.counters.add_matched(u64::from(self.position.is_counted_by_fan_out(offset)));
            }
            SubscriptionEvent::PermitGranted(abilities) => self.start_attempt(abilities, inputs, actions),
            SubscriptionEvent::AttemptFinished { results, atomic: true } => {
                self.finish_atomic(results, inputs)
            }
            SubscriptionEvent::AttemptFinished { results, atomic: false } => self.finish(results, inputs),
            SubscriptionEvent::BacklogRead { events, end } => {
                self.position.read(events, end);
                self.admit_backlog(inputs);
            }
            SubscriptionEvent::EventsReloaded(events) => self.on_reloaded(events),
            SubscriptionEvent::KeysScanned(keys) => self.on_keys_scanned(keys, inputs),
            SubscriptionEvent::SchemasChecked(events) => self.on_checked(events),
            SubscriptionEvent::ReadFailed(read) => self.on_read_failed(&read, inputs.now_ms),
            SubscriptionEvent::DeadLetterWritten(request) => {
                self.settle(&request.item, Outcome::DeadLettered(request.reason), inputs.now_ms);
            }
            SubscriptionEvent::DeadLetterFailed { request, why } => {
                self.on_dead_letter_failed(request, why, inputs);
            }
            SubscriptionEvent::PauseChanged { paused } => {
                self.mode = if paused { Mode::Paused } else { Mode::Active };
                actions.run_worker |= !self.is_done();
            }
            SubscriptionEvent::SinkChanged => {
                self.failures.on_sink_changed(inputs);
                self.parked_keys.make_all_due(inputs.now_ms);
                actions.run_worker |= !self.is_done();
            }
            SubscriptionEvent::ExpireBelow(below) => {
                self.expire_below = self.expire_below.max(below);
                actions.run_worker = true;
            }
            SubscriptionEvent::Detached => {
                self.mode = Mode::Detached;
                actions.run_worker = true;
            }
            SubscriptionEvent::Advanced => {
                self.window.release(self.counters.applied());
                actions.run_worker |= self.mode != Mode::Detached && !self.is_done();
            }
            SubscriptionEvent::Tick => self.tick(inputs, actions),
        }
    }

    /// The fan-out has to hand the event over: [`SubscriptionEvent::Matched`], else
    /// [`SubscriptionEvent::MatchedBehind`].
    pub(crate) fn takes(&self, offset: Offset) -> bool {
        self.position.takes(offset)
    }

    pub(crate) fn is_detached(&self) -> bool {
        self.mode == Mode::Detached
    }

    pub(crate) fn last_failure(&self) -> &str {
        &self.failures.last_failure
    }

    pub(crate) fn parked_keys(&self) -> usize {
        self.parked_keys.len()
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters.live()
    }

    /// Events in flight to the sink or to the dead letters.
    pub(crate) fn busy(&self) -> usize {
        self.window.busy() + self.parked_keys.busy()
    }

    /// The subscription reads the log by itself.
    pub(crate) fn is_lagging(&self) -> bool {
        !self.position.is_live()
    }

    /// Offsets up to the fan-out that the subscription has not read.
    pub(crate) fn lag(&self, fan_out_offset: Offset) -> u64 {
        fan_out_offset.since(self.position.read_to(fan_out_offset))
    }

    /// Nothing is unsettled, nothing is left to replicate.
    pub(crate) fn is_done(&self) -> bool {
        let settled = self.counters.pending() == 0
            && self.counters.is_replicated()
            && self.window.settled_unreplicated() == 0;
        settled && self.position.is_live() && !self.position.needs_join() && self.busy() == 0
    }

    /// First offset below the fan-out that is unsettled or may be.
    pub(crate) fn low_water(&self) -> Option<Offset> {
        let window = self.window.unsettled().next().map(|event| event.offset);
        let unloaded = self.window.unloaded().first().map(|event| event.offset);
        [window, unloaded, self.parked_keys.low_water(), self.position.lagging_at()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Append time of the oldest unsettled event, as far as known without reading.
    pub(crate) fn oldest_append_time(&self) -> Option<Timestamp> {
        if self.counters.pending() == 0 {
            return None;
        }
        let window = self.window.unsettled().next().map(|event| event.append_time);
        let unloaded = self.window.unloaded().iter().find_map(|event| event.append_time);
        [window, unloaded, self.parked_keys.oldest_append_time(), self.position.oldest_append_time()]
            .into_iter()
            .flatten()
            .min()
    }

    fn on_matched(&mut self, event: BufferedEvent, inputs: &Inputs<'_>, actions: &mut Actions) {
        assert!(
            self.position.takes(event.offset) && event.offset < inputs.fan_out_offset,
            "invariant violation: the fan-out at {} hands over event {}, which the subscription does not take",
            inputs.fan_out_offset,
            event.offset
        );
        self.counters.add_matched(1);
        let (offset, append_time) = (event.offset, event.append_time);
        if self.offer(event, inputs).is_err() {
            self.position.lag_from(offset, append_time);
        }
        actions.run_worker = true;
    }

    /// Takes the event into the window or, if its key is parked, counts the event there; returns it if there is no
    /// room.
    fn offer(&mut self, event: BufferedEvent, inputs: &Inputs<'_>) -> Result<(), BufferedEvent> {
        if self.parked_keys.update(event.key, |parked| parked.pending += 1).is_some() {
            return Ok(());
        }
        let has_room = self.window.has_room(event.bytes.len(), self.parked_keys.busy());
        if !has_room || !self.window.unloaded().is_empty() || self.is_held(inputs) {
            return Err(event);
        }
        self.admit(event);
        Ok(())
    }

    fn admit(&mut self, event: BufferedEvent) {
        let (key, offset) = (event.key, event.offset);
        self.window.admit(event);
        if self.key_queues.enter(key, offset) {
            self.take_turn(offset);
        }
    }

    /// The event is the first of its key in the window: it is a candidate once its schema is checked.
    pub(super) fn take_turn(&mut self, offset: Offset) {
        if self.window.takes_turn(offset) {
            self.ready.push_back(Candidate::Window(offset));
        }
    }

    /// Moves events read ahead into the window, as far as there is room, and joins the fan-out.
    pub(super) fn admit_backlog(&mut self, inputs: &Inputs<'_>) {
        while let Some(event) = self.position.next_read_ahead() {
            let counts = self.position.counts_itself(event.offset);
            if let Err(event) = self.offer(event, inputs) {
                self.position.return_read_ahead(event);
                return;
            }
            self.counters.add_matched(u64::from(counts));
        }
        self.position.join_at(inputs.fan_out_offset);
    }

    /// Nothing can be attempted for so long that no event is worth keeping in memory.
    pub(super) fn is_held(&self, inputs: &Inputs<'_>) -> bool {
        (self.mode != Mode::Active || inputs.breaker.is_held(inputs.now_ms)) && !self.expires()
    }

    /// Retention wants an unsettled event settled.
    pub(super) fn expires(&self) -> bool {
        self.expire_below > Offset::ZERO && self.low_water().is_some_and(|oldest| oldest < self.expire_below)
    }

    fn on_reloaded(&mut self, events: Vec<ReloadedEvent>) {
        let unloaded = self.window.unloaded();
        assert!(
            events.len() == unloaded.len()
                && events.iter().zip(unloaded).all(|(event, unloaded)| event.offset == unloaded.offset),
            "invariant violation: other events were reloaded than the window's"
        );
        self.window.reloaded();
        for reloaded in events {
            match reloaded.event {
                Some(event) => self.admit(event),
                None => {
                    self.counters.add_settled(Outcome::Cancelled(Reason::Unreadable), 1);
                    self.window.note_settled_outside_window();
                }
            }
        }
    }

    fn on_keys_scanned(&mut self, keys: Vec<ScannedKey>, inputs: &Inputs<'_>) {
        let read_to = self.position.read_to(inputs.fan_out_offset);
        let retry_at_ms = inputs.now_ms + READ_RETRY_MS;
        for scanned in keys {
            if let Some(lost) = self.parked_keys.scanned(scanned, read_to, retry_at_ms) {
                // The log lost the remaining events of the key: they are settled, or the key would be parked forever.
                self.counters.add_settled(Outcome::Cancelled(Reason::Unreadable), lost);
            }
        }
    }

    fn on_checked(&mut self, events: Vec<CheckedEvent>) {
        for CheckedEvent { offset, schema } in events {
            debug_assert!(!matches!(schema, SchemaCheck::Unchecked(_)));
            if self.window.set_checked(offset, schema) {
                self.ready.push_back(Candidate::Window(offset));
            }
        }
    }

    fn on_read_failed(&mut self, read: &ReadAction, now_ms: u64) {
        let retry_at_ms = now_ms + READ_RETRY_MS;
        match read {
            ReadAction::Reload(_) => {
                self.window.reload_failed();
                self.position.delay_reads(retry_at_ms);
            }
            ReadAction::Backlog { .. } => self.position.read_failed(retry_at_ms),
            ReadAction::ScanKeys { keys, .. } => {
                for scan in keys {
                    self.parked_keys.update(scan.key, |parked| parked.read_failed(retry_at_ms));
                }
            }
        }
    }

    /// Settles an event of the window or the first of a parked key.
    pub(super) fn settle(&mut self, item: &AttemptItem, outcome: Outcome, now_ms: u64) {
        let BufferedEvent { offset, key, .. } = item.event;
        if item.parked {
            if !self.parked_keys.settle(key, offset, now_ms) {
                return;
            }
            self.window.note_settled_outside_window();
        } else {
            if !self.window.settle(offset) {
                return;
            }
            if let Some(next) = self.key_queues.leave(key) {
                self.take_turn(next);
            }
        }
        self.counters.add_settled(outcome, 1);
    }
}

#[cfg(test)]
pub(crate) mod tests;
