//! One direction between two nodes: its queues, its faults, and counts of what passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fanfare_log::Payload;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{self, Instant},
};
use tokio_util::task::TaskTracker;

use crate::{
    peer::{Message, MessageKind, PeerError, TrafficClass},
    rpc,
};

const QUEUE_MESSAGES_MAX: usize = 64;
const QUEUE_BYTES_MAX: u32 = 16 << 20;
/// A message that is to change places with its successor waits for it so long.
const SWAP_PATIENCE: Duration = Duration::from_millis(20);

/// Faults of a link in one direction. A count of 0 means never, of 1 each message.
#[derive(Clone, Copy, Debug, Default)]
pub struct LinkFaults {
    pub delay: Duration,
    pub loses_every: u64,
    pub repeats_every: u64,
    /// Each so many messages of a class, one changes places with its successor.
    pub swaps_every: u64,
    /// Flips a bit in the last byte of each so many snapshot messages.
    pub corrupts_snapshots_every: u64,
}

/// The messages that passed a link in one direction.
#[derive(Clone, Debug, Default)]
pub struct LinkReport {
    /// By class, repeats included.
    pub arrived: BTreeMap<TrafficClass, u64>,
    pub lost: u64,
    pub repeated: u64,
    pub swapped: u64,
    pub corrupted: u64,
    pub breaks: u64,
    /// Most append requests that had arrived and were not answered.
    pub unanswered_appends_max: usize,
}

#[derive(Default)]
pub(super) struct LinkState {
    breaks: watch::Sender<u64>,
    inner: Mutex<LinkCounts>,
}

#[derive(Default)]
struct LinkCounts {
    cut: bool,
    faults: LinkFaults,
    /// By class: messages until the connection breaks.
    break_before: BTreeMap<TrafficClass, u64>,
    /// Correlations of append requests without an answer.
    unanswered: BTreeSet<u64>,
    /// Messages that came to a decision about a fault.
    passed: u64,
    report: LinkReport,
}

/// The fate of a message.
struct MessageFate {
    lost: bool,
    repeated: bool,
    swapped: bool,
    corrupted: bool,
}

impl LinkState {
    pub(super) fn breaks(&self) {
        let mut counts = self.inner.lock();
        counts.unanswered.clear();
        counts.report.breaks += 1;
        drop(counts);
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    pub(super) fn subscribe_breaks(&self) -> watch::Receiver<u64> {
        self.breaks.subscribe()
    }

    pub(super) fn is_cut(&self, cut: bool) {
        self.inner.lock().cut = cut;
    }

    pub(super) fn cut(&self) -> bool {
        self.inner.lock().cut
    }

    pub(super) fn disturb(&self, faults: LinkFaults) {
        self.inner.lock().faults = faults;
    }

    pub(super) fn break_before(&self, class: TrafficClass, nth: u64) {
        self.inner.lock().break_before.insert(class, nth);
    }

    pub(super) fn report(&self) -> LinkReport {
        self.inner.lock().report.clone()
    }

    pub(super) fn is_breaking(&self, class: TrafficClass) -> bool {
        let mut counts = self.inner.lock();
        let Some(left) = counts.break_before.get_mut(&class) else { return false };
        *left = left.saturating_sub(1);
        if *left == 0 {
            counts.break_before.remove(&class);
            return true;
        }
        false
    }

    /// LinkCounts an arrival; `way_back` is the link that the message answers for.
    pub(super) fn arrives(&self, class: TrafficClass, message: &Message, way_back: &Self) {
        {
            let mut counts = self.inner.lock();
            *counts.report.arrived.entry(class).or_default() += 1;
            if class == TrafficClass::Append && message.kind == MessageKind::Request {
                counts.unanswered.insert(message.correlation);
                let unanswered = counts.unanswered.len();
                let most = &mut counts.report.unanswered_appends_max;
                *most = unanswered.max(*most);
            }
        }
        if message.kind != MessageKind::Request {
            way_back.inner.lock().unanswered.remove(&message.correlation);
        }
    }

    fn fate(&self, class: TrafficClass) -> MessageFate {
        let mut counts = self.inner.lock();
        counts.passed += 1;
        let passed = counts.passed;
        let falls = |every: u64| every > 0 && passed.is_multiple_of(every);
        let faults = counts.faults;
        let lost = falls(faults.loses_every);
        let fate = MessageFate {
            lost,
            repeated: !lost && falls(faults.repeats_every),
            swapped: !lost && falls(faults.swaps_every),
            corrupted: !lost && class == TrafficClass::Snapshot && falls(faults.corrupts_snapshots_every),
        };
        counts.report.lost += u64::from(fate.lost);
        counts.report.repeated += u64::from(fate.repeated);
        counts.report.swapped += u64::from(fate.swapped);
        counts.report.corrupted += u64::from(fate.corrupted);
        fate
    }
}

/// A message in a queue, with its room there.
struct QueuedMessage {
    message: Message,
    sent: Instant,
    /// Count of breaks when it was sent. It arrives only if the connection has not broken since.
    breaks: u64,
    _room: OwnedSemaphorePermit,
}

/// One bounded queue per class; none waits for another.
pub(super) struct Queues {
    state: Arc<LinkState>,
    classes: BTreeMap<TrafficClass, ClassQueue>,
}

struct ClassQueue {
    sender: mpsc::Sender<QueuedMessage>,
    bytes: Arc<Semaphore>,
}

impl Queues {
    pub(super) fn start(
        tasks: &TaskTracker,
        state: &Arc<LinkState>,
        deliver: impl Fn(TrafficClass, Message) + Clone + Send + Sync + 'static,
    ) -> Self {
        let classes = [TrafficClass::Control, TrafficClass::Append, TrafficClass::Snapshot];
        let classes = classes.map(|class| {
            let (sender, queue) = mpsc::channel(QUEUE_MESSAGES_MAX);
            let carrier = Carrier { state: state.clone(), class, queue, deliver: deliver.clone() };
            tasks.spawn(carrier.run());
            (class, ClassQueue { sender, bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX as usize)) })
        });
        Self { state: state.clone(), classes: classes.into() }
    }

    pub(super) fn send(
        &self,
        class: TrafficClass,
        message: Message,
    ) -> BoxFuture<'static, Result<(), PeerError>> {
        let ClassQueue { sender, bytes } = &self.classes[&class];
        let (sender, bytes, breaks) = (sender.clone(), bytes.clone(), *self.state.breaks.borrow());
        Box::pin(async move {
            let wanted = u32::try_from(message.body.len()).unwrap_or(u32::MAX).min(QUEUE_BYTES_MAX);
            let room = bytes.acquire_many_owned(wanted).await.expect("never closed");
            let queued = QueuedMessage { message, sent: Instant::now(), breaks, _room: room };
            sender.send(queued).await.map_err(|_| PeerError::Broken)
        })
    }
}

/// Carries the messages of one class.
struct Carrier<D> {
    state: Arc<LinkState>,
    class: TrafficClass,
    queue: mpsc::Receiver<QueuedMessage>,
    deliver: D,
}

impl<D: Fn(TrafficClass, Message) + Send + 'static> Carrier<D> {
    async fn run(mut self) {
        while let Some(queued) = self.queue.recv().await {
            let fate = self.state.fate(self.class);
            if fate.swapped
                && let Ok(Some(overtaking)) = time::timeout(SWAP_PATIENCE, self.queue.recv()).await
            {
                self.arrive(overtaking, false).await;
            }
            if fate.lost {
                continue;
            }
            if fate.repeated {
                let QueuedMessage { message, sent, breaks, _room } = &queued;
                let (message, sent, breaks) = (message.clone(), *sent, *breaks);
                self.carry(&message, sent, breaks, fate.corrupted).await;
            }
            self.arrive(queued, fate.corrupted).await;
        }
    }

    async fn arrive(&self, queued: QueuedMessage, corrupted: bool) {
        self.carry(&queued.message, queued.sent, queued.breaks, corrupted).await;
    }

    async fn carry(&self, message: &Message, sent: Instant, breaks: u64, corrupted: bool) {
        // A time of sending, not of arrival at the front: a delay adds up for no message.
        let delay = self.state.inner.lock().faults.delay;
        time::sleep_until(sent + delay).await;
        if *self.state.breaks.borrow() != breaks {
            return;
        }
        // In one piece, as it comes off a wire.
        let mut body = rpc::joined(&message.body);
        if corrupted && !body.is_empty() {
            let mut bytes = body.to_vec();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            body = bytes.into();
        }
        (self.deliver)(self.class, Message { body: Payload::new(vec![body]), ..message.clone() });
    }
}
