//! What waits for the flusher, in the order in which it was asked for, bounded in bytes.
use std::{
    sync::{Arc, OnceLock},
    thread::{self, ThreadId},
    time::Instant,
};

use parking_lot::{Condvar, Mutex};

use crate::{
    error::Fatal,
    frame::{Frame, Position},
    log::LogShared,
};

/// Called once, on the flusher's thread, in submission order, when the request is durable or has failed for good.
/// Must not block.
pub type Done = Box<dyn FnOnce(Result<(), Fatal>) + Send>;

/// Called once, on any thread. Must not block.
pub type Ready = Box<dyn FnOnce() + Send>;

pub(crate) enum Work {
    Append(Vec<Frame>),
    Vote(Vec<u8>),
    /// Keep frames up to this index; None keeps none.
    Cut(Option<u64>),
    Purge {
        position: Position,
        start_offset: u64,
    },
    /// Forget all frames and continue after this position.
    Restart {
        position: Position,
        start_offset: u64,
    },
    /// A caller could not read what it needed.
    Fail(Fatal),
}

pub(crate) struct Request {
    pub(crate) log: Arc<LogShared>,
    pub(crate) work: Work,
    pub(crate) done: Done,
}

impl Request {
    pub(crate) fn bytes(&self) -> u64 {
        match &self.work {
            Work::Append(frames) => frames.iter().map(|frame| frame.header.disk_bytes()).sum(),
            _ => 0,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Flush, then record a clean stop.
    Clean,
    /// Flush only: whoever used the store dropped it.
    Dropped,
}

pub(crate) struct Taken {
    pub(crate) requests: Vec<Request>,
    pub(crate) bytes: u64,
    pub(crate) stop: Option<Stop>,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    queued_bytes: u64,
    unfinished_bytes: u64,
    stop: Option<Stop>,
    wanting_room: Vec<Ready>,
}

pub(crate) struct Queue {
    bytes_max: u64,
    waiting: Mutex<Waiting>,
    filled: Condvar,
    flusher: OnceLock<ThreadId>,
}

impl Queue {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, waiting: Mutex::default(), filled: Condvar::new(), flusher: OnceLock::new() }
    }

    /// Calls `ready` once less than the limit is queued or being written, or the store is closed.
    pub(crate) fn when_room(&self, ready: Ready) {
        let mut waiting = self.waiting.lock();
        if waiting.unfinished_bytes >= self.bytes_max && waiting.stop.is_none() {
            waiting.wanting_room.push(ready);
            return;
        }
        drop(waiting);
        ready();
    }

    /// Gives the request back if the store is closed.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let mut waiting = self.waiting.lock();
        if waiting.stop.is_some() {
            return Err(request);
        }
        let bytes = request.bytes();
        waiting.queued_bytes += bytes;
        waiting.unfinished_bytes += bytes;
        waiting.requests.push(request);
        if waiting.requests.len() == 1 {
            self.filled.notify_one();
        }
        Ok(())
    }

    pub(crate) fn stop(&self, stop: Stop) {
        let mut waiting = self.waiting.lock();
        waiting.stop.get_or_insert(stop);
        let ready = std::mem::take(&mut waiting.wanting_room);
        drop(waiting);
        self.filled.notify_all();
        ready.into_iter().for_each(|ready| ready());
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.waiting.lock().stop.is_some()
    }

    pub(crate) fn is_flusher(&self) -> bool {
        self.flusher.get() == Some(&thread::current().id())
    }

    /// Everything that is queued; waits for something, a stop, or the deadline.
    pub(crate) fn take(&self, deadline: Option<Instant>) -> Taken {
        self.flusher.get_or_init(|| thread::current().id());
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() && waiting.stop.is_none() {
            match deadline {
                None => self.filled.wait(&mut waiting),
                Some(deadline) => {
                    if self.filled.wait_until(&mut waiting, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        let requests = std::mem::take(&mut waiting.requests);
        let bytes = std::mem::take(&mut waiting.queued_bytes);
        Taken { requests, bytes, stop: waiting.stop }
    }

    /// Makes room for what the finished requests took.
    pub(crate) fn finished(&self, bytes: u64) {
        let mut waiting = self.waiting.lock();
        waiting.unfinished_bytes -= bytes;
        if waiting.unfinished_bytes >= self.bytes_max {
            return;
        }
        let ready = std::mem::take(&mut waiting.wanting_room);
        drop(waiting);
        ready.into_iter().for_each(|ready| ready());
    }
}
