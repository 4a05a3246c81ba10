//! Requests that wait for the flusher, bounded in bytes. The requests of one log keep their order; a vote overtakes
//! the requests of other logs.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
    time::Duration,
};

use fanfare_environment::WorkerHandle;
use parking_lot::Mutex;

use crate::{
    error::Fatal,
    frame::{Frame, Position},
    log::state::LogShared,
    segment::active::LogEnd,
};

/// Bytes that one round writes, but for the frames of one request, which are never divided. A vote waits for one round
/// of other logs at most: 80 ms on a disk of 100 MB/s.
const ROUND_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A request that waits longer means that the disk is stalled.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// Called once, on the flusher's worker, when the request is durable or has failed for good; in the order of
/// submission for the requests of one log. Must not block.
pub type OnDurable = Box<dyn FnOnce(Result<(), Fatal>) + Send>;

/// Called once, on any thread. Must not block.
pub type OnRoom = Box<dyn FnOnce() + Send>;

pub(crate) enum Work {
    /// The log was opened and ends here. None once the flusher has taken it.
    Open(Option<LogEnd>),
    Append(Vec<Frame>),
    Vote(Vec<u8>),
    /// Keep frames up to this index; None keeps none.
    Truncate(Option<u64>),
    Purge {
        position: Position,
        start_offset: u64,
    },
    /// Forget all frames and continue after this position.
    Restart {
        position: Position,
        start_offset: u64,
    },
    /// The caller could not read what it needed.
    Fail(Fatal),
}

pub(crate) struct Request {
    pub(crate) log: Arc<LogShared>,
    pub(crate) work: Work,
    pub(crate) on_durable: OnDurable,
    /// Time of the submission by the monotonic clock.
    submitted_at: Duration,
    /// Bytes that the work takes on disk.
    bytes: u64,
}

impl Request {
    pub(crate) fn new(
        log: Arc<LogShared>,
        work: Work,
        on_durable: OnDurable,
        submitted_at: Duration,
    ) -> Self {
        let bytes = match &work {
            Work::Append(frames) => frames.iter().map(|frame| frame.header.disk_bytes()).sum(),
            _ => 0,
        };
        Self { log, work, on_durable, submitted_at, bytes }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Flush, then record a clean stop.
    Clean,
    /// Flush only: the last user of the store dropped it.
    Dropped,
}

/// The requests of one round.
pub(crate) struct Batch {
    pub(crate) requests: Vec<Request>,
    pub(crate) bytes: u64,
}

/// Step of the flusher after a round.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AfterRound {
    TakeMore,
    Wait,
    Stop(Stop),
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    /// Ids of the logs with a vote in `requests`.
    voting: Vec<u32>,
    /// Bytes that are queued or being written.
    unfinished_bytes: u64,
    /// Submission of the oldest request that is being written.
    writing_since: Option<Duration>,
    is_stall_reported: bool,
    stop: Option<Stop>,
    waiting_for_room: Vec<OnRoom>,
}

impl Waiting {
    fn oldest_submission(&self) -> Option<Duration> {
        let queued = self.requests.front().map(|request| request.submitted_at);
        match (self.writing_since, queued) {
            (Some(writing), Some(queued)) => Some(writing.min(queued)),
            (writing, queued) => writing.or(queued),
        }
    }

    /// How long the oldest request has waited at `now`. Warns once per stall.
    fn oldest_wait(&mut self, now: Duration) -> Duration {
        let waited = self.oldest_submission().map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if waited > STALLED_AFTER && !self.is_stall_reported {
            self.is_stall_reported = true;
            let waited_ms = waited.as_millis();
            tracing::warn!(
                waited_ms,
                unfinished_bytes = self.unfinished_bytes,
                "the disk does not keep up; appends and votes wait for it"
            );
        }
        waited
    }
}

pub(crate) struct RequestQueue {
    bytes_max: u64,
    waiting: Mutex<Waiting>,
    flusher: OnceLock<WorkerHandle>,
}

impl RequestQueue {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, waiting: Mutex::default(), flusher: OnceLock::new() }
    }

    pub(crate) fn start(&self, flusher: WorkerHandle) {
        assert!(self.flusher.set(flusher).is_ok(), "one flusher serves a queue");
    }

    pub(crate) fn flusher(&self) -> Option<&WorkerHandle> {
        self.flusher.get()
    }

    /// Calls `on_room` once less than the limit is queued or being written, or the store is closed.
    pub(crate) fn when_room(&self, on_room: OnRoom) {
        let mut waiting = self.waiting.lock();
        if waiting.unfinished_bytes >= self.bytes_max && waiting.stop.is_none() {
            waiting.waiting_for_room.push(on_room);
            return;
        }
        drop(waiting);
        on_room();
    }

    /// # Errors
    /// Gives the request back if the store is closed.
    #[expect(clippy::result_large_err, reason = "a refused request goes back to its sender as it came")]
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let mut waiting = self.waiting.lock();
        if waiting.stop.is_some() {
            return Err(request);
        }
        waiting.unfinished_bytes += request.bytes;
        if matches!(request.work, Work::Vote(_)) && !waiting.voting.contains(&request.log.id) {
            waiting.voting.push(request.log.id);
        }
        let now = request.submitted_at;
        waiting.requests.push_back(request);
        // Requests are pushed while the disk stalls; the flusher cannot report a stall that it is stuck in.
        waiting.oldest_wait(now);
        // The flusher takes all that is there or comes back for the rest, so one notification is enough.
        let is_first = waiting.requests.len() == 1;
        drop(waiting);
        if is_first {
            self.notify();
        }
        Ok(())
    }

    pub(crate) fn stop(&self, stop: Stop) {
        let mut waiting = self.waiting.lock();
        waiting.stop.get_or_insert(stop);
        let ready = std::mem::take(&mut waiting.waiting_for_room);
        drop(waiting);
        self.notify();
        ready.into_iter().for_each(|on_room| on_room());
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.waiting.lock().stop.is_some()
    }

    /// How long the oldest request that is not durable yet has waited at `now`.
    pub(crate) fn oldest_wait(&self, now: Duration) -> Duration {
        self.waiting.lock().oldest_wait(now)
    }

    /// The requests of the next round; none if nothing is queued. `finish` must follow.
    pub(crate) fn take(&self) -> Batch {
        let mut waiting = self.waiting.lock();
        let requests =
            if waiting.voting.is_empty() { take_oldest(&mut waiting) } else { take_voting(&mut waiting) };
        // The requests have left the queue and are not durable: a stall while they are written counts from here.
        waiting.writing_since = requests.iter().map(|request| request.submitted_at).min();
        drop(waiting);
        let bytes = requests.iter().map(|request| request.bytes).sum();
        Batch { requests, bytes }
    }

    /// Makes room for what the finished requests took.
    pub(crate) fn finish(&self, bytes: u64, now: Duration) -> AfterRound {
        let mut waiting = self.waiting.lock();
        assert!(bytes <= waiting.unfinished_bytes, "invariant violation: more bytes finished than queued");
        waiting.unfinished_bytes -= bytes;
        waiting.writing_since = None;
        if waiting.is_stall_reported && waiting.oldest_wait(now) <= STALLED_AFTER {
            waiting.is_stall_reported = false;
            tracing::info!("the disk keeps up again");
        }
        let after = match waiting.stop {
            _ if !waiting.requests.is_empty() => AfterRound::TakeMore,
            Some(stop) => AfterRound::Stop(stop),
            None => AfterRound::Wait,
        };
        if waiting.waiting_for_room.is_empty() || waiting.unfinished_bytes >= self.bytes_max {
            return after;
        }
        let ready = std::mem::take(&mut waiting.waiting_for_room);
        // Called without the lock: a callback may append at once.
        drop(waiting);
        ready.into_iter().for_each(|on_room| on_room());
        after
    }

    fn notify(&self) {
        if let Some(flusher) = self.flusher.get() {
            flusher.notify();
        }
    }
}

/// The oldest requests, up to the bytes of a round.
fn take_oldest(waiting: &mut Waiting) -> Vec<Request> {
    let mut bytes = 0;
    let fits = |request: &Request| {
        bytes += request.bytes;
        bytes <= ROUND_BYTES_MAX
    };
    let count = waiting.requests.iter().map(fits).take_while(|fits| *fits).count();
    // A request larger than a round gets a round of its own.
    let count = count.max(1).min(waiting.requests.len());
    waiting.requests.drain(..count).collect()
}

/// The requests of the logs that vote, each log's in their order, up to its last vote. An append of the same log that
/// was submitted before the vote is not overtaken: openraft tracks the IO of one group as one sequence, and takes
/// a callback out of order for a bug.
fn take_voting(waiting: &mut Waiting) -> Vec<Request> {
    let voting = std::mem::take(&mut waiting.voting);
    let (mut taken, mut left) = (Vec::new(), VecDeque::with_capacity(waiting.requests.len()));
    let mut votes: Vec<usize> = voting
        .iter()
        .map(|log| waiting.requests.iter().filter(|request| is_vote_of(request, *log)).count())
        .collect();
    for request in waiting.requests.drain(..) {
        let votes_left = voting.iter().position(|log| *log == request.log.id).map(|at| &mut votes[at]);
        match votes_left.filter(|votes_left| **votes_left > 0) {
            Some(votes_left) => {
                *votes_left -= usize::from(matches!(request.work, Work::Vote(_)));
                taken.push(request);
            }
            None => left.push_back(request),
        }
    }
    waiting.requests = left;
    taken
}

fn is_vote_of(request: &Request, log: u32) -> bool {
    request.log.id == log && matches!(request.work, Work::Vote(_))
}
