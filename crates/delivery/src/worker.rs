//! One subscription's deliveries from one partition, for as long as anything of it is unsettled.
//!
//! Runs what the [`Flight`] decides: attempts, reads and dead letters are futures inside this one task, so that dropping
//! it aborts them all.

use std::{future::Future, pin::Pin, sync::Arc};

use fanfare_partition::{AppendError, ReadError, Reason};
use fanfare_sinks::{Abilities, Delivery, Failure, Outcome as Answer, Sink};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    task::yield_now,
    time::{Instant, sleep_until},
};

use crate::{
    dead_letter::{Draft, Origin},
    letters::KeepError,
    restraint::Headway,
    sink_pool::OpenSink,
    spec::Specs,
    subscription::state::{Errand, Flight, Item, Letter},
    subscription::window::Held,
    subscription::{Cell, Ground},
    sweep::Sweep,
};

enum Done {
    Attempt { answers: Vec<(Item, Answer)>, atomic: bool },
    Letter(Letter, Result<(), KeepError>),
    Load(Errand, Result<Vec<(fanfare_model::Offset, Option<Held>)>, ReadError>),
    Found(Errand, Result<(Vec<Held>, fanfare_model::Offset), ReadError>),
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;
type Acquire = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

struct Task {
    ground: Arc<Ground>,
    cell: Arc<Cell>,
    works: FuturesUnordered<Work>,
    /// A permit of the sink that is waited for, or was given and not used yet.
    acquire: Option<(Arc<Semaphore>, Acquire)>,
    permit: Option<(Arc<OpenSink>, OwnedSemaphorePermit)>,
    /// Attempts under way.
    attempts: usize,
    headway: Headway,
}

/// What to do after everything that can be begun was begun.
enum Next {
    Wait { deadline_ms: Option<u64> },
    End,
}

/// Starts the cell's task unless it runs.
pub(crate) fn ensure_running(ground: &Arc<Ground>, cell: &Arc<Cell>, running: &mut bool) {
    if *running {
        cell.wake.notify_one();
        return;
    }
    *running = true;
    let task = Task {
        ground: ground.clone(),
        cell: cell.clone(),
        works: FuturesUnordered::new(),
        acquire: None,
        permit: None,
        attempts: 0,
        headway: Headway::default(),
    };
    ground.tasks.spawn(task.run());
}

impl Task {
    async fn run(mut self) {
        let ground = self.ground.clone();
        let cell = self.cell.clone();
        let cancelled = ground.cancel.cancelled();
        tokio::pin!(cancelled);
        let timer = sleep_until(ground.at(0));
        tokio::pin!(timer);
        loop {
            self.give_way().await;
            let Next::Wait { deadline_ms } = self.begin_all() else { return };
            if let Some(deadline_ms) = deadline_ms {
                let deadline = ground.at(deadline_ms);
                if timer.deadline() != deadline {
                    timer.as_mut().reset(deadline);
                }
            }
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                Some(done) = self.works.next(), if !self.works.is_empty() => {
                    self.absorb(done);
                    while let Some(Some(done)) = self.works.next().now_or_never() {
                        self.absorb(done);
                    }
                }
                permit = wait(&mut self.acquire) => {
                    self.acquire = None;
                    self.took(permit);
                }
                () = cell.wake.notified() => {}
                () = &mut timer, if deadline_ms.is_some() => {}
            }
        }
    }

    /// Lets others go first if it has anything to catch up on, and looks how long that takes.
    async fn give_way(&mut self) {
        if self.attempts > 0 && self.cell.lock().flight.is_behind() {
            let gave = Instant::now();
            yield_now().await;
            self.ground.node.restraint.felt(gave.elapsed());
        }
    }

    /// Begins all that may be begun at this moment.
    fn begin_all(&mut self) -> Next {
        let cell = self.cell.clone();
        loop {
            // What becomes due while this runs is due after this: the deadline is counted from here.
            let now_ms = self.ground.moment().now_ms;
            self.begin_errands();
            // What was given up instead of attempted is an errand.
            if self.begin_attempts() {
                continue;
            }
            let mut state = cell.lock();
            if state.gone || state.flight.is_done() && self.works.is_empty() {
                state.running = false;
                return Next::End;
            }
            if !state.dirty && state.flight.has_news() {
                self.ground.touch(&cell, &mut state);
            }
            return Next::Wait { deadline_ms: state.flight.deadline_ms(now_ms) };
        }
    }

    fn begin_errands(&mut self) {
        loop {
            let mut state = self.cell.lock();
            if state.gone {
                return;
            }
            let Some(specs) = state.specs.clone() else { return };
            let Some(errand) = state.flight.next_errand(self.ground.moment()) else { return };
            drop(state);
            let work = self.errand(errand, specs);
            self.works.push(work);
        }
    }

    /// Begins attempts while there are events and permits. True if something was given up instead, so that there is
    /// more to begin.
    fn begin_attempts(&mut self) -> bool {
        let cell = self.cell.clone();
        let mut gave_up = false;
        loop {
            if self.ground.node.draining.is_cancelled() {
                return gave_up;
            }
            let mut state = cell.lock();
            let now_ms = self.ground.moment().now_ms;
            let wanted = !state.gone && state.flight.wants_attempt(now_ms);
            if !wanted || self.is_held_back(&state.flight) {
                self.permit = None;
                return gave_up;
            }
            let Some(open) = state.sink.clone() else { return gave_up };
            let Ok(sink) = open.sink.clone() else { return gave_up };
            let Some(permit) = self.permit(&open) else { return gave_up };
            let items = state.flight.next_attempt(now_ms, sink.abilities());
            drop(state);
            if items.is_empty() {
                return gave_up;
            }
            gave_up |= self.attempt(items, sink, permit);
        }
    }

    /// Whether it has to wait with its next attempt for the sake of others.
    fn is_held_back(&mut self, flight: &Flight) -> bool {
        if !flight.is_behind() {
            self.headway = Headway::default();
            return false;
        }
        if self.ground.node.restraint.allows(self.attempts, &self.headway) {
            return false;
        }
        self.headway.held_back(Instant::now(), flight.behind_by(self.ground.front()));
        true
    }

    /// A permit of the sink, or none and it is waited for.
    fn permit(&mut self, open: &Arc<OpenSink>) -> Option<OwnedSemaphorePermit> {
        if let Some((owner, permit)) = self.permit.take()
            && Arc::ptr_eq(&owner.permits, &open.permits)
        {
            return Some(permit);
        }
        if self.acquire.as_ref().is_some_and(|(semaphore, _)| Arc::ptr_eq(semaphore, &open.permits)) {
            return None;
        }
        self.acquire = None;
        match open.permits.clone().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_none_left) => {
                let acquire = Box::pin(open.permits.clone().acquire_owned());
                self.acquire = Some((open.permits.clone(), acquire));
                None
            }
        }
    }

    fn took(&mut self, permit: Result<OwnedSemaphorePermit, AcquireError>) {
        let open = self.cell.lock().sink.clone();
        if let (Ok(permit), Some(open)) = (permit, open)
            && Arc::ptr_eq(permit.semaphore(), &open.permits)
        {
            self.permit = Some((open, permit));
        }
    }

    /// True if some of the events were given up before the attempt.
    fn attempt(&mut self, items: Vec<Item>, sink: Arc<dyn Sink>, permit: OwnedSemaphorePermit) -> bool {
        let Abilities { event_bytes_max: limit, atomic_batch: atomic, .. } = sink.abilities();
        let count = items.len();
        let checked: Vec<_> = items
            .into_iter()
            .map(|item| {
                let delivery = self.delivery(&item.held, limit);
                (item, delivery)
            })
            .collect();
        let (taken, deliveries, turn) = {
            let mut state = self.cell.lock();
            let (taken, deliveries) = state.flight.send(checked);
            let turn = state.flight.is_behind().then(|| self.ground.node.restraint.begin());
            (taken, deliveries, turn)
        };
        let gave_up = taken.len() < count;
        if taken.is_empty() {
            return gave_up;
        }
        self.attempts += 1;
        self.works.push(Box::pin(async move {
            let mut answers = sink.attempt(deliveries).await;
            drop((permit, turn));
            answers.resize_with(taken.len(), || Answer::Retry {
                after: None,
                why: Failure { class: "sink", status: 0, message: "the sink gave no outcome".to_owned() },
            });
            Done::Attempt { answers: taken.into_iter().zip(answers).collect(), atomic }
        }));
        gave_up
    }

    fn delivery(&self, held: &Held, limit: usize) -> Result<Delivery, (Reason, String)> {
        if held.bytes.len() > limit {
            let detail = format!("the event has {} bytes, the sink takes {limit}", held.bytes.len());
            return Err((Reason::TooLarge, detail));
        }
        let dataschema = match &held.pin {
            Some(pin) => pin.check(&held.bytes).map_err(|detail| (Reason::SchemaVersion, detail))?,
            None => None,
        };
        Ok(Delivery {
            bytes: held.bytes.clone(),
            offset: held.offset,
            partition: self.ground.partition.id().index,
            key: held.key,
            append_time: held.append_time,
            dataschema,
        })
    }

    fn errand(&self, errand: Errand, specs: Arc<Specs>) -> Work {
        let (ground, cell) = (self.ground.clone(), self.cell.clone());
        Box::pin(async move {
            let sweep = Sweep {
                partition: &ground.partition,
                account: cell.account,
                specs: &specs,
                chunk_bytes: ground.node.options.fanout_chunk_bytes,
            };
            match errand {
                Errand::Letter(letter) => {
                    let kept = keep(&ground, &cell, &letter).await;
                    Done::Letter(letter, kept)
                }
                Errand::Load(ref offsets) => {
                    let loaded = sweep.load(offsets).await;
                    Done::Load(errand, loaded)
                }
                Errand::Read { from, upto } => {
                    let found = sweep.read(from, upto).await;
                    Done::Found(errand, found)
                }
                Errand::Scan { key, from, upto } => {
                    let found = sweep.scan(key, from, upto).await;
                    Done::Found(errand, found)
                }
            }
        })
    }

    fn absorb(&mut self, done: Done) {
        if matches!(done, Done::Attempt { .. }) {
            self.attempts -= 1;
        }
        let mut state = self.cell.lock();
        if state.gone {
            return;
        }
        let moment = self.ground.moment();
        let flight = &mut state.flight;
        match done {
            Done::Attempt { answers, atomic: true } => flight.finish_atomic(answers, moment),
            Done::Attempt { answers, atomic: false } => flight.finish(answers, moment),
            Done::Letter(letter, Ok(())) => flight.lettered(&letter.item, letter.reason, moment.now_ms),
            Done::Letter(letter, Err(KeepError::OverBudget)) => {
                flight.expired(&letter.item, Reason::DeadLetterBudget, moment.now_ms);
            }
            Done::Letter(letter, Err(error)) => {
                tracing::warn!(subscription = %self.cell.subscription, %error, "keep a dead letter");
                let disk_is_full = matches!(error, KeepError::Append(AppendError::DiskFull { .. }));
                flight.letter_failed(letter, disk_is_full, moment);
            }
            Done::Load(_, Ok(found)) => flight.loaded(found),
            Done::Found(Errand::Scan { key, .. }, Ok((found, end))) => {
                flight.scanned(key, found, end, moment)
            }
            Done::Found(_, Ok((found, end))) => flight.read(found, end, moment),
            Done::Load(errand, Err(error)) | Done::Found(errand, Err(error)) => {
                tracing::warn!(subscription = %self.cell.subscription, %error, "read again for a subscription");
                flight.errand_failed(&errand, moment);
            }
        }
        self.ground.touch(&self.cell, &mut state);
        if self.ground.node.draining.is_cancelled() {
            self.ground.wake.notify_one();
        }
    }
}

/// The permit that is waited for; never, if none is.
async fn wait(acquire: &mut Option<(Arc<Semaphore>, Acquire)>) -> Result<OwnedSemaphorePermit, AcquireError> {
    match acquire {
        Some((_, acquire)) => acquire.await,
        None => std::future::pending().await,
    }
}

async fn keep(ground: &Ground, cell: &Cell, letter: &Letter) -> Result<(), KeepError> {
    let held = &letter.item.held;
    let origin = Origin {
        subscription: cell.subscription,
        epoch: cell.epoch,
        partition: ground.partition.id().index,
        offset: held.offset,
    };
    let draft = Draft {
        origin,
        append_time: held.append_time,
        time: ground.node.clock.now(),
        attempts: letter.attempts,
        reason: letter.reason,
        detail: &letter.detail,
        event: &held.bytes,
    };
    let letters = &ground.node.letters;
    match letters.keep(cell.account, held.key, &draft).await {
        Err(KeepError::OverBudget)
            if held.offset < ground.known_to && letters.holds(cell.account, &origin).await =>
        {
            Ok(())
        }
        kept => kept,
    }
}
