//! The redrives of a partition, and the dead letters that left the list.
//!
//! A dead letter leaves the list by its offset, and its bytes stay in the log until retention trims them. Offsets are kept
//! as ranges, so that a purge of everything takes little memory.

use std::{collections::BTreeMap, ops::Range};

use fanfare_codec::{Reader, Writer};
use fanfare_log::FrameHeader;
use fanfare_model::{AccountId, Offset, RedriveId, SubscriptionId, Timestamp};

use super::Reply;
use crate::{
    CodecError, Redrive, RedriveKind, RedriveProgress, RedriveState, Refusal, StartRedrive, Withdrawals,
    command::{RedriveCommand, decode_start, encode_start},
};

/// Redrives that are kept, running or ended. Those that ended first are forgotten first.
const REDRIVES_MAX: usize = 1_000;
/// Redrives of one account that run at once.
const RUNNING_MAX: usize = 100;
/// Subscriptions whose numbers are kept.
const COUNTED_MAX: usize = 10_000;
const FILTER_BYTES_MAX: usize = 32 << 10;
const FAILURE_BYTES_MAX: usize = 256;
/// Dead letters that one command withdraws.
const WITHDRAWN_MAX: usize = 4_096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Redrives {
    redrives: BTreeMap<RedriveId, Redrive>,
    /// Start and exclusive end of ranges that do not touch.
    withdrawn: BTreeMap<Offset, Offset>,
    counts: BTreeMap<SubscriptionId, Withdrawals>,
}

impl Redrives {
    /// `retained` are the offsets in the log.
    pub(super) fn execute(
        &mut self,
        command: RedriveCommand,
        header: &FrameHeader,
        retained: Range<Offset>,
    ) -> Reply {
        let now = Timestamp(header.time_ms);
        match command {
            RedriveCommand::Start(start) => {
                Reply::Redrive(self.start(start, now, retained.start, retained.end))
            }
            RedriveCommand::Advance { term, .. } if term != header.position.term => {
                Reply::RedriveAdvanced(Err(Refusal::Term))
            }
            RedriveCommand::Advance { progress, .. } => Reply::RedriveAdvanced(self.advance(progress, now)),
            RedriveCommand::Cancel { id, account } => Reply::Redrive(self.cancel(id, account, now)),
        }
    }

    /// A repeat of a start changes nothing.
    fn start(
        &mut self,
        start: StartRedrive,
        now: Timestamp,
        position: Offset,
        end: Offset,
    ) -> Result<Redrive, Refusal> {
        if let Some(known) = self.redrives.get(&start.id) {
            return if known.start == start { Ok(known.clone()) } else { Err(Refusal::Redrive) };
        }
        if start.filter.len() > FILTER_BYTES_MAX {
            return Err(Refusal::Filter);
        }
        let running = || self.running().filter(|redrive| redrive.start.account == start.account);
        let is_busy = running().any(|redrive| redrive.start.subscription == start.subscription);
        if is_busy || running().count() >= RUNNING_MAX || !self.make_room() {
            return Err(Refusal::Redrive);
        }
        let state = if position < end { RedriveState::Running } else { RedriveState::Done };
        let redrive = Redrive {
            state,
            created: now,
            updated: now,
            position,
            end,
            withdrawn: 0,
            stayed: 0,
            last_failure: String::new(),
            start,
        };
        self.redrives.insert(redrive.start.id, redrive.clone());
        Ok(redrive)
    }

    /// Forgets the redrive that ended first, if there are too many. False if all run.
    fn make_room(&mut self) -> bool {
        if self.redrives.len() < REDRIVES_MAX {
            return true;
        }
        let ended = self.redrives.iter().filter(|(_, redrive)| redrive.state != RedriveState::Running);
        let first = ended.min_by_key(|(id, redrive)| (redrive.updated, **id)).map(|(id, _)| *id);
        first.is_some_and(|id| self.redrives.remove(&id).is_some())
    }

    fn advance(&mut self, progress: RedriveProgress, now: Timestamp) -> Result<(), Refusal> {
        let RedriveProgress { id, position, withdrawn, stayed, last_failure } = progress;
        let Some(redrive) = self.redrives.get(&id) else { return Err(Refusal::Redrive) };
        // Dead letters that were delivered by the time of a cancellation still leave the list.
        let moves = match redrive.state {
            RedriveState::Running => true,
            RedriveState::Cancelled => position == redrive.position && stayed == 0,
            RedriveState::Done => false,
        };
        if !moves {
            return Err(Refusal::Redrive);
        }
        let is_ordered = withdrawn.is_sorted_by(|one, next| one < next);
        let is_within = withdrawn.last().is_none_or(|last| *last < redrive.end);
        if position < redrive.position || position > redrive.end || !is_ordered || !is_within {
            return Err(Refusal::Position);
        }
        let passed = position.since(redrive.position);
        if withdrawn.len() > WITHDRAWN_MAX || stayed > passed {
            return Err(Refusal::Accounting);
        }
        let newly = withdrawn.into_iter().filter(|offset| self.withdraw(*offset)).count() as u64;
        let redrive = self.redrives.get_mut(&id).expect("the redrive was looked at");
        redrive.withdrawn += newly;
        redrive.stayed += stayed;
        (redrive.position, redrive.updated) = (position, now);
        if position == redrive.end && redrive.state == RedriveState::Running {
            redrive.state = RedriveState::Done;
        }
        if let Some(mut failure) = last_failure {
            failure.truncate(failure.floor_char_boundary(FAILURE_BYTES_MAX));
            redrive.last_failure = failure;
        }
        let (subscription, kind) = (redrive.start.subscription, redrive.start.kind);
        if newly > 0 {
            self.count(subscription, kind, newly);
        }
        Ok(())
    }

    /// One that has ended stays as it is.
    fn cancel(&mut self, id: RedriveId, account: AccountId, now: Timestamp) -> Result<Redrive, Refusal> {
        let redrive = self.redrives.get_mut(&id).filter(|redrive| redrive.start.account == account);
        let redrive = redrive.ok_or(Refusal::Redrive)?;
        if redrive.state == RedriveState::Running {
            (redrive.state, redrive.updated) = (RedriveState::Cancelled, now);
        }
        Ok(redrive.clone())
    }

    /// Everything below `to` has left the log.
    pub(super) fn trim(&mut self, to: Offset) {
        let mut kept = self.withdrawn.split_off(&to);
        if let Some((_, end)) = self.withdrawn.pop_last().filter(|(_, end)| *end > to) {
            kept.insert(to, end);
        }
        self.withdrawn = kept;
    }

    pub(crate) fn get(&self, id: RedriveId) -> Option<&Redrive> {
        self.redrives.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Redrive> {
        self.redrives.values()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Redrive> {
        self.iter().filter(|redrive| redrive.state == RedriveState::Running)
    }

    pub(crate) fn is_withdrawn(&self, offset: Offset) -> bool {
        self.withdrawn.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    pub(crate) fn withdrawals(&self, subscription: SubscriptionId) -> Withdrawals {
        self.counts.get(&subscription).copied().unwrap_or_default()
    }

    fn count(&mut self, subscription: SubscriptionId, kind: RedriveKind, letters: u64) {
        if self.counts.len() >= COUNTED_MAX && !self.counts.contains_key(&subscription) {
            // All replicas forget the same one.
            self.counts.pop_first();
        }
        let counts = self.counts.entry(subscription).or_default();
        match kind {
            RedriveKind::Deliver => counts.redriven += letters,
            RedriveKind::Purge => counts.purged += letters,
        }
    }

    /// False if the dead letter has left before.
    fn withdraw(&mut self, offset: Offset) -> bool {
        if self.is_withdrawn(offset) {
            return false;
        }
        let next = offset.plus(1);
        let end = self.withdrawn.remove(&next).unwrap_or(next);
        let before = self.withdrawn.range_mut(..offset).next_back().filter(|(_, end)| **end == offset);
        match before {
            Some((_, before)) => *before = end,
            None => {
                self.withdrawn.insert(offset, end);
            }
        }
        true
    }
}

/// The stored form, which [`super::checkpoint`] describes.
impl Redrives {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.count(self.redrives.len());
        for redrive in self.redrives.values() {
            encode_start(out, &redrive.start);
            out.u8(redrive.state as u8).u64(redrive.created.0).u64(redrive.updated.0);
            out.u64(redrive.position.0).u64(redrive.end.0).u64(redrive.withdrawn).u64(redrive.stayed);
            out.text(&redrive.last_failure);
        }
        out.count(self.withdrawn.len());
        for (start, end) in &self.withdrawn {
            out.u64(start.0).u64(end.0);
        }
        out.count(self.counts.len());
        for (subscription, counts) in &self.counts {
            out.bytes(subscription.as_bytes()).u64(counts.redriven).u64(counts.purged);
        }
    }

    pub(super) fn decode(fields: &mut Reader<'_>) -> Result<Self, CodecError> {
        let mut decoded = Self::default();
        for _ in 0..fields.count(106)? {
            let redrive = Redrive {
                start: decode_start(fields)?,
                state: RedriveState::from_number(fields.u8()?)
                    .ok_or(CodecError::Value("state of a redrive"))?,
                created: Timestamp(fields.u64()?),
                updated: Timestamp(fields.u64()?),
                position: Offset(fields.u64()?),
                end: Offset(fields.u64()?),
                withdrawn: fields.u64()?,
                stayed: fields.u64()?,
                last_failure: fields.text()?.to_owned(),
            };
            decoded.redrives.insert(redrive.start.id, redrive);
        }
        for _ in 0..fields.count(16)? {
            let (start, end) = (Offset(fields.u64()?), Offset(fields.u64()?));
            let follows = decoded.withdrawn.last_key_value().is_none_or(|(_, last)| *last < start);
            if !follows || start >= end {
                return Err(CodecError::Value("order of withdrawn dead letters"));
            }
            decoded.withdrawn.insert(start, end);
        }
        for _ in 0..fields.count(32)? {
            let subscription = SubscriptionId::from_bytes(fields.array()?);
            let counts = Withdrawals { redriven: fields.u64()?, purged: fields.u64()? };
            decoded.counts.insert(subscription, counts);
        }
        Ok(decoded)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use proptest::prelude::*;

    use super::*;

    const END: u64 = 60;

    fn start(number: u8, kind: RedriveKind) -> StartRedrive {
        StartRedrive {
            id: RedriveId::from_bytes([number; 16]),
            account: AccountId::from_bytes([1; 16]),
            subscription: SubscriptionId::from_bytes([number % 3; 16]),
            kind,
            filter: Arc::from([]),
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Start { number: u8, purges: bool },
        Advance { number: u8, moved: u64, withdrawn: BTreeSet<u64>, stayed: u64 },
        Cancel { number: u8 },
        Trim { to: u64 },
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let number = 0_u8..8;
        let step = prop_oneof![
            (number.clone(), any::<bool>()).prop_map(|(number, purges)| Step::Start { number, purges }),
            (number.clone(), 0..20_u64, prop::collection::btree_set(0..END + 2, 0..8), 0..4_u64).prop_map(
                |(number, moved, withdrawn, stayed)| Step::Advance { number, moved, withdrawn, stayed }
            ),
            number.prop_map(|number| Step::Cancel { number }),
            (0..END).prop_map(|to| Step::Trim { to }),
            Just(Step::Restart),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn every_withdrawn_letter_counts_once_and_is_forgotten_only_by_a_trim(steps in steps()) {
            let mut redrives = Redrives::default();
            // Every letter that ever left, and where the log begins.
            let (mut gone, mut log_start) = (BTreeSet::new(), 0);
            for step in steps {
                let before = redrives.clone();
                match step {
                    Step::Start { number, purges } => {
                        let kind = if purges { RedriveKind::Purge } else { RedriveKind::Deliver };
                        let (from, end) = (Offset(log_start), Offset(END));
                        let refused = redrives.start(start(number, kind), Timestamp(1), from, end).is_err();
                        prop_assert!(!refused || redrives == before);
                    }
                    Step::Advance { number, moved, withdrawn, stayed } => {
                        let id = RedriveId::from_bytes([number; 16]);
                        let position = redrives.get(id).map_or(Offset::ZERO, |known| known.position.plus(moved));
                        let offsets = withdrawn.iter().map(|offset| Offset(*offset)).collect();
                        let progress =
                            RedriveProgress { id, position, withdrawn: offsets, stayed, last_failure: None };
                        match redrives.advance(progress, Timestamp(2)) {
                            Ok(()) => gone.extend(withdrawn.into_iter().filter(|offset| *offset >= log_start)),
                            Err(_) => prop_assert_eq!(&redrives, &before, "a refused command changed something"),
                        }
                    }
                    Step::Cancel { number } => {
                        let id = RedriveId::from_bytes([number; 16]);
                        let other = AccountId::from_bytes([2; 16]);
                        prop_assert!(redrives.cancel(id, other, Timestamp(3)).is_err());
                        drop(redrives.cancel(id, AccountId::from_bytes([1; 16]), Timestamp(3)));
                    }
                    Step::Trim { to } => {
                        log_start = log_start.max(to);
                        redrives.trim(Offset(log_start));
                    }
                    Step::Restart => {
                        let mut out = Writer::new();
                        redrives.encode(&mut out);
                        let bytes = out.finish();
                        let mut fields = Reader::new(&bytes, "redrives");
                        redrives = Redrives::decode(&mut fields).unwrap();
                        fields.finish().unwrap();
                        prop_assert_eq!(&redrives, &before);
                    }
                }
                for offset in log_start..END {
                    let has_left = gone.contains(&offset);
                    prop_assert_eq!(redrives.is_withdrawn(Offset(offset)), has_left, "{}", offset);
                }
                let withdrawn: u64 = redrives.iter().map(|redrive| redrive.withdrawn).sum();
                let counted = (0..3).map(|id| redrives.withdrawals(SubscriptionId::from_bytes([id; 16])));
                let counted: u64 = counted.map(|counts| counts.redriven + counts.purged).sum();
                prop_assert_eq!(withdrawn, counted);
                for redrive in redrives.iter() {
                    prop_assert!(redrive.position <= redrive.end);
                    let is_at_end = redrive.position == redrive.end;
                    prop_assert_eq!(is_at_end, redrive.state == RedriveState::Done);
                }
                for id in 0..3 {
                    let subscription = SubscriptionId::from_bytes([id; 16]);
                    let running = redrives.running().filter(|redrive| redrive.start.subscription == subscription);
                    prop_assert!(running.count() <= 1, "two redrives of one subscription run");
                }
            }
        }
    }
}
