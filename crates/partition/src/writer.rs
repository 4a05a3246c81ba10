//! The writer: one task per partition that turns queued batches into entries and resolves their receipts.
//!
//! It takes all that queued while it was busy, up to an entry's size, without waiting for more; leaves out what was
//! committed before; proposes the rest bound to the leader's term, and goes on gathering while the entry commits. It is
//! the only one to propose entries of events, so within a term it knows the offset of every event beforehand.
//! Invariant: an identity is either remembered by the applied dedup window or listed as under way, from before its entry
//! is proposed until it is applied or has failed; so no two entries of a term carry it. And it is the only one to decide,
//! one batch after the other: what comes after a failure in the same lane is refused, whatever changed in between.

use std::{collections::VecDeque, future::Future, pin::Pin, sync::Arc};

use fanfare_log::Store;
use fanfare_model::{AccountId, Offset, PartitionId};
use fanfare_raft::{Applied, Group, Proposal, ProposeError, Role};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, Instant},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    AppendError, Appended, RecordBatch, RecordHeader,
    admission::{Admission, Admitted},
    dedup::{Committed, UnderWay},
    entry::{self, Built, EntryBuilder},
    lane::OrderToken,
    machine::Machine,
    stamp::Stamp,
    state::Reply,
};

/// Entries under way at once: enough to keep the disk busy while the next is gathered, few enough that under load many
/// batches share an entry.
const FLIGHTS_MAX: usize = 8;
/// How often the free space of the disk is asked for.
const DISK_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// One batch on its way into an entry.
pub(crate) struct Request {
    pub(crate) batch: RecordBatch,
    pub(crate) admitted: Admitted,
    pub(crate) promise: Promise,
}

/// The writer's end of a receipt.
pub(crate) struct Promise {
    /// None if the append is in no order with others.
    pub(crate) lane: Option<OrderToken>,
    pub(crate) outcome: oneshot::Sender<Result<Appended, AppendError>>,
}

pub(crate) struct WriterParts {
    pub(crate) id: PartitionId,
    pub(crate) group: Group<Machine>,
    pub(crate) store: Store,
    pub(crate) stamp: Arc<Stamp>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) entry_bytes_max: usize,
    /// Below it nothing more is taken: what is left serves votes, cursors and trims.
    pub(crate) disk_reserve_bytes: u64,
}

pub(crate) struct Writer {
    parts: WriterParts,
    role: watch::Receiver<Role>,
    inbox: mpsc::Receiver<Request>,
    stop: CancellationToken,
    /// Taken from the inbox, but too large for the last entry.
    carried: Option<Request>,
    flights: VecDeque<Flight>,
    /// Of the flights.
    term: u64,
    /// A flight failed: those behind it may have, too, so offsets are not known beforehand until all have landed.
    broken: bool,
    /// Of the next entry, if all flights are applied.
    next_offset: Offset,
    under_way: UnderWay,
    disk: Disk,
    _finished: DropGuard,
}

/// Free space as of the last look.
struct Disk {
    checked: Option<Instant>,
    is_full: bool,
}

/// An entry that was handed over, or only the receipts that wait for those before it.
struct Flight {
    outcome: Pin<Box<dyn Future<Output = Result<Applied<Reply>, ProposeError>> + Send>>,
    /// An entry of events, not just receipts.
    has_events: bool,
    base: Offset,
    identities: Vec<(AccountId, Vec<RecordHeader>)>,
    receipts: Vec<Planned>,
    size_bytes: u64,
}

/// A receipt and what it will say if its flight and those before it are applied.
struct Planned {
    promise: Promise,
    /// Of the batch's first new event in the entry.
    delta: u32,
    has_new: bool,
    duplicates: Vec<(u32, Offset)>,
    conflicts: Vec<(u32, Offset)>,
    /// A duplicate or conflict is with an event that is itself under way.
    waits: bool,
    _admitted: Admitted,
}

enum Wake {
    Landed(Result<Applied<Reply>, ProposeError>),
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
            parts,
            inbox,
            stop,
            carried: None,
            flights: VecDeque::new(),
            term: 0,
            broken: false,
            next_offset: Offset::ZERO,
            under_way: UnderWay::new(),
            disk: Disk { checked: None, is_full: false },
            _finished: finished.drop_guard(),
        }
    }

    /// Runs until the inbox is closed, or stopped, and everything under way has landed.
    pub(crate) async fn run(mut self) {
        let mut is_open = true;
        while is_open || self.carried.is_some() || !self.flights.is_empty() {
            if self.has_room()
                && let Some(carried) = self.carried.take()
            {
                self.hand_over(carried).await;
                continue;
            }
            let can_receive = is_open && self.has_room();
            let wake = tokio::select! {
                biased;
                outcome = landing(&mut self.flights), if !self.flights.is_empty() => Wake::Landed(outcome),
                request = self.inbox.recv(), if can_receive => Wake::Received(request),
                () = self.stop.cancelled(), if !self.inbox.is_closed() => Wake::Stopped,
            };
            match wake {
                Wake::Landed(outcome) => self.land(outcome),
                Wake::Received(Some(request)) => self.hand_over(request).await,
                Wake::Received(None) => is_open = false,
                Wake::Stopped => self.inbox.close(),
            }
        }
    }

    /// Room for another flight; after a failure, and when a term is over, those under way land first.
    fn has_room(&self) -> bool {
        let continues = || !self.broken && *self.role.borrow() == Role::Leader { term: self.term };
        self.flights.is_empty() || (self.flights.len() < FLIGHTS_MAX && continues())
    }

    async fn hand_over(&mut self, first: Request) {
        let requests = self.gather(first);
        let term = match *self.role.borrow() {
            Role::Leader { term } => term,
            role => return self.refuse(requests, &role_error(self.parts.id, role)),
        };
        if self.disk_is_full() {
            return self.refuse(requests, &AppendError::DiskFull { partition: self.parts.id });
        }
        if self.flights.is_empty() {
            self.term = term;
            self.broken = false;
            self.next_offset = self.parts.group.read(|machine| machine.state.positions().high_watermark);
        }
        assert_eq!(term, self.term, "entries of two terms are never under way together");
        let mut entry = EntryBuilder::default();
        let mut receipts = Vec::with_capacity(requests.len());
        for request in requests {
            match request.promise.is_behind() {
                true => request.promise.keep(Err(AppendError::EarlierFailed { partition: self.parts.id })),
                false => receipts.push(self.plan(request, &mut entry)),
            }
        }
        if receipts.is_empty() {
            return;
        }
        let size_bytes = entry.size_bytes() as u64;
        if entry.count() == 0 {
            return self.wait_in_line(receipts);
        }
        self.propose(entry.finish(), receipts, size_bytes).await;
    }

    /// `first` and what queued behind it, up to an entry's size.
    fn gather(&mut self, first: Request) -> Vec<Request> {
        let mut size_bytes = EntryBuilder::cost(&first.batch);
        let mut requests = vec![first];
        while size_bytes < self.parts.entry_bytes_max {
            let Ok(request) = self.inbox.try_recv() else { break };
            size_bytes += EntryBuilder::cost(&request.batch);
            if size_bytes > self.parts.entry_bytes_max {
                self.carried = Some(request);
                break;
            }
            requests.push(request);
        }
        requests
    }

    /// Adds to the entry what of the batch is new.
    fn plan(&mut self, request: Request, entry: &mut EntryBuilder) -> Planned {
        let Request { batch, admitted, promise } = request;
        let mut planned = Planned {
            promise,
            delta: entry.count(),
            has_new: false,
            duplicates: Vec::new(),
            conflicts: Vec::new(),
            waits: false,
            _admitted: admitted,
        };
        let left_out = self.leave_out(&batch, entry.count(), &mut planned);
        let batch = if left_out.is_empty() { batch } else { batch.without(&left_out) };
        if !batch.is_empty() {
            planned.has_new = true;
            entry.push(batch);
        }
        planned
    }

    /// Indexes of the events that are known already; lists the others as under way.
    fn leave_out(&mut self, batch: &RecordBatch, delta: u32, planned: &mut Planned) -> Vec<u32> {
        let known = self.parts.group.read(|machine| {
            let window = machine.state.dedup().account(batch.account);
            window.map(|window| window.get_all(batch.records.iter().map(|record| record.id)))
        });
        let known = known.unwrap_or_default();
        let mut left_out = Vec::new();
        let mut known = known.into_iter().peekable();
        let base = self.next_offset.plus(delta.into());
        for (record, index) in batch.records.iter().zip(0_u32..) {
            let committed = match known.next_if(|(known, _)| *known == index) {
                Some((_, committed)) => committed,
                None => {
                    let own = base.plus(u64::from(index) - left_out.len() as u64);
                    let place = Committed { offset: own, checksum: record.checksum };
                    match self.under_way.list(batch.account, record.id, place) {
                        Ok(()) => continue,
                        Err(other) => {
                            planned.waits = true;
                            other
                        }
                    }
                }
            };
            left_out.push(index);
            let same = committed.checksum == record.checksum;
            let list = if same { &mut planned.duplicates } else { &mut planned.conflicts };
            list.push((index, committed.offset));
        }
        left_out
    }

    async fn propose(&mut self, built: Built, receipts: Vec<Planned>, size_bytes: u64) {
        let Built { payload, count, identities } = built;
        let previous = self.parts.group.read(|machine| machine.state.last_time());
        let time = self.parts.stamp.next(previous);
        let proposal = Proposal { kind: entry::KIND, count, time_ms: time.0, payload };
        match self.parts.group.propose(self.term, proposal).await {
            Ok(pending) => {
                let outcome = Box::pin(pending.applied());
                let base = self.next_offset;
                self.next_offset = base.plus(count.into());
                self.flights.push_back(Flight {
                    outcome,
                    has_events: true,
                    base,
                    identities,
                    receipts,
                    size_bytes,
                });
            }
            Err(error) => {
                self.forget(&identities);
                let error = self.not_proposed(&error);
                receipts.into_iter().for_each(|planned| planned.fail(&error));
            }
        }
    }

    /// Nothing in it is new: the receipts only wait for what is under way.
    fn wait_in_line(&mut self, receipts: Vec<Planned>) {
        let applied =
            Applied { position: Default::default(), base_offset: self.next_offset.0, reply: Reply::Appended };
        let flight = Flight {
            outcome: Box::pin(std::future::ready(Ok(applied))),
            has_events: false,
            base: self.next_offset,
            identities: Vec::new(),
            receipts,
            size_bytes: 0,
        };
        self.flights.push_back(flight);
    }

    /// The oldest flight is over.
    fn land(&mut self, outcome: Result<Applied<Reply>, ProposeError>) {
        let flight = self.flights.pop_front().expect("an outcome is the oldest flight's");
        self.forget(&flight.identities);
        let partition = self.parts.id;
        let result = match outcome {
            Ok(applied) if applied.base_offset == flight.base.0 || self.broken => {
                Ok(Offset(applied.base_offset))
            }
            Ok(applied) => {
                tracing::error!(%partition, expected = %flight.base, found = applied.base_offset, "an entry was applied at an unexpected offset");
                self.broken = true;
                Ok(Offset(applied.base_offset))
            }
            Err(error) => {
                self.broken = true;
                Err(self.not_applied(&error))
            }
        };
        if flight.has_events && result.is_ok() {
            self.parts.admission.drained(flight.size_bytes, Instant::now());
        }
        for planned in flight.receipts {
            match &result {
                _ if planned.waits && self.broken => planned.fail(&AppendError::Unknown { partition }),
                Ok(base) => planned.succeed(*base),
                // All of it was committed before.
                Err(_) if !planned.has_new && !planned.waits => planned.succeed(flight.base),
                Err(error) => planned.fail(error),
            }
        }
    }

    fn forget(&mut self, identities: &[(AccountId, Vec<RecordHeader>)]) {
        for (account, records) in identities {
            self.under_way.forget(*account, records);
        }
    }

    fn refuse(&self, requests: Vec<Request>, error: &AppendError) {
        for request in requests {
            request.promise.keep(Err(error.clone()));
        }
    }

    fn disk_is_full(&mut self) -> bool {
        let now = Instant::now();
        if self.disk.checked.is_none_or(|checked| now.duration_since(checked) >= DISK_CHECK_INTERVAL) {
            let free_bytes = self.parts.store.free_bytes();
            let is_full = free_bytes < self.parts.disk_reserve_bytes;
            if is_full != self.disk.is_full {
                self.tell_of_disk(is_full, free_bytes);
            }
            self.disk = Disk { checked: Some(now), is_full };
        }
        self.disk.is_full
    }

    fn tell_of_disk(&self, is_full: bool, free_bytes: u64) {
        let WriterParts { id, store, disk_reserve_bytes, .. } = &self.parts;
        let dir = store.dir().display();
        if is_full {
            tracing::error!(
                partition = %id, %dir, free_bytes, disk_reserve_bytes,
                "the disk is full: no events are taken until that much is free again. Free some space, or give \
                 storage.retention or storage.retention_bytes a smaller value; reads and deliveries go on",
            );
        } else {
            tracing::info!(partition = %id, %dir, free_bytes, "the disk has room again: events are taken");
        }
    }

    fn not_proposed(&self, error: &ProposeError) -> AppendError {
        let partition = self.parts.id;
        match error {
            ProposeError::NotLeader { leader } => {
                AppendError::NotLeader { partition, leader: leader.map(|leader| leader.0) }
            }
            ProposeError::TermEnded => AppendError::NotLeader { partition, leader: None },
            ProposeError::Unknown => AppendError::Unknown { partition },
            ProposeError::Stopped => AppendError::Stopped { partition },
        }
    }

    fn not_applied(&self, error: &ProposeError) -> AppendError {
        match error {
            // It was handed over: a group that stops does not say how far it came.
            ProposeError::Stopped => AppendError::Unknown { partition: self.parts.id },
            ProposeError::NotLeader { .. } | ProposeError::TermEnded | ProposeError::Unknown => {
                self.not_proposed(error)
            }
        }
    }
}

/// Why nothing can be appended under this role.
pub(crate) fn role_error(partition: PartitionId, role: Role) -> AppendError {
    match role {
        Role::Failed => AppendError::Stopped { partition },
        Role::Follower { leader } => AppendError::NotLeader { partition, leader: Some(leader.0) },
        Role::Unknown | Role::Leader { .. } => AppendError::NotLeader { partition, leader: None },
    }
}

/// The outcome of the oldest flight. Cancel safe: it stays in its flight.
async fn landing(flights: &mut VecDeque<Flight>) -> Result<Applied<Reply>, ProposeError> {
    match flights.front_mut() {
        Some(flight) => flight.outcome.as_mut().await,
        None => std::future::pending().await,
    }
}

impl Planned {
    fn succeed(self, base: Offset) {
        let Self { promise, delta, duplicates, conflicts, .. } = self;
        promise.keep(Ok(Appended { base: base.plus(delta.into()), duplicates, conflicts }));
    }

    fn fail(self, error: &AppendError) {
        self.promise.keep(Err(error.clone()));
    }
}

impl Promise {
    /// Something before it in its lane failed.
    fn is_behind(&self) -> bool {
        self.lane.as_ref().is_some_and(OrderToken::is_void)
    }

    fn keep(self, outcome: Result<Appended, AppendError>) {
        if outcome.as_ref().is_err_and(AppendError::is_retryable)
            && let Some(lane) = self.lane
        {
            lane.void();
        }
        // A producer that no longer waits for its receipt is nothing to act on.
        drop(self.outcome.send(outcome));
    }
}

#[cfg(test)]
mod tests;
