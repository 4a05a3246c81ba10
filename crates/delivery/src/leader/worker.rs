//! The worker of one subscription in one partition, for as long as anything of it is unsettled.
//!
//! Runs the actions of the state machine: attempts, reads and dead letters are futures inside this one task, so that
//! dropping the task aborts them all.

mod sink_log;
mod work;

use std::{future::Future, pin::Pin, sync::Arc};

use fanfare_partition::{AppendError, LeaderLease, ReadError};
use fanfare_sinks::{Failure, Outcome, Sink};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore, watch},
    task::yield_now,
    time::{Instant, sleep_until},
};

use self::work::{Completion, ReadResult};
use super::LeaderContext;
use crate::{
    catch_up_limiter::ProgressFloor,
    filter::FilterHistory,
    judgement::AttemptTicket,
    sink_pool::OpenSink,
    subscription::{
        Subscription,
        buffered_event::AttemptItem,
        event::{Action, Actions, AttemptResult, CheckedEvent, DeadLetterFailure, SubscriptionEvent},
        state::SubscriptionState,
    },
};

type RunningAction = Pin<Box<dyn Future<Output = Completion> + Send>>;
type Acquire = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

struct Worker {
    context: Arc<LeaderContext>,
    subscription: Arc<Subscription>,
    running: FuturesUnordered<RunningAction>,
    /// Reused.
    actions: Actions,
    /// As of the last tick.
    filters: Option<Arc<FilterHistory>>,
    /// A permit of the sink that is waited for.
    acquire: Option<(Arc<Semaphore>, Acquire)>,
    /// A permit that was given and not used yet.
    permit: Option<SinkPermit>,
    /// Changes of the sink's circuit breaker.
    breaker: Option<BreakerWatch>,
    attempts_running: usize,
    progress_floor: ProgressFloor,
    /// Reason why the last dead letter was not written.
    dead_letter_failure: Option<DeadLetterFailure>,
    lease: AttemptLease,
}

/// The leader's lease, as attempts ask it.
struct AttemptLease {
    /// None of a partition that never leads.
    lease: Option<LeaderLease>,
    /// An attempt waits for it.
    is_awaited: bool,
}

impl AttemptLease {
    /// True if an attempt may begin in this moment. If not, [`Self::renewed`] ends when one may.
    fn allows_attempt(&mut self) -> bool {
        let is_valid = self.lease.as_ref().is_some_and(LeaderLease::is_valid);
        self.is_awaited = !is_valid;
        is_valid
    }

    /// Never ends while no attempt waits.
    async fn renewed(&mut self) {
        match &mut self.lease {
            Some(lease) if self.is_awaited => lease.valid().await,
            Some(_) | None => std::future::pending().await,
        }
    }
}

struct SinkPermit {
    sink: Arc<OpenSink>,
    permit: OwnedSemaphorePermit,
}

struct BreakerWatch {
    sink: Arc<OpenSink>,
    changes: watch::Receiver<()>,
}

/// Continuation after everything that can start was started.
enum Next {
    Wait {
        wake_at_ms: Option<u64>,
    },
    /// More is at hand, and others want to run, too.
    Yield,
    End,
}

/// Starts the worker of the subscription.
pub(super) fn spawn(context: &Arc<LeaderContext>, subscription: &Arc<Subscription>) {
    let worker = Worker {
        context: context.clone(),
        subscription: subscription.clone(),
        running: FuturesUnordered::new(),
        actions: Actions::default(),
        filters: None,
        acquire: None,
        permit: None,
        breaker: None,
        attempts_running: 0,
        progress_floor: ProgressFloor::default(),
        dead_letter_failure: None,
        lease: AttemptLease { lease: context.partition.lease(), is_awaited: false },
    };
    context.tasks.spawn(worker.run());
}

impl Worker {
    async fn run(mut self) {
        let context = self.context.clone();
        let subscription = self.subscription.clone();
        let cancelled = context.cancel.cancelled();
        tokio::pin!(cancelled);
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            self.give_way().await;
            // Before the breaker is looked at: a change after that look is not missed.
            self.watch_breaker();
            let wake_at_ms = match self.start_actions() {
                Next::Wait { wake_at_ms } => wake_at_ms,
                Next::Yield => {
                    yield_now().await;
                    continue;
                }
                Next::End => return,
            };
            if let Some(wake_at_ms) = wake_at_ms {
                let deadline = context.delivery.instant_of(wake_at_ms);
                if timer.deadline() != deadline {
                    timer.as_mut().reset(deadline);
                }
            }
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                Some(completion) = self.running.next(), if !self.running.is_empty() => {
                    self.complete(completion);
                    while let Some(Some(completion)) = self.running.next().now_or_never() {
                        self.complete(completion);
                    }
                }
                permit = acquired(&mut self.acquire) => {
                    self.acquire = None;
                    self.on_acquired(permit);
                }
                () = subscription.wake.notified() => {}
                () = changed(&mut self.breaker) => {}
                () = self.lease.renewed() => {}
                () = &mut timer, if wake_at_ms.is_some() => {}
            }
        }
    }

    /// Lets other tasks go first while the subscription lags, and measures how long that takes.
    async fn give_way(&mut self) {
        if self.attempts_running > 0 && self.subscription.lock().machine.is_lagging() {
            let before = Instant::now();
            yield_now().await;
            self.context.delivery.catch_up_limiter.record_lag(before.elapsed());
        }
    }

    fn watch_breaker(&mut self) {
        let sink = self.subscription.lock().sink.clone();
        match (&mut self.breaker, sink) {
            (Some(watched), Some(sink)) if Arc::ptr_eq(&watched.sink, &sink) => {
                watched.changes.mark_unchanged();
            }
            (breaker, sink) => {
                *breaker = sink.map(|sink| BreakerWatch { changes: sink.breaker.watch(), sink });
            }
        }
    }

    /// Starts everything that may start now.
    fn start_actions(&mut self) -> Next {
        self.lease.is_awaited = false;
        let locked = self.subscription.lock();
        self.filters = locked.filters.clone();
        if self.filters.is_none() && !locked.machine.is_detached() {
            // The leader wakes the worker when the catalog is known.
            return Next::Wait { wake_at_ms: None };
        }
        drop(locked);
        self.on(SubscriptionEvent::Tick);
        let more = self.run_actions();
        self.start_attempts();
        let mut locked = self.subscription.lock();
        let machine = &locked.machine;
        if machine.is_detached() || machine.is_done() && self.running.is_empty() {
            // Under the lock: a later change of the machine starts a new worker.
            locked.worker_runs = false;
            return Next::End;
        }
        if more { Next::Yield } else { Next::Wait { wake_at_ms: self.actions.wake_at_ms } }
    }

    /// Starts attempts while there are events and permits.
    fn start_attempts(&mut self) {
        let (context, subscription) = (self.context.clone(), self.subscription.clone());
        while !context.delivery.draining.is_cancelled() {
            let mut locked = subscription.lock();
            let wants_attempt =
                locked.run(context.input_values(), &mut self.actions, |machine, inputs, actions| {
                    machine.wants_attempt(inputs, actions)
                });
            // Right before the attempt: past its lease, another leader may be attempting the same events.
            let may_attempt = wants_attempt && self.lease.allows_attempt();
            if !may_attempt || self.is_held_back(&locked.machine) {
                self.permit = None;
                return;
            }
            let Some(open) = locked.sink.clone() else { return };
            let Ok(sink) = &open.sink else { return };
            let Some(permit) = self.take_permit(&open) else { return };
            let granted = SubscriptionEvent::PermitGranted(sink.abilities());
            locked.run(context.input_values(), &mut self.actions, |machine, inputs, actions| {
                machine.on(granted, inputs, actions);
            });
            drop(locked);
            // Without an attempt, too: another subscription may have used up the sink's rate since the look above, and the
            // next look tells when to wake.
            self.run_granted(sink, &open, permit);
        }
    }

    /// Runs the actions that follow a permit.
    fn run_granted(&mut self, sink: &Arc<dyn Sink>, open: &Arc<OpenSink>, permit: OwnedSemaphorePermit) {
        let mut permit = Some(permit);
        let mut work = std::mem::take(&mut self.actions.work);
        for action in work.drain(..) {
            match action {
                Action::StartAttempt { items, probe } => {
                    let permit = permit.take().expect("a permit allows one attempt");
                    let ticket = open.breaker.clone().ticket(probe);
                    self.start_attempt(items, sink.clone(), permit, ticket);
                }
                action => {
                    self.run_action(action);
                }
            }
        }
        self.actions.work = work;
    }

    /// Runs the actions of a tick. True if more may follow at once.
    fn run_actions(&mut self) -> bool {
        let mut more = false;
        let mut work = std::mem::take(&mut self.actions.work);
        for action in work.drain(..) {
            more |= self.run_action(action);
        }
        self.actions.work = work;
        more
    }

    fn run_action(&mut self, action: Action) -> bool {
        match action {
            Action::StartAttempt { .. } => unreachable!("an attempt follows a permit"),
            Action::CheckSchemas(events)
                if events.iter().any(|event| self.context.may_have_letter(event.offset)) =>
            {
                let (context, subscription) = (self.context.clone(), self.subscription.clone());
                self.running.push(Box::pin(work::check_inherited(context, subscription, events)));
            }
            Action::CheckSchemas(events) => {
                // Outside of the lock: validation takes long, and the fan-out must not wait for one subscription.
                let checked = events.iter().map(|event| CheckedEvent {
                    offset: event.offset,
                    schema: event.schema.checked(&event.bytes),
                });
                let checked = checked.collect();
                self.on(SubscriptionEvent::SchemasChecked(checked));
                return true;
            }
            Action::Read(read) => {
                let filters = self.filters.clone().expect("a worker ticks only with a filter");
                let (context, subscription) = (self.context.clone(), self.subscription.clone());
                self.running.push(Box::pin(work::read(context, subscription, read, filters)));
            }
            Action::WriteDeadLetter(mut request) => {
                let (context, subscription) = (self.context.clone(), self.subscription.clone());
                self.running.push(Box::pin(async move {
                    let result = work::write_dead_letter(&context, &subscription, &mut request).await;
                    Completion::DeadLetter { request, result }
                }));
            }
        }
        false
    }

    /// The subscription has to wait with its next attempt for the sake of live ones.
    fn is_held_back(&mut self, machine: &SubscriptionState) -> bool {
        if !machine.is_lagging() {
            self.progress_floor = ProgressFloor::default();
            return false;
        }
        if self.context.delivery.catch_up_limiter.allows(self.attempts_running, &self.progress_floor) {
            return false;
        }
        self.progress_floor.record_limited(Instant::now(), machine.lag(self.context.fan_out_offset()));
        true
    }

    /// A permit of the sink, or none and the permit is waited for.
    fn take_permit(&mut self, open: &Arc<OpenSink>) -> Option<OwnedSemaphorePermit> {
        if let Some(SinkPermit { sink, permit }) = self.permit.take()
            && Arc::ptr_eq(&sink.permits, &open.permits)
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

    fn on_acquired(&mut self, permit: Result<OwnedSemaphorePermit, AcquireError>) {
        let sink = self.subscription.lock().sink.clone();
        if let (Ok(permit), Some(sink)) = (permit, sink)
            && Arc::ptr_eq(permit.semaphore(), &sink.permits)
        {
            self.permit = Some(SinkPermit { sink, permit });
        }
    }

    fn start_attempt(
        &mut self,
        items: Vec<AttemptItem>,
        sink: Arc<dyn Sink>,
        permit: OwnedSemaphorePermit,
        ticket: AttemptTicket,
    ) {
        let is_lagging = self.subscription.lock().machine.is_lagging();
        let catch_up_permit = is_lagging.then(|| self.context.delivery.catch_up_limiter.acquire());
        let partition = self.context.partition.id().index;
        let deliveries: Vec<_> = items.iter().map(|item| work::delivery(&item.event, partition)).collect();
        let atomic = sink.abilities().atomic_batch;
        self.attempts_running += 1;
        self.running.push(Box::pin(async move {
            let mut outcomes = sink.attempt(deliveries).await;
            drop((permit, catch_up_permit));
            outcomes.resize_with(items.len(), || Outcome::Retry {
                after: None,
                why: Failure { class: "sink", status: 0, message: "the sink gave no outcome".to_owned() },
            });
            let results = items.into_iter().zip(outcomes);
            let results = results.map(|(item, outcome)| AttemptResult { item, outcome }).collect();
            Completion::Attempt { results, atomic, ticket }
        }));
    }

    fn complete(&mut self, completion: Completion) {
        let event = match completion {
            Completion::Attempt { results, atomic, ticket } => {
                self.attempts_running =
                    self.attempts_running.checked_sub(1).expect("an attempt that ends has begun");
                let watched = self.breaker.as_ref().map(|watched| &watched.sink);
                let watched = watched.map(|sink| (sink.clone(), sink.breaker.lock().outage()));
                self.on(SubscriptionEvent::AttemptFinished { results, atomic });
                if let Some((sink, before)) = watched {
                    // The breaker's lock ends here: the lock of the subscription comes before.
                    let after = sink.breaker.lock().outage();
                    sink_log::transition(&self.subscription, self.context.partition.id(), before, after);
                }
                // After the outcome is taken into account: a probe has ended, and the ticket has none to return.
                drop(ticket);
                return self.wake_draining_leader();
            }
            Completion::Read { result: Ok(result), .. } => {
                if let ReadResult::Keys { error: Some(error), .. } = &result {
                    self.log_failed_read(error);
                }
                work::read_event(result)
            }
            Completion::Read { read, result: Err(error) } => {
                self.log_failed_read(&error);
                SubscriptionEvent::ReadFailed(read)
            }
            Completion::Checked(events) => SubscriptionEvent::SchemasChecked(events),
            Completion::DeadLetter { request, result: Ok(()) } => {
                self.dead_letter_failure = None;
                SubscriptionEvent::DeadLetterWritten(request)
            }
            Completion::DeadLetter { request, result: Err(error) } => {
                let why = match error {
                    AppendError::OverQuota { .. } => DeadLetterFailure::OverQuota,
                    AppendError::DiskFull { .. } => DeadLetterFailure::DiskFull,
                    _ => DeadLetterFailure::Unavailable,
                };
                if why == DeadLetterFailure::Unavailable {
                    self.context.set_may_have_letter(request.item.event.offset);
                    self.subscription.add_letter_look();
                }
                // All that is held fails again and again: a change of the reason tells.
                if self.dead_letter_failure.replace(why) != Some(why) {
                    let (subscription, offset) = (self.subscription.id, request.item.event.offset);
                    tracing::warn!(%subscription, %offset, %error, "failed to write dead letter; the event is held");
                }
                SubscriptionEvent::DeadLetterFailed { request, why }
            }
        };
        self.on(event);
        self.wake_draining_leader();
    }

    fn log_failed_read(&self, error: &ReadError) {
        let (subscription, partition) = (self.subscription.id, self.context.partition.id());
        tracing::warn!(%subscription, %partition, %error, "failed to read events again; retrying in a second");
    }

    fn on(&mut self, event: SubscriptionEvent) {
        let Self { context, subscription, actions, .. } = self;
        context.update_for_worker(subscription, actions, |machine, inputs, actions| {
            machine.on(event, inputs, actions);
        });
    }

    /// A leader that drains waits for the last action.
    fn wake_draining_leader(&self) {
        if self.context.delivery.draining.is_cancelled() {
            self.context.progress.wake_leader();
        }
    }
}

/// The permit that is waited for; never, if none is.
async fn acquired(
    acquire: &mut Option<(Arc<Semaphore>, Acquire)>,
) -> Result<OwnedSemaphorePermit, AcquireError> {
    match acquire {
        Some((_, acquire)) => acquire.await,
        None => std::future::pending().await,
    }
}

/// Ends when the circuit breaker has changed; never, if there is none.
async fn changed(breaker: &mut Option<BreakerWatch>) {
    if let Some(BreakerWatch { changes, .. }) = breaker
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
