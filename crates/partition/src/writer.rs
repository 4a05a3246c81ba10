//! The writer: one task per partition that turns queued batches into entries and answers their appends.
//!
//! It takes everything that queued while it was busy, up to an entry's size, without waiting for more; leaves out
//! events that were committed before; proposes the rest bound to the leader's term; and collects the next entry while
//! this one commits. No one else proposes entries of events, so within a term the writer knows the offset of every
//! event beforehand.
//!
//! Invariants:
//! - From before its entry is proposed until the entry is applied or has failed, an identity is in the applied dedup
//!   window or in `inflight_ids`. So no two entries of a term carry the same identity.
//! - The writer alone decides, one batch after the other: a batch behind a failed one of the same order is refused,
//!   whatever changed in between.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use fanfare_log::Store;
use fanfare_model::{AccountId, Offset, PartitionId};
use fanfare_raft::{Applied, Group, Proposal, ProposeError, Role};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    AppendError, Appended, RecordBatch, RecordHeader,
    admission::{Admission, AdmissionPermit},
    append_clock::AppendClock,
    completion::AppendCompletion,
    dedup::{CommittedEvent, HashSeed, InflightIds},
    disk_space::DiskSpace,
    entry::{self, BuiltEntry, EntryBuilder},
    machine::Machine,
    quota::{AccountBytes, Quota},
    state::{Reply, usage},
};

/// Entries in flight at once: enough to keep the disk busy while the next entry is collected, few enough that under
/// load many batches share an entry.
const INFLIGHT_ENTRIES_MAX: usize = 8;

/// One queued batch.
pub(crate) struct Request {
    pub(crate) batch: RecordBatch,
    pub(crate) permit: AdmissionPermit,
    pub(crate) completion: AppendCompletion,
}

pub(crate) struct WriterParts {
    pub(crate) id: PartitionId,
    pub(crate) group: Group<Machine>,
    pub(crate) store: Store,
    pub(crate) append_clock: Arc<AppendClock>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) hash_seed: HashSeed,
    pub(crate) quota: Option<Quota>,
    /// Accounts are held to their shares now.
    pub(crate) holds_shares: Arc<AtomicBool>,
    pub(crate) entry_bytes_max: usize,
    /// Free bytes below which no event is taken: the rest of the disk serves votes, cursors and trims.
    pub(crate) disk_reserve_bytes: u64,
}

pub(crate) struct Writer {
    parts: WriterParts,
    role: watch::Receiver<Role>,
    inbox: mpsc::Receiver<Request>,
    stop: CancellationToken,
    /// A batch taken from the inbox that did not fit into the last entry; first of the next one.
    deferred: Option<Request>,
    /// Proposed entries, oldest first; they resolve in this order.
    inflight: VecDeque<InflightEntry>,
    /// Term of every entry in `inflight`; two terms are never in flight together.
    term: u64,
    /// An in-flight entry failed; until all others have resolved, offsets of new entries are unknown.
    offsets_unknown: bool,
    /// Base offset of the next entry, assuming every in-flight entry applies.
    next_offset: Offset,
    inflight_ids: InflightIds,
    /// Bytes of the events in `inflight` and in the entry that is being built; empty without a quota.
    inflight_usage: AccountBytes,
    disk: DiskSpace,
    _finished: DropGuard,
}

/// A proposed entry; or, without events, only appends that wait for the entries before it.
struct InflightEntry {
    outcome: Pin<Box<dyn Future<Output = Result<Applied<Reply>, ProposeError>> + Send>>,
    has_events: bool,
    /// Predicted offset of the first event.
    base: Offset,
    identities: Vec<(AccountId, Vec<RecordHeader>)>,
    acks: Vec<PlannedAck>,
    size_bytes: u64,
}

/// The answer to one append if its entry and those before it are applied.
struct PlannedAck {
    completion: AppendCompletion,
    /// Index in the entry of the batch's first new event.
    delta: u32,
    has_new: bool,
    duplicates: Vec<(u32, Offset)>,
    conflicts: Vec<(u32, Offset)>,
    /// A duplicate or conflict refers to an event that is itself in flight, at its predicted offset.
    refers_to_inflight: bool,
    _permit: AdmissionPermit,
}

enum Wake {
    Resolved(Result<Applied<Reply>, ProposeError>),
    Received(Option<Request>),
    Stopped,
}

impl Writer {
    pub(crate) fn new(
        parts: WriterParts,
        inbox: mpsc::Receiver<Request>,
        stop: CancellationToken,
        finished: CancellationToken,
    ) -> Self {
        Self {
            role: parts.group.role(),
            inflight_ids: InflightIds::new(parts.hash_seed),
            disk: DiskSpace::new(parts.id, parts.store.clone(), parts.disk_reserve_bytes),
            parts,
            inbox,
            stop,
            deferred: None,
            inflight: VecDeque::new(),
            term: 0,
            offsets_unknown: false,
            next_offset: Offset::ZERO,
            inflight_usage: AccountBytes::default(),
            _finished: finished.drop_guard(),
        }
    }

    /// Runs until the inbox is closed, or stopped, and every in-flight entry has resolved.
    pub(crate) async fn run(mut self) {
        let mut is_open = true;
        while is_open || self.deferred.is_some() || !self.inflight.is_empty() {
            if self.can_propose()
                && let Some(deferred) = self.deferred.take()
            {
                self.hand_over(deferred).await;
                continue;
            }
            let can_receive = is_open && self.can_propose();
            // Biased, so that resolved entries free their permits and identities before more batches are taken.
            // Every arm is cancel safe: the future of an outcome stays in its entry, and a request is taken or stays queued.
            let wake = tokio::select! {
                biased;
                outcome = next_outcome(&mut self.inflight), if !self.inflight.is_empty() => Wake::Resolved(outcome),
                request = self.inbox.recv(), if can_receive => Wake::Received(request),
                () = self.stop.cancelled(), if !self.inbox.is_closed() => Wake::Stopped,
            };
            match wake {
                Wake::Resolved(outcome) => self.on_resolved(outcome),
                Wake::Received(Some(request)) => self.hand_over(request).await,
                Wake::Received(None) => is_open = false,
                Wake::Stopped => self.inbox.close(),
            }
        }
    }

    /// True if another entry may be proposed. After a failure, and when the term has ended, the entries in flight
    /// resolve first: only then are the offsets of the next entry known.
    fn can_propose(&self) -> bool {
        // With an expired lease, too: what waits is refused then, not held until a quorum answers again.
        let same_term = || !self.offsets_unknown && self.role.borrow().elected_term() == Some(self.term);
        self.inflight.is_empty() || (self.inflight.len() < INFLIGHT_ENTRIES_MAX && same_term())
    }

    async fn hand_over(&mut self, first: Request) {
        let requests = self.collect_requests(first);
        // The role is read once: all of the entry is decided for one term, and raft refuses the proposal in another.
        let term = match *self.role.borrow() {
            Role::Leader { term } => term,
            role => return refuse(requests, &role_error(self.parts.id, role)),
        };
        if self.disk.is_full() {
            return refuse(requests, &AppendError::DiskFull { partition: self.parts.id });
        }
        if self.inflight.is_empty() {
            // A leader is announced once all entries of earlier terms are applied, so the high watermark is the base
            // of the first entry of this term.
            self.term = term;
            self.offsets_unknown = false;
            self.next_offset = self.parts.group.read(|machine| machine.positions().high_watermark);
            assert!(
                self.inflight_ids.is_empty(),
                "invariant violation: identities are in flight and no entry is"
            );
        } else if term != self.term {
            // The term ended between `can_propose` and here. The offsets of the entries in flight say nothing about
            // the new term.
            let error = AppendError::NotLeader { partition: self.parts.id, leader: None };
            return refuse(requests, &error);
        }
        let mut entry = EntryBuilder::default();
        let mut acks = Vec::with_capacity(requests.len());
        for request in requests {
            // Asked when the batch is decided and not when it was queued: an earlier batch of the same order may have failed
            // in the meantime.
            if request.completion.is_void() {
                request.completion.complete(Err(AppendError::EarlierFailed { partition: self.parts.id }));
            } else {
                acks.extend(self.plan_ack(request, &mut entry));
            }
        }
        if acks.is_empty() {
            return;
        }
        let size_bytes = entry.size_bytes() as u64;
        if entry.count() == 0 {
            return self.queue_acks(acks);
        }
        self.propose(entry.finish(), acks, size_bytes).await;
    }

    /// `first` and the batches queued behind it, up to an entry's size.
    fn collect_requests(&mut self, first: Request) -> Vec<Request> {
        let mut size_bytes = EntryBuilder::cost(&first.batch);
        let mut requests = vec![first];
        while size_bytes < self.parts.entry_bytes_max {
            let Ok(request) = self.inbox.try_recv() else { break };
            size_bytes += EntryBuilder::cost(&request.batch);
            if size_bytes > self.parts.entry_bytes_max {
                self.deferred = Some(request);
                break;
            }
            requests.push(request);
        }
        requests
    }

    /// Adds the batch's new events to the entry; None if the batch is refused, which is answered here.
    fn plan_ack(&mut self, request: Request, entry: &mut EntryBuilder) -> Option<PlannedAck> {
        let Request { batch, permit, completion } = request;
        let mut ack = PlannedAck {
            completion,
            delta: entry.count(),
            has_new: false,
            duplicates: Vec::new(),
            conflicts: Vec::new(),
            refers_to_inflight: false,
            _permit: permit,
        };
        // From here on the identities are in flight: every way out of this function either keeps them in the entry or
        // removes them again.
        let repeated = self.repeated_events(&batch, entry.count(), &mut ack);
        let batch = if repeated.is_empty() { batch } else { batch.without(&repeated) };
        if batch.is_empty() {
            return Some(ack);
        }
        // Repeats take no bytes, so only the new events count.
        if let Err(error) = self.reserve_quota(&batch) {
            self.inflight_ids.remove(batch.account, &batch.records);
            ack.fail(&error);
            return None;
        }
        ack.has_new = true;
        entry.push(batch);
        Some(ack)
    }

    /// Adds the batch to the bytes in flight, if the account and the stream have room for it.
    ///
    /// Applied and in-flight bytes are all there are: no one else proposes events in this term.
    fn reserve_quota(&mut self, batch: &RecordBatch) -> Result<(), AppendError> {
        let Some(quota) = self.parts.quota else { return Ok(()) };
        let (account, bytes) = (batch.account, usage::bytes_of(batch.len(), batch.size_bytes()));
        let is_free =
            matches!(quota, Quota::Share { .. }) && !self.parts.holds_shares.load(Ordering::Relaxed);
        let applied = || self.parts.group.read(|machine| machine.usage(account));
        if is_free || self.inflight_usage.fits(quota, applied(), account, bytes) {
            self.inflight_usage.add(account, bytes);
            return Ok(());
        }
        Err(AppendError::OverQuota { partition: self.parts.id, account })
    }

    /// Indexes of the events whose identity is committed or in flight; the identities of all others are now in flight.
    fn repeated_events(&mut self, batch: &RecordBatch, delta: u32, ack: &mut PlannedAck) -> Vec<u32> {
        let committed = self.parts.group.read(|machine| {
            let window = machine.dedup().account(batch.account);
            window.map(|window| window.get_all(batch.records.iter().map(|record| record.id)))
        });
        let mut committed = committed.unwrap_or_default().into_iter().peekable();
        let mut repeated = Vec::new();
        let base = self.next_offset.plus(delta.into());
        for (record, index) in batch.records.iter().zip(0_u32..) {
            let earlier = match committed.next_if(|(position, _)| *position == index) {
                Some((_, event)) => event,
                None => {
                    let offset = base.plus(u64::from(index) - repeated.len() as u64);
                    let own = CommittedEvent { offset, checksum: record.checksum };
                    match self.inflight_ids.insert(batch.account, record.id, own) {
                        Ok(()) => continue,
                        Err(other) => {
                            ack.refers_to_inflight = true;
                            other
                        }
                    }
                }
            };
            repeated.push(index);
            let same_body = earlier.checksum == record.checksum;
            let list = if same_body { &mut ack.duplicates } else { &mut ack.conflicts };
            list.push((index, earlier.offset));
        }
        repeated
    }

    async fn propose(&mut self, entry: BuiltEntry, acks: Vec<PlannedAck>, size_bytes: u64) {
        let BuiltEntry { payload, count, identities } = entry;
        let carried: usize = identities.iter().map(|(_, records)| records.len()).sum();
        assert!(
            count > 0 && carried == count as usize,
            "invariant violation: an entry of {count} events carries {carried} identities"
        );
        // The clock never gives a time below one that it gave before, so the applied time is bound enough: entries in flight
        // have their times from the same clock.
        let previous = self.parts.group.read(Machine::last_time);
        let time = self.parts.append_clock.next(previous);
        let proposal = Proposal { kind: entry::KIND, count, time_ms: time.0, payload };
        match self.parts.group.propose(self.term, proposal).await {
            Ok(pending) => {
                let base = self.next_offset;
                // Only for what was handed over: a refused proposal takes no offsets, and the next one begins where it would have.
                self.next_offset = base.plus(count.into());
                assert!(
                    self.inflight.back().is_none_or(|last| last.base <= base),
                    "invariant violation: an entry at {base} is proposed behind a later one"
                );
                self.inflight.push_back(InflightEntry {
                    outcome: Box::pin(pending.applied()),
                    has_events: true,
                    base,
                    identities,
                    acks,
                    size_bytes,
                });
            }
            Err(error) => {
                // Not in the log: the offsets of the entries in flight still hold.
                self.remove_inflight(&identities);
                let error = self.propose_error(&error);
                acks.into_iter().for_each(|ack| ack.fail(&error));
            }
        }
    }

    /// Queues answers without an entry: nothing in the batches is new, but an event they repeat may be in flight.
    fn queue_acks(&mut self, acks: Vec<PlannedAck>) {
        let applied =
            Applied { position: Default::default(), base_offset: self.next_offset.0, reply: Reply::Appended };
        self.inflight.push_back(InflightEntry {
            outcome: Box::pin(std::future::ready(Ok(applied))),
            has_events: false,
            base: self.next_offset,
            identities: Vec::new(),
            acks,
            size_bytes: 0,
        });
    }

    /// The oldest in-flight entry was applied or has failed.
    fn on_resolved(&mut self, outcome: Result<Applied<Reply>, ProposeError>) {
        let entry = self.inflight.pop_front().expect("an outcome is the oldest in-flight entry's");
        // Applied, the identities are in the dedup window before they leave here, so no repeat slips between.
        self.remove_inflight(&entry.identities);
        let partition = self.parts.id;
        let result = match outcome {
            Ok(applied) => Ok(Offset(applied.base_offset)),
            Err(error) => Err(self.apply_error(&error)),
        };
        match &result {
            // Entries without events resolve at their predicted base whatever became of those before them.
            Ok(base) if !self.offsets_unknown && *base != entry.base => {
                tracing::error!(
                    %partition, expected = %entry.base, applied = %base,
                    "an entry was applied at an unexpected offset; duplicates in flight are answered as unknown",
                );
                self.offsets_unknown = true;
            }
            Ok(_) => {}
            Err(_) => self.offsets_unknown = true,
        }
        if entry.has_events && result.is_ok() {
            self.parts.admission.record_commit(entry.size_bytes, Instant::now());
        }
        for ack in entry.acks {
            match &result {
                // The event it repeats may have failed, or have got another offset than predicted.
                _ if ack.refers_to_inflight && self.offsets_unknown => {
                    ack.fail(&AppendError::Unknown { partition });
                }
                Ok(base) => ack.succeed(*base),
                // All its events were committed before, and the failure of the entry that carries the answer changes nothing
                // about them.
                Err(_) if !ack.has_new => ack.succeed(entry.base),
                Err(error) => ack.fail(error),
            }
        }
    }

    fn remove_inflight(&mut self, identities: &[(AccountId, Vec<RecordHeader>)]) {
        for (account, records) in identities {
            self.inflight_ids.remove(*account, records);
            if self.parts.quota.is_some() {
                let body_bytes = records.iter().map(RecordHeader::size_in_body).sum();
                self.inflight_usage.remove(*account, usage::bytes_of(records.len(), body_bytes));
            }
        }
    }

    fn propose_error(&self, error: &ProposeError) -> AppendError {
        let partition = self.parts.id;
        match error {
            ProposeError::NotLeader { leader } => {
                AppendError::NotLeader { partition, leader: leader.map(|leader| leader.0) }
            }
            // A leader encodes at the cluster's version, so the refusal is a defect of this node, not of the cluster.
            ProposeError::TermEnded | ProposeError::AboveFormat { .. } => {
                AppendError::NotLeader { partition, leader: None }
            }
            ProposeError::Unknown => AppendError::Unknown { partition },
            ProposeError::Stopped => AppendError::Stopped { partition },
        }
    }

    fn apply_error(&self, error: &ProposeError) -> AppendError {
        match error {
            // The entry was handed over: a group that stops does not say how far the entry came.
            ProposeError::Stopped => AppendError::Unknown { partition: self.parts.id },
            ProposeError::NotLeader { .. }
            | ProposeError::TermEnded
            | ProposeError::Unknown
            | ProposeError::AboveFormat { .. } => self.propose_error(error),
        }
    }
}

fn refuse(requests: Vec<Request>, error: &AppendError) {
    for request in requests {
        request.completion.complete(Err(error.clone()));
    }
}

/// The refusal of an append under a role other than leader.
pub(crate) fn role_error(partition: PartitionId, role: Role) -> AppendError {
    match role {
        Role::Failed => AppendError::Stopped { partition },
        Role::Follower { leader } => AppendError::NotLeader { partition, leader: Some(leader.0) },
        Role::Unknown | Role::Leader { .. } | Role::LeaseExpired { .. } => {
            AppendError::NotLeader { partition, leader: None }
        }
    }
}

/// The outcome of the oldest in-flight entry. Cancel safe: the future stays in its entry.
async fn next_outcome(inflight: &mut VecDeque<InflightEntry>) -> Result<Applied<Reply>, ProposeError> {
    match inflight.front_mut() {
        Some(entry) => entry.outcome.as_mut().await,
        None => std::future::pending().await,
    }
}

impl PlannedAck {
    fn succeed(self, base: Offset) {
        let Self { completion, delta, duplicates, conflicts, .. } = self;
        completion.complete(Ok(Appended { base: base.plus(delta.into()), duplicates, conflicts }));
    }

    fn fail(self, error: &AppendError) {
        self.completion.complete(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests;
