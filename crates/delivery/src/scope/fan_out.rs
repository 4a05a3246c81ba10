//! Reads each entry once and hands what a subscription chose to it. Never waits for one.

use fanfare_model::Event;
use fanfare_partition::{ReadChunk, StoredBatch, StoredEvent};

use super::Scope;
use crate::{in_flight::Held, index::ByType, task::ensure_running};

impl Scope {
    pub(super) fn fan_out(&mut self, chunk: &ReadChunk) {
        let front = self.ground.front();
        if chunk.next <= front {
            return;
        }
        self.ground.claim(chunk.next);
        for batch in &chunk.batches {
            if let Some(by_type) = self.index.account(batch.account) {
                self.hand_over(batch, by_type);
            }
        }
    }

    fn hand_over(&self, batch: &StoredBatch, by_type: &ByType) {
        let moment = self.ground.moment();
        for event in batch.events() {
            let Ok(parsed) = Event::parse(&event.bytes) else { continue };
            let Some(targets) = by_type.get(parsed.event_type) else { continue };
            for target in targets.iter().filter(|target| target.span.contains(&event.offset)) {
                let StoredEvent { offset, append_time, header, ref bytes } = event;
                let (bytes, pin) = (bytes.clone(), target.pin.clone());
                let held = Held { offset, key: header.key, append_time, bytes, pin };
                let mut state = target.cell.lock();
                let wanted = state.flight.matched(held, moment);
                if wanted {
                    ensure_running(&self.ground, &target.cell, &mut state.running);
                }
                self.ground.touch(&target.cell, &mut state);
            }
        }
    }
}
