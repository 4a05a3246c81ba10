//! One subscription's cursor as the state machine keeps it: changed in place, with the sums and the order that the checks
//! of an advance and of a trim ask for. No question costs more for a cursor of many parked keys.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_model::{KeyHash, Offset};

use crate::{CodecError, CursorRecord, ParkedKey, RecordChange, Refusal, SinkOutage};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CursorLedger {
    read_to: Offset,
    window: Vec<Offset>,
    parked: BTreeMap<KeyHash, ParkedKey>,
    by_from: BTreeSet<(Offset, KeyHash)>,
    /// Pending events of the parked keys.
    parked_events: u64,
    outage: Option<SinkOutage>,
}

impl CursorLedger {
    pub(crate) fn read_to(&self) -> Offset {
        self.read_to
    }

    /// Pending events that the record names: those of the window and of parked keys.
    pub(crate) fn named_events(&self) -> u64 {
        (self.window.len() as u64).saturating_add(self.parked_events)
    }

    /// The oldest offset that the record names; None if it names none.
    pub(crate) fn first_named(&self) -> Option<Offset> {
        let parked = self.by_from.first().map(|(from, _)| *from);
        self.window.first().copied().into_iter().chain(parked).min()
    }

    /// [`Self::named_events`] after the change.
    ///
    /// # Errors
    /// If the change releases a key that is not parked or that it parks, or names more events than there can be.
    pub(crate) fn named_events_after(&self, change: &RecordChange) -> Result<u64, Refusal> {
        let mut parked_events = self.parked_events;
        for key in &change.released {
            let is_parked_anew = change.parked.binary_search_by_key(key, |parked| parked.key).is_ok();
            let Some(before) = self.parked.get(key).filter(|_| !is_parked_anew) else {
                return Err(Refusal::Accounting);
            };
            parked_events = parked_events.checked_sub(before.pending).ok_or(Refusal::Accounting)?;
        }
        for parked in &change.parked {
            let before = self.parked.get(&parked.key).map_or(0, |before| before.pending);
            parked_events = parked_events
                .checked_sub(before)
                .and_then(|events| events.checked_add(parked.pending))
                .ok_or(Refusal::Accounting)?;
        }
        parked_events.checked_add(change.window.len() as u64).ok_or(Refusal::Accounting)
    }

    /// Makes a change that was checked.
    pub(crate) fn change(&mut self, read_to: Offset, change: RecordChange) {
        self.read_to = read_to;
        self.window = change.window;
        self.outage = change.outage;
        for key in change.released {
            self.take(key);
        }
        for parked in change.parked {
            self.take(parked.key);
            self.put(parked);
        }
    }

    pub(crate) fn record(&self) -> CursorRecord {
        CursorRecord {
            read_to: self.read_to,
            window: self.window.clone(),
            parked: self.parked.values().copied().collect(),
            outage: self.outage,
        }
    }

    /// The ledger of a record from a checkpoint.
    pub(crate) fn restored(record: CursorRecord) -> Result<Self, CodecError> {
        let CursorRecord { read_to, window, parked, outage } = record;
        if !parked.is_sorted_by(|one, other| one.key < other.key) {
            return Err(CodecError::Value("order of parked keys"));
        }
        let events = parked.iter().try_fold(0_u64, |sum, parked| sum.checked_add(parked.pending));
        events.ok_or(CodecError::Value("pending events of parked keys"))?;
        let mut restored = Self { read_to, window, outage, ..Self::default() };
        parked.into_iter().for_each(|parked| restored.put(parked));
        Ok(restored)
    }

    fn put(&mut self, parked: ParkedKey) {
        self.by_from.insert((parked.from, parked.key));
        self.parked_events += parked.pending;
        self.parked.insert(parked.key, parked);
    }

    fn take(&mut self, key: KeyHash) {
        if let Some(parked) = self.parked.remove(&key) {
            self.by_from.remove(&(parked.from, key));
            self.parked_events -= parked.pending;
        }
    }
}
