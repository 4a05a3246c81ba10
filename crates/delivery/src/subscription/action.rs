//! Choice of the actions besides attempts: reading, checking, and writing dead letters.

use fanfare_partition::{Outcome, Reason};

use super::{
    buffered_event::{BufferedEvent, DeadLetterRequest},
    event::{Action, Actions, DeadLetterFailure, Inputs, ReadAction},
    parked_keys::{DueKeys, GivenUp, Permissions, Phase},
    state::{Candidate, Mode, SubscriptionState},
};
use crate::{backoff::probe_delay_ms, judgement::Allowed};

/// Events of parked keys that one sweep reads.
const SWEEP_BYTES_MAX: usize = 1 << 20;
/// A failed write of a dead letter is repeated as a probe is that has failed so often.
const DEAD_LETTER_BACKOFF: u32 = 2;

impl SubscriptionState {
    /// Adds everything that may start now, and the time of the next tick.
    pub(super) fn tick(&mut self, inputs: &Inputs<'_>, actions: &mut Actions) {
        for request in self.dead_letters.take_due(inputs.now_ms) {
            self.window.set_busy(request.item.event.offset, true);
            actions.work.push(Action::WriteDeadLetter(request));
        }
        if self.is_held(inputs) {
            self.unload();
        }
        // Retention does not wait for the next try of a delayed event.
        let due = self.window.take_due(inputs.now_ms, self.expire_below);
        self.ready.extend(due.into_iter().map(Candidate::Window));
        // Before the window fills again: a parked event takes up room, too.
        self.promote_parked(inputs, actions);
        self.admit_backlog(inputs);
        if self.expires() {
            self.give_up_expired();
        }
        self.write_dead_letters(actions);
        let unchecked = self.window.take_unchecked();
        if !unchecked.is_empty() {
            actions.work.push(Action::CheckSchemas(unchecked));
        }
        if inputs.now_ms >= self.position.read_retry_at_ms() && !self.is_held(inputs) {
            actions.work.extend(self.next_read(inputs).map(Action::Read));
        }
        actions.wake_at_ms = self.wake_at_ms(inputs);
        actions.progressed |= self.has_unproposed_changes() || self.failures.is_unproposed(inputs.breaker);
    }

    pub(super) fn write_dead_letters(&mut self, actions: &mut Actions) {
        while let Some(request) = self.dead_letters.pop() {
            actions.work.push(Action::WriteDeadLetter(request));
        }
    }

    /// The dead letter could not be written: the event is held until it can. An event that retention overtakes is not
    /// held over quota, which would keep the log from being trimmed, nor for want of disk space, as trimming alone may
    /// free some.
    pub(super) fn on_dead_letter_failed(
        &mut self,
        request: DeadLetterRequest,
        why: DeadLetterFailure,
        inputs: &Inputs<'_>,
    ) {
        let BufferedEvent { offset, key, .. } = request.item.event;
        let is_overtaken = request.reason == Reason::Retention || offset < self.expire_below;
        if let Some(reason) = why.reason_to_expire().filter(|_| is_overtaken) {
            self.settle(&request.item, Outcome::Expired(reason), inputs.now_ms);
            return;
        }
        let delay_ms = probe_delay_ms(inputs.retry, DEAD_LETTER_BACKOFF, None, inputs.random);
        let retry_at_ms = inputs.now_ms + delay_ms;
        if !request.item.parked {
            // The key is not parked: later events of the key may be settled already, and a parked key has none such.
            if self.window.get(offset).is_some() {
                self.window.set_busy(offset, false);
                self.dead_letters.delay(request, retry_at_ms);
            }
            return;
        }
        let DeadLetterRequest { item, reason, detail, .. } = request;
        self.parked_keys.update(key, |parked| {
            if parked.from != offset {
                return;
            }
            (parked.phase, parked.retry_at_ms) = (Phase::Waiting, retry_at_ms);
            parked.given_up = Some(GivenUp { reason, detail });
            if parked.buffer.front().is_none_or(|first| first.offset != offset) {
                parked.scanned_to = parked.scanned_to.max(offset.plus(1));
                parked.buffer.push_front(item.event);
            }
        });
    }

    fn wake_at_ms(&self, inputs: &Inputs<'_>) -> Option<u64> {
        let deadlines = [
            self.parked_keys.deadline(inputs.now_ms),
            self.window.retry_at_ms(),
            self.dead_letters.retry_at_ms(),
            inputs.breaker.allowed(inputs.now_ms).until_ms(),
            Some(self.position.read_retry_at_ms()),
        ];
        deadlines.into_iter().flatten().filter(|&deadline_ms| deadline_ms > inputs.now_ms).min()
    }

    fn next_read(&mut self, inputs: &Inputs<'_>) -> Option<ReadAction> {
        if !self.window.unloaded().is_empty() {
            return self.window.start_reload().map(ReadAction::Reload);
        }
        if !self.window.has_room(0, self.parked_keys.busy()) {
            return None;
        }
        let from = self.position.start_read(inputs.fan_out_offset)?;
        Some(ReadAction::Backlog { from, end: inputs.fan_out_offset })
    }

    /// Makes the first events of parked keys that are due candidates, or reads them.
    fn promote_parked(&mut self, inputs: &Inputs<'_>, actions: &mut Actions) {
        let may_attempt = self.mode == Mode::Active
            && !matches!(inputs.breaker.allowed(inputs.now_ms), Allowed::Nothing { .. });
        let outside = self.parked_keys.busy() + self.window.unloaded().len();
        let permissions = Permissions {
            now_ms: inputs.now_ms,
            read_retry_at_ms: self.position.read_retry_at_ms(),
            expire_below: self.expire_below,
            attempts: if may_attempt { self.window.room(outside) } else { 0 },
            buffered_bytes_max: self.options.window_bytes,
        };
        let DueKeys { candidates, sweep } = self.parked_keys.take_due(&permissions);
        for key in candidates {
            match self.parked_keys.given_up(key) {
                Some(GivenUp { reason, detail }) => self.give_up(Candidate::Parked(key), reason, detail),
                None => self.ready.push_back(Candidate::Parked(key)),
            }
        }
        if !sweep.is_empty() {
            let end = self.position.read_to(inputs.fan_out_offset);
            let room = self.options.window_bytes.saturating_sub(self.parked_keys.buffered_bytes());
            let scan = ReadAction::ScanKeys { keys: sweep, end, bytes_max: room.min(SWEEP_BYTES_MAX) };
            actions.work.push(Action::Read(scan));
        }
    }

    fn give_up_expired(&mut self) {
        for candidate in std::mem::take(&mut self.ready) {
            match self.candidate_event(candidate).map(|event| event.offset) {
                Some(offset) if offset < self.expire_below => {
                    self.give_up(candidate, Reason::Retention, "retention came before delivery".to_owned());
                }
                Some(_) => self.ready.push_back(candidate),
                None => {}
            }
        }
    }

    fn give_up(&mut self, candidate: Candidate, reason: Reason, detail: String) {
        if let Some(item) = self.begin(candidate) {
            self.refuse(item, reason, detail);
        }
    }

    /// Forgets the bytes of waiting events, if nothing is in flight.
    fn unload(&mut self) {
        if self.window.busy() > 0 || self.window.is_reloading() {
            return;
        }
        self.position.drop_read_ahead();
        self.parked_keys.drop_buffers();
        if self.window.unload() {
            self.key_queues.clear();
            // The events of delayed dead letters are attempted again.
            self.dead_letters.drop_delayed();
            self.ready.retain(|candidate| matches!(candidate, Candidate::Parked(_)));
        }
    }
}
