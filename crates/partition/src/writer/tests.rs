//! The writer over groups of one and of three, handed each batch by hand: the test decides what is in flight.

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fanfare_environment::{Clock, Environment};
use fanfare_log::{Log, MemoryFileSystem, RollPolicy, StoreOptions, memory::Keep};
use fanfare_model::Stream;
use fanfare_raft::{
    GroupId, GroupOptions, Host, HostOptions, Member, ReplicaId, Timing, memory::MemoryNetwork,
};
use tokio::time::timeout;

use super::*;
use crate::{
    AppendOrder, Budgets, MemoryLimits, PendingAppend,
    batch::tests::batch,
    budgets::BudgetShare,
    machine::MachineParts,
    reader::{AccountFilter, Reader, ReaderParts},
};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);
const ID: PartitionId = PartitionId { stream: Stream::Events, index: 0 };
const RESERVE_BYTES: u64 = 1 << 20;

/// Advances by a millisecond per reading.
struct TickingClock(AtomicU64);

impl Clock for TickingClock {
    fn unix_ms(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.unix_ms())
    }
}

/// One replica of the partition, and a writer driven by the test.
struct Replica {
    fs: MemoryFileSystem,
    store: Store,
    environment: Environment,
    budget: Arc<BudgetShare>,
    group: Group<Machine>,
    writer: Writer,
    inbox: mpsc::Sender<Request>,
    admission: Arc<Admission>,
}

impl Replica {
    async fn open(fs: MemoryFileSystem, replica: u64, network: &MemoryNetwork) -> Self {
        Self::open_with(fs, (ID, None), replica, network).await
    }

    async fn open_with(
        fs: MemoryFileSystem,
        (id, quota): (PartitionId, Option<Quota>),
        replica: u64,
        network: &MemoryNetwork,
    ) -> Self {
        let options = StoreOptions {
            segment_bytes: 1 << 20,
            pool_segments_max: 1,
            cache_bytes: 1 << 20,
            index_draft_bytes_max: 64 << 20,
            page_cache_bytes: 0,
            queue_bytes_max: 8 << 20,
        };
        let fatal = Box::new(|fatal: &fanfare_log::Fatal| panic!("{fatal}"));
        let (system, files) = (Environment::system(), Arc::new(fs.clone()));
        let store = Store::open(&system, files, Path::new("/data"), options, fatal).unwrap();
        let environment = system.with_clock(Arc::new(TickingClock(AtomicU64::new(1_000_000))));
        let limits = MemoryLimits {
            dedup_bytes_max: 1 << 20,
            queue_bytes_max: 1 << 20,
            read_cache_bytes_max: 1 << 20,
        };
        let budget = Arc::new(Budgets::new(limits, 1).share());
        let hash_seed = HashSeed::new(environment.random().as_ref());
        let parts =
            MachineParts { stream: id.stream, dedup_window_ms: 600_000, budget: budget.clone(), hash_seed };
        let group = open_group((id, replica), &store, Machine::new(parts), network).await;
        let (inbox, requests) = mpsc::channel(100);
        let admission = Arc::new(Admission::new(budget.clone()));
        let parts = WriterParts {
            id,
            group: group.clone(),
            store: store.clone(),
            append_clock: Arc::new(AppendClock::new(id, environment.clone(), fanfare_model::Timestamp(0))),
            admission: admission.clone(),
            hash_seed,
            quota,
            holds_shares: Arc::default(),
            entry_bytes_max: 1 << 20,
            disk_reserve_bytes: RESERVE_BYTES,
        };
        let writer = Writer::new(parts, requests, CancellationToken::new(), CancellationToken::new());
        Self { fs, store, environment, budget, group, writer, inbox, admission }
    }

    /// A group of one that leads.
    async fn alone(fs: MemoryFileSystem) -> Self {
        Self::alone_with(fs, (ID, None)).await
    }

    async fn alone_with(fs: MemoryFileSystem, stream: (PartitionId, Option<Quota>)) -> Self {
        let replica = Self::open_with(fs, stream, 1, &MemoryNetwork::default()).await;
        replica.group.initialize(vec![member(1)]).await.unwrap();
        replica.leads().await;
        replica
    }

    async fn leads(&self) {
        let mut role = self.group.role();
        let led = role.wait_for(|role| matches!(role, Role::Leader { .. }));
        timeout(DEADLINE, led).await.expect("it leads in time").unwrap();
    }

    fn request(&self, order: Option<&AppendOrder>, events: &[&str]) -> (Request, PendingAppend) {
        let batch = batch(1, events);
        let permit = self.admission.admit(batch.body.len() as u64).unwrap();
        let (completion, pending) = PendingAppend::new(ID, order.map(AppendOrder::token));
        (Request { batch, permit, completion }, pending)
    }

    /// Hands one batch over, alone.
    async fn hand_over(&mut self, order: Option<&AppendOrder>, events: &[&str]) -> PendingAppend {
        let (request, pending) = self.request(order, events);
        timeout(DEADLINE, self.writer.hand_over(request)).await.expect("it is handed over in time");
        pending
    }

    /// Waits until nothing is in flight.
    async fn settle(&mut self) {
        while !self.writer.inflight.is_empty() {
            let outcome = timeout(DEADLINE, next_outcome(&mut self.writer.inflight)).await;
            self.writer.on_resolved(outcome.expect("the entry resolves in time"));
        }
    }

    async fn commit(
        &mut self,
        order: Option<&AppendOrder>,
        events: &[&str],
    ) -> Result<Appended, AppendError> {
        let pending = self.hand_over(order, events).await;
        self.settle().await;
        pending.outcome()
    }

    fn look_at_the_disk_again(&mut self) {
        self.writer.disk.look_again();
    }

    /// All committed events.
    async fn events(&self) -> Vec<String> {
        let parts = ReaderParts {
            id: ID,
            environment: self.environment.clone(),
            budget: self.budget.clone(),
            operator_hint: String::new(),
        };
        let reader = Reader::new(self.group.clone(), parts);
        let chunk = reader.read(Offset::ZERO, AccountFilter::All, u64::MAX).await.unwrap();
        let text = |event: crate::StoredEvent| String::from_utf8(event.bytes.to_vec()).unwrap();
        chunk.batches.iter().flat_map(|batch| batch.events().map(text).collect::<Vec<_>>()).collect()
    }
}

fn member(replica: u64) -> Member {
    Member { replica: ReplicaId(replica), node: replica, address: String::new() }
}

async fn open_group(
    (id, replica): (PartitionId, u64),
    store: &Store,
    machine: Machine,
    network: &MemoryNetwork,
) -> Group<Machine> {
    let roll = RollPolicy { segment_bytes: 1 << 20, age_ms: u64::MAX };
    let group = GroupId::Partition(id);
    let log: Log = store.open_log(&group.to_string(), replica, roll).unwrap();
    // No replica loses leadership because a test machine is busy.
    let timing = Timing { heartbeat_ms: 100, election_min_ms: 1_000, election_max_ms: 2_000 };
    let options = GroupOptions { checkpoint_interval_ms: 20, snapshot_entries: u64::MAX };
    let transport = network.transport(replica);
    let host = Host::new(HostOptions { timing }, store.clone(), transport, Environment::system());
    let opened = Group::open(&host, group, ReplicaId(replica), log, machine, options).await.unwrap();
    network.join(replica, host.inbox().clone());
    opened
}

fn committed_at(base: u64) -> Appended {
    Appended { base: Offset(base), duplicates: vec![], conflicts: vec![] }
}

fn is_refused_behind(outcome: &Result<Appended, AppendError>) -> bool {
    matches!(outcome, Err(AppendError::EarlierFailed { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_voids_the_order_until_it_is_reopened() {
    let mut node = Replica::alone(MemoryFileSystem::default()).await;
    let (mut order, other) = (AppendOrder::default(), AppendOrder::default());
    assert_eq!(node.commit(Some(&order), &["a"]).await.unwrap(), committed_at(0));
    node.fs.leave_free(RESERVE_BYTES - 1);
    node.look_at_the_disk_again();
    // Queued before the producer hears of the refusal.
    let (late, late_append) = node.request(Some(&order), &["c"]);
    let refused = node.commit(Some(&order), &["b"]).await;
    assert!(matches!(refused, Err(AppendError::DiskFull { partition: ID })), "{refused:?}");
    assert!(!order.is_open());

    node.fs.leave_free(RESERVE_BYTES * 16);
    node.look_at_the_disk_again();
    let (others, others_append) = node.request(Some(&other), &["d"]);
    let (free, free_append) = node.request(None, &["e"]);
    node.inbox.try_send(others).ok().unwrap();
    node.inbox.try_send(free).ok().unwrap();
    node.writer.hand_over(late).await;
    node.settle().await;
    let late = late_append.outcome();
    assert!(is_refused_behind(&late), "{late:?}");
    assert_eq!(others_append.outcome().unwrap(), committed_at(1), "another order is in no order with it");
    assert_eq!(free_append.outcome().unwrap(), committed_at(2));

    let (stale, stale_append) = node.request(Some(&order), &["c"]);
    order.reopen();
    assert_eq!(node.commit(Some(&order), &["b", "c"]).await.unwrap(), committed_at(3));
    node.writer.hand_over(stale).await;
    assert!(is_refused_behind(&stale_append.outcome()), "a order is reopened only for what comes then");
    assert_eq!(node.events().await, ["a", "d", "e", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflict_leaves_its_order_open() {
    let mut node = Replica::alone(MemoryFileSystem::default()).await;
    let order = AppendOrder::default();
    node.commit(Some(&order), &["a"]).await.unwrap();
    let mut other = batch(1, &["a"]);
    other.records[0].checksum ^= 1;
    let (mut request, pending) = node.request(Some(&order), &["a"]);
    request.batch = other;
    node.writer.hand_over(request).await;
    node.settle().await;
    assert_eq!(pending.outcome().unwrap().conflicts, [(0, Offset(0))]);
    assert_eq!(node.commit(Some(&order), &["b"]).await.unwrap(), committed_at(1));
}

/// Three replicas; the first leads.
async fn three() -> (MemoryNetwork, [Replica; 3]) {
    let network = MemoryNetwork::default();
    let replicas = [
        Replica::open(MemoryFileSystem::default(), 1, &network).await,
        Replica::open(MemoryFileSystem::default(), 2, &network).await,
        Replica::open(MemoryFileSystem::default(), 3, &network).await,
    ];
    replicas[0].group.initialize((1..=3).map(member).collect()).await.unwrap();
    replicas[0].leads().await;
    (network, replicas)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_leadership_makes_inflight_appends_unknown_and_forgets_their_ids() {
    let (network, [mut first, mut second, third]) = three().await;
    let mut order = AppendOrder::default();
    first.commit(Some(&order), &["a"]).await.unwrap();

    network.cut(1, 2);
    network.cut(1, 3);
    let lost = [
        first.hand_over(Some(&order), &["b"]).await,
        first.hand_over(Some(&order), &["c"]).await,
        // A repeat of an event in flight, which waits for it.
        first.hand_over(None, &["b"]).await,
    ];
    assert_eq!(first.writer.inflight.len(), 3);
    let new = timeout(DEADLINE, async {
        tokio::select! {
            () = second.leads() => 2,
            () = third.leads() => 3,
        }
    });
    let new = new.await.expect("the others elect a leader");
    network.mend();
    first.settle().await;
    for pending in lost {
        let outcome = pending.outcome();
        assert!(matches!(outcome, Err(AppendError::Unknown { partition: ID })), "{outcome:?}");
    }
    assert!(!order.is_open());
    let refused = first.commit(None, &["d"]).await;
    assert!(matches!(refused, Err(AppendError::NotLeader { .. })), "{refused:?}");

    // It leads again before the producer's next batch: what it lost still comes first.
    let leader = if new == 2 { &second } else { &third };
    leader.group.transfer_leadership(ReplicaId(1)).await.unwrap();
    first.leads().await;
    let late = first.commit(Some(&order), &["d"]).await;
    assert!(is_refused_behind(&late), "{late:?}");
    assert_eq!(first.commit(None, &["e"]).await.unwrap(), committed_at(1), "identities are forgotten");
    order.reopen();
    assert_eq!(first.commit(Some(&order), &["b", "c", "d"]).await.unwrap(), committed_at(2));
    assert_eq!(first.commit(Some(&order), &["c"]).await.unwrap().duplicates, [(0, Offset(3))]);
    assert_eq!(first.events().await, ["a", "e", "b", "c", "d"]);
    second.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeat_after_a_stop_with_inflight_entries_commits_each_event_once() {
    let mut node = Replica::alone(MemoryFileSystem::default()).await;
    let names: Vec<String> = (0..INFLIGHT_ENTRIES_MAX).map(|event| event.to_string()).collect();
    let mut appends = Vec::new();
    for name in &names {
        appends.push(node.hand_over(None, &[name]).await);
    }
    assert_eq!(node.writer.inflight.len(), INFLIGHT_ENTRIES_MAX);
    node.group.shutdown().await;
    node.settle().await;
    let outcomes: Vec<_> = appends.into_iter().map(PendingAppend::outcome).collect();
    for outcome in &outcomes {
        assert!(matches!(outcome, Ok(_) | Err(AppendError::Unknown { .. })), "{outcome:?}");
    }
    let fs = node.fs.crashed(|_| Keep::Nothing);
    node.store.close();
    drop(node);

    let mut node = Replica::open(fs, 1, &MemoryNetwork::default()).await;
    node.leads().await;
    for (name, outcome) in names.iter().zip(&outcomes) {
        let again = node.commit(None, &[name]).await.unwrap();
        if let Ok(appended) = outcome {
            assert_eq!(again.duplicates, [(0, appended.base)], "what was acknowledged is kept");
        }
    }
    let mut events = node.events().await;
    events.sort();
    assert_eq!(events, names);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_term_predicts_offsets_from_the_watermark_it_begins_at() {
    let (network, [mut first, mut second, mut third]) = three().await;
    first.commit(None, &["a"]).await.unwrap();
    network.cut(1, 2);
    network.cut(1, 3);
    let lost = first.hand_over(None, &["lost 1", "lost 2"]).await;
    let new = timeout(DEADLINE, async {
        tokio::select! {
            () = second.leads() => 2,
            () = third.leads() => 3,
        }
    });
    let leader = if new.await.expect("the others elect a leader") == 2 { &mut second } else { &mut third };
    assert_eq!(leader.commit(None, &["b", "c", "d"]).await.unwrap(), committed_at(1));
    network.mend();
    first.settle().await;
    assert!(matches!(lost.outcome(), Err(AppendError::Unknown { .. })));
    leader.group.transfer_leadership(ReplicaId(1)).await.unwrap();
    first.leads().await;

    // The repeats refer to an event in flight, so their offsets are the predicted ones.
    let own = first.hand_over(None, &["e"]).await;
    let repeats = [first.hand_over(None, &["e"]).await, first.hand_over(None, &["f", "e"]).await];
    assert!(first.writer.inflight.len() > 1, "the repeats wait for the entry");
    first.settle().await;
    assert_eq!(own.outcome().unwrap(), committed_at(4));
    let [repeat, mixed] = repeats.map(|repeat| repeat.outcome().unwrap());
    assert_eq!(repeat.duplicates, [(0, Offset(4))]);
    assert_eq!((mixed.base, mixed.duplicates), (Offset(5), vec![(1, Offset(4))]));
    assert_eq!(first.events().await, ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_counts_committed_and_inflight_bytes_and_repeats_once() {
    // An event of one byte counts for its line, its length and itself.
    let event_bytes = usage::bytes_of(1, 2);
    let quota = Quota::Limit { account_bytes_max: 3 * event_bytes, stream_bytes_max: 1 << 20 };
    let stream = (PartitionId::dead_letters(0), Some(quota));
    let mut node = Replica::alone_with(MemoryFileSystem::default(), stream).await;
    assert_eq!(node.commit(None, &["a"]).await.unwrap(), committed_at(0));
    assert_eq!(node.commit(None, &["a"]).await.unwrap().duplicates, [(0, Offset(0))]);
    let inflight = node.hand_over(None, &["b"]).await;
    let over = node.hand_over(None, &["c", "d"]).await;
    let fitting = node.hand_over(None, &["a", "b", "c"]).await;
    node.settle().await;
    assert_eq!(inflight.outcome().unwrap(), committed_at(1));
    let over = over.outcome();
    assert!(matches!(over, Err(AppendError::OverQuota { .. })), "{over:?}");
    let fitting = fitting.outcome().unwrap();
    assert_eq!((fitting.base, fitting.duplicates), (Offset(2), vec![(0, Offset(0)), (1, Offset(1))]));
    let full = node.commit(None, &["d"]).await;
    assert!(matches!(full, Err(AppendError::OverQuota { .. })), "{full:?}");
    assert_eq!(node.commit(None, &["c"]).await.unwrap().duplicates, [(0, Offset(2))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_of_the_stream_holds_across_accounts_and_restarts() {
    let quota = Quota::Limit { account_bytes_max: 1 << 20, stream_bytes_max: 2 * usage::bytes_of(1, 2) };
    let stream = (PartitionId::dead_letters(0), Some(quota));
    let mut node = Replica::alone_with(MemoryFileSystem::default(), stream).await;
    node.commit(None, &["a", "b"]).await.unwrap();
    node.group.shutdown().await;
    let fs = node.fs.crashed(|_| Keep::Nothing);
    node.store.close();
    drop(node);
    let mut node = Replica::open_with(fs, stream, 1, &MemoryNetwork::default()).await;
    node.leads().await;
    let (mut request, pending) = node.request(None, &["c"]);
    request.batch.account = AccountId::from_bytes([2; 16]);
    node.writer.hand_over(request).await;
    let refused = pending.outcome();
    let expected = AccountId::from_bytes([2; 16]);
    assert!(
        matches!(refused, Err(AppendError::OverQuota { account, .. }) if account == expected),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn account_over_its_share_is_refused_while_the_stream_is_full_and_others_are_not() {
    let event_bytes = usage::bytes_of(1, 2);
    let quota = Quota::Share { account_bytes_max: 2 * event_bytes };
    let mut node =
        Replica::alone_with(MemoryFileSystem::default(), (PartitionId::events(0), Some(quota))).await;
    node.commit(None, &["a", "b", "c", "d"]).await.expect("nobody else needs the room");
    node.writer.parts.holds_shares.store(true, Ordering::Relaxed);
    let refused = node.commit(None, &["e"]).await;
    assert!(matches!(refused, Err(AppendError::OverQuota { .. })), "{refused:?}");
    let (mut request, pending) = node.request(None, &["f", "g"]);
    request.batch.account = AccountId::from_bytes([2; 16]);
    node.writer.hand_over(request).await;
    node.settle().await;
    assert_eq!(pending.outcome().unwrap(), committed_at(4));
}
