//! The writer over groups of one and of three, handed each batch by hand: what is under way at any moment is the test's
//! choice.

use std::{path::Path, sync::atomic::AtomicU64, sync::atomic::Ordering};

use fanfare_environment::Environment;
use fanfare_log::{Log, MemoryFileSystem, RollPolicy, StoreOptions, memory::Keep};
use fanfare_model::{Stream, Timestamp};
use fanfare_raft::{
    GroupId, GroupOptions, Host, HostOptions, Member, ReplicaId, Timing, memory::MemoryNetwork,
};
use tokio::time::timeout;

use super::*;
use crate::{
    AppendOrder, Clock,
    batch::tests::batch,
    dedup::Limits,
    reader::{AccountFilter, Reader},
};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
const DEADLINE: Duration = Duration::from_secs(60);
const ID: PartitionId = PartitionId { stream: Stream::Events, index: 0 };
const RESERVE_BYTES: u64 = 1 << 20;

struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// One replica of the partition, and a writer that does what it is told.
struct Replica {
    fs: MemoryFileSystem,
    store: Store,
    group: Group<Machine>,
    writer: Writer,
    inbox: mpsc::Sender<Request>,
    admission: Arc<Admission>,
}

impl Replica {
    async fn open(fs: MemoryFileSystem, replica: u64, network: &MemoryNetwork) -> Self {
        let options = StoreOptions {
            segment_bytes: 1 << 20,
            pool_segments_max: 1,
            cache_bytes: 1 << 20,
            page_cache_bytes: 0,
            queue_bytes_max: 8 << 20,
        };
        let fatal = Box::new(|fatal: &fanfare_log::Fatal| panic!("{fatal}"));
        let store = Store::open(
            &fanfare_environment::Environment::system(),
            Arc::new(fs.clone()),
            Path::new("/data"),
            options,
            fatal,
        )
        .unwrap();
        let group = open_group(&store, replica, network).await;
        let (inbox, requests) = mpsc::channel(100);
        let admission = Arc::new(Admission::new(1 << 20));
        let parts = WriterParts {
            id: ID,
            group: group.clone(),
            store: store.clone(),
            stamp: Arc::new(Stamp::new(Arc::new(Ticking(AtomicU64::new(1_000_000))))),
            admission: admission.clone(),
            entry_bytes_max: 1 << 20,
            disk_reserve_bytes: RESERVE_BYTES,
        };
        let writer = Writer::new(parts, requests, CancellationToken::new(), CancellationToken::new());
        Self { fs, store, group, writer, inbox, admission }
    }

    /// A group of one that leads.
    async fn alone(fs: MemoryFileSystem) -> Self {
        let replica = Self::open(fs, 1, &MemoryNetwork::default()).await;
        replica.group.initialize(vec![member(1)]).await.unwrap();
        replica.leads().await;
        replica
    }

    async fn leads(&self) {
        let mut role = self.group.role();
        let led = role.wait_for(|role| matches!(role, Role::Leader { .. }));
        timeout(DEADLINE, led).await.expect("it leads in time").unwrap();
    }

    fn request(&self, lane: Option<&AppendOrder>, events: &[&str]) -> (Request, Asked) {
        let batch = batch(1, events);
        let admitted = self.admission.admit(batch.body.len() as u64).unwrap();
        let (outcome, asked) = oneshot::channel();
        let promise = Promise { lane: lane.map(AppendOrder::ticket), outcome };
        (Request { batch, admitted, promise }, Asked(asked))
    }

    /// Hands one batch over, alone.
    async fn hand_over(&mut self, lane: Option<&AppendOrder>, events: &[&str]) -> Asked {
        let (request, asked) = self.request(lane, events);
        timeout(DEADLINE, self.writer.hand_over(request)).await.expect("it is handed over in time");
        asked
    }

    /// Waits until nothing is under way.
    async fn settle(&mut self) {
        while !self.writer.flights.is_empty() {
            let outcome =
                timeout(DEADLINE, landing(&mut self.writer.flights)).await.expect("it lands in time");
            self.writer.land(outcome);
        }
    }

    async fn commit(&mut self, lane: Option<&AppendOrder>, events: &[&str]) -> Result<Appended, AppendError> {
        let asked = self.hand_over(lane, events).await;
        self.settle().await;
        asked.outcome()
    }

    fn look_at_the_disk_again(&mut self) {
        self.writer.disk.checked = None;
    }

    /// All committed events.
    async fn events(&self) -> Vec<String> {
        let reader =
            Reader::new((ID, String::new()), self.group.clone(), tokio_util::task::TaskTracker::new());
        let chunk = reader.read(Offset::ZERO, AccountFilter::All, u64::MAX).await.unwrap();
        let text = |event: crate::StoredEvent| String::from_utf8(event.bytes.to_vec()).unwrap();
        chunk.batches.iter().flat_map(|batch| batch.events().map(text).collect::<Vec<_>>()).collect()
    }
}

struct Asked(oneshot::Receiver<Result<Appended, AppendError>>);

impl Asked {
    /// What was answered, once and by now.
    fn outcome(mut self) -> Result<Appended, AppendError> {
        self.0.try_recv().expect("it is answered")
    }
}

fn member(replica: u64) -> Member {
    Member { replica: ReplicaId(replica), node: replica, address: String::new() }
}

async fn open_group(store: &Store, replica: u64, network: &MemoryNetwork) -> Group<Machine> {
    let roll = RollPolicy { segment_bytes: 1 << 20, age_ms: u64::MAX };
    let log: Log = store.open_log(&GroupId::Partition(ID).to_string(), replica, roll).unwrap();
    // No replica loses leadership because a test machine is busy.
    let timing = Timing { heartbeat_ms: 100, election_min_ms: 1_000, election_max_ms: 2_000 };
    let options = GroupOptions { checkpoint_interval_ms: 20, snapshot_entries: u64::MAX };
    let machine = Machine::new(Limits { window_ms: 600_000, bytes_max: 1 << 20 });
    let transport = network.transport(replica);
    let host = Host::new(HostOptions { timing }, store.clone(), transport, Environment::system());
    let group = host.open(GroupId::Partition(ID), ReplicaId(replica), log, machine, options).await.unwrap();
    network.join(replica, host.inbox().clone());
    group
}

fn committed_at(base: u64) -> Appended {
    Appended { base: Offset(base), duplicates: vec![], conflicts: vec![] }
}

fn is_behind(outcome: &Result<Appended, AppendError>) -> bool {
    matches!(outcome, Err(AppendError::EarlierFailed { .. }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_full_disk_what_is_behind_in_the_lane_waits_though_there_is_room_again() {
    let mut node = Replica::alone(MemoryFileSystem::default()).await;
    let (mut lane, other) = (AppendOrder::default(), AppendOrder::default());
    assert_eq!(node.commit(Some(&lane), &["a"]).await.unwrap(), committed_at(0));
    node.fs.leave_free(RESERVE_BYTES - 1);
    node.look_at_the_disk_again();
    // Queued before the producer hears of the refusal.
    let (late, late_asked) = node.request(Some(&lane), &["c"]);
    let refused = node.commit(Some(&lane), &["b"]).await;
    assert!(matches!(refused, Err(AppendError::DiskFull { partition: ID })), "{refused:?}");
    assert!(!lane.is_open());

    node.fs.leave_free(RESERVE_BYTES * 16);
    node.look_at_the_disk_again();
    let (others, others_asked) = node.request(Some(&other), &["d"]);
    let (free, free_asked) = node.request(None, &["e"]);
    node.inbox.try_send(others).ok().unwrap();
    node.inbox.try_send(free).ok().unwrap();
    node.writer.hand_over(late).await;
    node.settle().await;
    let late = late_asked.outcome();
    assert!(is_behind(&late), "{late:?}");
    assert_eq!(others_asked.outcome().unwrap(), committed_at(1), "another lane is in no order with it");
    assert_eq!(free_asked.outcome().unwrap(), committed_at(2));

    let (stale, stale_asked) = node.request(Some(&lane), &["c"]);
    lane.reopen();
    assert_eq!(node.commit(Some(&lane), &["b", "c"]).await.unwrap(), committed_at(3));
    node.writer.hand_over(stale).await;
    assert!(is_behind(&stale_asked.outcome()), "a lane is reopened only for what comes then");
    assert_eq!(node.events().await, ["a", "d", "e", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_no_retry_cures_leaves_its_lane_open() {
    let mut node = Replica::alone(MemoryFileSystem::default()).await;
    let lane = AppendOrder::default();
    node.commit(Some(&lane), &["a"]).await.unwrap();
    let mut other = batch(1, &["a"]);
    other.records[0].checksum ^= 1;
    let (mut request, asked) = node.request(Some(&lane), &["a"]);
    request.batch = other;
    node.writer.hand_over(request).await;
    node.settle().await;
    assert_eq!(asked.outcome().unwrap().conflicts, [(0, Offset(0))]);
    assert_eq!(node.commit(Some(&lane), &["b"]).await.unwrap(), committed_at(1));
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
async fn entries_under_way_when_leadership_is_lost_are_unknown_and_forgotten() {
    let (network, [mut first, mut second, third]) = three().await;
    let mut lane = AppendOrder::default();
    first.commit(Some(&lane), &["a"]).await.unwrap();

    network.cut(1, 2);
    network.cut(1, 3);
    let lost = [
        first.hand_over(Some(&lane), &["b"]).await,
        first.hand_over(Some(&lane), &["c"]).await,
        // A repeat of what is under way, which waits for it.
        first.hand_over(None, &["b"]).await,
    ];
    assert_eq!(first.writer.flights.len(), 3);
    let new = timeout(DEADLINE, async {
        tokio::select! {
            () = second.leads() => 2,
            () = third.leads() => 3,
        }
    });
    let new = new.await.expect("the others elect a leader");
    network.mend();
    first.settle().await;
    for asked in lost {
        let outcome = asked.outcome();
        assert!(matches!(outcome, Err(AppendError::Unknown { partition: ID })), "{outcome:?}");
    }
    assert!(!lane.is_open());
    let refused = first.commit(None, &["d"]).await;
    assert!(matches!(refused, Err(AppendError::NotLeader { .. })), "{refused:?}");

    // It leads again before the producer's next batch: what it lost still comes first.
    let leader = if new == 2 { &second } else { &third };
    leader.group.transfer_leadership(ReplicaId(1)).await.unwrap();
    first.leads().await;
    let late = first.commit(Some(&lane), &["d"]).await;
    assert!(is_behind(&late), "{late:?}");
    assert_eq!(first.commit(None, &["e"]).await.unwrap(), committed_at(1), "identities are forgotten");
    lane.reopen();
    assert_eq!(first.commit(Some(&lane), &["b", "c", "d"]).await.unwrap(), committed_at(2));
    assert_eq!(first.commit(Some(&lane), &["c"]).await.unwrap().duplicates, [(0, Offset(3))]);
    assert_eq!(first.events().await, ["a", "e", "b", "c", "d"]);
    second.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_with_entries_under_way_leaves_each_event_once_after_it_is_repeated() {
    let mut node = Replica::alone(MemoryFileSystem::default()).await;
    let names: Vec<String> = (0..FLIGHTS_MAX).map(|event| event.to_string()).collect();
    let mut asked = Vec::new();
    for name in &names {
        asked.push(node.hand_over(None, &[name]).await);
    }
    assert_eq!(node.writer.flights.len(), FLIGHTS_MAX);
    node.group.shutdown().await;
    node.settle().await;
    let outcomes: Vec<_> = asked.into_iter().map(Asked::outcome).collect();
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
